"""The commands on a data set that a test registers, without a change anywhere else."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from captum_quantum import cli
from captum_quantum.cli import main
from captum_quantum.datasets import Dataset, mosaics, register_dataset, registry
from captum_quantum.models import digits_model, load_model, save_model

CLASSES = {
    "top left": "a top left corner",
    "top right": "a top right corner",
    "bottom left": "a bottom left corner",
    "elsewhere": "an image without a corner",
}


def load(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 4
    images = 0.1 * torch.rand(60, 1, 16, 16, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 8), (8, 0), (4, 4)]):
        images[labels == label, 0, row : row + 8, column : column + 8] += 0.8
    return images[:40], labels[:40], images[40:], labels[40:]


def small_model(seed=0, **config):
    small = {"n_qubits": 2, "n_layers": 1, "channels": (2, 3, 4), "n_classes": 4}
    return digits_model(**{**small, **config}, seed=seed)


def read(path):
    """Reads a text file of 256 numbers, which no command knows how to read."""
    return torch.tensor([float(word) for word in path.read_text().split()]).reshape(1, 1, 16, 16)


@pytest.fixture(autouse=True)
def corners(monkeypatch):
    """The data set; it is gone from the table afterwards."""
    monkeypatch.setattr(registry, "_DATASETS", dict(registry._DATASETS))
    return register_dataset(
        Dataset(
            name="corners",
            description="bright corners, 25 % of the image",
            noun="corner",
            classes=CLASSES,
            load=load,
            model=small_model,
            training={"epochs": 3, "batch_size": 20, "lr": 0.01},
            read=read,
            read_help="A text file of 256 numbers.",
            mosaics=mosaics,
        )
    )


@pytest.fixture
def bare(corners):
    """The same without the optional parts."""
    return register_dataset(
        dataclasses.replace(corners, name="bare", read=None, read_help="", mosaics=None)
    )


@pytest.fixture
def weights(tmp_path):
    save_model(small_model(), tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


def test_demo_and_explain(tmp_path, capsys, check_refused):
    assert main(["demo", "--dataset", "corners", "--output", str(tmp_path)]) == 0
    out, _ = capsys.readouterr()
    results = json.loads((tmp_path / "demo.json").read_text())
    loss = results["training"].pop("final_loss")
    assert results["training"] == {"epochs": 3, "batch_size": 20, "lr": 0.01}
    assert loss > 0
    assert (results["n_train"], results["n_test"]) == (40, 20)
    share = results["mosaics"]["share_on_own_corner"]
    assert f"{100 * share:.1f} %  of the evidence for a class lies on its own corner" in out
    assert f"{100 * results['single_angle_share']:.1f} %  of the scores' variance" in out
    assert "A quantum model on bright corners, 25 % of the image (seed 0, " in out
    weights = tmp_path / "weights.safetensors"
    assert f"captum-quantum explain --dataset corners --weights {weights} --file FILE" in out
    assert load_model(weights).trained == {"seed": 0, "epochs": 3}

    image = load(0)[2][1]
    (tmp_path / "numbers.txt").write_text(" ".join(map(str, image.flatten().tolist())))
    arguments = ["explain", "--weights", str(weights), "--file", str(tmp_path / "numbers.txt")]
    arguments += ["--dataset", "corners", "--target", "3", "--output", str(tmp_path / "explained")]
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    results = json.loads((tmp_path / "explained" / "explanation.json").read_text())
    logits = load_model(weights)(image[None])[0]
    torch.testing.assert_close(torch.tensor(results["probabilities"]), logits.softmax(0))
    assert f"The model sees {[*CLASSES.values()][results['predicted']]}. Probabilities:" in out
    assert "for or against an image without a corner):" in out
    assert "\n  bottom left  " in out
    assert "\n  elsewhere    " in out
    check_refused([*arguments, "--invert"], "--invert must be left out for corners; got True")


def test_evaluate(weights, tmp_path, capsys):
    arguments = ["evaluate", "--dataset", "corners", "--methods", "gradcam,twin-gradcam"]
    arguments += ["--metrics", "average_drop,grid_pointing_game", "--limit", "6"]
    given = small_model(n_layers=2)
    save_model(given, weights)
    assert main([*arguments, "--weights", weights, "--output", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    content = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert content["dataset"] == "corners"
    assert content["reports"]["images"]["n"] == content["reports"]["mosaics"]["n"] == 6
    twin = load_model(tmp_path / "results" / "twin.safetensors")
    assert twin.trained == {"seed": 0, "epochs": 3}
    assert twin.config == given.config


def test_without_the_optional_parts(bare, weights, tmp_path, capsys, check_refused):
    output = ["--dataset", "bare", "--output", str(tmp_path / "demo")]
    assert main(["demo", "--epochs", "1", *output]) == 0
    out, _ = capsys.readouterr()
    assert "mosaics" not in json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert "mosaics" not in out
    assert "captum-quantum explain" not in out
    explain = ["explain", "--weights", weights, "--file", weights]
    message = "--dataset must be one that can read a file (digits, corners); got 'bare'"
    check_refused([*explain, *output], message)
    evaluate = ["evaluate", "--weights", weights, "--methods", "gradcam", "--limit", "2"]
    message = "--metrics must be without grid_pointing_game: the data set bare has no mosaics; got"
    metrics = ["--metrics", "average_drop,grid_pointing_game"]
    check_refused([*evaluate, *output, *metrics], message)
    assert main([*evaluate, *output[:2], "--output", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    configuration = json.loads((tmp_path / "results" / "configuration.json").read_text())
    assert configuration["metrics"] == ["insertion_deletion", "road"]


def test_weights_of_another_data_set(tmp_path, check_refused):
    save_model(digits_model(n_qubits=2), tmp_path / "ten")
    arguments = ["--weights", str(tmp_path / "ten"), "--dataset", "corners"]
    arguments += ["--output", str(tmp_path / "new")]
    message = "--weights must be a model with 4 classes, as corners has; got"
    check_refused(["evaluate", *arguments], message)
    (tmp_path / "numbers.txt").write_text("0 " * 256)
    check_refused(["explain", *arguments, "--file", str(tmp_path / "numbers.txt")], message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["demo", "explain", "evaluate"])
def test_help(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "corners: bright corners, 25 % of the image (default: digits)" in out
    epochs = "(default: 40 for digits, 20 for mnist, 3 for corners)"
    assert (epochs in out) == (command != "explain")
    assert ("corners: A text file of 256 numbers." in out) == (command == "explain")


def test_no_command_knows_a_data_set():
    for path in Path(cli.__file__).parent.glob("*.py"):
        assert "digit" not in path.read_text().lower(), path
