"""VQCLayer on any circuit and any simulator: circuits as data, objects of the user's own."""

import copy
import pickle

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from captum_quantum import (
    Angle,
    Circuit,
    Gate,
    GradientRuleError,
    Observable,
    QuantumLayerGradCam,
    VQCLayer,
    quantum_gradient,
)
from captum_quantum.gradients import RULES
from captum_quantum.simulate import FusedSimulator

CIRCUIT = Circuit(
    3,
    (
        Gate("ry", (0,), (Angle.of_input(1),)),
        Gate("u3", (2,), (Angle.of_input(0), Angle.constant(0.3), Angle.of_weight(2))),
        Gate("cnot", (0, 2)),
        Gate("rxx", (1, 2), (Angle.of_weight(0),), inverse=True),
        Gate("crz", (2, 0), (Angle.of_weight(1),)),
        Gate("rx", (1,), (Angle.of_input(1),)),
    ),
    (Observable.of("Z0"), Observable.of({"X0 Y2": 0.5, "I": -1})),
    n_inputs=2,
    n_weights=3,
)
AMPLITUDES = Circuit(
    2,
    (Gate("ry", (0,), (Angle.of_weight(0),)), Gate("cnot", (0, 1))),
    (Observable.of("Z1"),),
    n_inputs=4,
    n_weights=1,
    amplitude_encoding=True,
)
FIXED = Circuit(1, (Gate("ry", (0,), (Angle.of_input(0),)),), (Observable.of("Z0"),), n_inputs=1)
WEIGHTS = torch.tensor([0.4, -1.1, 2.3])


class Plain:
    """The least that a simulator is; counts its calls."""

    exact = True

    def __init__(self):
        self.calls, self.inner = 0, FusedSimulator()

    def expectations(self, circuit, inputs, weights, dtype, *, initial=None):
        self.calls += 1
        return self.inner.expectations(circuit, inputs, weights, dtype, initial=initial)


class Noisy(Plain):
    exact = False

    def expectations(self, *args, **kwargs):
        with torch.no_grad():
            values = super().expectations(*args, **kwargs)
        return values + 1e-5 * torch.randn_like(values)


class Single(Plain):
    dtypes = (torch.complex64,)

    def expectations(self, circuit, inputs, weights, dtype, *, initial=None):
        assert dtype == torch.complex64
        return super().expectations(circuit, inputs, weights, dtype, initial=initial)


@pytest.mark.parametrize("simulator", ["fused", "torchquantum", Plain()])
@pytest.mark.parametrize("circuit", [CIRCUIT, AMPLITUDES, FIXED], ids=["angles", "amplitudes", ""])
def test_a_circuit_runs_as_a_layer(circuit, simulator, truth):
    weights = WEIGHTS[: circuit.n_weights]
    layer = VQCLayer.from_circuit(circuit, weights, simulator=simulator)
    x = torch.rand(4, circuit.n_inputs, generator=torch.Generator().manual_seed(0)) + 0.1
    x.requires_grad_()
    values = layer(x)
    assert_allclose(values.detach(), truth.expectations(circuit, x, weights), atol=3e-6)
    wanted = [x, *layer.parameters()]
    grads = torch.autograd.grad(values.sum(), wanted)
    if circuit is not AMPLITUDES:
        by_inputs = truth.jacobian(circuit, x, weights, "input").sum(1)
        assert_allclose(grads[0], by_inputs, atol=5e-6)
    if circuit.n_weights:
        by_weights = truth.jacobian(circuit, x, weights, "weight").sum((0, 1))
        assert_allclose(grads[1], by_weights, atol=5e-6)
    assert layer.encoder is None
    assert layer.ansatz is None


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_applies_to_a_circuit_as_data(rule, truth):
    layer = VQCLayer.from_circuit(CIRCUIT, WEIGHTS, gradient=rule)
    x = torch.tensor([[0.3, 1.2], [-0.7, 0.1]], requires_grad=True)
    grads = torch.autograd.grad(layer(x).sum(), [x, layer.circuit_weights])
    atol = 2e-3 if rule == "finite-difference" else 5e-6
    assert_allclose(grads[0], truth.jacobian(CIRCUIT, x, WEIGHTS, "input").sum(1), atol=atol)
    by_weights = truth.jacobian(CIRCUIT, x, WEIGHTS, "weight").sum((0, 1))
    assert_allclose(grads[1], by_weights, atol=atol)


def test_weights_of_a_circuit_as_data():
    layer = VQCLayer.from_circuit(CIRCUIT, WEIGHTS)
    assert list(layer.state_dict()) == ["circuit_weights", "_extra_state"]
    assert torch.equal(layer.circuit_weights, WEIGHTS)
    assert layer.circuit_weights.data_ptr() != WEIGHTS.data_ptr()
    shared = nn.Parameter(WEIGHTS.clone())
    assert VQCLayer.from_circuit(CIRCUIT, shared).circuit_weights is shared
    assert list(VQCLayer.from_circuit(FIXED).parameters()) == []
    torch.manual_seed(0)
    drawn = VQCLayer.from_circuit(CIRCUIT).weights
    assert drawn.shape == (3,)
    assert drawn.abs().max() <= torch.pi
    x = torch.rand(2, 2)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin.circuit_weights is not layer.circuit_weights
    assert layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Z0",), TypeError, "circuit must be a Circuit; got 'Z0'"),
        ((CIRCUIT, torch.zeros(2)), ValueError, r"weights must be of shape \(3,\); got"),
        ((CIRCUIT, [1.0, 2.0, 3.0]), TypeError, "weights must be a real floating-point tensor"),
        ((CIRCUIT, torch.zeros(3).long()), TypeError, "weights must be a real floating-point"),
        ((CIRCUIT, torch.full((3,), torch.nan)), ValueError, "weights must be finite everywhere"),
        (
            (Circuit(25, FIXED.gates, FIXED.observables, 1),),
            ValueError,
            r"n_qubits of the circuit must be an integer in \[1, 24\]; got 25",
        ),
    ],
)
def test_wrong_circuits_and_weights_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VQCLayer.from_circuit(*arguments)


