"""The protocol of simulators: what every simulator must do, on the ones in the table."""

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
import torch
import truth
from circuits import arguments, norms, random_circuit
from numpy.testing import assert_allclose

from captum_quantum import Angle, Circuit, Gate, Observable, VQCLayer
from captum_quantum.simulate import (
    SIMULATORS,
    FusedSimulator,
    Simulator,
    TorchQuantumSimulator,
    compiled,
    fused,
    register_simulator,
)


def arguments_of(circuit, batch=5, seed=0):
    """Inputs and weights of each sample; then what simulators take of them.

    Returns:
        Inputs, weights, input angles, weight angles, amplitudes or None.
    """
    x, _ = arguments(circuit, batch, seed)
    w = torch.stack([arguments(circuit, 1, seed + k)[1] for k in range(batch)])
    initial = None
    if circuit.amplitude_encoding:
        initial = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x, w, x[:, circuit.indices("input")], w[:, circuit.indices("weight")], initial


CIRCUITS = {
    "angles": random_circuit(3, n_qubits=(2, 4), n_weights=(2, 4), n_gates=(12, 12)),
    "amplitudes": random_circuit(
        3, encoding="amplitudes", n_qubits=(2, 3), n_weights=(2, 4), n_gates=(12, 12)
    ),
}
PRECISION = {"fused": (torch.complex128, 1e-12), "torchquantum": (torch.complex64, 2e-5)}


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_simulator_of_the_table_keeps_the_protocol(name):
    simulator = SIMULATORS[name]()
    assert isinstance(simulator, Simulator)
    assert simulator.exact
    assert PRECISION[name][0] in simulator.dtypes


