"""The protocol of simulators: what every simulator must do, on the ones in the table."""

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
import reference as ref
import torch
from numpy.testing import assert_allclose
from test_fused import (
    random_circuit,
    reference_gates,
    reference_terms,
    reference_value,
)

from captum_quantum import Angle, Circuit, Gate, Observable, VQCLayer
from captum_quantum.simulate import (
    SIMULATORS,
    FusedSimulator,
    Simulator,
    TorchQuantumSimulator,
    fused,
    register_simulator,
)

SMALL = [seed for seed in range(40) if random_circuit(seed).n_qubits <= 5]


def arguments(circuit, batch, seed=0, dtype=torch.float64):
    """Inputs and weights of a circuit, and the angles that its gates take."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (
        6 * torch.rand(shape, generator=generator, dtype=dtype) - 3
        for shape in ((batch, circuit.n_inputs), (batch, circuit.n_weights))
    )
    return x, w, x[:, circuit.indices("input")], w[:, circuit.indices("weight")]


def with_amplitudes(seed, n_qubits=3):
    """A circuit that starts from amplitudes, with weights of its own, and amplitudes."""
    rng = np.random.default_rng(seed)
    gates = [
        Gate(("rx", "ry", "rz")[rng.integers(3)], (int(wire),), (Angle.of_weight(k),))
        for k, wire in enumerate(rng.integers(n_qubits, size=4))
    ]
    gates.insert(2, Gate("cnot", (0, n_qubits - 1)))
    observables = tuple(map(Observable.of, ("Z0", f"X0 Y{n_qubits - 1}")))
    circuit = Circuit(n_qubits, gates, observables, 2**n_qubits, 4, amplitude_encoding=True)
    amplitudes = torch.tensor(rng.normal(size=(5, 2**n_qubits)))
    return circuit, amplitudes / torch.linalg.vector_norm(amplitudes, dim=1, keepdim=True)


def expected_values(circuit, w, initial):
    return np.array(
        [
            ref.expectations(
                circuit.n_qubits, reference_gates(circuit, [], row), reference_terms(circuit), start
            )
            for row, start in zip(w.numpy(), initial.numpy(), strict=True)
        ]
    )


PRECISION = {"fused": (torch.complex128, 1e-12), "torchquantum": (torch.complex64, 2e-5)}


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_simulator_of_the_table_keeps_the_protocol(name):
    simulator = SIMULATORS[name]()
    assert isinstance(simulator, Simulator)
    assert simulator.exact
    assert PRECISION[name][0] in simulator.dtypes


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("shared", [True, False])
def test_expectations_with_shared_weights_and_weights_of_each_sample(name, shared):
    simulator, (dtype, bound) = SIMULATORS[name](), PRECISION[name]
    for seed in SMALL:
        circuit = random_circuit(seed)
        if name == "torchquantum" and any(g.name in {"cu", "cu3"} for g in circuit.gates):
            continue
        x, w, inputs, weights = arguments(circuit, 3, seed)
        w = w[:1].expand(3, -1) if shared else w
        values = simulator.expectations(circuit, inputs, weights[0] if shared else weights, dtype)
        expected = [
            reference_value(circuit, *row) for row in zip(x.numpy(), w.numpy(), strict=True)
        ]
        assert values.dtype == dtype.to_real()
        scale = max(1.0, sum(abs(t.coefficient) for o in circuit.observables for t in o.terms))
        assert_allclose(values.numpy(), expected, rtol=0, atol=bound * scale)
        with torch.no_grad():
            again = simulator.expectations(
                circuit, inputs, weights[0] if shared else weights, dtype
            )
        assert_allclose(again.numpy(), expected, rtol=0, atol=bound * scale)


@pytest.mark.parametrize("name", SIMULATORS)
def test_expectations_from_amplitudes(name):
    simulator, (dtype, bound) = SIMULATORS[name](), PRECISION[name]
    circuit, initial = with_amplitudes(0)
    _, _, _, weights = arguments(circuit, 5)
    weights[3] = weights[1]  # samples of the same weights run together
    nothing = initial[:, :0]
    for own in (weights, weights[0]):
        rows = own.expand(5, -1)
        values = simulator.expectations(circuit, nothing, own, dtype, initial=initial)
        assert_allclose(values.numpy(), expected_values(circuit, rows, initial), atol=bound)


@pytest.mark.parametrize("amplitudes", [False, True])
def test_weights_of_each_sample_get_gradients_of_each_sample(amplitudes):
    simulator = FusedSimulator()
    if amplitudes:
        circuit, initial = with_amplitudes(1)
        _, _, inputs, weights = arguments(circuit, 5)
        inputs = initial[:, :0]
    else:
        circuit, initial = random_circuit(SMALL[3]), None
        _, _, inputs, weights = arguments(circuit, 5)
    weights[2] = weights[1]

    def values(inputs, weights):
        return simulator.expectations(circuit, inputs, weights, torch.complex128, initial=initial)

    assert torch.autograd.gradcheck(values, (inputs.requires_grad_(), weights.requires_grad_()))
    scale = torch.linspace(-1, 1, len(circuit.observables), dtype=torch.float64)
    (together,) = torch.autograd.grad((values(inputs, weights) * scale).sum(), weights)
    for k in range(5):
        own = None if initial is None else initial[k : k + 1]
        alone = weights[k].detach().requires_grad_()
        value = simulator.expectations(
            circuit, inputs[k : k + 1], alone, torch.complex128, initial=own
        )
        (expected,) = torch.autograd.grad((value * scale).sum(), alone)
        torch.testing.assert_close(together[k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
def test_vjp_gives_what_is_needed_and_no_more(needs):
    simulator = FusedSimulator()
    for amplitudes in (False, True):
        if amplitudes:
            circuit, initial = with_amplitudes(2)
            inputs = initial[:, :0]
        else:
            circuit, initial = VQCLayer(3, reupload=True).circuit, None
            inputs = arguments(circuit, 5)[2]
        weights = arguments(circuit, 5)[3][0]
        values, pullback = simulator.vjp(
            circuit, inputs, weights, torch.complex128, initial=initial, needs=needs
        )
        assert not values.requires_grad
        cotangent = torch.randn(values.shape, dtype=torch.float64)
        found = pullback(cotangent)
        leaves = [inputs.clone().requires_grad_(), weights.clone().requires_grad_()]
        leaves += [initial.clone().requires_grad_()] if amplitudes else []
        expected_values = simulator.expectations(
            circuit, *leaves[:2], torch.complex128, initial=leaves[2] if amplitudes else None
        )
        torch.testing.assert_close(values, expected_values, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(expected_values, leaves, cotangent, allow_unused=True)
        for k, (derivative, needed) in enumerate(zip(found, needs, strict=True)):
            if not needed or (k == 2 and not amplitudes):
                assert derivative is None
            elif amplitudes and k == 0:
                assert derivative.shape == (5, 0)
            else:
                torch.testing.assert_close(derivative, expected[k], rtol=0, atol=1e-12)


# Probabilities


def measured_in(circuit, x, w, bases):
    """Probabilities of outcomes, from the reference's state and the eigenvectors of the bases."""
    state = ref.state(circuit.n_qubits, reference_gates(circuit, x, w))
    eigenvectors = {  # rows: of the eigenvalues 1 and -1, conjugated
        "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2),
        "Y": np.array([[1, -1j], [1, 1j]]) / np.sqrt(2),
        "Z": np.eye(2),
    }
    change = np.eye(1)
    for basis in bases:
        change = np.kron(change, eigenvectors[basis])
    return np.abs(change @ state) ** 2