def test_a_simulator_of_ones_own(truth):
    torch.manual_seed(0)
    simulator = Plain()
    layer = VQCLayer(3, simulator=simulator)
    assert layer.gradient == "backprop"
    assert layer.simulator is simulator
    x = torch.rand(5, 3, requires_grad=True)
    values = layer(x)
    assert simulator.calls == 1
    assert_allclose(values.detach(), truth.expectations(layer.circuit, x, layer.weights), atol=3e-6)
    (expected,) = torch.autograd.grad(values.sum(), x)
    for rule in ("parameter-shift", "commutator", "backprop"):
        with quantum_gradient(layer, rule):
            (grad,) = torch.autograd.grad(layer(x).sum(), x)
        assert_allclose(grad, expected, atol=5e-6)
    with quantum_gradient(layer, "adjoint"), pytest.raises(GradientRuleError, match="has a vjp"):
        layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), values)


def test_values_with_noise_take_the_parameter_shift_rule():
    torch.manual_seed(0)
    noisy, exact = VQCLayer(2, simulator=Noisy()), VQCLayer(2)
    exact.load_state_dict(noisy.state_dict())
    assert noisy.gradient == "parameter-shift"
    assert not noisy.exact
    assert exact.exact

    def maps(layer):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)
        cam = QuantumLayerGradCam(model, model[0])
        images = torch.ones(1, 1, 5, 5)
        return cam.attribute(images, 0), cam.attribute_qubits(images, 0)

    for found, expected in zip(maps(noisy), maps(exact), strict=True):
        assert (found - expected).abs().max() < 1e-4
        assert expected.abs().max() > 5e-3


def test_a_simulator_says_in_which_precisions_it_computes():
    layer = VQCLayer(2, simulator=Single())
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert layer(x).dtype == torch.float64
    assert layer.precision(torch.float64) == torch.float32
    with quantum_gradient(layer, "finite-difference"):
        (grad,) = torch.autograd.grad(layer(x).sum(), x)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    assert_allclose(grad, expected, atol=2e-3)  # with a step for float64 rounding alone is 0.02
    with pytest.raises(ValueError, match=r"dtype must be torch\.complex64 for simulator"):
        VQCLayer(2, simulator=Single(), dtype=torch.complex128)


@pytest.mark.parametrize(
    "wrong",
    [
        object(),
        Plain,
        type("NoExact", (), {"expectations": lambda self: None})(),
        type("NoExpectations", (), {"exact": True})(),
        None,
        3,
    ],
)
def test_what_is_no_simulator_is_refused(wrong):
    must = "simulator must be one of fused, torchquantum, or an object with exact"
    with pytest.raises(TypeError, match=must):
        VQCLayer(2, simulator=wrong)


class Rounded(FusedSimulator):
    """Inherits a vjp of values that it does not give."""

    def __init__(self, decimals):
        super().__init__()
        self.decimals = decimals

    def expectations(self, *args, **kwargs):
        return super().expectations(*args, **kwargs).round(decimals=self.decimals)


def test_a_vjp_of_other_values_is_not_used():
    layer, x = VQCLayer(2, simulator=Rounded(1)), torch.rand(3, 2, requires_grad=True)
    assert layer.gradient == "backprop"
    with torch.no_grad():
        expected = layer(x)
    assert torch.equal(layer(x), expected)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), expected)


@pytest.mark.parametrize(
    "change",
    [lambda v: v.mT, lambda v: v[0], lambda v: v.flatten(), lambda v: v + 0j, lambda v: v.tolist()],
)
def test_values_of_a_wrong_kind_are_refused(change):
    class Changed(Plain):
        def expectations(self, *args, **kwargs):
            return change(super().expectations(*args, **kwargs))

    with pytest.raises((TypeError, ValueError), match="what the simulator returns must be"):
        VQCLayer(2, simulator=Changed())(torch.rand(3, 2))


class Detached(Plain):
    """Exact, and unknown to autograd, as one in NumPy."""

    def expectations(self, *args, **kwargs):
        return super().expectations(*args, **kwargs).detach()


def test_a_simulator_that_autograd_does_not_know_trains_nothing_in_silence():
    layer, x = VQCLayer(2, simulator=Detached()), torch.rand(3, 2)
    assert layer.gradient == "backprop"
    with torch.no_grad():
        layer(x)
    with pytest.raises(GradientRuleError, match="autograd does not record what its simulator"):
        layer(x)
    shifted = VQCLayer(2, simulator=Detached(), gradient="parameter-shift")
    shifted(x).sum().backward()
    assert shifted.ansatz.weights.grad.abs().max() > 0


def test_another_simulator_can_be_assigned():
    layer, x = VQCLayer(2), torch.rand(3, 2)
    layer.gradient = "backprop"
    simulator = Plain()
    layer.simulator = simulator
    layer(x)
    assert simulator.calls == 1
    assert layer.simulator is simulator
    with pytest.raises(ValueError, match="simulator must be one of fused, torchquantum"):
        layer.simulator = "fast"


def test_adjoint_needs_a_vjp():
    with pytest.raises(ValueError, match="gradient must be another than 'adjoint' for simulator"):
        VQCLayer(2, simulator=Plain(), gradient="adjoint")
