"""quantum_gradient: every rule against closed forms, each other and autograd."""

import threading
import time

import numpy as np
import pytest
import torch
import torchquantum as tq
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_quantum import GradientRuleError, VQCLayer, quantum_gradient
from captum_quantum.gradients import RULES

EXACT = ("backprop", "parameter-shift", "commutator")
TOLERANCE = {"finite-difference": 2e-3}


class CosineProduct(nn.Module):
    """What RY(x_i) on each qubit and <Z_0 ... Z_k> give, in NumPy: autograd cannot pass."""

    def forward(self, x):
        values = np.cumprod(np.cos(x.detach().numpy()), axis=-1)
        return torch.from_numpy(values)


class TorchCosineProduct(nn.Module):
    """The same in PyTorch."""

    def forward(self, x):
        return torch.cumprod(torch.cos(x), dim=-1)


def angles(*shape):
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(shape, generator=generator) * 4 - 2).requires_grad_()


def input_gradient(model, x, weights=None):
    out = model(x)
    scale = torch.linspace(1, 2, out.numel()).reshape(out.shape).to(out.dtype)
    return torch.autograd.grad((out * scale).sum(), x if weights is None else weights)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["rx", "ry"])
def test_every_rule_gives_minus_sine(rule, name):
    layer = VQCLayer(1, n_layers=1, encoder=name, ansatz="rx_ry_rz_ring")
    with torch.no_grad():
        layer.ansatz.weights.zero_()
    x = angles(5, 1)
    with quantum_gradient(layer, rule):
        out = layer(x)
        (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(out, torch.cos(x), atol=1e-6)
    assert torch.allclose(grad, -torch.sin(x), atol=TOLERANCE.get(rule, 1e-6))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reupload", [False, True])
@pytest.mark.parametrize("ansatz", ["rx_ry_rz_ring", "strongly_entangling", "qcnn"])
def test_rules_agree_with_backprop(rule, reupload, ansatz):
    torch.manual_seed(0)
    layer = VQCLayer(4, 2, ansatz=ansatz, reupload=reupload, observables=["Z0", "X1 Y2", "ZIIZ"])
    x = angles(3, 4)
    expected = input_gradient(layer, x)
    with quantum_gradient(layer, rule):
        assert torch.allclose(input_gradient(layer, x), expected, atol=TOLERANCE.get(rule, 3e-6))
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_controlled_rotations_of_inputs(rule):
    entries = [
        {"input_idx": [], "func": "hadamard", "wires": [0]},
        {"input_idx": [0], "func": "crx", "wires": [0, 1]},
        {"input_idx": [1, 2, 3], "func": "crot", "wires": [1, 0]},
        {"input_idx": [4, 5, 6], "func": "u3", "wires": [1]},
        {"input_idx": [0], "func": "rzz", "wires": [0, 1]},
    ]
    layer = VQCLayer(2, 1, encoder=tq.GeneralEncoder(entries))
    x = angles(4, 7)
    expected = input_gradient(layer, x)
    with quantum_gradient(layer, rule):
        assert torch.allclose(input_gradient(layer, x), expected, atol=TOLERANCE.get(rule, 3e-6))


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_foreign_layer_against_its_torch_twin(rule):
    x = angles(4, 3)
    expected = input_gradient(TorchCosineProduct(), x)
    numpy_layer = CosineProduct()
    with quantum_gradient(numpy_layer, rule):
        got = input_gradient(numpy_layer, x)
    assert torch.allclose(got, expected, atol=TOLERANCE.get(rule, 1e-6))


def test_foreign_layer_of_several_dimensions_and_of_none():
    layer, twin = CosineProduct(), TorchCosineProduct()
    for shape in [(2, 3, 2), (3,)]:
        x = angles(*shape)
        with quantum_gradient(layer, "parameter-shift"):
            assert torch.allclose(input_gradient(layer, x), input_gradient(twin, x), atol=1e-6)


def test_foreign_layer_in_float64_finite_differences_are_accurate():
    x = angles(2, 3).detach().double().requires_grad_()
    with quantum_gradient(layer := CosineProduct(), "finite-difference"):
        got = input_gradient(layer, x)
    assert torch.allclose(got, input_gradient(TorchCosineProduct(), x), atol=1e-9)


def test_pennylane_layer():
    import pennylane as qml

    @qml.qnode(qml.device("default.qubit", wires=2))
    def node(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(2), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    torch.manual_seed(1)
    layer = qml.qnn.TorchLayer(node, {"weights": (2, 2, 3)})
    x = angles(3, 2)
    expected = input_gradient(layer, x)
    for rule in ("parameter-shift", "finite-difference", "backprop"):
        with quantum_gradient(layer, rule):
            assert torch.allclose(
                input_gradient(layer, x), expected, atol=TOLERANCE.get(rule, 1e-5)
            )


@pytest.mark.parametrize(
    "build",
    [
        lambda q: lambda x: q(q(x)),
        lambda q: lambda x: q(x) + q(2 * x),
        lambda q: lambda x: x * q(x) + x.sin(),
        lambda q: lambda x: q(torch.tanh(q(x) + x)) * x,
    ],
    ids=["series", "twice", "skip", "series-and-skip"],
)
@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference"])
def test_series_repeats_and_skips(build, rule):
    x = angles(4, 3)
    expected = input_gradient(build(TorchCosineProduct()), x)
    layer = CosineProduct()
    with quantum_gradient(layer, rule):
        got = input_gradient(build(layer), x)
    assert torch.allclose(got, expected, atol=TOLERANCE.get(rule, 3e-6))


def test_several_modules_at_once():
    first, second = CosineProduct(), CosineProduct()
    x = angles(2, 3)
    with quantum_gradient([first, second], "parameter-shift"):
        got = input_gradient(lambda x: second(first(x)), x)
    twin = TorchCosineProduct()
    assert torch.allclose(got, input_gradient(lambda x: twin(twin(x)), x), atol=3e-6)


def test_weight_gradients_keep_their_own_path():
    torch.manual_seed(0)
    layer = VQCLayer(3)
    x = angles(2, 3)
    expected = input_gradient(layer, x, layer.ansatz.weights)
    with quantum_gradient(layer, "finite-difference"):
        assert torch.equal(input_gradient(layer, x, layer.ansatz.weights), expected)


def test_values_are_untouched():
    layer = VQCLayer(3)
    x = angles(2, 3)
    with quantum_gradient(layer, "finite-difference"):
        inside = layer(x)
    assert torch.equal(inside, layer(x))


def test_nested_blocks_use_the_innermost_rule():
    calls = []

    class Counting(CosineProduct):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    layer, x = Counting(), angles(1, 2)

    def rows():
        calls.clear()
        input_gradient(layer, x)
        return sum(calls)

    with quantum_gradient(layer, "parameter-shift"):
        outer = rows()
        with quantum_gradient(layer, "finite-difference"):
            inner = rows()
        assert rows() == 1 + 4  # itself and two shifts for each of two inputs
    assert inner == 1 + 4 + 2  # the sample twice, to see whether values carry noise
    assert outer == 1 + 4 + 10  # once in a block, five values of each input
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_everything_is_restored_after_an_exception():
    layer = VQCLayer(2)
    kept = layer.register_forward_hook(lambda *_: None)
    before = (dict(layer._forward_hooks), dict(layer._forward_pre_hooks), layer.training)
    state = torch.get_rng_state()

    def fail():
        with quantum_gradient(layer, "parameter-shift"):
            layer(angles(1, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (dict(layer._forward_hooks), dict(layer._forward_pre_hooks), layer.training) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in layer.parameters())
    kept.remove()


def test_a_module_that_raises_and_recovers_inside():
    class Moody(CosineProduct):
        fail = True

        def forward(self, x):
            if self.fail:
                self.fail = False
                raise RuntimeError("not now")
            return super().forward(x)

    layer, x = Moody(), angles(2, 2)
    with quantum_gradient(layer, "parameter-shift"):
        with pytest.raises(RuntimeError, match="not now"):
            layer(x)
        got = input_gradient(layer, x)
    assert torch.allclose(got, input_gradient(TorchCosineProduct(), x), atol=1e-6)


def test_other_threads_are_not_affected():
    layer, x = TorchCosineProduct(), angles(2, 2)
    results = {}

    def other():
        results["hooked"] = layer(x).grad_fn.name()

    with quantum_gradient(layer, "finite-difference"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        inside = layer(x).grad_fn.name()
    assert results["hooked"] == layer(x).grad_fn.name()
    assert inside != results["hooked"]


def test_two_threads_with_two_rules_on_one_layer():
    torch.manual_seed(0)
    layer = VQCLayer(3)
    batches = [angles(2, 3), (angles(2, 3).detach() + 1).requires_grad_()]
    expected = [input_gradient(layer, x) for x in batches]
    got = [None, None]

    def work(k):
        with quantum_gradient(layer, ("parameter-shift", "commutator")[k]):
            for _ in range(5):
                got[k] = input_gradient(layer, batches[k])
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(2):
        assert torch.allclose(got[k], expected[k], atol=3e-6)
    assert not layer._forward_hooks


@pytest.mark.parametrize("method", [Saliency, InputXGradient, IntegratedGradients])
def test_captums_methods_explain_a_layer_autograd_cannot(method):
    torch.manual_seed(0)
    first, last = nn.Linear(5, 3), nn.Linear(3, 2)
    numpy_layer = CosineProduct()
    x = torch.rand(4, 5)
    expected = method(nn.Sequential(first, TorchCosineProduct(), last)).attribute(x, target=1)
    with quantum_gradient(numpy_layer, "parameter-shift"):
        got = method(nn.Sequential(first, numpy_layer, last)).attribute(x, target=1)
    assert torch.allclose(got, expected, atol=1e-6)
    assert got.abs().max() > 1e-3


def test_a_layer_with_shots_is_not_checked_for_the_two_term_rule():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, x):
            noise = torch.randn(x.shape, generator=self.generator)
            return torch.cos(x.detach()) + 0.01 * noise

    layer, x = Noisy(), angles(3, 2)
    with quantum_gradient(layer, "parameter-shift"):
        got = torch.autograd.grad(layer(x).sum(), x)[0]
    assert torch.allclose(got, -torch.sin(x), atol=0.05)
    assert not torch.allclose(got, -torch.sin(x), atol=1e-6)


def test_amplitude_encoding_by_finite_differences():
    torch.manual_seed(0)
    layer = VQCLayer(2, encoder="amplitude")
    x = angles(3, 4)
    expected = input_gradient(layer, x)
    for rule in ("backprop", "finite-difference"):
        with quantum_gradient(layer, rule):
            assert torch.allclose(input_gradient(layer, x), expected, atol=2e-3)


def test_no_gradient_wanted_nothing_happens():
    layer = CosineProduct()
    with quantum_gradient(layer, "parameter-shift"):
        assert not layer(torch.rand(2, 2)).requires_grad
        with torch.no_grad():
            assert not layer(angles(2, 2)).requires_grad


def two_inputs():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    return Two()


def gives_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def apply_rule(layer, rule, *inputs):
    with quantum_gradient(layer, rule):
        out = layer(*inputs)
        torch.autograd.grad(out.sum(), inputs[0])


def r_gate():
    return tq.GeneralEncoder([{"input_idx": [0, 1], "func": "r", "wires": [0]}])


BAD = {
    "unknown rule": (
        lambda: apply_rule(VQCLayer(1), "parameter_shift", angles(1, 1)),
        ValueError,
        "rule must be one of .*did you mean 'parameter-shift'",
    ),
    "rule of wrong type": (
        lambda: apply_rule(VQCLayer(1), 3, angles(1, 1)),
        TypeError,
        r"rule must be one of .*got 3 \(int\)",
    ),
    "not a module": (
        lambda: apply_rule([torch.cos], "parameter-shift", angles(1, 1)),
        TypeError,
        "modules must be a module or a sequence of modules",
    ),
    "two inputs": (
        lambda: apply_rule(two_inputs(), "parameter-shift", angles(1, 1), angles(1, 1)),
        TypeError,
        "input of Two under quantum_gradient must be a single tensor",
    ),
    "tuple out": (
        lambda: apply_rule(gives_tuple(), "parameter-shift", angles(1, 1)),
        TypeError,
        "output of Pair under a gradient rule must be a real floating-point tensor",
    ),
    "two-term rule does not hold": (
        lambda: apply_rule(nn.Softplus(), "parameter-shift", angles(1, 2)),
        GradientRuleError,
        r"does not apply to a Softplus module: inputs \[0, 1\]",
    ),
    "commutator without a circuit": (
        lambda: apply_rule(nn.Tanh(), "commutator", angles(1, 2)),
        GradientRuleError,
        "needs the gates of a circuit, which a Tanh module does not show",
    ),
    "backprop through NumPy": (
        lambda: apply_rule(CosineProduct(), "backprop", angles(1, 2)),
        GradientRuleError,
        "rule 'backprop' does not apply",
    ),
    "shift of the axis of r": (
        lambda: apply_rule(VQCLayer(1, encoder=r_gate()), "parameter-shift", angles(1, 2)),
        GradientRuleError,
        r"does not apply to angle 1 \(x\[1\]\) of r",
    ),
    "shift of amplitudes": (
        lambda: apply_rule(VQCLayer(1, encoder="amplitude"), "parameter-shift", angles(1, 2)),
        GradientRuleError,
        "does not apply to the inputs of amplitude encoding",
    ),
    "commutator of amplitudes": (
        lambda: apply_rule(VQCLayer(1, encoder="amplitude"), "commutator", angles(1, 2)),
        GradientRuleError,
        "does not apply to the inputs of amplitude encoding",
    ),
    "commutator of too many qubits": (
        lambda: apply_rule(VQCLayer(11, 1), "commutator", angles(1, 11)),
        ValueError,
        "n_qubits must be at most 10; got 11",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()
