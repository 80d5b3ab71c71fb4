"""Readout, TorchQuantum's batched run and the commutator formula, on random circuits."""

import math

import numpy as np
import pytest
import reference as ref
import torch
from circuits import arguments, circuits, norms
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from captum_quantum import Angle, Circuit, CircuitError, Gate, Observable
from captum_quantum.circuit import GATE_TYPES, PauliString
from captum_quantum.gradients.commutator import commutator_jacobian
from captum_quantum.simulate import expectation_values
from captum_quantum.tq import run_circuit

DTYPES = [(torch.complex64, 2e-6), (torch.complex128, 1e-13)]


def random_states(batch, n_qubits, dtype=torch.complex128, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, 2**n_qubits, generator=generator, dtype=torch.complex128)
    return (states / torch.linalg.vector_norm(states, dim=1, keepdim=True)).to(dtype)


def random_observables(rng, n_qubits, count):
    return tuple(
        Observable(
            [
                PauliString(
                    [(w, "XYZ"[rng.integers(3)]) for w in range(n_qubits) if rng.random() < 0.6],
                    rng.normal(),
                )
                for _ in range(rng.integers(1, 4))
            ]
        )
        for _ in range(count)
    )


def terms(observable):
    return [(term.coefficient, dict(term.factors)) for term in observable.terms]


def read(names):
    return tuple(Observable.of(name) for name in names)


# Readout


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 5])
def test_expectation_values(n_qubits, dtype, tolerance):
    observables = random_observables(np.random.default_rng(n_qubits), n_qubits, 8)
    states = random_states(4, n_qubits, dtype, seed=n_qubits)
    before = states.clone()
    values = expectation_values(states, observables, n_qubits)
    expected = [
        [ref.expectation(state, terms(observable), n_qubits) for observable in observables]
        for state in states.numpy()
    ]
    assert values.dtype == dtype.to_real()
    assert_allclose(values.numpy(), expected, rtol=0, atol=5 * tolerance)
    assert torch.equal(states, before)


@pytest.mark.parametrize("word", ["I", "X", "Y", "Z", "XX", "XY", "YX", "YY", "ZY", "YIX", "IZY"])
def test_every_letter_on_every_wire(word):
    states = random_states(3, 3)
    values = expectation_values(states, read([word]), 3)[:, 0]
    factors = {wire: letter for wire, letter in enumerate(word) if letter != "I"}
    expected = [ref.expectation(state, [(1.0, factors)], 3) for state in states.numpy()]
    assert_allclose(values.numpy(), expected, atol=1e-14)


def test_a_second_readout_sees_the_same_state():
    plus = torch.full((1, 2), math.sqrt(0.5), dtype=torch.complex128)
    observables = read(["X0", "X0", "Z0", "Y0"])
    for _ in range(2):
        values = expectation_values(plus, observables, 1)
        assert_allclose(values.numpy(), [[1, 1, 0, 0]], atol=1e-15)
    gates = (Gate("hadamard", (0,)),)
    states = run_circuit(Circuit(1, gates, observables, 0), torch.zeros(1, 0))
    for _ in range(2):
        values = expectation_values(states, observables, 1)
        assert_allclose(values.numpy(), [[1, 1, 0, 0]], atol=1e-6)


def test_observables_in_any_order_and_repeated():
    states = random_states(2, 2)
    names = ["Z1", "X0 Y1", "Z0", "Z1", "I", "X0 Y1"]
    values = expectation_values(states, read(names), 2)
    for column, name in enumerate(names):
        alone = expectation_values(states, read([name]), 2)
        assert_allclose(values[:, column], alone[:, 0], atol=1e-15)
    assert_allclose(values[:, 4], 1, atol=1e-15)


def test_coefficients_weigh_and_repeated_strings_add_up():
    states = random_states(2, 2)
    x, z = expectation_values(states, read(["X0", "Z1"]), 2).unbind(1)
    weighted = Observable.of({"X0": -0.5, "Z1": 2.0, "I": 3})
    twice = Observable([PauliString.parse("X0", 0.25), PauliString.parse("X0", 0.5)])
    zero = Observable.of({"X0": 0.0})
    values = expectation_values(states, (weighted, twice, zero), 2)
    expected = torch.stack([3 - 0.5 * x + 2 * z, 0.75 * x, 0 * x], dim=1)
    assert_allclose(values.numpy(), expected.numpy(), atol=1e-15)


