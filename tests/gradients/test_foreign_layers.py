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
    # The combination of values that vanishes for one frequency: most of the amplitude of others
    # remains, whatever their phase.
    from captum_quantum.gradients.shift import _TRIED

    shifts = torch.tensor(_TRIED[:4], dtype=torch.float64)
    form = torch.stack([torch.ones_like(shifts), torch.cos(shifts), torch.sin(shifts)], dim=1)
    weights = torch.linalg.svd(form)[0][:, 3]
    assert float((form.T @ weights).abs().max()) < 1e-12
    for frequency in (0.5, 1.5, 2, 3, 4, 5, 6, 7):
        angle = frequency * shifts
        amplitude = math.hypot(float(weights @ torch.cos(angle)), float(weights @ torch.sin(angle)))
        assert amplitude > 0.9, frequency


class Function(nn.Module):
    """A function of inputs that autograd does not see."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        with torch.no_grad():
            return self.function(x)


POINTS = torch.tensor([[0.2, 0.7], [0.9, 0.4]], dtype=torch.float64)


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_the_users_hooks_act_once(rule):
    layer = Function(torch.cos)
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 0.7,))
    layer.register_forward_hook(lambda module, args, output: 3 * output)
    found = input_gradient(layer, POINTS, rule)
    assert torch.allclose(found, -3 * torch.sin(POINTS + 0.7), atol=1e-8)


@pytest.mark.parametrize("rule", ["backprop", "finite-difference"])
def test_the_users_hooks_act_once_on_amplitudes(rule):
    x, found = torch.rand(3, 4, dtype=torch.float64), []
    for one in ("adjoint", rule):
        torch.manual_seed(0)
        layer = VQCLayer(2, encoder="amplitude")
        layer.register_forward_hook(lambda module, args, output: 3 * output)
        found.append(input_gradient(layer, x, one))
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_inputs_that_the_layer_changes(rule):
    found = input_gradient(Function(lambda x: torch.cos(x.sub_(1.0))), POINTS, rule)
    assert torch.allclose(found, -torch.sin(POINTS - 1), atol=1e-8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cos(x.clamp(0, 1)),
        lambda x: torch.cos(x.clamp(-1.57, 1.57)),
        lambda x: torch.cos(torch.relu(x)),
        lambda x: torch.cos(1.57 * torch.tanh(4 * x)),
        lambda x: torch.cos(torch.nan_to_num(torch.arccos(x))),
        lambda x: torch.log(x),
        lambda x: torch.cos(2 * torch.arccos(x)),
        lambda x: torch.stack([5000 * torch.cos(x[:, 0]), torch.cos(2 * x[:, -1])], 1),
        lambda x: 1e-4 * torch.cos(2 * x),
    ],
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_other_functions_are_refused(function, n):
    x = torch.linspace(0.2, 0.8, 4 * n, dtype=torch.float64).reshape(4, n)
    with pytest.raises(GradientRuleError, match="not each the angle of a single Pauli rotation"):
        input_gradient(Function(function), x)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_another_frequency_with_many_shots_is_found(n):
    torch.manual_seed(0)
    refused = 0
    for _ in range(20):
        try:
            input_gradient(Layer(2, shots=100_000), torch.rand(1, n) * 6)
        except GradientRuleError:
            refused += 1
    assert refused >= 18


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.cos(x).T, "one row for each of 4 samples, along dimension 0"),
        (lambda x: torch.cos(x).sum(), "one row for each of 4 samples, along dimension 0"),
        (lambda x: x > 0.5, "a real floating-point tensor"),
        (lambda x: x.round().long(), "a real floating-point tensor"),
    ],
)
@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_outputs_that_are_no_rows(function, message, rule):
    with pytest.raises((TypeError, ValueError), match=message):
        input_gradient(Function(function), torch.rand(4, 3), rule)


def test_outputs_whose_dimensions_agree_by_chance():
    with pytest.raises(ValueError, match="along dimension 0"):
        input_gradient(Function(lambda x: torch.cos(x).T), torch.rand(3, 3))


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_single_samples(rule):
    layer = Function(lambda x: torch.stack([torch.cos(x[0]) * torch.sin(x[1]), torch.cos(x[2])]))
    x = torch.tensor([0.3, 0.8, 1.4], dtype=torch.float64)
    found = input_gradient(layer, x, rule)
    y = x.clone().requires_grad_()
    layer.function(y).sum().backward()
    assert torch.allclose(found, y.grad, atol=1e-8)


def test_buffers_stay_as_they_were():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            with torch.no_grad():
                return torch.cos(self.norm(x))

    layer, x = Normed(), torch.rand(8, 2)
    input_gradient(layer, x, "finite-difference")
    assert int(layer.norm.num_batches_tracked) == 1  # the user's own call


def test_buffers_that_autograd_needs():
    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("signs", torch.tensor([1.0, -2.0]))

        def forward(self, x):
            return torch.cos(x) * self.signs

    layer, x = Signed(), torch.rand(3, 2)
    for rule in ("backprop", "parameter-shift"):
        expected = -torch.sin(x) * layer.signs
        assert torch.allclose(input_gradient(layer, x, rule), expected, atol=1e-6)


def test_differences_of_single_precision_in_double():
    for function in (lambda x: torch.cos(x.float()), lambda x: torch.cos(x.float()).double()):
        found = input_gradient(Function(function), POINTS, "finite-difference")
        assert torch.allclose(found, -torch.sin(POINTS), atol=5e-3)


def test_forward_mode_and_transforms_are_refused():
    layer = Function(torch.cos)
    with torch.autograd.forward_ad.dual_level(), quantum_gradient(layer):
        dual = torch.autograd.forward_ad.make_dual(POINTS, torch.ones_like(POINTS))
        with pytest.raises(GradientRuleError, match="in reverse mode only"):
            layer(dual)
    with quantum_gradient(layer), pytest.raises(GradientRuleError, match="in reverse mode only"):
        torch.func.grad(lambda x: layer(x).sum())(POINTS)
    x = POINTS.clone().requires_grad_()
    with quantum_gradient(layer):
        values = layer(x)
    with pytest.raises(GradientRuleError, match="one cotangent at a time"):
        torch.autograd.grad(values, x, torch.ones(3, 2, 2).double(), is_grads_batched=True)


def test_a_given_layer_that_detaches_beside_a_skip_connection():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)
            self.q, self.head = Function(torch.cos), nn.Linear(2, 3)

        def forward(self, x):
            h = self.fc(torch.tanh(self.conv(x)).mean((2, 3)))
            return self.head(self.q(h) + h)

    model, images = Skip(), torch.rand(2, 1, 6, 6)
    with pytest.raises(GradientRuleError, match="does not apply to a Function module"):
        QuantumLayerGradCam(model, model.conv, quantum_layer=model.q).attribute(images, 1)
