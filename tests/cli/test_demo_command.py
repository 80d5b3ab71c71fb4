"""``captum-quantum demo``."""

import json
import os
import sys

import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image

from captum_quantum.cli import main
from captum_quantum.cli.demo import _choose_rows
from captum_quantum.datasets import load_digits
from captum_quantum.models import load_model
from captum_quantum.tq.installed import name_and_version
from captum_quantum.training import accuracy, predict

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


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
        "strongest_share",
        "single_angle_share",
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
    torchquantum = results["versions"].keys() & {"torchquantum", "torchquantum-ng"}
    assert {f"{name} {results['versions'][name]}" for name in torchquantum} == {name_and_version()}
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
    model = load_model(tmp_path / "weights.safetensors")
    probabilities = predict(model, images)
    predicted = probabilities.argmax(dim=1)
    peaks = torch.stack(
        [
            LayerGradCam(model, model.backbone).attribute(images, c).amax((1, 2, 3))
            for c in range(10)
        ]
    )
    strongest = peaks.argmax(dim=0) == predicted
    assert strongest.float().mean() == pytest.approx(results["strongest_share"])
    assert _choose_rows(probabilities, labels, strongest) == results["figure_rows"]
    assert strongest[results["figure_rows"][0]]
    share = model.vqc.interactions(model.encode(images).detach(), model.head).single
    assert results["single_angle_share"] == pytest.approx(share, rel=1e-4)
    assert f"{100 * share:.1f} %  of the scores' variance is in single angles" in out
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
    assert results["mosaics"]["share_on_own_digit"] >= 0.5
    assert results["single_angle_share"] >= 0.9
    assert results["agreement"]["captum"] <= 1e-6


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
def test_wrong_arguments_of_demo(arguments, message, tmp_path, check_refused):
    check_refused(["demo", *arguments, "--output", str(tmp_path / "new")], message)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_output_without_permission(tmp_path, check_refused):
    tmp_path.chmod(0o500)
    check_refused(["demo", "--output", str(tmp_path)], "Permission denied")


def test_demo_without_scikit_learn(monkeypatch, tmp_path, check_refused):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = "pip install 'captum-quantum[demo]'"
    check_refused(["demo", "--output", str(tmp_path)], message)


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
    strongest = torch.ones(5, dtype=torch.bool)
    # 3 is of a class that is shown.
    assert _choose_rows(probabilities, labels, strongest) == [1, 2, 4]
    only_0 = torch.tensor([True, False, False, True, True])
    assert _choose_rows(probabilities, labels, only_0) == [0, 2, 3]
    assert _choose_rows(probabilities, labels, ~strongest)[0] == 3  # the least certain of all
    all_right = probabilities.argmax(dim=1)
    assert len(set(_choose_rows(probabilities, all_right, strongest))) == 3
    all_wrong = (all_right + 1) % 3
    assert len(set(_choose_rows(probabilities, all_wrong, strongest))) == 3
    assert _choose_rows(probabilities[:1], labels[:1], strongest[:1]) == [0]