def test_readout_follows_the_states_precision():
    """The same observables in one precision, then the other: no plan is mixed up."""
    observables = read(["X0", "Z0"])
    for dtype in (torch.complex64, torch.complex128, torch.complex64):
        values = expectation_values(random_states(2, 1, dtype), observables, 1)
        assert values.dtype == dtype.to_real()


@pytest.mark.parametrize("batch", [0, 1])
def test_readout_of_small_batches(batch):
    values = expectation_values(random_states(batch, 2), read(["Z0", "X1", "Y0 Y1"]), 2)
    assert values.shape == (batch, 3)


def test_readout_is_differentiable_twice():
    observables = read(["X0 Z1", "Y0", {"Z0": 2.0, "Y1": -1.0}])
    states = torch.view_as_real(random_states(2, 2)).requires_grad_()

    def values(parts):
        return expectation_values(torch.view_as_complex(parts), observables, 2)

    assert torch.autograd.gradcheck(values, (states,))
    assert torch.autograd.gradgradcheck(values, (states,))


# Every gate in TorchQuantum's batched run


def prepared(n_qubits, gate):
    """A gate between rotations that leave no amplitude zero."""
    head = [
        Gate("rot", (w,), tuple(map(Angle.constant, (0.3 + w, 1.1, -0.7)))) for w in range(n_qubits)
    ]
    tail = [Gate("rx", (w,), (Angle.constant(0.9),)) for w in range(n_qubits)]
    return (*head, gate, *tail)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", GATE_TYPES)
def test_every_gate_for_a_batch_of_angles(name, inverse, truth):
    kind = GATE_TYPES[name]
    n_wires = kind.n_wires or 3
    n_qubits = min(n_wires + 1, 5)
    wires = tuple(reversed(range(n_qubits)))[:n_wires]
    gate = Gate(name, wires, tuple(map(Angle.of_input, range(kind.n_angles))), inverse)
    observables = random_observables(np.random.default_rng(1), n_qubits, 4)
    circuit = Circuit(n_qubits, prepared(n_qubits, gate), observables, kind.n_angles)
    x = torch.rand(3, kind.n_angles, generator=torch.Generator().manual_seed(2)) * 12 - 6
    states = run_circuit(circuit, circuit.angle_table(x, torch.zeros(0)))
    assert states.shape == (3, 2**n_qubits)
    assert states.dtype == torch.complex64
    values = expectation_values(states, observables, n_qubits)
    expected = truth.expectations(circuit, x, ())
    assert_allclose(values.numpy(), expected, rtol=0, atol=5e-6 * max(norms(circuit)))


# Random circuits


@settings(max_examples=80)
@given(
    circuits(n_qubits=(1, 5), n_inputs=(0, 3), n_weights=(0, 3), n_gates=(0, 12)),
    st.integers(0, 99),
    st.integers(1, 3),
)
def test_run_circuit_on_random_circuits(truth, circuit, seed, batch):
    x, w = arguments(circuit, batch, seed, torch.float32)
    states = run_circuit(circuit, circuit.angle_table(x, w))
    values = expectation_values(states, circuit.observables, circuit.n_qubits)
    expected = truth.expectations(circuit, x, w)
    assert_allclose(values.numpy(), expected, rtol=0, atol=5e-6 * max(norms(circuit)))


@settings(max_examples=40)
@given(
    circuits(n_qubits=(1, 4), n_inputs=(0, 3), n_weights=(0, 3), n_gates=(0, 7)),
    st.integers(0, 99),
)
def test_commutator_jacobian_on_random_circuits(truth, circuit, seed):
    x, w = arguments(circuit, 2, seed)
    table = circuit.angle_table(x, w)
    columns = list(range(table.shape[1]))
    jacobian = commutator_jacobian(circuit, table, columns)
    assert jacobian.shape == (2, len(circuit.observables), len(columns))
    assert jacobian.dtype == torch.float64
    assert_allclose(jacobian.numpy(), truth.angle_jacobian(circuit, x, w), rtol=0, atol=1e-9)


# The commutator formula