@pytest.mark.parametrize("encoding", ["anywhere", "amplitudes"])
@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("shared", [True, False])
def test_expectations_with_shared_weights_and_weights_of_each_sample(name, shared, encoding):
    simulator, (dtype, bound) = SIMULATORS[name](), PRECISION[name]
    for seed in range(12):
        circuit = random_circuit(seed, encoding=encoding, n_qubits=(1, 5))
        x, w, inputs, weights, initial = arguments_of(circuit, 4, seed)
        w[3], weights[3] = w[1], weights[1]
        if shared:
            w, weights = w[0], weights[0]
        expected = truth.expectations(circuit, x, w)
        for mode in (torch.enable_grad(), torch.no_grad()):
            with mode:
                values = simulator.expectations(circuit, inputs, weights, dtype, initial=initial)
            assert values.dtype == dtype.to_real()
            atol = bound * max(1, *norms(circuit))
            assert_allclose(values.numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", CIRCUITS)
def test_weights_of_each_sample_get_gradients_of_each_sample(kind):
    simulator, circuit = FusedSimulator(), CIRCUITS[kind]
    _, _, inputs, weights, initial = arguments_of(circuit)
    weights[2] = weights[1]

    def values(inputs, weights, initial):
        return simulator.expectations(circuit, inputs, weights, torch.complex128, initial=initial)

    leaf = weights.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda own: values(inputs, own, initial), leaf)
    scale = torch.linspace(-1, 1, len(circuit.observables) + 1, dtype=torch.float64)[1:]
    (together,) = torch.autograd.grad((values(inputs, leaf, initial) * scale).sum(), leaf)
    assert together.abs().max() > 1e-2
    for k in range(5):
        alone = weights[k].clone().requires_grad_()
        start = None if initial is None else initial[k : k + 1]
        value = values(inputs[k : k + 1], alone, start)
        (expected,) = torch.autograd.grad((value * scale).sum(), alone)
        torch.testing.assert_close(together[k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CIRCUITS)
@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
def test_vjp_gives_what_is_needed_and_no_more(needs, kind):
    simulator, circuit = FusedSimulator(), CIRCUITS[kind]
    _, _, inputs, weights, initial = arguments_of(circuit)
    values, pullback = simulator.vjp(
        circuit, inputs, weights[0], torch.complex128, initial=initial, needs=needs
    )
    assert not values.requires_grad
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(values.shape, dtype=torch.float64, generator=generator)
    found = pullback(cotangent)
    leaves = [None if leaf is None else leaf.clone() for leaf in (inputs, weights[0], initial)]
    for leaf in leaves:
        if leaf is not None:
            leaf.requires_grad_()
    again = simulator.expectations(circuit, *leaves[:2], torch.complex128, initial=leaves[2])
    torch.testing.assert_close(values, again, rtol=0, atol=1e-12)
    for derivative, needed, leaf in zip(found, needs, leaves, strict=True):
        if not needed or leaf is None:
            assert derivative is None
        elif not leaf.shape[1:].count(0):
            (expected,) = torch.autograd.grad(again, leaf, cotangent, retain_graph=True)
            torch.testing.assert_close(derivative, expected, rtol=0, atol=1e-12)
        else:
            assert derivative.shape == leaf.shape


# Probabilities


@pytest.mark.parametrize("encoding", ["anywhere", "amplitudes"])
@pytest.mark.parametrize("seed", range(10))
def test_probabilities_in_all_bases_against_the_reference(seed, encoding):
    circuit = random_circuit(seed, encoding=encoding, n_qubits=(1, 5))
    simulator = FusedSimulator()
    x, w, inputs, weights, initial = arguments_of(circuit, 2, seed)
    every = ["".join(bases) for bases in itertools.product("XYZ", repeat=circuit.n_qubits)]
    for bases in every if len(every) <= 27 else every[seed % 5 :: 9]:
        with torch.no_grad():
            found = simulator.probabilities(
                circuit, inputs, weights[0], torch.complex128, initial=initial, bases=bases
            )
        expected = truth.probabilities(circuit, x, w[0], bases)
        assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    found = simulator.probabilities(circuit, inputs, weights, torch.complex128, initial=initial)
    expected = truth.probabilities(circuit, x, w, "Z" * circuit.n_qubits)
    assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_qubits", [4, 7, 11])
def test_probabilities_reproduce_the_expectation_values_of_pauli_strings(n_qubits):
    """<P> is the sum of p(b) (-1)^(bits of b where P is not 1) in the basis of P's letters."""
    rng = np.random.default_rng(n_qubits)
    words = ["".join(rng.choice(list("IXYZ"), n_qubits)) for _ in range(5)]
    circuit = VQCLayer(n_qubits, 2, reupload=True, observables=words).circuit
    _, _, inputs, weights, _ = arguments_of(circuit, 3)
    simulator = FusedSimulator()
    values = simulator.expectations(circuit, inputs, weights[0], torch.complex128)
    outcomes = torch.arange(2**n_qubits)
    for k, word in enumerate(words):
        found = simulator.probabilities(
            circuit, inputs, weights[0], torch.complex128, bases=word.replace("I", "Z")
        )
        torch.testing.assert_close(found.sum(dim=1), torch.ones(3, dtype=torch.float64))
        signs = torch.ones(2**n_qubits, dtype=torch.float64)
        for wire, letter in enumerate(word):
            if letter != "I":
                signs *= 1 - 2 * (outcomes >> (n_qubits - 1 - wire) & 1)
        torch.testing.assert_close(found @ signs, values[:, k], rtol=0, atol=1e-12)


def test_probabilities_of_a_batch_cut_into_parts(monkeypatch):
    circuit, simulator = VQCLayer(5, reupload=True).circuit, FusedSimulator()
    _, _, inputs, weights, _ = arguments_of(circuit, 7)
    whole = simulator.probabilities(circuit, inputs, weights[0], torch.complex128)
    monkeypatch.setattr(compiled, "BUDGET", 3 * 2**5 * 16)
    parts = simulator.probabilities(circuit, inputs, weights[0], torch.complex128)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("letters", ["Z", "XYZ", "YZX"])
@pytest.mark.parametrize("kind", CIRCUITS)
def test_probabilities_are_differentiable_twice(letters, kind):
    circuit, bases = CIRCUITS[kind], (letters * 4)[: CIRCUITS[kind].n_qubits]
    _, _, inputs, weights, initial = arguments_of(circuit, 2)

    def values(weights, other):
        own = (other, None) if initial is None else (inputs, other)
        return FusedSimulator().probabilities(
            circuit, own[0], weights, torch.complex128, initial=own[1], bases=bases
        )

    other = inputs if initial is None else initial
    leaves = (weights[0].clone().requires_grad_(), other.clone().requires_grad_())
    assert torch.autograd.gradcheck(values, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, leaves, fast_mode=True)


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
    _, _, inputs, weights, _ = arguments_of(circuit, 2)
    with pytest.raises(error, match=re.escape(message)):
        FusedSimulator().probabilities(circuit, inputs, weights, torch.complex64, bases=bases)


# What is kept


def test_a_circuit_is_compiled_once_and_the_least_recently_used_is_dropped(monkeypatch):
    monkeypatch.setattr(fused, "CACHED", 3)
    simulator, circuits = FusedSimulator(), [random_circuit(seed) for seed in range(4)]

    def run(k):
        _, _, inputs, weights, _ = arguments_of(circuits[k], 2)
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
    _, _, inputs, weights, _ = arguments_of(circuit, 2)
    values = simulator.expectations(circuit, inputs, weights, torch.complex128)
    other = copy.deepcopy(circuit)
    assert torch.equal(simulator.expectations(other, inputs, weights, torch.complex128), values)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_and_pickles_carry_nothing_compiled(again):
    simulator, circuit = FusedSimulator(), VQCLayer(8, 2).circuit
    _, _, inputs, weights, _ = arguments_of(circuit, 2)
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
    gates = (Gate("rx", (0,), (Angle.of_weight(0),)),)
    circuit = Circuit(3, gates, (Observable.of("Z0"),), 8, 1, amplitude_encoding=True)
    message = re.escape("initial must be amplitudes of shape (5, 8); got ")
    with pytest.raises(ValueError, match=message):
        SIMULATORS[name]().expectations(
            circuit, torch.zeros(5, 0), torch.rand(1), torch.complex64, initial=initial
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
