"""Results of another configuration are refused, and stay."""

import functools
import os
import subprocess
import sys

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
from captum_quantum.models import HybridClassifier


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


def scaled(by):
    return lambda attributions: energy(attributions) * by


def largest(attributions):
    return attributions.flatten(1).abs().amax(dim=1)


def total(attributions):
    return attributions.flatten(1).abs().sum(dim=1)


class Power:
    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, attributions):
        return energy(attributions) ** self.exponent


def renamed(function):
    function.__qualname__ = function.__name__ = "metric"
    return function


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda attributions: energy(attributions), lambda attributions: 2 * energy(attributions)),
        (renamed(largest), renamed(total)),
        (renamed(torch.no_grad()(largest)), renamed(torch.no_grad()(total))),
        (scaled(1), scaled(2)),
        (scaled(torch.ones(1)), scaled(torch.zeros(1))),
        (Power(1), Power(2)),
        (functools.partial(inside, masks=torch.ones(1)), functools.partial(inside, masks=-1)),
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
        lambda model, changed: Saliency(
            (lambda x: model(x)) if changed else (lambda x: model(x) ** 2)
        ),
        lambda model, changed: Saliency(nn.Sequential(model, nn.Softmax(0 if changed else 1))),
        lambda model, changed: (
            (lambda inputs, target: inputs + 1) if changed else (lambda inputs, target: inputs),
            model,
        ),
    ],
)
def test_a_method_made_otherwise_is_another_configuration(make, tmp_path):
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
from captum_quantum.evaluation.fingerprint import plain
print(plain(lambda x, k={"b", "a"}: x.sum() if k in {"c", "d", "e", "f"} else [y for y in x]))
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


def test_other_data_later_on_are_noticed(tmp_path):
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
