"""Shares of variance: closed forms, brute force, estimates against exact ones, what is refused."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torchquantum as tq
from circuits import random_circuit
from modules import Ansatz, Encoder
from torch import nn

from captum_quantum import Angle, Circuit, CircuitError, Gate, Observable, VQCLayer
from captum_quantum.interactions import Interactions, circuit_interactions, sampled_interactions
from captum_quantum.simulate import FusedSimulator


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance
    )


def product_layer(n=3, observables=None, **options):
    """<Z_i> = cos x_i."""
    return VQCLayer(n, ansatz=None, observables=observables, **options)


def layer_of(n, gates, observables, n_inputs):
    """A layer of gates, each a name, wires, and the numbers of inputs that are its angles."""
    gates = [Gate(name, wires, tuple(map(Angle.of_input, inputs))) for name, wires, inputs in gates]
    return VQCLayer.from_circuit(Circuit(n, gates, list(map(Observable.of, observables)), n_inputs))


def shares_of_table(values):
    """Brute force: shares from the values of all combinations, ``(m_1, ..., m_n, n_outputs)``.

    The term of a set of inputs is the mean over all others minus the terms of its subsets.
    """
    n = values.ndim - 1
    terms, variances = {}, {}
    for size in range(n + 1):
        for members in itertools.combinations(range(n), size):
            others = tuple(i for i in range(n) if i not in members)
            term = values.mean(axis=others, keepdims=True)
            for smaller, known in terms.items():
                if set(smaller) < set(members):
                    term = term - known
            terms[members] = term
            variances[members] = (term**2).mean(axis=tuple(range(n))).sum()
    del variances[()]
    whole = sum(variances.values())
    orders = [sum(v for s, v in variances.items() if len(s) == k) for k in range(1, n + 1)]
    mains = [variances[(i,)] for i in range(n)]
    pairs = [
        [sum(v for s, v in variances.items() if i != j and {i, j} <= {*s}) for j in range(n)]
        for i in range(n)
    ]
    output = (values - values.mean(axis=tuple(range(n)))) ** 2
    return [np.array(part) / whole for part in (orders, mains, pairs)] + [
        output.mean(axis=tuple(range(n)))
    ]


def test_a_product_state_has_single_inputs_only():
    shares = product_layer().interactions()
    assert shares.exact
    assert shares.single == pytest.approx(1, abs=1e-12)
    close(shares.orders, [1, 0, 0])
    close(shares.mains, [1 / 3] * 3)
    close(shares.pairs, torch.zeros(3, 3))
    close(shares.variance, [0.5] * 3)
    assert not shares.errors.any()
    assert not shares.main_errors.any()
    assert not shares.pair_errors.any()
    assert shares.n_samples == 0


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_parity_of_all_inputs_is_one_term(n):
    chain = [["cnot", [i, i + 1]] for i in range(n - 1)]
    ansatz = Ansatz(lambda _, qdev: [qdev.cnot(wires=wires) for _, wires in chain])
    shares = VQCLayer(n, ansatz=ansatz, observables=[f"Z{n - 1}"]).interactions()
    close(shares.orders, [0] * (n - 1) + [1])
    close(shares.pairs, 1 - torch.eye(n))
    close(shares.mains, [float(n == 1)] * n)
    close(shares.variance, [0.5**n])


def test_a_mean_that_is_not_zero_makes_single_terms():
    # cos x cos y, where cos x is 1 or 0 and cos y is 1 or -1/2: means 1/2 and 1/4, variances 1/4
    # and 9/16.
    x = torch.tensor([[0.0, 0.0], [math.pi / 2, 2 * math.pi / 3]], dtype=torch.float64)
    shares = product_layer(2, ["Z0 Z1"]).interactions(x)
    of_x, of_y, of_both = 1 / 4 / 16, 9 / 16 / 4, 9 / 64
    whole = of_x + of_y + of_both
    assert shares.exact
    close(shares.variance, [whole])
    close(shares.mains, [of_x / whole, of_y / whole])
    close(shares.orders, [(of_x + of_y) / whole, of_both / whole])
    close(shares.pairs[0, 1], of_both / whole)


def test_an_input_that_is_uploaded_again_is_one_variable():
    # cos(x0) cos(x1), then cos(2 x0) cos(x1), by two rotations about one axis.
    gates = [("ry", (0,), (0,)), ("ry", (1,), (1,)), ("ry", (0,), (0,))]
    shares = layer_of(2, gates, ["Z0", "Z0 Z1"], 2).interactions()
    close(shares.orders, [2 / 3, 1 / 3])
    close(shares.mains, [2 / 3, 0])
    close(shares.variance, [1 / 2, 1 / 4])
    # With x0 in {0, pi}, cos 2 x0 is 1 always.
    x = torch.tensor([[0.0, 0.0], [math.pi, math.pi]], dtype=torch.float64)
    shares = layer_of(2, gates, ["Z0", "Z0 Z1"], 2).interactions(x)
    close(shares.variance, [0, 1])
    close(shares.mains, [0, 1])


def test_a_controlled_rotation_has_half_frequencies():
    # Control and target in |+>: <X0> is cos(x / 2), whose circle is 4 pi long; <Z1> is 0.
    gates = [("h", (0,), ()), ("crz", (0, 1), (0,)), ("ry", (1,), (1,))]
    shares = layer_of(2, gates, ["X0"], 2).interactions()
    assert shares.exact
    close(shares.variance, [1 / 2])
    close(shares.mains, [1, 0])
    x = torch.tensor([[0.0, 1.0], [2 * math.pi, 2.0]])  # cos(x / 2): 1 and -1
    close(layer_of(2, gates, ["X0"], 2).interactions(x).variance, [1], 1e-6)


def test_gates_of_other_frequencies_are_exact_too():
    # exp(-i t 2 X / 2) is RX(2 t): <Z> = cos 2t.
    gate = Gate("exp", (0,), (Angle.of_input(0),), operator=Observable.of({"X0": 2.0}))
    circuit = Circuit(1, [gate], [Observable.of("Z0")], 1)
    shares = VQCLayer.from_circuit(circuit).interactions()
    assert shares.exact
    close(shares.variance, [1 / 2])
    gate = Gate("exp", (0,), (Angle.of_input(0),), operator=Observable.of({"X0": 0.7}))
    circuit = Circuit(1, [gate], [Observable.of("Z0")], 1)
    assert not VQCLayer.from_circuit(circuit).interactions(n_samples=10).exact


def test_a_head_mixes_the_outputs():
    # cos x + cos x cos y and cos x.
    layer = product_layer(2, [{"Z0": 1.0, "Z0 Z1": 1.0}, "Z0"])
    close(layer.interactions().orders, [1 / (1 + 1 / 4), 1 / 4 / (1 + 1 / 4)])
    head = nn.Linear(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -1.0]]))
    shares = layer.interactions(head=head)
    close(shares.orders, [0, 1])
    close(shares.variance, [1 / 4])
    close(layer.interactions(head=head.weight).orders, [0, 1])
    assert head.weight.grad is None


@pytest.mark.parametrize("weight", [[[0.0, 0.0]], [[0.3, -1.0]]])
@pytest.mark.parametrize("simulator", ["fused", "torchquantum"])
def test_what_cancels_has_no_shares(weight, simulator):
    layer = product_layer(2, ["Z0", {"Z0": 0.3}], simulator=simulator)
    shares = layer.interactions(head=torch.tensor(weight, dtype=torch.float64))
    assert shares.orders.isnan().all()
    close(shares.variance, [0])


@pytest.mark.parametrize("simulator", ["fused", "torchquantum"])
@pytest.mark.parametrize("n", [3, 9])
def test_a_constant_circuit_has_no_shares(simulator, n):
    # The mean of <X> after RZ is 0 but for rounding, that of <Z> 1.
    encoder = [{"input_idx": [i], "func": "rz", "wires": [i]} for i in range(n)]
    ansatz = Ansatz(lambda _, qdev: [qdev.rx(wires=i, params=0.3) for i in range(n)])
    layer = VQCLayer(
        n, encoder=encoder, ansatz=ansatz, observables=["Z0", "X1"], simulator=simulator
    )
    shares = layer.interactions(n_samples=20)
    assert shares.exact == (n == 3)
    for part in (shares.orders, shares.mains, shares.pairs[0, 1:]):
        assert part.isnan().all()
    close(shares.variance, [0, 0])
    text = "The outputs do not vary with the angles beyond rounding: no shares are defined."
    assert str(shares) == text


NAMES = ("rx", "ry", "rz", "crx", "crz", "rzz", "u3", "cu1", "cnot", "hadamard", "sx")


def varying_layer(truth, n_inputs, index):
    """A layer of a random circuit of 3 qubits with a few input angles, which vary its values."""
    torch.manual_seed(index)
    left = index
    for seed in itertools.count():
        circuit = random_circuit(
            seed, n_qubits=(3, 3), n_inputs=(n_inputs, n_inputs), n_gates=(8, 12), names=NAMES
        )
        if 3 <= len(circuit.columns("input")) <= 5:
            weights = torch.randn(circuit.n_weights)
            values = truth.expectations(circuit, torch.randn(4, n_inputs), weights)
            left -= values.std(0).max() > 1e-3
            if left < 0:
                return VQCLayer.from_circuit(circuit, weights)
    raise AssertionError


@pytest.mark.parametrize("index", range(4))
def test_uniform_inputs_against_a_dense_grid(truth, index):
    layer = varying_layer(truth, 2, index)
    circuit = layer.circuit
    # Means over more equidistant points of 4 pi than there are waves are integrals.
    points = np.arange(16) * 4 * math.pi / 16
    assert all(2 * circuit.indices("input").count(i) * 2 < 16 for i in range(2))
    grid = np.array([*itertools.product(points, repeat=2)])
    values = truth.expectations(circuit, grid, layer.weights).reshape(16, 16, -1)
    check_against_table(layer.interactions(), values)


@pytest.mark.parametrize("index", range(4))
def test_given_inputs_against_all_combinations(truth, index):
    layer = varying_layer(truth, 3, index)
    circuit = layer.circuit
    x = torch.randn(4, 3, dtype=torch.float64)
    grid = np.array([*itertools.product(*x.T.tolist())])
    values = truth.expectations(circuit, grid, layer.weights).reshape(4, 4, 4, -1)
    check_against_table(layer.interactions(x), values)


def check_against_table(shares, values):
    orders, mains, pairs, variance = shares_of_table(values)
    assert shares.exact
    used = orders[: len(shares.orders)]
    close(shares.orders, used, 1e-7)
    close(shares.mains, mains, 1e-7)
    close(shares.pairs, pairs, 1e-7)
    close(shares.variance, variance, 1e-7)


def test_orders_add_up_and_inputs_may_be_permuted():
    torch.manual_seed(1)
    layer = VQCLayer(4, 2)
    x = torch.randn(7, 4, dtype=torch.float64)
    shares = layer.interactions(x)
    close(shares.orders.sum(), 1)
    close(shares.mains.sum(), shares.single)
    assert torch.equal(shares.pairs, shares.pairs.T)
    assert not shares.pairs.diagonal().any()
    order = [2, 0, 3, 1]
    gates = [
        Gate(g.name, g.wires, [a if a.source != "input" else Angle.of_input(order.index(a.index))
                               for a in g.angles])
        for g in layer.circuit.gates
    ]  # fmt: skip
    circuit = layer.circuit
    moved = Circuit(4, gates, circuit.observables, 4, circuit.n_weights)
    permuted = VQCLayer.from_circuit(moved, layer.weights).interactions(x[:, order])
    close(permuted.orders, shares.orders)
    close(permuted.mains, shares.mains[order])
    close(permuted.pairs, shares.pairs[order][:, order])


def test_a_column_of_equal_inputs_has_no_effect():
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64)
    x[:, 1] = 0.4
    shares = VQCLayer(3).interactions(x)
    close(shares.mains[1], 0)
    close(shares.pairs[1], [0, 0, 0])
    close(shares.orders.sum(), 1)
    x[:] = 0.4
    assert math.isnan(VQCLayer(3).interactions(x).single)


def test_many_rows_are_quick_and_right():
    x = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)[:-1, None].repeat(1, 3)
    layer = VQCLayer(3)
    close(layer.interactions(x).orders, layer.interactions().orders, 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_ring_leaves_little_in_single_angles(seed):
    torch.manual_seed(seed)
    shares = VQCLayer(8).interactions()
    assert shares.exact
    assert shares.single < 0.1
    close(shares.orders.sum(), 1)
    assert "a local gradient says little about the score" in str(shares)


def test_estimates_lie_around_exact_shares_as_their_errors_say():
    torch.manual_seed(3)
    layer = VQCLayer(4, 1, ansatz="real_amplitudes", observables=["Z0", "Z1", "Z3"])
    x = torch.randn(12, 4)
    head = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.3, 2.0]])
    exact = layer.interactions(x, head)
    assert exact.exact
    orders = torch.cat([exact.orders[:2], exact.orders[2:].sum(0, keepdim=True)])
    off = []
    for seed in range(40):
        found = sampled_interactions(lambda x: layer(x) @ head.T, x, n_samples=300, seed=seed)
        assert not found.exact
        assert found.n_samples == 300
        close(found.orders.sum(), 1)
        close(found.mains.sum(), found.single)
        pairs, errors = found.pairs - exact.pairs, found.pair_errors
        assert torch.equal(found.pairs, found.pairs.T)
        upper = torch.triu_indices(4, 4, 1).unbind()
        parts = [
            (found.orders - orders) / found.errors,
            (found.mains - exact.mains) / found.main_errors,
            pairs[upper] / errors[upper],
        ]
        torch.testing.assert_close(found.variance, exact.variance, rtol=0.5, atol=0)
        off.append(torch.cat(parts))
    off = torch.stack(off)  # in standard errors
    within = (off.abs() < 2).double().mean(0)
    assert (within >= 0.8).all(), within
    assert 0.9 < float(within.mean()) < 1
    spread = off.square().mean(0).sqrt()
    assert ((spread > 0.6) & (spread < 1.5)).all(), spread
    assert (off.mean(0).abs() < 4 / math.sqrt(40)).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_inputs_have_few_orders(n):
    x = torch.randn(50, n, dtype=torch.float64)
    found = sampled_interactions(lambda x: x.cos().prod(1, keepdim=True), x, n_samples=3000)
    table = np.array([math.prod(np.cos(c)) for c in itertools.product(*x.T.tolist())])[:, None]
    orders, mains, *_ = shares_of_table(table.reshape(*[50] * n, 1))
    assert found.labels == ("1", "2", "3")[:n]
    assert (abs(found.orders - torch.tensor(orders)) <= 4 * found.errors + 1e-12).all()
    assert (abs(found.mains - torch.tensor(mains)) <= 4 * found.main_errors + 1e-12).all()


def test_a_large_circuit_is_sampled():
    shares = product_layer(9).interactions(n_samples=400)
    assert not shares.exact
    assert shares.labels == ("1", "2", "3 and more")
    assert abs(shares.single - 1) < 4 * float(shares.errors[0])
    assert (abs(shares.mains - 1 / 9) < 4 * shares.main_errors).all()
    assert (shares.pairs < 1e-6).all()
    close(shares.variance, [0.5] * 9, 0.15)
    assert shares.n_samples == 400
    assert " ± " in str(shares)


def test_where_sampled_inputs_are_drawn_from():
    drawn = []

    def values(x):
        assert not torch.is_grad_enabled()
        drawn.append(x)
        return x.cos()

    # No rule for the second angle of R; the control makes the circle of input 0 twice as long.
    gates = [
        Gate("r", (0,), (Angle.of_input(1), Angle.of_input(1))),
        Gate("crx", (0, 1), (Angle.of_input(0),)),
    ]
    circuit = Circuit(2, gates, [Observable.of("Z0"), Observable.of("Z1")], 2)
    assert not circuit_interactions(circuit, values).exact
    rows = torch.cat(drawn)
    for column, half in zip(rows.T, (2 * math.pi, math.pi), strict=True):
        assert -half <= float(column.min()) < -0.99 * half
        assert 0.99 * half < float(column.max()) < half
    drawn.clear()
    x = torch.tensor([[0.1, 1.0], [0.2, 2.0], [0.3, 3.0]])
    circuit_interactions(circuit, values, x, n_samples=50)
    rows = {tuple(row) for row in torch.cat(drawn).tolist()}
    assert rows == {*itertools.product(*x.T.tolist())}


def test_modules_of_a_users_own():
    def double(_, qdev, x):
        for wire in range(2):
            qdev.ry(wires=wire, params=2 * x[:, wire])

    def plain(_, qdev, x):
        for wire in range(2):
            qdev.ry(wires=wire, params=x[:, wire])

    observables = ["Z0", "Z0 Z1"]
    shares = VQCLayer(2, encoder=Encoder(plain), ansatz=None, observables=observables)
    shares = shares.interactions()
    assert shares.exact
    close(shares.orders, [2 / 3, 1 / 3])
    layer = VQCLayer(2, encoder=Encoder(double), ansatz=None, observables=observables)
    shares = layer.interactions()
    assert not shares.exact
    assert (abs(shares.orders - torch.tensor([2 / 3, 1 / 3])) < 4 * shares.errors).all()


def test_modules_follow_their_state():
    def body(module, qdev):
        if module.entangles:
            qdev.cnot(wires=[0, 1])

    ansatz = Ansatz(body, entangles=False)
    layer = VQCLayer(2, ansatz=ansatz, observables=["Z1"])
    close(layer.interactions().orders, [1, 0])
    ansatz.entangles = True
    close(layer.interactions().orders, [0, 1])


def test_what_is_no_polynomial_is_not_taken_for_one():
    circuit = product_layer(2, ["Z0 Z1"]).circuit

    def values(x):
        kink = torch.where(x[:, :1] > 0, -1, 1)
        return kink * x.cos().prod(1, keepdim=True)

    assert not circuit_interactions(circuit, values, n_samples=10).exact
    assert circuit_interactions(circuit, lambda x: x.cos().prod(1, keepdim=True)).exact


def test_a_module_that_measures():
    class Model(tq.QuantumModule):
        def __init__(self):
            super().__init__()
            self.measure = tq.MeasureAll(tq.PauliZ)

        def forward(self, x):
            qdev = tq.QuantumDevice(n_wires=2, bsz=x.shape[0], device=x.device)
            qdev.ry(wires=0, params=x[:, 0])
            qdev.ry(wires=1, params=x[:, 1])
            qdev.cnot(wires=[0, 1])
            return self.measure(qdev)

    shares = VQCLayer.from_module(Model()).interactions()
    assert shares.exact
    close(shares.orders, [2 / 3, 1 / 3])  # cos x and cos x cos y


def test_torchquantum_says_the_same():
    torch.manual_seed(0)
    layer = VQCLayer(3, observables=["Z0", "X1 Y2"])
    expected = layer.interactions()
    layer.simulator = "torchquantum"
    shares = layer.interactions()
    assert shares.exact
    close(shares.orders, expected.orders, 1e-5)
    close(shares.pairs, expected.pairs, 1e-5)


def test_inputs_of_several_dimensions():
    def encode(_, qdev, x):
        for wire in range(4):
            qdev.ry(wires=wire, params=x[:, wire // 2, wire % 2])

    layer = VQCLayer(4, encoder=Encoder(encode), ansatz=None, n_inputs=(2, 2))
    x = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]])
    close(layer.interactions(x).mains, [0, 0, 0, 1], 1e-9)
    close(layer.interactions().mains, [1 / 4] * 4)


def test_inputs_without_a_gate_take_no_part():
    circuit = Circuit(1, [Gate("ry", (0,), (Angle.of_input(20),))], [Observable.of("Z0")], 30)
    with pytest.warns(UserWarning, match="no angle depends"):
        layer = VQCLayer.from_circuit(circuit)
    shares = layer.interactions()
    assert shares.exact
    close(shares.orders, [1])
    close(shares.mains, torch.eye(30)[20])
    close(shares.pairs, torch.zeros(30, 30))


@pytest.mark.parametrize("n", [3, 9])
def test_nothing_of_the_users_is_changed(n):
    layer = VQCLayer(n, 1)
    layer.ansatz.eval()
    layer.weights.sum().backward()
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(5, n, requires_grad=True)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in layer.parameters()]
    modes = [module.training for module in layer.modules()]
    states = torch.get_rng_state(), random.getstate()
    shares = layer.interactions(x, n_samples=5)
    assert not any(part.requires_grad for part in (shares.orders, shares.pairs, shares.variance))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert not calls
    assert x.grad is None
    assert torch.is_grad_enabled()
    assert [module.training for module in layer.modules()] == modes
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)


def test_random_numbers_and_buffers_of_modules_are_put_back():
    def encode(module, qdev, x):
        module.calls += 1
        qdev.ry(wires=0, params=x[:, 0] + 0 * torch.rand(()))

    encoder = Encoder(encode)
    encoder.register_buffer("calls", torch.zeros(()))
    layer = VQCLayer(1, encoder=encoder, ansatz=None, n_inputs=1)
    state, calls = torch.get_rng_state(), encoder.calls.clone()
    layer.interactions(n_samples=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder.calls, calls)


def test_seeds():
    layer = product_layer(9)
    first, again, other = (layer.interactions(n_samples=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.orders, again.orders)
    assert not torch.equal(first.orders, other.orders)


def test_a_classical_layer_is_measured_alike():
    torch.manual_seed(0)
    x = torch.randn(20, 4)
    layer = nn.Linear(4, 3)
    found = sampled_interactions(layer, x, n_samples=2000)
    expected = layer.weight.detach().double().square().sum(0) * x.double().var(0, correction=0)
    assert (abs(found.mains - expected / expected.sum()) < 4 * found.main_errors).all()
    assert abs(found.single - 1) < 4 * float(found.errors[0])
    assert str(found).startswith(f"{100 * found.single:.1f} ± ")
    assert "of the outputs' variance is in single inputs: a local gradient says much" in str(found)


def test_a_function_gets_the_inputs_dtype_and_no_gradient():
    def function(x):
        assert x.dtype == torch.float64
        assert not torch.is_grad_enabled()
        return torch.rand(len(x), 1) * 0 + x[:, :1]

    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()
    sampled_interactions(function, x, n_samples=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("part", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
def test_noise_and_other_rows_are_refused(part):
    model = nn.Sequential(part, nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="must be the same at every call and of each row alone"):
        sampled_interactions(model, torch.randn(9, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    sampled_interactions(model.eval(), torch.randn(9, 4), n_samples=3)


def test_a_layer_with_chance_in_it_is_refused():
    def encode(_, qdev, x):
        qdev.ry(wires=0, params=x[:, 0] + torch.rand(()))

    layer = VQCLayer(1, encoder=Encoder(encode), ansatz=None, n_inputs=1)
    with pytest.raises(ValueError, match="noise would count as interactions"):
        layer.interactions()


def shares(single=0.3, exact=True):
    rest = torch.zeros(3, 3).double()
    orders = torch.tensor([single, 0.1, 0.9 - single], dtype=torch.float64)
    errors = torch.tensor([0.012, 0.02, 0.004], dtype=torch.float64) * (not exact)
    return Interactions(orders, orders, rest, orders, exact, errors, errors, rest, 9 * (not exact))


@pytest.mark.parametrize(
    ("single", "says"),
    [(0.0999, "little"), (0.1, "something"), (0.4999, "something"), (0.5, "much"), (0.9, "much")],
)
def test_what_the_text_says(single, says):
    assert f"a local gradient says {says} about the score. Pairs" in str(shares(single))


def test_the_texts():
    assert str(shares(0.02)) == (
        "2 % of the outputs' variance is in single angles: a local gradient says little about the "
        "score. Pairs hold 10 %, larger groups 88 %."
    )
    assert str(shares(-0.0002, exact=False)) == (
        "0 ± 1.2 % of the outputs' variance is in single angles: a local gradient says little "
        "about the score. Pairs hold 10 ± 2 %, larger groups 90 ± 0.4 %."
    )


@pytest.mark.parametrize("single", [0.08, 0.12, 0.48, 0.52])
def test_the_text_says_nothing_that_samples_do_not_tell(single):
    n = shares(single, exact=False).n_samples
    text = f"single angles: {n} samples do not tell what a local gradient says. Pairs"
    assert text in str(shares(single, exact=False))  # the standard error is 1.2 %
    assert text not in str(shares(single))


class Noisy(FusedSimulator):
    exact = False


class Bent(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"x": [[1.0, 2.0]]}, TypeError, "x must be a real floating-point tensor"),
        ({"x": torch.ones(4, 2, dtype=torch.long)}, TypeError, "x must be a real floating-point"),
        ({"x": torch.ones(4, 3)}, ValueError, r"x must be of shape \(n, 2\) with n >= 2; got"),
        ({"x": torch.ones(1, 2)}, ValueError, r"x must be of shape \(n, 2\) with n >= 2; got"),
        ({"x": torch.ones(2)}, ValueError, r"x must be of shape \(n, 2\) with n >= 2; got"),
        ({"x": torch.full((2, 2), math.nan)}, ValueError, "x must be finite everywhere"),
        ({"head": nn.ReLU()}, TypeError, "head must be an nn.Linear or a tensor .* got a ReLU mod"),
        ({"head": Bent(2, 2)}, TypeError, "head must be an nn.Linear or a tensor .* got a Bent"),
        ({"head": nn.Linear(3, 2)}, ValueError, r"head must be of weight \(n_outputs, 2\)"),
        ({"head": torch.ones(2)}, ValueError, r"head must be of weight \(n_outputs, 2\)"),
        ({"head": torch.ones(2, 2).long()}, TypeError, "head must be a real floating-point tensor"),
        ({"head": torch.full((1, 2), math.inf)}, ValueError, "head must be finite everywhere"),
        ({"n_samples": 1}, ValueError, "n_samples must be an integer >= 2; got 1"),
        ({"n_samples": 2.0}, TypeError, "n_samples must be an integer >= 2; got 2.0"),
        ({"seed": -1}, ValueError, r"seed must be an integer in \[0, 18446744073709551615\]"),
    ],
)
def test_wrong_arguments(arguments, error, says):
    layer = product_layer(2)
    layer.forward = None  # nothing is run before
    with pytest.raises(error, match=says):
        layer.interactions(**arguments)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (
            VQCLayer(2, encoder="amplitude"),
            r"one whose inputs are angles; .*\(layer, x\) takes any",
        ),
        (VQCLayer(2, encoder=None), "circuit must be one with inputs; got one without"),
        (VQCLayer(2, simulator=Noisy()), "simulator must be one without noise"),
    ],
)
def test_layers_without_shares(layer, says):
    with pytest.raises(ValueError, match=says):
        layer.interactions()


def test_the_way_out_for_amplitudes():
    torch.manual_seed(0)
    x = torch.rand(30, 4) + 0.1
    found = sampled_interactions(VQCLayer(2, encoder="amplitude"), x, n_samples=50)
    assert float(found.variance.min()) > 0


@pytest.mark.parametrize(
    ("function", "x", "error", "says"),
    [
        (3, torch.ones(2, 2), TypeError, "function must be a module or a function; got 3"),
        (torch.cos, torch.ones(2, 0), ValueError, r"x must be of shape \(n, n_inputs\) with n"),
        (torch.cos, torch.tensor(1.0), ValueError, r"x must be of shape \(n, n_inputs\) with n"),
        (lambda x: x[:, 0], torch.ones(2, 2), ValueError, r"of shape \(16, n_outputs\) for 16 row"),
        (lambda x: x[:4], torch.ones(2, 2), ValueError, r"of shape \(16, n_outputs\) for 16 rows"),
        (lambda x: x.long(), torch.ones(2, 2), TypeError, "output of the function must be a real"),
        (lambda x: x / 0, torch.ones(2, 2), ValueError, "output of the function must be finite"),
    ],
)
def test_wrong_functions(function, x, error, says):
    with pytest.raises(error, match=says):
        sampled_interactions(function, x)


def test_an_error_of_the_users_module_leaves_everything_as_it_was():
    def encode(module, qdev, x):
        module.calls += 1
        if module.calls == module.last:
            raise RuntimeError("planted")
        qdev.ry(wires=0, params=3 * x[:, 0])

    encoder = Encoder(encode, calls=0, last=-1)
    layer = VQCLayer(1, encoder=encoder, ansatz=None, n_inputs=1)
    state = torch.get_rng_state()
    encoder.last = encoder.calls + 4
    with pytest.raises(CircuitError, match="planted"):
        layer.interactions()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    encoder.last = -1
    assert layer.interactions(n_samples=10).n_samples == 10
