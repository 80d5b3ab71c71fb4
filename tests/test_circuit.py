"""Gates, circuits and observables as data: matrices, shift rules, reading, printing, refusals."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from captum_quantum import CircuitError, VQCLayer
from captum_quantum.circuit import (
    GATE_TYPES,
    Angle,
    Circuit,
    Gate,
    Observable,
    PauliString,
    gate_matrix,
    gate_type,
    read_observables,
)
from captum_quantum.circuit.gates import ALIASES, FOUR_TERM, TWO_TERM
from captum_quantum.circuit.primitives import extended_index

X0, X1, W0 = Angle.of_input(0), Angle.of_input(1), Angle.of_weight(0)
Z0 = Observable.of("Z0")

SIZED = [
    (name, n_wires)
    for name, kind in GATE_TYPES.items()
    for n_wires in ([kind.n_wires] if kind.n_wires else [1, 2, 3, 4])
]
ANGLES = [(name, which) for name, kind in GATE_TYPES.items() for which in range(kind.n_angles)]


def random_angles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * 7


def numbers(matrix):
    return matrix.resolve_conj().numpy()


# Gates


def test_the_gates_are_those_of_the_reference():
    assert set(GATE_TYPES) == set(ref.GATES) - set(ref.ALIASES)
    assert ALIASES == ref.ALIASES
    for name, kind in GATE_TYPES.items():
        assert (kind.name, kind.n_wires, kind.n_angles) == (name, *ref.GATES[name][:2])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("name", "n_wires"), SIZED)
def test_gate_matrices(name, n_wires, inverse):
    angles = random_angles(3, GATE_TYPES[name].n_angles)
    matrices = gate_matrix(name, angles, n_wires, inverse=inverse)
    assert matrices.dtype == torch.complex128
    assert matrices.shape == (3, 2**n_wires, 2**n_wires)
    for own, matrix in zip(angles.tolist(), matrices, strict=True):
        expected = ref.gate_matrix(name, own, n_wires, inverse=inverse)
        assert_allclose(numbers(matrix), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["cnot", "rx", "cu", "xxplusyy", "multirz", "qft"])
def test_gate_matrices_take_any_leading_dimensions(name):
    n_wires = GATE_TYPES[name].n_wires or 2
    angles = random_angles(2, 3, GATE_TYPES[name].n_angles)
    matrices = gate_matrix(name, angles, n_wires)
    assert matrices.shape == (2, 3, 2**n_wires, 2**n_wires)
    assert torch.equal(matrices[1, 2], gate_matrix(name, angles[1, 2], n_wires))


@pytest.mark.parametrize(("name", "n_wires"), SIZED)
def test_gate_matrices_in_single_precision(name, n_wires):
    angles = random_angles(3, GATE_TYPES[name].n_angles)
    matrices = gate_matrix(name, angles.float(), n_wires, dtype=torch.complex64)
    assert matrices.dtype == torch.complex64
    assert_allclose(numbers(matrices), numbers(gate_matrix(name, angles, n_wires)), atol=2e-6)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_same_gate(alias):
    assert gate_type(alias) is GATE_TYPES[ALIASES[alias]]
    angles = random_angles(gate_type(alias).n_angles)
    expected = ref.gate_matrix(alias, angles.tolist())
    assert_allclose(
        gate_matrix(alias, angles, gate_type(alias).n_wires).numpy(), expected, atol=1e-14
    )


@pytest.mark.parametrize("name", [name for name, kind in GATE_TYPES.items() if kind.n_angles])
def test_gate_matrices_are_differentiable_twice(name):
    n_wires = GATE_TYPES[name].n_wires or 2

    def parts(angles):
        return torch.view_as_real(gate_matrix(name, angles, n_wires)).flatten()

    angles = random_angles(GATE_TYPES[name].n_angles).requires_grad_()
    assert torch.autograd.gradcheck(parts, (angles,), atol=1e-8)
    assert torch.autograd.gradgradcheck(parts, (angles,), atol=1e-6)


# Shift rules


def generic_observable(rng, n_qubits):
    """Every Pauli word with a random weight, so that no error of a rule can hide."""
    words = np.ndindex(*[4] * n_qubits)
    return [
        (rng.normal(), {wire: "XYZ"[i - 1] for wire, i in enumerate(word) if i}) for word in words
    ]


def shifted_sum(name, n_wires, inverse, angles, which, rule, vector, observable):
    """A shift rule's derivative of an expectation value, with this package's matrices."""
    matrix = sum(weight * ref.pauli_matrix(factors, n_wires) for weight, factors in observable)
    total = 0.0
    for shift, coefficient in rule:
        moved = angles.clone()
        moved[which] += shift
        state = numbers(gate_matrix(name, moved, n_wires, inverse=inverse)) @ vector
        total += coefficient * np.vdot(state, matrix @ state).real
    return total


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("name", "which"), ANGLES)
def test_a_shift_rule_is_the_exact_derivative(name, which, inverse):
    n_wires = GATE_TYPES[name].n_wires or 3
    rng = np.random.default_rng(3)
    angles = random_angles(GATE_TYPES[name].n_angles, seed=5)
    vector = rng.normal(size=2**n_wires) + 1j * rng.normal(size=2**n_wires)
    vector /= np.linalg.norm(vector)
    observable = generic_observable(rng, n_wires)
    gate = (name, list(range(n_wires)), angles.tolist(), inverse)
    (exact,) = ref.derivative(n_wires, [gate], [observable], 0, which, vector)

    def error(rule):
        return abs(
            shifted_sum(name, n_wires, inverse, angles, which, rule, vector, observable) - exact
        )

    rule = GATE_TYPES[name].shifts[which]
    if rule is None:
        assert error(TWO_TERM) > 1e-2
        assert error(FOUR_TERM) > 1e-2
    else:
        assert error(rule) < 1e-11
        assert rule == TWO_TERM or error(TWO_TERM) > 1e-2, "two evaluations would do"


# Angles and gates


def test_angles_print_their_source():
    assert [str(a) for a in (X1, W0, Angle.constant(0.5), Angle.constant(math.pi))] == [
        *("x[1]", "w[0]", "0.5", "3.142"),
    ]
    assert Angle.constant(1) == Angle("constant", -1, 1.0)
    assert Angle.of_input(2) == Angle("input", 2)
    assert Angle.of_weight(2) != Angle.of_input(2)


def test_a_gate_resolves_aliases_and_takes_lists():
    gate = Gate("cx", [2, 0], [])
    assert (gate.name, gate.wires, gate.angles, gate.inverse) == ("cnot", (2, 0), (), False)
    assert gate == Gate("cnot", (2, 0))
    assert gate.type is GATE_TYPES["cnot"]
    assert gate != Gate("cnot", (0, 2))


def test_a_gate_prints_angles_and_wires():
    assert str(Gate("cnot", (2, 0))) == "cnot on 2, 0"
    rotation = Gate("rot", (1,), (X0, W0, Angle.constant(0.25)), inverse=True)
    assert str(rotation) == "rot^-1(x[0], w[0], 0.25) on 1"


def test_gates_of_any_size_take_any_number_of_wires():
    for n_wires in (1, 2, 5):
        assert len(Gate("multirz", tuple(range(n_wires)), (X0,)).wires) == n_wires


CIRCUIT = Circuit(
    3,
    (
        Gate("ry", (0,), (X1,)),
        Gate("u3", (2,), (X0, W0, Angle.constant(0.25))),
        Gate("cnot", (2, 1)),
        Gate("rx", (1,), (X1,), inverse=True),
    ),
    (Z0, Observable.of({"X0 Y2": 0.5, "I": -1})),
    n_inputs=2,
    n_weights=1,
)


@pytest.mark.parametrize(
    ("frozen", "field"),
    [
        (X0, "index"),
        (CIRCUIT.gates[0], "wires"),
        (CIRCUIT, "n_qubits"),
        (Z0, "terms"),
        (Z0.terms[0], "coefficient"),
        (GATE_TYPES["rx"], "shifts"),
    ],
)
def test_descriptions_are_frozen_and_hashable(frozen, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, field, 0)
    assert hash(frozen) == hash(dataclasses.replace(frozen))
    assert frozen == dataclasses.replace(frozen)


# Circuits


def test_a_circuit_prints_itself():
    assert str(CIRCUIT).splitlines() == [
        "3 qubits, 2 inputs, 1 weight",
        "  ry(x[1]) on 0",
        "  u3(x[0], w[0], 0.25) on 2",
        "  cnot on 2, 1",
        "  rx^-1(x[1]) on 1",
        "reads <Z0>, <0.5 X0 Y2 + -1 I>",
    ]
    amplitudes = Circuit(1, (), (Z0,), 2, 0, amplitude_encoding=True)
    assert str(amplitudes).splitlines() == [
        "1 qubit, 2 inputs (amplitudes), 0 weights",
        "reads <Z0>",
    ]


def test_a_circuit_takes_lists_and_hashes_as_tuples():
    same = Circuit(3, list(CIRCUIT.gates), list(CIRCUIT.observables), 2, 1)
    assert same == CIRCUIT
    assert hash(same) == hash(CIRCUIT)
    assert same != dataclasses.replace(CIRCUIT, n_weights=2)


def test_a_circuit_survives_copies_and_pickling():
    assert copy.deepcopy(CIRCUIT) == CIRCUIT
    assert len(CIRCUIT.angles) == 5
    again = pickle.loads(pickle.dumps(CIRCUIT))
    assert again == CIRCUIT
    assert again.angles == CIRCUIT.angles


def test_columns_are_every_angle_of_every_gate_in_order():
    gates = CIRCUIT.gates
    assert CIRCUIT.angles == (
        (gates[0], 0, X1),
        (gates[1], 0, X0),
        (gates[1], 1, W0),
        (gates[1], 2, Angle.constant(0.25)),
        (gates[3], 0, X1),
    )
    assert CIRCUIT.columns("input") == [0, 1, 4]
    assert CIRCUIT.indices("input") == [1, 0, 1]
    assert CIRCUIT.columns("weight") == [2]
    assert CIRCUIT.indices("weight") == [0]
    assert CIRCUIT.columns("constant") == [3]


def test_the_angle_table_gathers_and_adds_up_derivatives():
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    weights = torch.tensor([7.0], requires_grad=True)
    table = CIRCUIT.angle_table(inputs, weights)
    assert table.tolist() == [[2.0, 1.0, 7.0, 0.25, 2.0], [4.0, 3.0, 7.0, 0.25, 4.0]]
    assert [part.shape[1] for part in CIRCUIT.split(table)] == [1, 3, 0, 1]
    assert torch.equal(torch.cat(list(CIRCUIT.split(table)), dim=1), table)
    scale = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    by_inputs, by_weights = torch.autograd.grad((table * scale).sum(), (inputs, weights))
    assert by_inputs.tolist() == [[10.0, 10001.0]] * 2
    assert by_weights.tolist() == [200.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_the_angle_table_has_the_inputs_dtype(batch, dtype):
    table = CIRCUIT.angle_table(torch.ones(batch, 2, dtype=dtype), torch.ones(1))
    assert table.shape == (batch, 5)
    assert table.dtype == dtype


# Observables


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("Z0", ((0, "Z"),)),
        ("X0 Z2", ((0, "X"), (2, "Z"))),
        ("Z2 X0", ((0, "X"), (2, "Z"))),
        ("  Y11   X3 ", ((3, "X"), (11, "Y"))),
        ("XIZ", ((0, "X"), (2, "Z"))),
        ("Z", ((0, "Z"),)),
        ("IIY", ((2, "Y"),)),
        ("I", ()),
        ("II", ()),
        ("I3", ()),
        ("z0", ((0, "Z"),)),
        ("x0 Z2", ((0, "X"), (2, "Z"))),
        ("xiz", ((0, "X"), (2, "Z"))),
        ("Zz", ((0, "Z"), (1, "Z"))),
        ("Z0 I3", ((0, "Z"),)),
    ],
)
def test_pauli_strings_are_read(text, factors):
    assert PauliString.parse(text) == PauliString(factors)
    assert PauliString.parse(text).factors == factors
    assert PauliString.parse(str(PauliString.parse(text))) == PauliString(factors)


def test_pauli_strings_sort_their_factors_and_print():
    assert PauliString(((2, "Z"), (0, "X"))) == PauliString(((0, "X"), (2, "Z")))
    assert hash(PauliString([[2, "Z"], [0, "X"]])) == hash(PauliString(((0, "X"), (2, "Z"))))
    assert str(PauliString(((2, "Z"), (0, "X")))) == "X0 Z2"
    assert str(PauliString(((2, "Z"),), -0.5)) == "-0.5 Z2"
    assert str(PauliString(())) == "I"


@pytest.mark.parametrize("coefficient", [2, 2.0, np.float32(2), np.float64(2), np.int64(2)])
def test_coefficients_are_any_real_number(coefficient):
    assert PauliString(((0, "Z"),), coefficient) == PauliString(((0, "Z"),), 2.0)
    assert type(PauliString(((0, "Z"),), coefficient).coefficient) is float


def test_observables_are_made_of_what_describes_them():
    word = PauliString(((0, "Z"), (1, "X")), 1.0)
    assert (
        Observable.of("X1 Z0") == Observable.of("ZX") == Observable((word,)) == Observable([word])
    )
    assert Observable.of(word).terms == (word,)
    assert Observable.of(Z0) is Z0
    mixed = Observable.of({"Z0 Z1": 1.0, "X3": -0.5, "I": 2})
    assert [t.coefficient for t in mixed.terms] == [1.0, -0.5, 2.0]
    assert mixed.wires == (0, 1, 3)
    assert str(mixed) == "Z0 Z1 + -0.5 X3 + 2 I"
    assert Observable.of("I").wires == ()
    assert hash(Observable([word])) == hash(Observable((word,)))


PAULI_STRINGS = st.builds(
    PauliString,
    st.dictionaries(st.integers(0, 30), st.sampled_from("XYZ"), max_size=4).map(
        lambda factors: tuple(factors.items())
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(st.lists(PAULI_STRINGS, min_size=1, max_size=4).map(Observable))
def test_an_observable_is_read_from_its_own_text(observable):
    assert Observable.of(str(observable)) == observable


def test_observables_default_to_z_on_each_qubit():
    assert read_observables(None, 3) == tuple(map(Observable.of, ("Z0", "Z1", "Z2")))
    read = read_observables(["Z1", Z0, {"X0": 2.0}, "Z1", PauliString(())], 2)
    assert list(map(str, read)) == ["Z1", "Z0", "2 X0", "Z1", "I"]
    assert read_observables(("Z0",), 1) == (Z0,)


# Refusals


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Gate("phase_shift", (0,), (X0,)),
            CircuitError,
            r"gate must be a gate of .* got 'phase_shift'.*did you mean 'phaseshift'",
        ),
        (lambda: Gate("CNOT", (0, 1)), CircuitError, "got 'CNOT'.*did you mean 'cnot'"),
        (lambda: Gate("hadamrd", (0,)), CircuitError, "did you mean 'hadamard'"),
        (lambda: Gate(3, (0,)), CircuitError, r"gate must be a gate of .* got 3 \(int\)$"),
        (
            lambda: Gate("cu2", (0, 1), (X0, X1)),
            CircuitError,
            "gate must be a gate of .* got 'cu2'",
        ),
        (
            lambda: Gate("cnot", (1, 1)),
            CircuitError,
            r"wires of cnot must be different .* got \(1, 1\)",
        ),
        (
            lambda: Gate("multirz", (), (X0,)),
            CircuitError,
            r"wires of multirz must be different .* got \(\)",
        ),
        (
            lambda: Gate("rx", (-1,), (X0,)),
            CircuitError,
            r"wires of rx must be integers >= 0; got \(-1,\)",
        ),
        (
            lambda: Gate("rx", (True,), (X0,)),
            CircuitError,
            r"wires of rx must be integers >= 0; got \(True,\)",
        ),
        (
            lambda: Gate("rx", (0.0,), (X0,)),
            CircuitError,
            r"wires of rx must be integers >= 0; got \(0\.0,\)",
        ),
        (
            lambda: Gate("rx", 0, (X0,)),
            TypeError,
            r"wires of rx must be a tuple of integers; got 0 \(int\)",
        ),
        (
            lambda: Gate("rx", "0", (X0,)),
            TypeError,
            r"wires of rx must be a tuple of integers; got '0'",
        ),
        (
            lambda: Gate("rx", (0, 1), (X0,)),
            CircuitError,
            r"wires of rx must be 1 wire\(s\); got \(0, 1\)",
        ),
        (lambda: Gate("cx", (0,)), CircuitError, r"wires of cnot must be 2 wire\(s\); got \(0,\)"),
        (lambda: Gate("rx", (0,)), CircuitError, r"angles of rx must be 1 angle\(s\); got 0"),
        (
            lambda: Gate("u3", (0,), (X0, X1)),
            CircuitError,
            r"angles of u3 must be 3 angle\(s\); got 2",
        ),
        (
            lambda: Gate("cnot", (0, 1), (X0,)),
            CircuitError,
            r"angles of cnot must be 0 angle\(s\); got 1",
        ),
        (
            lambda: Gate("rx", (0,), (0.5,)),
            TypeError,
            r"angles of rx must be Angle objects; got 0\.5",
        ),
        (lambda: Gate("rx", (0,), X0), TypeError, "angles of rx must be a tuple of Angle objects"),
        (
            lambda: Angle("inputs", 0),
            ValueError,
            "source of an angle must be one of .* did you mean 'input'",
        ),
        (lambda: Angle(0, 0), TypeError, "source of an angle must be one of .* got 0"),
        (
            lambda: Angle.of_input(-1),
            ValueError,
            "index of an angle must be an integer >= 0; got -1",
        ),
        (lambda: Angle("weight"), ValueError, "index of an angle must be an integer >= 0; got -1"),
        (
            lambda: Angle.of_weight("0"),
            TypeError,
            "index of an angle must be an integer >= 0; got '0'",
        ),
        (
            lambda: Angle.of_weight(1.0),
            TypeError,
            "index of an angle must be an integer >= 0; got 1.0",
        ),
        (lambda: Angle.constant(math.nan), ValueError, "constant angle must be finite; got nan"),
        (lambda: Angle.constant(math.inf), ValueError, "constant angle must be finite; got inf"),
    ],
)
def test_wrong_gates_and_angles_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


RX = Gate("rx", (0,), (X0,))


def circuit(n_qubits=1, gates=(RX,), observables=(Z0,), n_inputs=1, *rest):
    return Circuit(n_qubits, gates, observables, n_inputs, *rest)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: circuit(0), ValueError, "n_qubits must be an integer >= 1; got 0"),
        (lambda: circuit(1.0), TypeError, "n_qubits must be an integer >= 1; got 1.0"),
        (lambda: circuit(True), TypeError, "n_qubits must be an integer >= 1; got True"),
        (lambda: circuit(n_inputs="1"), TypeError, "n_inputs must be an integer >= 0; got '1'"),
        (lambda: circuit(1, (), (Z0,), -1), ValueError, "n_inputs must be an integer >= 0; got -1"),
        (
            lambda: circuit(1, (), (Z0,), 0, -1),
            ValueError,
            "n_weights must be an integer >= 0; got -1",
        ),
        (
            lambda: circuit(gates=("rx",)),
            TypeError,
            r"gates must be a tuple of Gate objects; got \('rx',\)",
        ),
        (lambda: circuit(gates="rx"), TypeError, "gates must be a tuple of Gate objects; got 'rx'"),
        (lambda: circuit(gates=None), TypeError, "gates must be a tuple of Gate objects; got None"),
        (
            lambda: circuit(observables=("Z0",)),
            TypeError,
            r"observables must be a tuple of Observable objects; got \('Z0',\)",
        ),
        (
            lambda: circuit(observables=Z0),
            TypeError,
            "observables must be a tuple of Observable objects",
        ),
        (
            lambda: circuit(observables=()),
            ValueError,
            r"observables must be at least one observable; got \(\)",
        ),
        (
            lambda: circuit(1, (Gate("rx", (1,), (X0,)),)),
            CircuitError,
            r"wires of gate 0 \(rx\(x\[0\]\) on 1\) must be in \[0, 0\]; got \(1,\)",
        ),
        (
            lambda: circuit(2, (RX, Gate("cnot", (1, 2)))),
            CircuitError,
            r"wires of gate 1 \(cnot on 1, 2\) must be in \[0, 1\]",
        ),
        (
            lambda: circuit(2, observables=(Observable.of("Z0 X5"),)),
            CircuitError,
            r"wires of observable Z0 X5 must be in \[0, 1\]; got \(0, 5\)",
        ),
        (
            lambda: circuit(gates=(Gate("rx", (0,), (X1,)),)),
            CircuitError,
            r"input index of gate 0 .* must be in \[0, 0\]; got 1",
        ),
        (
            lambda: circuit(gates=(Gate("crx", (0, 1), (W0,)),), n_qubits=2),
            CircuitError,
            r"weight index of gate 0 .* got 0",
        ),
        (
            lambda: VQCLayer.from_circuit(circuit(1, (), (Z0,), 3, 0, True)),
            ValueError,
            "amplitude encoding must be 1 to 2 amplitudes and no angles; got 3 inputs, 0 of",
        ),
        (
            lambda: VQCLayer.from_circuit(circuit(1, (RX,), (Z0,), 2, 0, True)),
            ValueError,
            "amplitude encoding must be 1 to 2 amplitudes and no angles; got 2 inputs, 1 of",
        ),
        (
            lambda: VQCLayer.from_circuit(
                circuit(1, (Gate("rx", (0,), (Angle.computed("input"),)),))
            ),
            ValueError,
            "circuit must be one whose angles are inputs, weights or constants",
        ),
        (
            lambda: circuit(1, (Gate("rx", (0,), (Angle.computed("input"),)),)).angle_table(
                torch.zeros(1, 1), torch.zeros(0)
            ),
            CircuitError,
            "modules compute some of the circuit's angles",
        ),
    ],
)
def test_wrong_circuits_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        *(
            (
                lambda text=text: Observable.of(text),
                ValueError,
                "observable must be a Pauli string such as 'Z0'",
            )
            for text in (
                "",
                " ",
                "Q0",
                "Z0,X1",
                "Z-1",
                "0Z",
                "Z0 X",
                "Z0X1",
                "ZZ X",
                "XAZ",
                "Z0 * X1",
                "2 * Z0",
                "2",
                "2 2 Z0",
                "Z0 + ",
                "Z0 - X1",
                "Z 0",
            )
        ),
        (
            lambda: Observable.of("Z0 X0"),
            ValueError,
            "Pauli string must be given at most one letter for a wire; got 'Z0 X0'",
        ),
        (
            lambda: Observable.of("Z1 Z1"),
            ValueError,
            "Pauli string must be given at most one letter for a wire",
        ),
        (
            lambda: Observable.of(3),
            TypeError,
            r"observable must be a Pauli string .* or a mapping .* got 3 \(int\)",
        ),
        (lambda: Observable.of(None), TypeError, "observable must be a Pauli string .* got None"),
        (
            lambda: Observable.of(["Z0"]),
            TypeError,
            r"observable must be a Pauli string .* got \['Z0'\]",
        ),
        (
            lambda: Observable.of({}),
            ValueError,
            "observable must be a sum of at least one term",
        ),
        (lambda: Observable.of({3: 1.0}), TypeError, "observable must be a Pauli string .* got 3"),
        (
            lambda: Observable.of({"Z0": "1"}),
            TypeError,
            "coefficient of a Pauli string must be a real number; got '1'",
        ),
        (
            lambda: Observable.of({"Z0": 1j}),
            TypeError,
            "coefficient of a Pauli string must be a real number; got 1j",
        ),
        (
            lambda: Observable.of({"Z0": True}),
            TypeError,
            "coefficient of a Pauli string must be a real number; got True",
        ),
        (
            lambda: Observable.of({"Z0": torch.tensor(1.0)}),
            TypeError,
            "coefficient of a Pauli string must be a real number; got a torch.float32",
        ),
        (
            lambda: Observable.of({"Z0": math.nan}),
            ValueError,
            "coefficient of a Pauli string must be finite; got nan",
        ),
        (
            lambda: Observable.of({"Z0": -math.inf}),
            ValueError,
            "coefficient of a Pauli string must be finite; got -inf",
        ),
        (
            lambda: Observable(()),
            ValueError,
            r"observable must be a sum of at least one term; got \(\)",
        ),
        (
            lambda: Observable("Z0"),
            TypeError,
            "terms of an observable must be Pauli strings, projectors or matrices; got 'Z0'",
        ),
        (
            lambda: Observable(("Z0",)),
            TypeError,
            "terms of an observable must be Pauli strings, projectors or matrices; got 'Z0'",
        ),
        (
            lambda: Observable(None),
            TypeError,
            "terms of an observable must be Pauli strings, projectors or matrices; got None",
        ),
        (
            lambda: PauliString("Z0"),
            TypeError,
            "factors of a Pauli string must be pairs of a wire and a letter; got 'Z0'",
        ),
        (lambda: PauliString((0, "Z")), TypeError, "factors of a Pauli string must be pairs"),
        (
            lambda: PauliString(((0, "A"),)),
            ValueError,
            "letter of a Pauli string must be one of X, Y, Z; got 'A'",
        ),
        (
            lambda: PauliString(((0, "I"),)),
            ValueError,
            "letter of a Pauli string must be one of X, Y, Z; got 'I'",
        ),
        (
            lambda: PauliString(((-1, "Z"),)),
            ValueError,
            "wire of a Pauli string must be an integer >= 0; got -1",
        ),
        (
            lambda: PauliString((("0", "Z"),)),
            TypeError,
            "wire of a Pauli string must be an integer >= 0; got '0'",
        ),
        (
            lambda: read_observables([], 2),
            ValueError,
            r"observables must be a list of at least one observable; got \[\]",
        ),
        (
            lambda: read_observables("Z0", 2),
            TypeError,
            "observables must be a list of observables, or 'probabilities'; got 'Z0'",
        ),
        (
            lambda: read_observables({"Z0": 1.0}, 2),
            TypeError,
            "observables must be a list of observables, or 'probabilities'; got {'Z0'",
        ),
        (
            lambda: read_observables(3, 2),
            TypeError,
            "observables must be a list of observables, or 'probabilities'; got 3",
        ),
        (
            lambda: read_observables(["Z0", None], 2),
            TypeError,
            "observable must be a Pauli string .* got None",
        ),
    ],
)
def test_wrong_observables_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("name", "n_wires"), [(n, k) for n, k in SIZED if GATE_TYPES[n].n_angles])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_factor_with_an_angle_is_diagonal_between_changes_of_basis(name, n_wires, inverse):
    angles = random_angles(GATE_TYPES[name].n_angles)
    for factor in GATE_TYPES[name].primitives(n_wires, inverse):
        if factor.cosine is None:
            continue
        before, turn, after = factor.diagonalized()
        places = {wire: k for k, wire in enumerate(factor.wires)}
        product = torch.eye(2 ** len(places), dtype=torch.complex128)
        for part in (*before, turn, *after):
            own, others = extended_index([places[wire] for wire in part.wires], len(places))
            large = part.matrix(angles, torch.complex128)[own[:, None], own[None, :]]
            product = (large * (others[:, None] == others[None, :])) @ product
        expected = factor.matrix(angles, torch.complex128)
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-14)
        assert turn.is_diagonal
        phases = torch.exp(1j * turn.exponents() * angles[factor.angle])
        found = torch.diag(turn.matrix(angles, torch.complex128))
        torch.testing.assert_close(found, phases, rtol=0, atol=1e-14)
        assert all(len(part.wires) == 1 and part.cosine is None for part in (*before, *after))
