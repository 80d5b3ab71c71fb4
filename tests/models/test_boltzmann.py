"""The quantum Boltzmann layer against dense matrix exponentials, closed forms and enumeration."""

import copy
import itertools
import math
import pickle
from functools import reduce

import numpy as np
import pytest
import scipy.linalg
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn

from captum_quantum import HybridClassifier, Observable, QuantumLayerGradCam, quantum_gradient
from captum_quantum.datasets import load_digits
from captum_quantum.gradients.nodes import GradientRuleError
from captum_quantum.models import (
    QuantumBoltzmannLayer,
    SmallCNN,
    classical_twin,
    load_weights,
    save_weights,
)
from captum_quantum.training import fit

PAULIS = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
MIXED = ["Z0", "X1", "Y0 Y2", {"X0 Z2": 0.3, "Z1": -2.0}, "Y1", Observable.projector("10")]


def word(letters):
    """Return the Kronecker product of the letters' matrices, wire 0 leftmost."""
    return reduce(np.kron, [PAULIS[letter] for letter in letters])


def at(n, **letters):
    """Return the Pauli word with letters on some wires: ``at(3, _1="Z")`` is I Z I."""
    return word([letters.get(f"_{wire}", "I") for wire in range(n)])


def mixed_matrices():
    """Return the matrices of MIXED, written out."""
    zero, one = np.diag([1, 0]), np.diag([0, 1])
    return [
        word("ZII"), word("IXI"), word("YIY"), 0.3 * word("XIZ") - 2 * word("IZI"), word("IYI"),
        reduce(np.kron, [one, zero, np.eye(2)]),
    ]  # fmt: skip


def hamiltonian(fields, coupling, gamma):
    """Return H for one row of fields b + x."""
    n = len(fields)
    matrix = sum(-fields[i] * at(n, **{f"_{i}": "Z"}) for i in range(n))
    for J, (i, j) in zip(coupling, itertools.combinations(range(n), 2), strict=True):
        matrix = matrix - J * at(n, **{f"_{i}": "Z", f"_{j}": "Z"})
    return matrix - gamma * sum(at(n, **{f"_{i}": "X"}) for i in range(n))


def expected(x, bias, coupling, gamma, beta, matrices):
    """Return tr(rho O_k) by scipy's matrix exponential in complex128."""
    rows = []
    for row in x:
        rho = scipy.linalg.expm(-beta * hamiltonian(bias + row, coupling, gamma).astype(complex))
        rows.append([np.trace(rho @ O).real / np.trace(rho).real for O in matrices])
    return np.array(rows)


def matrix_exp_values(x, bias, coupling, gamma, beta, matrices):
    """The same by torch.matrix_exp, which autograd differentiates by itself."""
    n = len(bias)
    terms = [at(n, **{f"_{i}": "Z"}) for i in range(n)]
    terms += [at(n, **{f"_{i}": "Z", f"_{j}": "Z"}) for i, j in itertools.combinations(range(n), 2)]
    terms = torch.tensor(np.stack(terms))
    flips = torch.tensor(sum(at(n, **{f"_{i}": "X"}) for i in range(n)))
    numbers = torch.cat([bias + x, coupling.expand(len(x), -1)], dim=1)
    H = -torch.einsum("bt,tij->bij", numbers, terms) - gamma * flips
    rho = torch.matrix_exp(-beta * H)
    O = torch.tensor(np.stack(matrices)).real.to(rho.dtype)
    return torch.einsum("bij,kji->bk", rho, O) / torch.einsum("bii->b", rho)[:, None]


def doubled(n_qubits=3, seed=0, **options):
    """Return a layer in float64 with parameters of order 1, and inputs."""
    layer = QuantumBoltzmannLayer(n_qubits, seed=seed, **options).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in (layer.bias, layer.coupling):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer, torch.randn(4, n_qubits, generator=generator, dtype=torch.float64)


def set_zero(layer):
    with torch.no_grad():
        layer.bias.zero_()
        layer.coupling.zero_()
    return layer


def numbers(layer):
    return [p.detach().numpy() for p in (layer.bias, layer.coupling, layer.transverse_field)]


@pytest.mark.parametrize("gamma", [0.0, 0.7, -1.5])
@pytest.mark.parametrize("trainable", [False, True])
def test_values_are_those_of_the_matrix_exponential(gamma, trainable):
    options = {"transverse_field": gamma, "trainable_field": trainable, "beta": 0.75}
    layer, x = doubled(observables=MIXED, **options)
    by_expm = expected(x.numpy(), *numbers(layer), 0.75, mixed_matrices())
    np.testing.assert_allclose(layer(x).detach().numpy(), by_expm, rtol=0, atol=1e-13)
    plain, x = doubled(**options)  # <Z>: the diagonals alone
    matrices = [word("ZII"), word("IZI"), word("IIZ")]
    by_expm = expected(x.numpy(), *numbers(plain), 0.75, matrices)
    np.testing.assert_allclose(plain(x).detach().numpy(), by_expm, rtol=0, atol=1e-13)


