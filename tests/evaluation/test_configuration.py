"""Results of another configuration are refused, and stay."""

import functools
import json
import os
import re
import subprocess
import sys
import zlib

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from comparison import (
    Cam,
    Sized,
    batches,
    energy,
    inside,
    noisy,
    run,
    small_model,
    stop_after,
    two_methods,
)
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, compare
from captum_quantum.evaluation import methods
from captum_quantum.metrics import average_drop, insertion_deletion, registry
from captum_quantum.models import HybridClassifier
from captum_quantum.simulate import FusedSimulator


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"seed = 0 in configuration.json, now seed = 1"),
        ({"target": "predicted"}, r'target = "label" in configuration.json, now'),
        ({"metrics": {"energy": energy}}, r'metrics.noisy = ".*" in .* now metrics.noisy = null'),
        ({"metrics": {"noisy": noisy, "energy": energy}}, r"order of metrics = .* now order of"),
        ({"loader": batches(seed=2)}, r"first_batch = .* now first_batch = "),
        ({"loader": batches()[:3]}, r"n_batches = 5 in .* now n_batches = 3"),
    ],
)
def test_another_configuration_is_refused_and_results_stay(change, message, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=message):
        run(tmp_path, **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_weights_are_another_configuration(tmp_path):
    run(tmp_path)
    other = two_methods(small_model(5))
    with pytest.raises(FileExistsError, match=r"methods.gradcam.model = "):
        compare(
            other, batches(), {"energy": energy, "noisy": noisy}, output=tmp_path, progress=False
        )


def largest(attributions):
    return attributions.flatten(1).abs().amax(dim=1)


def versioned(function, version="1", name="metric"):
    """The function under another name, with a version."""

    @functools.wraps(function)
    def copied(*arguments, **keywords):
        return function(*arguments, **keywords)

    copied.__qualname__, copied.version = name, version
    return copied


class Power:
    version = 1

    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, attributions):
        return energy(attributions) ** self.exponent


class Squared(Power):
    version = 2


class Metrics:
    def __init__(self, factor):
        self.factor = factor

    def metric(self, attributions):
        return self.factor * energy(attributions)

    metric.version = "1"


def with_version(partial, version):
    partial.version = version
    return partial


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (versioned(largest, "1"), versioned(largest, "2")),
        (versioned(largest, name="largest"), versioned(largest, name="total")),
        (torch.no_grad()(versioned(largest, 1)), torch.no_grad()(versioned(largest, 2))),
        (versioned(lambda attributions: energy(attributions), 1), energy),
        (Power(1), Power(2)),
        (Power(1), Squared(1)),
        (Metrics(1).metric, Metrics(2).metric),
        (
            with_version(functools.partial(largest), "1"),
            with_version(functools.partial(largest), "2"),
        ),
        (
            functools.partial(versioned(inside), masks=torch.ones(1)),
            functools.partial(versioned(inside), masks=-1),
        ),
        (
            functools.partial(inside, masks=torch.arange(5000.0).reshape(-1, 1, 1, 1)[:1]),
            functools.partial(inside, masks=torch.arange(5000.0).reshape(-1, 1, 1, 1)[1:2]),
        ),
    ],
)
def test_a_metric_that_computes_something_else_is_another_configuration(one, other, tmp_path):
    arguments = {"output": tmp_path, "progress": False}
    methods = {"s": Saliency(small_model())}
    compare(methods, batches(), {"m": one}, **arguments)
    compare(methods, batches(), {"m": one}, **arguments)
    with pytest.raises(FileExistsError, match=r"metrics.m = "):
        compare(methods, batches(), {"m": other}, **arguments)


def test_the_checksum_of_a_bound_baseline_is_stored(tmp_path):
    """As of the mean of the training images, which `insertion_deletion` recommends."""
    mean = torch.arange(36.0).reshape(1, 6, 6) / 36
    methods = {"s": Saliency(small_model())}

    def metric(baseline):
        return {"m": functools.partial(insertion_deletion, baseline=baseline, steps=4)}

    report = compare(methods, batches(), metric(mean), output=tmp_path, progress=False)
    stored = json.loads((tmp_path / "configuration.json").read_text(encoding="utf-8"))["metrics"][
        "m"
    ]
    checksum = f"{zlib.crc32(mean.numpy().tobytes()):08x}"
    assert f"insertion_deletion(baseline=torch.float32 (1, 6, 6) {checksum}, steps=4)" in stored
    again = compare(methods, batches(), metric(mean.clone()), output=tmp_path, progress=False)
    assert again.values["m"]["s"].tolist() == report.values["m"]["s"].tolist()
    mean[0, 3, 3] += 1e-6
    with pytest.raises(FileExistsError, match=r"metrics.m = .*insertion_deletion\(baseline="):
        compare(methods, batches(), metric(mean), output=tmp_path, progress=False)


