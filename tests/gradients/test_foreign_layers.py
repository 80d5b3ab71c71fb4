"""Layers that show no circuit: which rules fit them, noise, half precision, calls by keyword."""

import math

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, quantum_gradient
from captum_quantum.gradients import GradientRuleError


class Layer(nn.Module):
    """Cosines of multiples of its inputs, counted; with shots, means of so many +1 and -1."""

    def __init__(self, frequency=1.0, shots=None, n_outputs=None):
        super().__init__()
        self.frequency, self.shots, self.n_outputs, self.rows = frequency, shots, n_outputs, 0

    def forward(self, x):
        self.rows += len(x)
        values = torch.cos(self.frequency * x + 0.4 * torch.arange(x.shape[1]))
        if self.n_outputs is not None:
            values = values.prod(1, keepdim=True).repeat(1, self.n_outputs)
        values = values.detach()
        if self.shots is None:
            return values
        return (
            torch.binomial(torch.full_like(values, self.shots), (1 + values) / 2) * (2 / self.shots)
            - 1
        )


def input_gradient(layer, x, rule="parameter-shift", **options):
    x = x.detach().clone().requires_grad_()
    with quantum_gradient(layer, rule, **options):
        layer(x).sum().backward()
    return x.grad


@pytest.mark.parametrize("frequency", [0.5, 2, 3, 4, 5, 7, 1.1])
@pytest.mark.parametrize("n_outputs", [None, 2])
def test_other_frequencies_are_refused(frequency, n_outputs):
    with pytest.raises(GradientRuleError, match="not each the angle of a single Pauli rotation"):
        input_gradient(Layer(frequency, n_outputs=n_outputs), torch.rand(3, 2))


def test_the_input_that_does_not_fit_is_named():
    class Mixed(nn.Module):
        def forward(self, x):
            return torch.cos(x[:, :1]) * torch.cos(3 * x[:, 1:2]) + torch.sin(x[:, 2:])

    with pytest.raises(GradientRuleError, match=r"inputs \[1\] are not"):
        input_gradient(Mixed(), torch.rand(2, 3))


def test_at_most_five_values_of_an_input_once_in_a_block():
    layer, x = Layer(), torch.rand(4, 3, requires_grad=True)
    with quantum_gradient(layer):
        layer(x).sum().backward()
        assert layer.rows == 4 + 4 * 6 + 5 * 3
        layer(x).sum().backward()
    assert layer.rows == 2 * (4 + 4 * 6) + 5 * 3


def test_the_check_can_be_switched_off():
    layer, x = Layer(3), torch.rand(4, 3)
    found = input_gradient(layer, x, check=False)
    assert layer.rows == 4 + 4 * 6
    assert found.isfinite().all()
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), layer)
    options = {"quantum_layer": layer, "gradient": "parameter-shift"}
    with pytest.raises(GradientRuleError, match="single Pauli rotation"):
        QuantumLayerGradCam(model, model[0], **options).attribute(torch.rand(2, 1, 8), 1)
    maps = QuantumLayerGradCam(model, model[0], **options, check=False)
    assert maps.attribute(torch.rand(2, 1, 8), 1).shape == (2, 1, 6)