@pytest.mark.parametrize("observables", [None, MIXED])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_gradients_are_those_of_the_matrix_exponential(gamma, observables):
    layer, x = doubled(transverse_field=gamma, trainable_field=True, observables=observables)
    matrices = mixed_matrices() if observables else [word("ZII"), word("IZI"), word("IIZ")]
    x.requires_grad_()
    given = [x, layer.bias, layer.coupling, layer.transverse_field]
    cotangent = torch.randn(4, len(matrices), dtype=torch.float64)
    grads = torch.autograd.grad(layer(x), given, cotangent)
    values = matrix_exp_values(*given, 1.0, matrices)
    for grad, wanted in zip(grads, torch.autograd.grad(values, given, cotangent), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-12)

    def score(*arrays):
        return (cotangent.numpy() * expected(*arrays, 1.0, matrices)).sum()

    arrays, step = [x.detach().numpy(), *numbers(layer)], 1e-5
    for which, grad in enumerate(grads):
        for index in np.ndindex(*grad.shape):
            ends = []
            for sign in (1, -1):
                moved = [array.copy() for array in arrays]
                moved[which][index] += sign * step
                ends.append(score(*moved))
            assert float(grad[index]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 1e-9, 0.4, 1.0])
@pytest.mark.parametrize("x", [0.0, 1e-12, -0.3, 2.0])
def test_one_qubit_is_a_hyperbolic_tangent(gamma, x):
    # <Z> = h/w tanh(beta w) and <X> = Gamma/w tanh(beta w) with w^2 = h^2 + Gamma^2
    beta = 1.3
    layer = QuantumBoltzmannLayer(
        1, transverse_field=gamma, trainable_field=True, beta=beta, observables=["Z0", "X0"]
    ).double()
    with torch.no_grad():
        layer.bias.fill_(0.0)
        layer.transverse_field.fill_(gamma)
        layer.beta.fill_(beta)
    h = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    values = layer(h)
    w = math.hypot(x, gamma)
    slope = beta if w == 0 else math.tanh(beta * w) / w
    assert values.tolist()[0] == pytest.approx([x * slope, gamma * slope], abs=1e-14)
    by_x, by_gamma = torch.autograd.grad(values[0, 0], [h, layer.transverse_field])
    if w < 1e-6:
        assert float(by_x) == pytest.approx(beta, abs=1e-13)
        assert float(by_gamma) == pytest.approx(0, abs=1e-9)
    else:
        change = beta / math.cosh(beta * w) ** 2
        assert float(by_x) == pytest.approx(slope + x**2 / w**2 * (change - slope), abs=1e-13)
        assert float(by_gamma) == pytest.approx(x * gamma / w**2 * (change - slope), abs=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("trainable", [False, True])
def test_degenerate_levels_of_free_qubits(gamma, trainable, dtype):
    # Without couplings and with equal fields every level but two is degenerate.
    layer = QuantumBoltzmannLayer(3, transverse_field=gamma, trainable_field=trainable)
    layer = set_zero(layer).to(dtype)
    for h in (0.0, 0.5):
        x = torch.full((1, 3), h, dtype=dtype, requires_grad=True)
        values = layer(x)
        w = math.hypot(h, gamma)
        slope = 1.0 if w == 0 else math.tanh(w) / w
        by_field = slope if w == 0 else slope + h**2 / w**2 * (math.cosh(w) ** -2 - slope)
        jacobian = torch.stack(
            [torch.autograd.grad(v, x, retain_graph=True)[0][0] for v in values[0]]
        )
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(
            values[0], torch.full((3,), h * slope, dtype=dtype), rtol=0, atol=tolerance
        )
        wanted = by_field * torch.eye(3, dtype=dtype)
        torch.testing.assert_close(jacobian, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("h", [0.0, 0.5])
def test_couplings_of_free_classical_spins(h, trainable):
    # d<Z_0 Z_1>/dJ_01 is the variance of the product, 1 - tanh(h)^4; d/dGamma is 0
    options = {"transverse_field": 0.0, "trainable_field": trainable, "observables": ["Z0 Z1"]}
    layer = set_zero(QuantumBoltzmannLayer(3, **options)).double()
    value = layer(torch.full((1, 3), h, dtype=torch.float64))
    grads = torch.autograd.grad(value, [p for n, p in layer.named_parameters() if n != "bias"])
    assert float(grads[0][0]) == pytest.approx(1 - math.tanh(h) ** 4, abs=1e-14)
    assert all(float(grad) == pytest.approx(0, abs=1e-14) for grad in grads[1:])


def test_two_qubits_with_equal_fields():
    # Symmetric under exchange: the values and the gradients of both qubits are equal.
    layer, _ = doubled(2, observables=["Z0", "Z1"])
    with torch.no_grad():
        layer.bias.fill_(0.4)
        layer.coupling.fill_(0.0)
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    grads = [torch.autograd.grad(layer(x)[0, k], x)[0][0] for k in (0, 1)]
    w = math.hypot(0.4, 1.0)
    own = math.tanh(w) / w + 0.16 / w**2 * (math.cosh(w) ** -2 - math.tanh(w) / w)
    torch.testing.assert_close(torch.stack(grads), own * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("scale", "beta"), [(1.0, 1e4), (1e6, 1.0), (1e30, 1e6)])
def test_saturation(gamma, trainable, scale, beta):
    options = {"transverse_field": gamma, "trainable_field": trainable, "beta": beta}
    layer = set_zero(QuantumBoltzmannLayer(3, **options)).double()
    x = scale * torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    x.requires_grad_()
    values = layer(x)
    w = math.hypot(scale, gamma)
    # The ground state: every qubit points along its field.
    wanted = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64) * (scale / w)
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-9)
    grads = torch.autograd.grad(values[0, 0], [x, *layer.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert float(grads[0][0, 0]) == pytest.approx(gamma**2 / w**3, abs=1e-9)


@pytest.mark.parametrize("trainable", [False, True])
def test_without_a_field_it_is_the_classical_machine(trainable):
    layer, x = doubled(4, transverse_field=0.0, trainable_field=trainable, beta=0.5)
    bias, coupling, _ = numbers(layer)
    for row, values in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        mean, total = np.zeros(4), 0.0
        for spins in itertools.product([1, -1], repeat=4):
            pairs = itertools.combinations(spins, 2)
            energy = -np.dot(bias + row, spins)
            energy -= sum(J * a * b for J, (a, b) in zip(coupling, pairs, strict=True))
            mean += math.exp(-0.5 * energy) * np.array(spins)
            total += math.exp(-0.5 * energy)
        np.testing.assert_allclose(values, mean / total, rtol=0, atol=1e-14)


def test_nothing_is_diagonalized_without_a_field(monkeypatch):
    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    layer, x = doubled(8, transverse_field=0.0)
    assert layer(x).shape == (4, 8)
    small = QuantumBoltzmannLayer(2, transverse_field=0.0).double()
    assert torch.autograd.gradgradcheck(small, x[:1, :2].clone().requires_grad_())
    with pytest.raises(AssertionError):
        doubled(2, transverse_field=0.1)[0](x[:, :2])


@pytest.mark.parametrize("wanted", ["inputs", "bias", "transverse_field"])
def test_second_derivatives_are_refused(wanted):
    layer, x = doubled(trainable_field=True)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    source = x if wanted == "inputs" else getattr(layer, wanted)
    with pytest.raises(GradientRuleError, match="a transverse field gives first derivatives only"):
        torch.autograd.grad(grad.sum(), source)
    by_field = torch.autograd.grad(layer(x).sum(), layer.transverse_field, create_graph=True)[0]
    with pytest.raises(GradientRuleError, match="a transverse field gives first derivatives only"):
        torch.autograd.grad(by_field, source)


def test_torch_func():
    layer, x = doubled(observables=MIXED)
    x.requires_grad_()
    assert torch.autograd.gradcheck(layer, x[:1])  # undefined cotangents among others
    jacobian = torch.autograd.functional.jacobian(layer, x)
    vectorized = torch.autograd.functional.jacobian(layer, x, vectorize=True)
    torch.testing.assert_close(vectorized, jacobian)
    torch.testing.assert_close(torch.func.jacrev(layer)(x), jacobian)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_ensembles(gamma):
    layers, x = [doubled(seed=k, transverse_field=gamma)[0] for k in (1, 2)], doubled()[1]
    state = torch.func.stack_module_state(layers)
    values = torch.func.vmap(lambda *s: torch.func.functional_call(layers[0], s, (x,)))(*state)
    torch.testing.assert_close(values, torch.stack([layer(x) for layer in layers]))


def test_torch_func_refuses_second_derivatives():
    layer, x = doubled()

    def slope(x):
        return torch.func.grad(lambda x: layer(x).sum())(x).sum()

    with pytest.raises(GradientRuleError, match="first derivatives only"):
        torch.func.grad(slope)(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated")
def test_traced_and_exported():
    layer, x = doubled()
    set_zero(layer)
    traced = torch.jit.trace(layer, x)
    zeros = torch.zeros_like(x, requires_grad=True)
    grads = [torch.autograd.grad(one(zeros)[:, 0].sum(), zeros)[0] for one in (layer, traced)]
    torch.testing.assert_close(*grads)
    with pytest.raises(NotImplementedError, match="cannot be exported"):
        torch.export.export(layer, (x,))


def test_batches_and_shapes():
    layer, x = doubled(observables=MIXED)
    values = layer(x)
    torch.testing.assert_close(torch.stack([layer(row) for row in x]), values, rtol=0, atol=1e-14)
    assert torch.equal(layer(x.reshape(2, 1, 2, 3)), values.reshape(2, 1, 2, 6))
    empty = layer(x[:0].requires_grad_())
    assert empty.shape == (0, 6)
    assert float(torch.autograd.grad(empty.sum(), layer.bias)[0].abs().sum()) == 0
    assert QuantumBoltzmannLayer(2, observables="probabilities")(x[:, :2]).sum(1).tolist() == (
        pytest.approx([1.0] * 4)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision(dtype):
    layer, x = doubled(observables=MIXED)
    layer, x = layer.to(dtype), x.to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    values = layer(x)
    assert values.dtype == dtype
    torch.testing.assert_close(values, exact.to(dtype), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), values, rtol=0, atol=0)
    # Observables are no buffers: a round trip through half precision leaves them as they are.
    again = copy.deepcopy(layer).half().double()
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x), values, rtol=0, atol=0)


@pytest.mark.parametrize("trainable", [False, True])
def test_copies_and_state(trainable):
    options = {"transverse_field": 0.3, "trainable_field": trainable, "beta": 2.0}
    layer, x = doubled(observables=MIXED, **options)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), layer(x))
    other = QuantumBoltzmannLayer(3, observables=MIXED).double()
    assert other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))  # Gamma and beta are part of the state
    assert list(layer.state_dict()) in (
        ["bias", "coupling", "transverse_field", "beta"],
        ["bias", "coupling", "beta", "transverse_field"],
    )
    names = {"bias", "coupling"} | ({"transverse_field"} if trainable else set())
    assert {name for name, _ in layer.named_parameters()} == names
    assert "transverse_field=0.3, beta=2" in repr(layer)


