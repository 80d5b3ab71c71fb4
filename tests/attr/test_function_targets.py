"""Targets that are functions of the model's output: margins, log-probabilities, regions, values."""

import pytest
import torch
from captum.attr import LayerGradCam, NoiseTunnel
from torch import nn

from captum_quantum import GradientPathError, QuantumLayerGradCam, VQCLayer

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        VQCLayer(3), nn.Linear(3, 3),
    )  # fmt: skip


def margin(output):
    return output[:, 1] - output[:, 0]


def log_probability(output):
    return output.log_softmax(1)[:, 2]


class Largest(nn.Module):
    def forward(self, output):
        return output.amax(1, keepdim=True)  # (batch, 1)


def in_place(output):
    return output.mul_(2).exp_()[:, 0]


FUNCTIONS = [margin, log_probability, Largest(), in_place]


def close(found, expected):
    expected = expected.detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)
    assert scale > 1e-5


@pytest.mark.parametrize("rule", [None, "parameter-shift"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_equals_grad_cam_of_the_function_of_the_model(function, rule):
    model = classifier()
    ours = QuantumLayerGradCam(model, model[1], gradient=rule)
    captums = LayerGradCam(lambda images: function(model(images)), model[1])
    for options in ({}, {"attr_dim_summation": False}, {"grad_kwargs": {"create_graph": True}}):
        expected = captums.attribute(IMAGES, **options)
        close(ours.attribute(IMAGES, function, **options).detach(), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_method_takes_functions(function):
    model = classifier()
    ours = QuantumLayerGradCam(model, model[1])
    scalar = QuantumLayerGradCam(
        lambda images: function(model(images)), model[1], quantum_layer=model[5]
    )
    close(ours.importance(IMAGES, function), scalar.importance(IMAGES))
    for name in ("attribute_qubits", "attribute_observables"):
        shares, direct = getattr(ours, name)(IMAGES, function, return_direct=True)
        close(shares, getattr(scalar, name)(IMAGES))
        assert not direct.any()
    steps = QuantumLayerGradCam(model, model[1], path_steps=2).attribute(IMAGES, function)
    scalar.path_steps = 2
    close(steps, scalar.attribute(IMAGES))


def test_functions_and_classes_side_by_side():
    model = classifier()
    ours = QuantumLayerGradCam(model, model[1])
    maps = ours.attribute_classes(IMAGES, [in_place, 1, margin, [0, 0, 0, 0]])
    close(maps[:, 2], maps[:, 1] - maps[:, 3])
    assert torch.equal(maps[:, 1:2], ours.attribute(IMAGES, 1))
    close(maps[:, :1], ours.attribute(IMAGES, in_place))


def test_a_region_of_a_segmentation_and_a_value_of_a_regression():
    torch.manual_seed(0)
    segments = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1))
    region = torch.zeros(6, 6, dtype=torch.bool)
    region[1:3, 2:5] = True
    ours = QuantumLayerGradCam(segments, segments[1])
    found = ours.attribute(IMAGES, lambda output: output[:, 1, region].mean(1))
    activation = segments[:2](IMAGES)
    weights = segments[2].weight[1] / 36  # the mean over 6 pixels, averaged over 36 of the map
    close(found, (weights * activation).sum(1, keepdim=True))
    values = nn.Sequential(*classifier()[:6], nn.Linear(3, 1), nn.Flatten(0))
    cam = QuantumLayerGradCam(values, values[1])
    error = cam.attribute(IMAGES, lambda output: -((output - 2) ** 2))
    with torch.no_grad():
        factor = -2 * (values(IMAGES) - 2)
    close(error, factor[:, None, None, None] * cam.attribute(IMAGES))


def test_inside_noise_tunnel():
    model = classifier()
    options = {"nt_samples": 3, "nt_samples_batch_size": 2, "stdevs": 0.1}
    maps = []
    for cam, target in (
        (QuantumLayerGradCam(model, model[1]), {"target": margin}),
        (LayerGradCam(lambda images: margin(model(images)), model[1]), {}),
    ):
        torch.manual_seed(0)
        maps.append(NoiseTunnel(cam).attribute(IMAGES, **target, **options).detach())
    close(*maps)


def fixed(output):
    return torch.ones(len(output), requires_grad=True)


DETACHED = (ValueError, "target's values must be computed from the output by differentiable opera")


@pytest.mark.parametrize("name", ["attribute", "importance", "attribute_qubits"])
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda output: 3.0, TypeError, "values must be a real floating-point tensor; got 3.0"),
        (lambda output: output.argmax(1), TypeError, "values must be a real floating-point tensor"),
        (lambda output: output[:, 0] * 1j, TypeError, "values must be a real floating-point"),
        (lambda output: output, ValueError, r"values must be of shape \(4,\), one for each exampl"),
        (lambda output: output.sum(), ValueError, r"must be of shape \(4,\).*of shape \(\)"),
        (lambda output: output[:2, 0], ValueError, r"must be of shape \(4,\).*of shape \(2,\)"),
        (lambda output: output.detach()[:, 0], *DETACHED),
        (lambda output: output[:, 0].round().bool().float(), *DETACHED),
        (fixed, *DETACHED),
        (lambda output: output[5, :], IndexError, "out of bounds"),
    ],
)
def test_functions_of_something_else(function, error, message, name):
    model = classifier()
    before = {module: module.training for module in model.modules()}
    with pytest.raises(error, match=message):
        getattr(QuantumLayerGradCam(model, model[1]), name)(IMAGES, function)
    assert {module: module.training for module in model.modules()} == before
    assert not any(module._forward_hooks for module in model.modules())


def test_what_the_model_breaks_is_not_laid_to_the_function():
    model = classifier()
    with pytest.raises(GradientPathError, match="so either forward_func does"):
        QuantumLayerGradCam(lambda images: model(images).detach(), model[1]).attribute(
            IMAGES, margin
        )
    with pytest.raises(ValueError, match="forward_func's output must be a tensor with one row"):
        QuantumLayerGradCam(lambda images: model(images).sum(), model[1]).attribute(IMAGES, margin)


def test_lists_of_functions_are_refused():
    model = classifier()
    with pytest.raises(TypeError, match="target must be integers; got <function margin"):
        QuantumLayerGradCam(model, model[1]).attribute(IMAGES, [margin] * 4)
