"""``captum-quantum explain``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from captum_quantum.cli import main

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


def test_explain(demo, image, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--weights", str(demo / "weights.safetensors"), "--image", str(image)]
    assert main(["explain", *arguments, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    results = json.loads((output / "explanation.json").read_text())
    order = np.argsort(results["probabilities"])
    assert results["target"] == results["predicted"] == order[-1]
    assert results["rival"] == order[-2]
    assert sum(results["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert sum(results["qubit_influence"]) == pytest.approx(1, abs=1e-5)
    shares = torch.tensor(results["qubit_maps"])
    assert shares.shape == (8, 8, 8)
    torch.testing.assert_close(shares.sum(0), torch.tensor(results["map"]), atol=1e-5, rtol=1e-4)
    assert (output / "explanation.png").stat().st_size < 400_000
    article = "an" if results["predicted"] == 8 else "a"
    assert f"The model sees {article} {results['predicted']}." in out
    assert f"qubit {np.argmax(results['qubit_influence'])}" in out
    assert "--invert" not in out


def test_explain_another_class_of_a_dark_digit(demo, image, tmp_path, capsys):
    dark = tmp_path / "dark.png"
    with Image.open(image) as bright:
        Image.fromarray(255 - np.asarray(bright)).save(dark)
    common = ["explain", "--weights", str(demo / "weights.safetensors"), "--target", "2"]
    for number, extra in enumerate(
        (["--image", str(image)], ["--image", str(dark), "--invert"], ["--image", str(dark)])
    ):
        assert main([*common, *extra, "--output", str(tmp_path / str(number))]) == 0
    assert "use --invert" in capsys.readouterr().out.splitlines()[-3]
    plain, inverted, _ = (
        json.loads((tmp_path / str(n) / "explanation.json").read_text()) for n in range(3)
    )
    assert plain["target"] == 2
    assert plain["rival"] != 2
    np.testing.assert_allclose(plain["map"], inverted["map"], atol=1e-4)


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--weights", None, "path must be a weights file; got"),
        ("--weights", b"", "not a whole safetensors file"),
        ("--weights", b"\x80\x04pickle", "not a whole safetensors file"),
        ("--image", None, "path must be an image file; got"),
        ("--image", b"no image", "path must be an image that Pillow reads"),
        ("--target", "10", "--target must be an integer in [0, 9]; got 10"),
        ("--target", "-1", "--target must be an integer in [0, 9]; got -1"),
        ("--device", "gpu", "--device must be auto, cpu, cuda or cuda:N; got 'gpu'"),
    ],
)
def test_wrong_arguments_of_explain(option, content, message, demo, image, tmp_path, check_refused):
    given = {"--weights": str(demo / "weights.safetensors"), "--image": str(image)}
    if isinstance(content, str):
        given[option] = content
    else:
        given[option] = str(tmp_path / "wrong")
        if content is not None:
            (tmp_path / "wrong").write_bytes(content)
    arguments = [part for pair in given.items() for part in pair]
    output = ["--output", str(tmp_path / "new")]
    check_refused(["explain", *arguments, *output], message)
    assert not (tmp_path / "new").exists()


def test_truncated_weights(demo, image, tmp_path, check_refused):
    whole = (demo / "weights.safetensors").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    arguments = ["--weights", str(tmp_path / "half"), "--image", str(image)]
    check_refused(["explain", *arguments], "not a whole safetensors file")