def test_weights_files(tmp_path):
    layer, x = doubled(1, trainable_field=True)  # no couplings: an empty parameter
    save_weights(layer, tmp_path / "weights.safetensors")
    other = QuantumBoltzmannLayer(1, trainable_field=True).double()
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(other(x), layer(x))


def test_seed():
    before = torch.random.get_rng_state()
    first, again, other = (QuantumBoltzmannLayer(8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.coupling, again.coupling)
    assert not torch.equal(first.coupling, other.coupling)
    assert float(first.coupling.detach().std()) == pytest.approx(0.1, abs=0.05)
    assert not torch.equal(QuantumBoltzmannLayer(8).bias, QuantumBoltzmannLayer(8).bias)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_qubits": 9}, ValueError, r"n_qubits must be an integer in \[1, 8\]; got 9"),
        ({"n_qubits": 2.0}, TypeError, r"n_qubits must be an integer in \[1, 8\]; got 2.0"),
        ({"transverse_field": math.inf}, ValueError, "transverse_field must be a finite number"),
        ({"transverse_field": math.nan}, ValueError, "transverse_field must be a finite number"),
        ({"transverse_field": 1e40}, ValueError, "transverse_field must be a finite number"),
        ({"transverse_field": "1"}, TypeError, "transverse_field must be a finite number"),
        ({"trainable_field": 1}, TypeError, "trainable_field must be True or False; got 1"),
        ({"beta": 0}, ValueError, "beta must be a finite number > 0; got 0"),
        ({"beta": 1e-50}, ValueError, "beta must be a finite number > 0"),
        ({"beta": math.inf}, ValueError, "beta must be a finite number > 0"),
        ({"beta": True}, TypeError, "beta must be a finite number > 0"),
        ({"observables": "Z0"}, TypeError, "observables must be a list of observables"),
        ({"observables": []}, ValueError, "observables must be a list of at least one"),
        ({"observables": ["X3"]}, ValueError, r"wires of observable X3 must be in \[0, 2\]"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"seed": "1"}, TypeError, "seed must be an integer >= 0"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        QuantumBoltzmannLayer(**{"n_qubits": 3, **arguments})


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([0.0, 0.0], TypeError, "inputs must be a real floating-point tensor"),
        (torch.zeros(1, 2, dtype=torch.long), TypeError, "inputs must be a real floating-point"),
        (torch.zeros(1, 2, dtype=torch.complex64), TypeError, "inputs must be a real floating"),
        (torch.tensor(0.0), ValueError, r"inputs must be of shape \(..., 2\)"),
        (torch.zeros(2, 3), ValueError, r"inputs must be of shape \(..., 2\)"),
        (torch.zeros(1, 2, device="meta"), ValueError, "inputs must be on the layer's device, cpu"),
        (torch.tensor([[0.0, math.nan]]), ValueError, "inputs must be finite everywhere"),
    ],
)
def test_wrong_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        QuantumBoltzmannLayer(2)(inputs)