@pytest.mark.parametrize("seed", SMALL)
def test_probabilities_in_all_bases_against_the_reference(seed):
    circuit, simulator = random_circuit(seed), FusedSimulator()
    x, w, inputs, weights = arguments(circuit, 2, seed)
    every = list(itertools.product("XYZ", repeat=circuit.n_qubits))
    for bases in every if len(every) <= 27 else every[seed % 5 :: 9]:
        expected = np.array([measured_in(circuit, row, w[0].numpy(), bases) for row in x.numpy()])
        with torch.no_grad():
            found = simulator.probabilities(
                circuit, inputs, weights[0], torch.complex128, bases="".join(bases)
            )
        assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    found = simulator.probabilities(circuit, inputs, weights, torch.complex128)
    expected = [
        measured_in(circuit, *row, "Z" * circuit.n_qubits)
        for row in zip(x.numpy(), w.numpy(), strict=True)
    ]
    assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_qubits", [4, 7, 11])
def test_probabilities_reproduce_the_expectation_values_of_pauli_strings(n_qubits):
    """<P> is the sum of p(b) (-1)^(bits of b where P is not 1) in the basis of P's letters."""
    rng = np.random.default_rng(n_qubits)
    words = ["".join(rng.choice(list("IXYZ"), n_qubits)) for _ in range(5)]
    layer = VQCLayer(n_qubits, 2, reupload=True, observables=words)
    _, _, inputs, weights = arguments(layer.circuit, 3)
    simulator = FusedSimulator()
    values = simulator.expectations(layer.circuit, inputs, weights[0], torch.complex128)
    outcomes = torch.arange(2**n_qubits)
    for k, word in enumerate(words):
        found = simulator.probabilities(
            layer.circuit, inputs, weights[0], torch.complex128, bases=word.replace("I", "Z")
        )
        torch.testing.assert_close(found.sum(dim=1), torch.ones(3, dtype=torch.float64))
        signs = torch.ones(2**n_qubits, dtype=torch.float64)
        for wire, letter in enumerate(word):
            if letter != "I":
                signs *= 1 - 2 * (outcomes >> (n_qubits - 1 - wire) & 1)
        torch.testing.assert_close(found @ signs, values[:, k], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bases", [None, "XYZ", "YZX"])
@pytest.mark.parametrize("amplitudes", [False, True])
def test_probabilities_are_differentiable_twice(bases, amplitudes):
    if amplitudes:
        circuit, initial = with_amplitudes(3)
        weights, inputs, initial = arguments(circuit, 2)[3][0], initial[:2, :0], initial[:2]
        leaves = (weights, initial)
    else:
        circuit, initial = VQCLayer(3, 1, encoder="ry_rz").circuit, None
        _, _, inputs, weights = arguments(circuit, 2)
        weights = weights[0]
        leaves = (weights, inputs)

    def values(weights, other):
        own = (inputs, other) if amplitudes else (other, None)
        return FusedSimulator().probabilities(
            circuit, own[0], weights, torch.complex128, initial=own[1], bases=bases
        )

    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    assert torch.autograd.gradcheck(values, leaves)
    assert torch.autograd.gradgradcheck(values, leaves)


@pytest.mark.parametrize(
    ("bases", "error", "message"),
    [
        ("ZZ", ValueError, "bases must be a string of 3 letters X, Y or Z; got 'ZZ' (str)"),
        ("ZZI", ValueError, "bases must be a string of 3 letters X, Y or Z; got 'ZZI' (str)"),
        (
            ["Z"] * 3,
            TypeError,
            "bases must be a string of 3 letters X, Y or Z; got ['Z', 'Z'",
        ),
    ],
)
def test_wrong_bases_are_refused(bases, error, message):
    circuit = VQCLayer(3, 1).circuit
    _, _, inputs, weights = arguments(circuit, 2)
    with pytest.raises(error, match=re.escape(message)):
        FusedSimulator().probabilities(circuit, inputs, weights, torch.complex64, bases=bases)


# What is kept


def test_a_circuit_is_compiled_once_and_the_least_recently_used_is_dropped(monkeypatch):
    monkeypatch.setattr(fused, "CACHED", 3)
    simulator, circuits = FusedSimulator(), [random_circuit(seed) for seed in range(4)]

    def run(k):
        _, _, inputs, weights = arguments(circuits[k], 2)
        simulator.expectations(circuits[k], inputs, weights[0], torch.complex128)
        return simulator._compiled(circuits[k])

    kept = [run(k) for k in range(3)]
    assert run(0) is kept[0]
    run(3)  # drops 1
    assert [circuit for circuit, _ in simulator._cache.values()] == [circuits[k] for k in (2, 0, 3)]
    assert run(0) is kept[0]
    assert run(1) is not kept[1]
    assert len(simulator._cache) == 3


def test_an_equal_circuit_gives_the_same_values():
    """Compiled circuits are found by identity; another object is compiled again."""
    simulator, circuit = FusedSimulator(), random_circuit(5)
    _, _, inputs, weights = arguments(circuit, 2)
    values = simulator.expectations(circuit, inputs, weights, torch.complex128)
    other = copy.deepcopy(circuit)
    assert torch.equal(simulator.expectations(other, inputs, weights, torch.complex128), values)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_and_pickles_carry_nothing_compiled(again):
    simulator, circuit = FusedSimulator(), VQCLayer(8, 2).circuit
    _, _, inputs, weights = arguments(circuit, 2)
    values = simulator.expectations(circuit, inputs, weights[0], torch.complex128)
    assert len(pickle.dumps(simulator)) < 200
    other = again(simulator)
    assert not other._cache
    assert torch.equal(other.expectations(circuit, inputs, weights[0], torch.complex128), values)


# Errors and the table


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.rand(2, 4)}, "inputs must be of shape (batch, 3); got a torch.float32"),
        ({"inputs": torch.rand(3)}, "inputs must be of shape (batch, 3); got a torch.float32"),
        (
            {"weights": torch.rand(5)},
            "weights must be of shape (9,) or (2, 9); got a torch.fl",
        ),
        ({"weights": torch.rand(3, 9)}, "weights must be of shape (9,) or (2, 9); got a torch"),
        ({"dtype": torch.float32}, "dtype must be one of torch.complex64"),
        ({"initial": torch.rand(2, 8)}, "initial must be None for a circuit without amplitude enc"),
    ],
)
def test_wrong_arguments_are_refused(name, change, message):
    circuit = VQCLayer(3, 1).circuit
    given = {"inputs": torch.rand(2, 3), "weights": torch.rand(9), "dtype": torch.complex64}
    given |= change
    with pytest.raises(ValueError, match=re.escape(message)):
        SIMULATORS[name]().expectations(circuit, **given)


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("initial", [None, torch.rand(5, 4), torch.rand(4, 8)])
def test_wrong_amplitudes_are_refused(name, initial):
    circuit, amplitudes = with_amplitudes(0)
    message = re.escape("initial must be amplitudes of shape (5, 8); got ")
    with pytest.raises(ValueError, match=message):
        SIMULATORS[name]().expectations(
            circuit, amplitudes[:, :0], torch.rand(4), torch.complex64, initial=initial
        )


