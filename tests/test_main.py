"""The command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from captum_quantum.__main__ import _choose_rows, main
from captum_quantum.datasets import load_digits
from captum_quantum.models import load_model
from captum_quantum.training import accuracy, predict

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

HEAVY = ["torch", "torchquantum", "qiskit", "captum", "matplotlib", "sklearn", "torchvision", "PIL"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo that trains for two epochs."""
    output = tmp_path_factory.mktemp("demo") / "made" / "here"
    assert main(["demo", "--epochs", "2", "--device", "cpu", "--output", str(output)]) == 0
    return output


@pytest.fixture
def image(tmp_path):
    digits = load_digits()
    pixels = (digits.test_images[3, 0] * 255).byte().numpy()
    Image.fromarray(pixels).resize((90, 90)).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["demo", "--help"], ["explain", "--help"], ["evaluate", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from captum_quantum.__main__ import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as end: status = end.code\n"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: [] 0"
    if arguments[:-1]:
        for option in ("--device", "--seed", "--output"):
            assert option in done.stdout
    else:
        assert "demo" in done.stdout
        assert "explain" in done.stdout


def test_python_m():
    command = [sys.executable, "-m", "captum_quantum", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("captum-quantum ")


def test_demo_writes_its_files(demo):
    assert sorted(p.name for p in demo.iterdir()) == [
        "demo.json",
        "qgradcam.png",
        "weights.safetensors",
    ]
    assert (demo / "qgradcam.png").stat().st_size < 400_000
    with Image.open(demo / "qgradcam.png") as figure:
        assert figure.width == 1600


def test_demo_results(demo):
    results = json.loads((demo / "demo.json").read_text())
    assert set(results) == {
        "seed",
        "n_train",
        "n_test",
        "training",
        "model",
        "quantum_layer",
        "accuracy",
        "non_empty_share",
        "mosaics",
        "agreement",
        "qubit_influence",
        "figure_rows",
        "device",
        "threads",
        "versions",
        "timings",
    }
    assert results["seed"] == 0
    assert results["training"]["epochs"] == 2
    assert set(results["mosaics"]) == {
        "n",
        "share_on_own_digit",
        "strongest_on_own_digit",
        "chance",
    }
    assert results["agreement"]["captum"] <= 1e-6
    assert results["agreement"]["parameter_shift"] <= 1e-4 * results["agreement"]["largest_value"]
    assert results["agreement"]["sum_of_qubits"] <= 1e-5 * results["agreement"]["largest_value"]
    assert len(results["qubit_influence"]) == 8
    assert sum(results["qubit_influence"]) == pytest.approx(1, abs=1e-4)
    assert results["versions"]["torchquantum"] == "0.1.8"
    timings = results["timings"]
    assert all(seconds > 0 for seconds in timings.values())
    assert timings["total_s"] >= sum(timings.values()) - timings["total_s"]


def test_demo_weights_have_the_accuracy_that_it_reports(demo):
    results = json.loads((demo / "demo.json").read_text())
    digits = load_digits(results["seed"])
    model = load_model(demo / "weights.safetensors")
    assert accuracy(model, digits.test_images, digits.test_labels) == results["accuracy"]
    assert results["n_test"] == len(digits.test_labels)
    assert model.trained == {"seed": results["seed"], "epochs": 2}


def test_demo_summary_and_progress(tmp_path, capsys):
    assert main(["demo", "--epochs", "1", "--seed", "4", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    results = json.loads((tmp_path / "demo.json").read_text())
    assert results["seed"] == 4
    *_, images, labels = load_digits(4)
    probabilities = predict(load_model(tmp_path / "weights.safetensors"), images)
    assert _choose_rows(probabilities, labels) == results["figure_rows"]
    assert f"{100 * results['accuracy']:.1f} %" in out
    assert f"{100 * results['mosaics']['share_on_own_digit']:.1f} %" in out
    for name in ("qgradcam.png", "demo.json", "weights.safetensors"):
        assert str(tmp_path / name) in out
    assert "training" in err
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_keeps_its_promises(seed, tmp_path):
    assert main(["demo", "--seed", str(seed), "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "demo.json").read_text())
    assert results["accuracy"] >= 0.97
    assert results["non_empty_share"] >= 0.99
    assert results["mosaics"]["share_on_own_digit"] >= 0.35
    assert results["agreement"]["captum"] <= 1e-6


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


def check_refused(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith(f"captum-quantum {arguments[0]}: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N; got 'tpu'"),
        (["--device", "cuda:-1"], "--device must be auto, cpu, cuda or cuda:N; got 'cuda:-1'"),
        (["--device", "cuda:99"], "CUDA devices that torch finds, or cpu; got cuda:99"),
        (["--seed", "-1"], "--seed must be an integer >= 0; got -1"),
        (["--epochs", "0"], "--epochs must be an integer >= 1; got 0"),
    ],
)
def test_wrong_arguments_of_demo(arguments, message, tmp_path, capsys):
    check_refused(["demo", *arguments, "--output", str(tmp_path / "new")], message, capsys)
    assert not (tmp_path / "new").exists()


def test_unwritable_output(demo, image, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    message = "--output must be a folder that can be written to; got "
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        check_refused(["demo", "--output", str(folder)], message, capsys)
    arguments = ["--weights", str(demo / "weights.safetensors"), "--image", str(image)]
    check_refused(["explain", *arguments, "--output", str(tmp_path / "file")], message, capsys)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_output_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    check_refused(["demo", "--output", str(tmp_path)], "Permission denied", capsys)


def test_demo_without_scikit_learn(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = "pip install 'captum-quantum[demo]'"
    check_refused(["demo", "--output", str(tmp_path)], message, capsys)


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
def test_wrong_arguments_of_explain(option, content, message, demo, image, tmp_path, capsys):
    given = {"--weights": str(demo / "weights.safetensors"), "--image": str(image)}
    if isinstance(content, str):
        given[option] = content
    else:
        given[option] = str(tmp_path / "wrong")
        if content is not None:
            (tmp_path / "wrong").write_bytes(content)
    arguments = [part for pair in given.items() for part in pair]
    output = ["--output", str(tmp_path / "new")]
    check_refused(["explain", *arguments, *output], message, capsys)
    assert not (tmp_path / "new").exists()


def test_truncated_weights(demo, image, tmp_path, capsys):
    whole = (demo / "weights.safetensors").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    arguments = ["--weights", str(tmp_path / "half"), "--image", str(image)]
    check_refused(["explain", *arguments], "not a whole safetensors file", capsys)


def test_refusal_of_a_process_is_one_line(tmp_path):
    arguments = ["explain", "--weights", str(tmp_path / "w"), "--image", str(tmp_path / "i")]
    command = [sys.executable, "-m", "captum_quantum", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_interruption(monkeypatch, tmp_path, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_quantum.training.fit", interrupt)
    assert main(["demo", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_rows_of_the_figure():
    probabilities = torch.tensor(
        [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.4, 0.0, 0.6], [0.5, 0.3, 0.2], [0.05, 0.9, 0.05]]
    )
    # Hits by sureness: 2 (0.6), 1 (0.8), 0 (0.9); misses: 3 (0.5), 4 (0.9).
    labels = torch.tensor([0, 1, 2, 1, 0])
    assert _choose_rows(probabilities, labels) == [1, 2, 4]  # 3 is of a class that is shown
    all_right = probabilities.argmax(dim=1)
    assert len(set(_choose_rows(probabilities, all_right))) == 3
    all_wrong = (all_right + 1) % 3
    assert len(set(_choose_rows(probabilities, all_wrong))) == 3
    assert _choose_rows(probabilities[:1], labels[:1]) == [0]