@pytest.mark.parametrize("name", ["bias", "coupling", "transverse_field"])
def test_parameters_that_are_not_finite(name):
    layer = QuantumBoltzmannLayer(2)
    with torch.no_grad():
        getattr(layer, name).fill_(math.inf)
    with pytest.raises(ValueError, match=f"{name} must be finite everywhere"):
        layer(torch.zeros(1, 2))


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
    layer = QuantumBoltzmannLayer(3, observables=["Z0", "Z1", "X2", "Z0 Z2"])
    return HybridClassifier(backbone, layer, n_features=5, n_classes=4).double()


IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_maps_equal_captums(model):
    maps = QuantumLayerGradCam(model, model.backbone).attribute(IMAGES, [0, 3, 1])
    captums = LayerGradCam(model, model.backbone).attribute(IMAGES, [0, 3, 1])
    torch.testing.assert_close(maps, captums)
    assert maps.abs().max() > 0


def test_shares_add_up_to_the_map(model):
    grad_cam = QuantumLayerGradCam(model, model.backbone, quantum_layer=model.vqc)
    captums = LayerGradCam(model, model.backbone).attribute(IMAGES, 2)
    for shares, count in (
        (grad_cam.attribute_qubits(IMAGES, 2), 3),
        (grad_cam.attribute_observables(IMAGES, 2), 4),
    ):
        assert shares.shape == (3, count, 6, 6)
        torch.testing.assert_close(shares.sum(1, keepdim=True), captums)
        assert (shares.abs().amax((0, 2, 3)) > 0).all()
    with pytest.raises(ValueError, match="quantum_layer must be given, or the only one"):
        QuantumLayerGradCam(model, model.backbone).attribute_qubits(IMAGES, 2)


