"""`compare` on a target that is a function of the output, and transformed activations."""

import functools
import json

import numpy as np
import pytest
import torch
from captum import attr as captum
from comparison import Cam, batches, energy, everything, samples, small_model
from torch import nn

from captum_quantum import QuantumLayerGradCam, compare, metrics, tokens_to_grid


def margin(output):
    return output[:, 1] - output[:, 0] ** 2


margin.version = "1"


class Margin(nn.Module):
    """The function of a model as a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return margin(self.model(images))


def explainers(model, layer):
    """Captum's methods and ours for a model, which may be that of `Margin`."""
    partial = functools.partial
    tunnel = captum.NoiseTunnel(captum.LayerGradCam(model, layer))
    return {
        "quantum": QuantumLayerGradCam(model, layer),
        "gradcam": captum.LayerGradCam(model, layer),
        "saliency": captum.Saliency(model),
        "steps": partial(captum.IntegratedGradients(model).attribute, n_steps=3),
        "layer": partial(captum.LayerIntegratedGradients(model, layer).attribute, n_steps=3),
        "occlusion": partial(captum.Occlusion(model).attribute, sliding_window_shapes=(1, 3, 3)),
        "deep lift": captum.DeepLift(model),
        "guided": captum.GuidedGradCam(model, layer),
        "noise": partial(tunnel.attribute, nt_samples=2, stdevs=0.0),
        "activation": captum.LayerActivation(model, layer),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's, about inputs and hooks
def test_every_explainer_explains_the_function():
    model = small_model()
    given = explainers(model, model[1])
    before = {name: dict(vars(e)) for name, e in given.items() if hasattr(e, "forward_func")}
    seen = {name: [] for name in given}

    def noted(attributions, attribute, inputs, target):
        assert target is margin
        name = names[len(done) % len(names)]
        done.append(name)
        seen[name].append(attributions)
        assert torch.equal(attribute(inputs, target), attributions)
        return energy(attributions)

    names, done = list(given), []
    compare(given, batches(6, 3), {"noted": noted}, target=margin, progress=False)
    images, _ = samples(6)
    images.requires_grad_()
    wrapped = Margin(model).eval()
    for name, alone in explainers(wrapped, model[1]).items():
        attribute = getattr(alone, "attribute", alone)
        expected = torch.cat([attribute(part).detach() for part in images.split(3)])
        assert torch.equal(torch.cat(seen[name]), expected), name
        assert expected.abs().max() > 0
    for name, attributes in before.items():
        assert vars(given[name]) == attributes


def test_pytorch_grad_cam_and_pairs():
    model = small_model()
    kinds = [Cam, pytest.importorskip("pytorch_grad_cam").GradCAM]
    images, _ = samples(6)
    layer_grad_cam = captum.LayerGradCam(Margin(model), model[1])
    expected = layer_grad_cam.attribute(images, relu_attributions=True)
    expected = nn.functional.interpolate(expected, (6, 6), mode="bilinear")
    expected = expected - expected.amin((1, 2, 3), keepdim=True)
    expected = (expected / expected.amax((1, 2, 3), keepdim=True)).detach()
    methods = {f"cam {n}": kind(model, [model[1]]) for n, kind in enumerate(kinds)}
    ours = QuantumLayerGradCam(model, model[1])
    methods["pair"] = (lambda inputs, target: ours.attribute(inputs, target), model)
    report = compare(methods, batches(6), {"energy": energy}, target=margin, progress=False)
    for name in methods:
        if name != "pair":
            np.testing.assert_allclose(report.values["energy"][name], energy(expected), rtol=1e-3)
    np.testing.assert_allclose(
        report.values["energy"]["pair"], energy(ours.attribute(images, margin)), rtol=1e-5
    )


def test_metrics_get_the_function_and_the_report_tells():
    model = small_model().double()
    loader = [(images.double(), labels) for images, labels in batches(9)]

    def probability(output):
        return output.softmax(1)[:, 2]

    methods = {"gradcam": captum.LayerGradCam(model, model[1])}
    names = ["average_drop", "insertion", "infidelity", "sensitivity_max"]
    names += ["randomization_classical"]
    report = compare(methods, loader, names, target=probability, progress=False)
    images = torch.cat([images for images, _ in loader])
    maps = captum.LayerGradCam(lambda x: probability(model(x)), model[1]).attribute(images)
    for name in ("average_drop", "insertion"):  # a probability as a function is the class
        expected = getattr(metrics, name)(model, images, maps.detach(), 2)
        np.testing.assert_allclose(report.values[name]["gradcam"], expected, atol=1e-9)
    assert report.targets.tolist() == [-1] * 9
    assert report.labels.tolist() == torch.cat([labels for _, labels in loader]).tolist()
    assert np.isfinite(everything(report)).all()


def test_regressions_are_compared_by_their_value():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0))
    methods = {"quantum": QuantumLayerGradCam(model, model[0])}
    options = {"progress": False, "target": lambda output: output}
    report = compare(methods, batches(6), ["insertion", "infidelity"], **options)
    assert np.isfinite(everything(report)).all()