def test_the_check_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    input_gradient(Layer(), torch.rand(1, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shots", [10, 100, 1000])
@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("n_outputs", [None, 1])
def test_noise_is_not_taken_for_another_frequency(shots, n, n_outputs):
    torch.manual_seed(0)
    layer = Layer(shots=shots, n_outputs=n_outputs)
    for _ in range(200):
        input_gradient(layer, torch.rand(1, n) * 6)


def test_another_frequency_is_found_beside_noise():
    torch.manual_seed(0)
    refused = 0
    for _ in range(50):
        try:
            input_gradient(Layer(3, shots=1000), torch.rand(1, 6) * 6)
        except GradientRuleError:
            refused += 1
    assert refused == 50


@pytest.mark.parametrize("frequency", [1.0, 2.0])
def test_finite_differences_follow_the_noise(frequency):
    torch.manual_seed(0)
    x = torch.rand(200, 3) * 6
    true = -frequency * torch.sin(frequency * x + 0.4 * torch.arange(3))
    found = input_gradient(Layer(frequency, shots=100), x, "finite-difference")
    error = float((found - true).square().mean().sqrt())
    assert error < 0.5 * float(true.square().mean().sqrt())
    exact = input_gradient(Layer(frequency), x, "finite-difference")
    assert torch.allclose(exact, true, atol=2e-3)


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.cos(x * self.w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["finite-difference", "parameter-shift"])
def test_half_precision(rule, dtype):
    x = torch.tensor([[0.3, 0.9, 1.4]], dtype=dtype)
    for layer in (nn.Module(), VQCLayer(3)):
        if not isinstance(layer, VQCLayer):
            layer.forward = lambda x: torch.cos(x)
        found = input_gradient(layer, x, rule)
        assert found.dtype == dtype
        y = x.float().requires_grad_()
        layer(y).sum().backward()
        assert torch.allclose(found.float(), y.grad, atol=0.02)


def test_weights_in_half_precision_are_refused():
    layer, x = Weighted().half(), torch.rand(2, 3).half()
    with pytest.raises(GradientRuleError, match="does not apply to a Weighted module in half prec"):
        input_gradient(layer, x, "finite-difference")


class Detaching(Weighted):
    """Trains, but gives no gradient to its input."""

    def forward(self, x):
        return torch.cos(x.detach() + self.w)


def test_zeros_are_not_made_up():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Detaching(), nn.Linear(3, 2)
    )
    images, layer = torch.rand(2, 1, 6, 6), model[3]

    def saliency(rule):
        with quantum_gradient(layer, rule):
            return Saliency(model).attribute(images, 1)

    cam = QuantumLayerGradCam
    for call in (
        lambda: cam(model, model[0]).attribute(images, 1),
        lambda: cam(model, model[0], quantum_layer=layer, gradient="backprop").attribute(images, 1),
        lambda: cam(model, model[0], quantum_layer=layer).attribute_qubits(images, 1),
        lambda: cam(model, model[0], quantum_layer=layer).attribute_observables(images, 1),
        lambda: cam(model, model[0], quantum_layer=layer).attribute_classes(images, [0, 1]),
        lambda: saliency("backprop"),
    ):
        with pytest.raises((GradientRuleError, RuntimeError), match="Detaching") as caught:
            call()
        assert "parameter-shift" in str(caught.value)
    by_shifts = cam(model, model[0], quantum_layer=layer, gradient="parameter-shift")
    assert float(by_shifts.attribute(images, 1).abs().max()) > 1e-4


def test_an_output_that_does_not_depend_on_inputs_has_gradient_zero():
    layer = VQCLayer(2, observables=[{"II": 1.0}])
    for rule in ("adjoint", "backprop", "parameter-shift", "finite-difference"):
        assert not input_gradient(layer, torch.rand(3, 2), rule).any()


def test_in_place_residuals():
    for rule in ("parameter-shift", "finite-difference"):
        found = []
        for in_place in (False, True):
            layer, leaf = Layer(), torch.linspace(0, 1, 6).reshape(2, 3).requires_grad_()
            with quantum_gradient(layer, rule):
                x = leaf * 1.0
                if in_place:
                    x += layer(x)
                else:
                    x = x + layer(x)
                found.append(torch.autograd.grad(x.sum(), leaf)[0])
        assert torch.allclose(*found)


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference", "backprop", "adjoint"])
def test_calls_by_keyword(rule):
    layer, x = VQCLayer(3), torch.rand(2, 3)
    found = []
    for call in (layer, lambda x: layer(inputs=x)):
        leaf = x.clone().requires_grad_()
        with quantum_gradient(layer, rule):
            call(leaf).sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)
    with quantum_gradient(layer, rule), pytest.raises(TypeError, match="a single tensor"):
        layer(x, extra=x)


def test_what_vanishes_for_one_frequency_shows_others():
    # The combination of values that vanishes for one frequency: the whole amplitude of others
    # remains, whatever their phase.
    from captum_quantum.gradients.shift import _TRIED

    shifts = torch.tensor(_TRIED[:4], dtype=torch.float64)
    form = torch.stack([torch.ones_like(shifts), torch.cos(shifts), torch.sin(shifts)], dim=1)
    weights = torch.linalg.svd(form)[0][:, 3]
    assert float((form.T @ weights).abs().max()) < 1e-12
    for frequency in (0.5, 1.5, 2, 3, 4, 5, 6, 7):
        angle = frequency * shifts
        amplitude = math.hypot(float(weights @ torch.cos(angle)), float(weights @ torch.sin(angle)))
        assert amplitude > 1, frequency