def test_gradient_rules(model):
    images = IMAGES.clone().requires_grad_()
    own = Saliency(model).attribute(images, 1)
    for rule in ("backprop", "finite-difference"):
        with quantum_gradient(model.vqc, rule=rule):
            saliency = Saliency(model).attribute(images, 1)
        torch.testing.assert_close(saliency, own, rtol=1e-5, atol=1e-9)
    for rule, says in {
        "adjoint": "needs a VQCLayer whose simulator has a vjp",
        "commutator": "needs the gates of a circuit, which a QuantumBoltzmannLayer module does not",
        "parameter-shift": "not each the angle of a single Pauli rotation",
    }.items():
        with quantum_gradient(model.vqc, rule=rule), pytest.raises(GradientRuleError, match=says):
            Saliency(model).attribute(images, 1)


def test_the_twin_has_as_many_parameters(model):
    twin = classical_twin(model)
    assert (twin.vqc.n_inputs, twin.vqc.n_observables) == (3, 4)
    alone = QuantumBoltzmannLayer(4)  # 4 fields and 6 couplings
    twin = classical_twin(nn.Sequential(alone), quantum_layer=alone)
    assert sum(p.numel() for p in twin.parameters()) == 10


def test_it_learns_digits():
    digits = load_digits()
    layer = QuantumBoltzmannLayer(4, trainable_field=True, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HybridClassifier(SmallCNN(channels=(2, 4, 8)), layer, n_features=8, n_classes=10)
    before = copy.deepcopy(layer.state_dict())
    losses = fit(model, digits.train_images[:128], digits.train_labels[:128], epochs=20, lr=0.03)
    assert losses[-1] < math.log(10) - 0.5 < losses[0]  # log 10: a uniform guess
    for name in ("bias", "coupling", "transverse_field"):
        assert not torch.equal(before[name], layer.state_dict()[name])
    assert torch.equal(before["beta"], layer.beta)