def run(folder, target, transform=None, loader=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 4), nn.Flatten(), nn.Linear(24, 4))
    cam = QuantumLayerGradCam(model, model[1], activation_transform=transform or TO_GRID)
    options = {"output": folder, "target": target, "progress": False}
    return compare({"cam": cam}, loader or batches(7), {"energy": energy}, **options)


TO_GRID = tokens_to_grid(0, (2, 3))


def test_results_are_bound_to_the_function(tmp_path):
    report = run(tmp_path, margin)
    stored = json.loads((tmp_path / "configuration.json").read_text())
    assert stored["target"].endswith("test_compare_targets.margin version 1")
    again = run(tmp_path, margin)
    np.testing.assert_array_equal(everything(again), everything(report))
    assert again.targets.tolist() == [-1] * 7

    def other(output):
        return margin(output)

    other.version = "2"
    for changed in (other, "label", "predicted"):
        with pytest.raises(FileExistsError, match='target = ".*margin version 1" in config'):
            run(tmp_path, changed)
    with pytest.raises(ValueError, match="target must be made of functions with an attribute vers"):
        run(tmp_path / "new", lambda output: output[:, 0])
    assert not (tmp_path / "new").exists()
    run(tmp_path / "partial", functools.partial(torch.select, dim=1, index=1))


class Fold:
    version = 1

    def __init__(self, height):
        self.height = height

    def __call__(self, tokens):
        return tokens.mT.unflatten(2, (self.height, -1))


def test_results_are_bound_to_the_transform(tmp_path):
    run(tmp_path, "label")
    run(tmp_path, "label", tokens_to_grid(0, [2, 3]))
    for changed in (tokens_to_grid(0, (3, 2)), Fold(2)):
        with pytest.raises(FileExistsError, match=r"activation_transform = .*grid=\(2, 3\)"):
            run(tmp_path, "label", changed)
    run(tmp_path / "object", "label", Fold(2))
    with pytest.raises(FileExistsError, match=r"activation_transform = .*Fold version 1"):
        run(tmp_path / "object", "label", Fold(3))
    with pytest.raises(ValueError, match="made of functions with an attribute version"):
        run(tmp_path / "new", "label", lambda tokens: tokens.mT.unflatten(2, (2, 3)))


class Hides:
    """An explainer that keeps its model to itself."""

    def __init__(self, model):
        self.forward_func, self.kept = len, (model,)

    def attribute(self, inputs, target=None):
        return inputs


@pytest.mark.parametrize(
    ("method", "target", "error", "message"),
    [
        (Hides, margin, ValueError, r"methods\['m'\] must be one that explains its forward_func"),
        (captum.Saliency, lambda o: o, ValueError, "target's values must be of shape"),
        (captum.Saliency, lambda o: o.argmax(1), TypeError, "target's values must be a real"),
        (captum.Saliency, 3, TypeError, "target must be one of label, predicted"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrong_targets(method, target, error, message):
    options = {"target": target, "progress": False}
    with pytest.raises(error, match=message):
        compare({"m": method(small_model())}, batches(6), {"energy": energy}, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's, about inputs and hooks
def test_a_function_that_is_a_module():
    torch.manual_seed(0)
    model = small_model()
    function = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)).train()
    images, _ = samples(5)
    report = compare(
        {"deep lift": captum.DeepLift(model), "quantum": QuantumLayerGradCam(model, model[1])},
        batches(5),
        {"energy": energy},
        target=function,
        progress=False,
    )
    assert all(module.training for module in function.modules())
    # DeepLift sees the nonlinear modules of the function, as if they were the model's last.
    expected = captum.DeepLift(nn.Sequential(model, function)).attribute(images)
    np.testing.assert_allclose(report.values["energy"]["deep lift"], energy(expected.detach()))
    expected = captum.LayerGradCam(nn.Sequential(model, function), model[1]).attribute(images)
    np.testing.assert_allclose(
        report.values["energy"]["quantum"], energy(expected.detach()), rtol=1e-5
    )