def test_vjp_needs_weights_that_the_batch_shares():
    circuit = VQCLayer(3, 1).circuit
    message = re.escape("weights must be shared by the batch, with one dimension; got a torch.flo")
    with pytest.raises(ValueError, match=message):
        FusedSimulator().vjp(circuit, torch.rand(2, 3), torch.rand(2, 9), torch.complex64)


def test_a_registered_simulator_is_found_by_name(monkeypatch):
    monkeypatch.setattr("captum_quantum.simulate.protocol.SIMULATORS", SIMULATORS.copy())

    class Ours(FusedSimulator):
        pass

    register_simulator("ours", Ours)
    from captum_quantum.simulate.protocol import SIMULATORS as TABLE

    assert isinstance(TABLE["ours"](), Ours)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, FusedSimulator), TypeError, "name must be a string; got 3 (int)"),
        (
            ("", FusedSimulator),
            ValueError,
            "name must be a new one beside fused, torchquantum; go",
        ),
        (
            ("fused", FusedSimulator),
            ValueError,
            "name must be a new one beside fused, torchquantu",
        ),
        (("ours", FusedSimulator()), TypeError, "make must be callable without arguments; got"),
    ],
)
def test_wrong_registrations_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        register_simulator(*arguments)
    assert list(SIMULATORS) == ["fused", "torchquantum"]


def test_torchquantum_runs_the_users_modules():
    layer = VQCLayer(3, reupload=True, simulator="torchquantum")
    x = torch.rand(4, 3)
    values = TorchQuantumSimulator().run_modules(
        layer.encoder, layer.ansatz, layer.circuit, x, True
    )
    assert torch.equal(values, layer(x))
    inputs = x[:, layer.circuit.indices("input")]
    weights = layer.weights[layer.circuit.indices("weight")]
    by_gates = TorchQuantumSimulator().expectations(layer.circuit, inputs, weights, torch.complex64)
    torch.testing.assert_close(by_gates, values, rtol=0, atol=2e-6)