class Plain:
    def __call__(self, attributions):
        return energy(attributions)

    def method(self, attributions):
        return energy(attributions)


def inner(inputs, target):
    return inputs


HERE = f"{__name__}."


@pytest.mark.parametrize(
    ("change", "argument", "name"),
    [
        ({"metrics": {"m": largest}}, "metrics['m']", "largest"),
        ({"metrics": {"e": energy, "m": lambda attributions: 0}}, "metrics['m']", "<lambda>"),
        ({"metrics": {"m": functools.partial(largest)}}, "metrics['m']", "largest"),
        ({"metrics": {"m": Plain()}}, "metrics['m']", "Plain"),
        ({"metrics": {"m": Plain().method}}, "metrics['m']", "Plain.method"),
        (
            {"metrics": {"m": functools.partial(versioned(inside), masks=largest)}},
            "metrics['m']",
            "largest",
        ),
        ({"methods": {"s": (inner, nn.Flatten())}}, "methods['s']", "inner"),
        ({"methods": {"s": (versioned(inner), inner)}}, "methods['s']", "inner"),
        ({"methods": {"s": Saliency(inner)}}, "methods['s']", "inner"),
        (
            {"methods": {"s": functools.partial(Saliency(small_model()).attribute, abs=inner)}},
            "methods['s']",
            "inner",
        ),
    ],
)
def test_with_output_functions_need_a_version(change, argument, name, tmp_path):
    arguments = {"methods": {"s": Saliency(small_model())}, "metrics": {"e": energy}, **change}
    with pytest.raises(ValueError, match="with an attribute version") as caught:
        compare(**arguments, loader=batches(), output=tmp_path / "new", progress=False)
    assert str(caught.value) == (
        f"{argument} must be made of functions with an attribute version, such as "
        "function.version = '1', which tells whether results in output are still those of the "
        f"function; got {HERE}{name} without version"
    )
    assert not (tmp_path / "new").exists()


def unread():
    raise AssertionError("the loader is read")
    yield