def test_commutator_of_one_rotation():
    """<Z> after RX(t) is cos t, <Y> is -sin t."""
    circuit = Circuit(1, (Gate("rx", (0,), (Angle.of_input(0),)),), read(["Z0", "Y0", "X0"]), 1)
    t = torch.linspace(-4, 4, 9, dtype=torch.float64)
    jacobian = commutator_jacobian(circuit, t[:, None], [0])
    expected = torch.stack([-t.sin(), -t.cos(), 0 * t], dim=1)
    assert_allclose(jacobian[:, :, 0].numpy(), expected.numpy(), atol=1e-14)


@pytest.mark.parametrize("name", [name for name, kind in GATE_TYPES.items() if kind.n_angles])
@pytest.mark.parametrize("inverse", [False, True])
def test_commutator_of_every_gate(name, inverse, truth):
    kind = GATE_TYPES[name]
    n_qubits = kind.n_wires or 3
    gate = Gate(name, range(n_qubits), tuple(map(Angle.of_input, range(kind.n_angles))), inverse)
    observables = random_observables(np.random.default_rng(4), n_qubits, 5)
    circuit = Circuit(n_qubits, prepared(n_qubits, gate), observables, kind.n_angles)
    x, w = arguments(circuit, 2, 3)
    jacobian = commutator_jacobian(circuit, circuit.angle_table(x, w), circuit.columns("input"))
    expected = truth.jacobian(circuit, x, w, "input")
    assert np.abs(expected).max() > 1e-2
    assert_allclose(jacobian.numpy(), expected, rtol=0, atol=1e-9)


ROTATIONS = Circuit(
    2,
    (
        Gate("ry", (0,), (Angle.of_input(0),)),
        Gate("crx", (0, 1), (Angle.of_weight(0),)),
        Gate("u3", (1,), (Angle.of_weight(1), Angle.of_input(0), Angle.constant(0.3))),
        Gate("cnot", (1, 0)),
        Gate("rz", (1,), (Angle.of_weight(0),)),
    ),
    read(["X0 Y1", {"Z0": 0.5, "Y1": 1.0}]),
    1,
    2,
)


def test_commutator_gives_the_columns_asked_for_in_their_order(truth):
    x, w = arguments(ROTATIONS, 3, 0)
    table = ROTATIONS.angle_table(x, w)
    expected = truth.angle_jacobian(ROTATIONS, x, w)
    for columns in ([3], [5, 0, 2], [1, 4], []):
        jacobian = commutator_jacobian(ROTATIONS, table, columns)
        assert_allclose(jacobian.numpy(), expected[:, :, columns], atol=1e-9)


def test_commutator_starts_from_amplitudes(truth):
    gates = tuple(g for g in ROTATIONS.gates if g.name != "ry" and g.name != "u3")
    circuit = Circuit(2, gates, ROTATIONS.observables, 4, 2, amplitude_encoding=True)
    x = torch.tensor([[0.3, -1.0, 2.0, 0.4], [1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    w = torch.tensor([0.7, 0.0], dtype=torch.float64)
    amplitudes = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    table = circuit.angle_table(x, w)
    jacobian = commutator_jacobian(circuit, table, [0, 1], amplitudes)
    assert_allclose(jacobian.numpy(), truth.angle_jacobian(circuit, x, w), atol=1e-9)
    states = run_circuit(circuit, table, amplitudes)
    values = expectation_values(states, circuit.observables, 2)
    assert_allclose(values.numpy(), truth.expectations(circuit, x, w), atol=3e-6)


def test_commutator_in_single_precision_is_computed_in_double(truth):
    x, w = arguments(ROTATIONS, 2, 0, torch.float32)
    table = ROTATIONS.angle_table(x, w)
    jacobian = commutator_jacobian(ROTATIONS, table.requires_grad_(), range(6))
    assert jacobian.dtype == torch.float32
    assert not jacobian.requires_grad
    assert_allclose(jacobian.numpy(), truth.angle_jacobian(ROTATIONS, x, w), atol=2e-7)


def test_commutator_of_an_empty_batch():
    assert commutator_jacobian(ROTATIONS, torch.zeros(0, 6), [0, 1]).shape == (0, 2, 2)


def test_commutator_refuses_more_than_ten_qubits():
    gates = (Gate("rx", (0,), (Angle.of_input(0),)),)
    circuit = Circuit(11, gates, read(["Z10"]), 1)
    with pytest.raises(
        CircuitError, match="n_qubits must be at most 10; got 11. Use 'parameter-sh"
    ):
        commutator_jacobian(circuit, torch.zeros(1, 1), [0])