def test_registered_functions_need_a_version_before_the_loader_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    registry.register_metric(higher_is_better=True, name="own_metric")(lambda attributions: 0)
    methods.register_method("own method", "a pair")(lambda model, layer: (inner, model))
    made = {"own method": methods.named_methods()["own method"].make(small_model(), None)}
    saliency = {"s": Saliency(small_model())}
    for given, metrics, argument in (
        (saliency, ["own_metric"], "metrics['own_metric']"),
        (made, ["average_drop"], "methods['own method']"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{argument} must be made of functions")):
            compare(given, unread(), metrics, output=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_without_output_functions_need_no_version():
    report = compare({"m": (inner, nn.Flatten())}, batches(), {"largest": largest}, progress=False)
    assert report.configuration["metrics"] == {"largest": f"{HERE}largest without version"}


def test_functions_of_the_packages_that_results_name_need_no_version(tmp_path):
    methods = two_methods(small_model())
    metrics = {"m": functools.partial(average_drop, model=small_model())}
    report = compare(methods, batches(), metrics, output=tmp_path, progress=False)
    assert report.configuration["metrics"]["m"].startswith("captum_quantum.metrics.")


@pytest.mark.parametrize(
    "make",
    [
        lambda model, changed: IntegratedGradients(model, multiply_by_inputs=not changed),
        lambda model, changed: LayerGradCam(model, model[0] if changed else model[1]),
        lambda model, changed: NoiseTunnel(IntegratedGradients(model, not changed)),
        lambda model, changed: Cam(model, [model[0] if changed else model[1]]),
        lambda model, changed: functools.partial(
            IntegratedGradients(model).attribute, baselines=torch.full((1, 1, 6, 6), int(changed))
        ),
        lambda model, changed: Saliency(versioned(lambda x: model(x), 2 if changed else 1)),
        lambda model, changed: Saliency(nn.Sequential(model, nn.Softmax(0 if changed else 1))),
        lambda model, changed: (versioned(inner, 2 if changed else 1), model),
        lambda model, changed: (versioned(inner, name="b" if changed else "a"), model),
        lambda model, changed: (versioned(inner), versioned(model.forward, int(changed))),
    ],
)
def test_a_method_with_other_options_is_another_configuration(make, tmp_path):
    model = small_model()
    arguments = {"loader": batches(), "metrics": {"e": energy}, "output": tmp_path}
    compare({"m": make(model, False)}, **arguments, progress=False)
    compare({"m": make(model, False)}, **arguments, progress=False)
    with pytest.raises(FileExistsError, match=r"methods.m.(kind|options|model)"):
        compare({"m": make(model, True)}, **arguments, progress=False)


def test_the_gradient_rule_of_a_quantum_method_is_part_of_the_configuration(tmp_path):
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    hybrid = HybridClassifier(backbone, VQCLayer(2), n_features=4, n_classes=4)
    arguments = {"loader": batches(6), "metrics": {"e": energy}, "output": tmp_path}
    compare({"q": QuantumLayerGradCam(hybrid, backbone)}, **arguments, progress=False)
    other = QuantumLayerGradCam(hybrid, backbone, gradient="parameter-shift")
    with pytest.raises(FileExistsError, match=r"methods.q.options.gradient = "):
        compare({"q": other}, **arguments, progress=False)


class Own(VQCLayer):
    """The same weights and circuit, another forward."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Simulator:
    exact = True

    def __init__(self, factor):
        self.factor = factor

    def expectations(self, circuit, inputs, weights, dtype, *, initial=None):
        values = FusedSimulator().expectations(circuit, inputs, weights, dtype, initial=initial)
        return self.factor * values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: VQCLayer(3), lambda: VQCLayer(3, encoder="rx")),
        (lambda: VQCLayer(3), lambda: VQCLayer(3, observables=["X0", "X1", "Z0 Z1"])),
        (lambda: VQCLayer(3), lambda: VQCLayer(3, reupload=True)),
        (lambda: VQCLayer(3), lambda: Own(3)),
        (
            lambda: VQCLayer(3, simulator=Simulator(0.1)),
            lambda: VQCLayer(3, simulator=Simulator(0.5)),
        ),
    ],
    ids=["encoder", "observables", "reupload", "subclass", "simulator"],
)
def test_another_circuit_of_the_same_weights_is_another_configuration(one, other, tmp_path):
    def explain(layer):
        torch.manual_seed(0)
        vqc = layer()
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), vqc, nn.Linear(3, 10)
        )
        cams = {"q": QuantumLayerGradCam(model, model[0])}
        return compare(cams, batches(), ["sparseness"], output=tmp_path, progress=False)

    explain(one)
    explain(one)
    with pytest.raises(FileExistsError, match=r"methods.q.model = "):
        explain(other)


def test_other_versions_are_another_configuration(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(torch, "__version__", "0.1")
    with pytest.raises(FileExistsError, match=r'now versions.torch = "0.1"'):
        run(tmp_path)


def test_methods_in_another_order_are_another_configuration(tmp_path):
    run(tmp_path)
    gradcam, saliency = two_methods(small_model()).items()
    metrics = {"energy": energy, "noisy": noisy}
    with pytest.raises(FileExistsError, match=r'order of methods = \["gradcam", "saliency"\] in'):
        compare(dict([saliency, gradcam]), batches(), metrics, output=tmp_path, progress=False)


FUNCTIONS = """
import functools
import json
from captum_quantum.evaluation.fingerprint import describe_function
def metric(attributions, options): return attributions
metric.version = "3"
print(describe_function(functools.partial(metric, options={"a", "b", "c", "d", "e", "f"})))
"""


def test_functions_have_the_same_description_in_every_process():
    words = set()
    for seed in range(3):
        done = subprocess.run(
            [sys.executable, "-c", FUNCTIONS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        words.add(done.stdout)
    assert len(words) == 1


def test_results_without_configuration_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "configuration.json").unlink()
    with pytest.raises(FileExistsError, match=r"values.csv but no configuration.json"):
        run(tmp_path)
    (tmp_path / "configuration.json").write_text("{")
    with pytest.raises(FileExistsError, match=r"a configuration.json that is not JSON"):
        run(tmp_path)


def test_data_that_have_changed_are_noticed(tmp_path):
    for place in (0, 1, 2):
        changed = [(*one, one[0] > 0.5) for one in batches()]
        folder = tmp_path / str(place)
        with pytest.raises(KeyboardInterrupt):
            run(folder, loader=Sized(stop_after(3, among=changed)))
        changed[1] = tuple(part.clone() for part in changed[1])
        if place == 0:
            changed[1][0][4, 0, 5, 5] += 0.1
        elif place == 1:
            changed[1][1][4] = (changed[1][1][4] + 1) % 4
        else:
            changed[1][2][4, 0, 5, 5] = ~changed[1][2][4, 0, 5, 5]
        before = (folder / "part-0.csv").read_bytes()
        with pytest.raises(ValueError, match="as the run that is resumed; got another batch 1"):
            run(folder, loader=changed)
        assert (folder / "part-0.csv").read_bytes() == before


def test_a_loader_that_has_become_shorter_is_noticed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=stop_after(3))
    with pytest.raises(ValueError, match="resumed; got 2 batches, and results of batch 2"):
        run(tmp_path, loader=iter(batches()[:2]))
    assert not (tmp_path / "values.csv").exists()
    assert len(run(tmp_path, loader=iter(batches()))) == 23
