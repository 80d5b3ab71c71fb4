"""Projectors, probabilities and matrices as observables; those of other packages."""

import copy
import itertools
import math
import pickle
import random

import numpy as np
import pytest
import reference as ref
import torch
import truth
from circuits import REAL_GATES, arguments, random_circuit, random_term
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from test_fused import check_circuit

from captum_quantum import (
    Angle,
    Circuit,
    CircuitError,
    Gate,
    Observable,
    QuantumLayerGradCam,
    VQCLayer,
    quantum_gradient,
)
from captum_quantum.circuit import HermitianMatrix, Projector, describe_readout, read_observables
from captum_quantum.simulate import FusedSimulator, compiled, expectation_values, readout
from captum_quantum.simulate.compiled import CompiledCircuit
from captum_quantum.visualization import draw_circuit

KINDS = ("projector", "diagonal", "real", "complex", "mixed")
MATRIX = [[0.5, 1 - 2j], [1 + 2j, -0.1]]


def matrix_of(observable, n_qubits):
    return ref.observable_matrix(truth.terms(observable), n_qubits)


# As data


def test_projectors_sort_their_wires_and_print():
    projector = Observable.projector("01", wires=(2, 0))
    assert projector == Observable.projector("10", wires=(0, 2))
    assert hash(projector) == hash(Observable.projector("10", wires=[0, 2]))
    assert str(projector) == "|10><10| on 0, 2"
    assert projector.wires == (0, 2)
    assert Observable.projector("011") == Observable.projector("011", wires=range(3))
    assert Observable.projector("1", 4) == Observable.of("|1><1| on 4")
    assert Observable.of("|01><01|") == Observable.projector("01")


def test_probabilities_are_the_projectors_in_the_order_of_outcomes():
    assert Observable.probabilities((2, 0)) == tuple(
        Observable.projector(outcome, wires=(2, 0)) for outcome in ("00", "01", "10", "11")
    )
    assert Observable.probabilities(1) == (
        Observable.projector("0", 1),
        Observable.projector("1", 1),
    )


def test_matrices_are_read_from_rows_arrays_and_tensors():
    observable = Observable.hermitian(MATRIX, wires=1)
    for same in (np.array(MATRIX), torch.tensor(MATRIX, dtype=torch.complex128)):
        assert Observable.hermitian(same, wires=[1]) == observable
    assert hash(observable) == hash(Observable.hermitian(np.array(MATRIX), (1,)))
    assert str(observable) == "[[0.5, 1-2j], [1+2j, -0.1]] on 1"
    assert Observable.hermitian([[0.0, -0.0], [-0.0, 1]], 0) == Observable.hermitian(
        torch.diag(torch.tensor([0, 1])), 0
    )
    assert str(Observable.hermitian([[-0.0, 0], [0, 1]], 0)) == "[[0, 0], [0, 1]] on 0"


def test_rounding_beside_the_adjoint_is_averaged():
    (term,) = Observable.hermitian([[1, 0.5 + 1e-9], [0.5, 2 + 1e-9j]], 0).terms
    assert term.matrix == ((1, 0.5 + 0.5e-9), (0.5 + 0.5e-9, 2))


def test_mappings_weigh_any_observable():
    z = Observable.of({Observable.hermitian(MATRIX, 0): 2, "|1><1| on 3": -0.5, "xz": 3.0})
    assert [term.coefficient for term in z.terms] == [2.0, -0.5, 3.0]
    assert z.wires == (0, 1, 3)
    twice = Observable.of({z: 2})
    assert [term.coefficient for term in twice.terms] == [4.0, -1.0, 6.0]
    assert_allclose(twice.matrix(4), 2 * matrix_of(z, 4), atol=1e-15)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64).map(lambda x: x / 4)


@st.composite
def terms(draw):
    wires = draw(st.lists(st.integers(0, 30), min_size=1, max_size=2, unique=True))
    coefficient = draw(FLOATS)
    if draw(st.booleans()):
        outcome = "".join(draw(st.sampled_from("01")) for _ in wires)
        return Projector(outcome, wires, coefficient)
    size = 2 ** len(wires)
    entries = draw(st.lists(FLOATS, min_size=size * size, max_size=size * size))
    # The lower half gives the imaginary parts of the upper one.
    rows = [
        [
            complex(entries[size * min(r, c) + max(r, c)], 0)
            + np.sign(c - r) * complex(0, entries[size * max(r, c) + min(r, c)] * (r != c))
            for c in range(size)
        ]
        for r in range(size)
    ]
    return HermitianMatrix(rows, wires, coefficient)


@given(st.lists(terms(), min_size=1, max_size=3).map(Observable))
def test_an_observable_is_read_from_its_own_text_and_copied(observable):
    assert Observable.of(str(observable)) == observable
    for same in (copy.deepcopy(observable), pickle.loads(pickle.dumps(observable))):
        assert same == observable
        assert hash(same) == hash(observable)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_and_pauli_strings_against_the_reference(kind):
    for seed in range(20):
        rng = random.Random(seed)
        n = rng.randint(1, 4)
        observable = Observable([random_term(rng, n, kind) for _ in range(rng.randint(1, 3))])
        expected = matrix_of(observable, n)
        assert_allclose(observable.matrix(n), expected, atol=1e-15)
        assert_allclose(matrix_of(Observable(observable.pauli_terms()), n), expected, atol=1e-15)
        assert observable.is_diagonal == (np.abs(expected - np.diag(np.diag(expected))).max() == 0)


def test_pauli_strings_of_closed_forms():
    def strings(observable):
        return {str(term) for term in observable.pauli_terms()}

    assert strings(Observable.projector("01", (0, 2))) == {
        "0.25 I",
        "0.25 Z0",
        "-0.25 Z2",
        "-0.25 Z0 Z2",
    }
    swap = ref.gate_matrix("swap").real
    assert strings(Observable.hermitian(swap, (3, 1))) == {
        "0.5 I",
        "0.5 X1 X3",
        "0.5 Y1 Y3",
        "0.5 Z1 Z3",
    }
    assert strings(Observable.of({"|0><0|": 2, "|1><1|": 2})) == {"2 I", "0 Z0"}
    assert strings(Observable.hermitian(np.zeros((2, 2)), 0)) == {"0 I"}
    given = Observable.of("Z0 + Z0")
    assert given.pauli_terms() is given.terms or given.pauli_terms() == given.terms
    # 10 wires: 1,024 strings, vectorized.
    many = Observable.projector("1" * 10).pauli_terms()
    assert len(many) == 1024
    assert all(abs(term.coefficient) == 2.0**-10 for term in many)


@pytest.mark.parametrize("observable", [Observable.projector("1"), Observable.hermitian(MATRIX, 0)])
def test_a_simulator_that_reads_pauli_factors_gets_an_error(observable):
    with pytest.raises(AttributeError, match=r"has no Pauli factors; .* observable.pauli_terms"):
        _ = observable.terms[0].factors


def test_the_digest_of_pauli_strings_stays_and_tells_others_apart():
    gates = (Gate("ry", (0,), (Angle.of_input(0),)), Gate("cnot", (0, 1)))

    def digest(*observables):
        return Circuit(2, gates, observables, 1).digest

    assert digest(Observable.of({"Z0 X1": 0.5, "Y1": -1})) == PAULI_DIGEST
    different = [
        Observable.of("Z0"),
        Observable.projector("0", 0),
        Observable.projector("1", 0),
        Observable.projector("0", 1),
        Observable.projector("01", (0, 1)),
        Observable.of({"|0><0|": 2}),
        Observable.hermitian([[1, 0], [0, -1]], 0),
        Observable.hermitian([[1, 0], [0, -1]], 1),
        Observable.hermitian([[1, 0], [0, -1 + 1e-15]], 0),
        Observable.hermitian([[0, -1j], [1j, 0]], 0),
        Observable.hermitian([[0, 1j], [-1j, 0]], 0),
    ]
    assert len({digest(o) for o in different}) == len(different)
    same = Observable.of(str(different[-1]))
    assert digest(same) == digest(different[-1])


PAULI_DIGEST = "769d3b0963e522ba3b81dcd7e5cf6be6"
"""As the first version that had digests gave it."""


def test_the_printed_readout_names_probabilities_together():
    z = Observable.of("Z0")
    p = Observable.probabilities((2, 0))
    large = Observable.hermitian(np.eye(4), (0, 1))
    assert describe_readout([z, *p, z]) == "<Z0>, probabilities of wires 2, 0, <Z0>"
    assert describe_readout(p[:3]) == "<|00><00| on 0, 2>, <|10><10| on 0, 2>, <|01><01| on 0, 2>"
    assert describe_readout([*p, *Observable.probabilities(1)], "()") == (
        "probabilities of wires 2, 0, probabilities of wire 1"
    )
    for others in ([p[0], p[1], p[0], p[3]], [p[0], p[1], p[2], p[2]], [p[0], p[1], z, p[3]]):
        assert describe_readout(others) == ", ".join(f"<{other}>" for other in others)
    assert describe_readout([large]) == "<4 x 4 matrix on 0, 1>"
    circuit = Circuit(3, (Gate("ry", (0,), (Angle.of_input(0),)),), [*p, large], 1)
    assert str(circuit).endswith("reads probabilities of wires 2, 0, <4 x 4 matrix on 0, 1>")
    title = draw_circuit(circuit).axes[0].get_title()
    assert title == "reads probabilities of wires 2, 0, ⟨4 x 4 matrix on 0, 1⟩"


# What a layer reads


def test_sequences_inside_of_the_list_are_flattened():
    p = Observable.probabilities([1, 2])
    flat = (Observable.of("Z0"), *p, Observable.of("X0"))
    assert read_observables(["Z0", p, "X0"], 3) == flat
    assert read_observables(["Z0", [p[:1], list(p[1:])], "X0"], 3) == flat
    assert read_observables("probabilities", 2) == Observable.probabilities((0, 1))
    layer = VQCLayer(3, 1, observables=["Z0", p, "X0"])
    assert layer.circuit.observables == flat
    assert layer(torch.zeros(2, 3)).shape == (2, 6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Observable.projector("02"), ValueError, "outcome of a projector must be a string"),
        (lambda: Observable.projector(""), ValueError, "wires of a projector must be at least one"),
        (
            lambda: Projector("", (0,)),
            ValueError,
            "outcome of a projector must be a string of bits",
        ),
        (lambda: Observable.projector(1, 0), TypeError, "outcome of a projector must be a string"),
        (
            lambda: Observable.projector("01", 0),
            ValueError,
            r"wires of a projector must be 2, one for each bit of '01'; got \(0,\)",
        ),
        (lambda: Observable.projector("01", (1, 1)), ValueError, "different from each other; got"),
        (lambda: Observable.projector("0", -1), ValueError, "wires of a projector must be an int"),
        (
            lambda: Observable.projector("0", "0"),
            TypeError,
            "wires of a projector must be a wire or",
        ),
        (lambda: Observable.projector("0", True), TypeError, "wires of a projector must be an int"),
        (lambda: Projector("0", (0,), 1j), TypeError, "coefficient of a projector must be a real"),
        (
            lambda: Projector("0", (0,), math.inf),
            ValueError,
            "coefficient of a projector must be f",
        ),
        (
            lambda: Observable.hermitian([[0, 1], [0, 0]], 0),
            ValueError,
            "matrix of an observable must be Hermitian; got one that differs from its adjoint by 1",
        ),
        (
            lambda: Observable.hermitian([[1j, 0], [0, 0]], 0),
            ValueError,
            "matrix of an observable must be Hermitian",
        ),
        (
            lambda: Observable.hermitian(np.eye(4), 0),
            ValueError,
            r"matrix of an observable must be of shape \(2, 2\) for 1 wire.*got .* \(4, 4\)",
        ),
        (lambda: Observable.hermitian([1, 2], 0), ValueError, r"must be of shape \(2, 2\)"),
        (
            lambda: Observable.hermitian([[math.nan, 0], [0, 1]], 0),
            ValueError,
            "matrix of an observable must be finite",
        ),
        (
            lambda: Observable.hermitian("Z", 0),
            TypeError,
            "matrix of an observable must be a tensor",
        ),
        (
            lambda: Observable.hermitian(torch.eye(2, requires_grad=True), 0),
            ValueError,
            r"matrix of an observable must be constant; detach\(\)",
        ),
        (lambda: Observable.hermitian(np.eye(2), ()), ValueError, "must be at least one, and diff"),
        (lambda: Observable.hermitian(np.eye(2), None), TypeError, "wires of a matrix must be a w"),
        (
            lambda: Observable.probabilities([0, 0]),
            ValueError,
            "wires of probabilities must be at l",
        ),
        (
            lambda: read_observables("probabilities", 17),
            ValueError,
            "number of wires whose probabilities are read must be at most 16; got 17",
        ),
        (lambda: Observable.of("|01><10| on 0, 1"), ValueError, "must be a projector such as"),
        (lambda: Observable.of("|01><01| on 0"), ValueError, "wires of a projector must be 2, one"),
        (lambda: Observable.of("[[1, 0], [0, 1]"), ValueError, "must be a matrix such as"),
        (lambda: Observable.of("[[1, a], [0, 1]]"), ValueError, "must be a matrix such as"),
        (lambda: Observable.of("[[1, 0], [1]]"), TypeError, "matrix of an observable must be a"),
        (
            lambda: Observable.of({Observable.projector("1"): "2"}),
            TypeError,
            "coefficient of an observable must be a real number; got '2'",
        ),
        (
            lambda: read_observables(["Z0", []][1:], 1),
            ValueError,
            "observables must be a list of at least one observable",
        ),
        (lambda: read_observables(["Z0", [None]], 1), TypeError, "observable must be .* got None"),
        (
            lambda: VQCLayer(2, 1, observables=[Observable.projector("1", 2)]),
            CircuitError,
            r"wires of observable \|1><1\| on 2 must be in \[0, 1\]; got \(2,\)",
        ),
    ],
)
def test_wrong_observables_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Of other packages


def test_qiskit_observables_are_read_with_qubit_i_as_wire_i():
    from qiskit.quantum_info import Pauli, SparsePauliOp

    operators = [
        SparsePauliOp(["IXZ", "YII", "III"], [0.5, -2, 3]),
        SparsePauliOp(["XZ"]),
        SparsePauliOp.from_operator(ref.gate_matrix("swap")),
        *map(Pauli, ("XYZ", "-XIZ", "I", "-III")),
    ]
    for operator in operators:
        n = operator.num_qubits
        # Qiskit's qubit 0 is the least significant bit.
        flipped = operator.to_matrix().reshape((2,) * 2 * n)
        order = [*range(n)][::-1]
        expected = flipped.transpose(*order, *(n + k for k in order)).reshape(2**n, 2**n)
        assert_allclose(Observable.of(operator).matrix(n), expected, atol=1e-15)
    assert str(Observable.of(Pauli("IXZ"))) == "Z0 X1"


def test_torchquantum_observables_are_read_with_their_wires():
    tq = pytest.importorskip("torchquantum")
    from torchquantum.algorithm import Hamiltonian

    assert Observable.of(tq.PauliZ(wires=1)) == Observable.of("Z1")
    assert Observable.of(tq.PauliY(wires=[2])) == Observable.of("Y2")
    assert Observable.of(tq.I(wires=0)) == Observable.of("I")
    for operator in (tq.Hadamard(wires=1), tq.SWAP(wires=[2, 0]), tq.CNOT(wires=[2, 0])):
        wires = [operator.wires] if isinstance(operator.wires, int) else operator.wires
        expected = ref.embed(operator.matrix.numpy(), wires, 3)
        assert_allclose(Observable.of(operator).matrix(3), expected, atol=1e-7)
    (term,) = Observable.of(tq.Hadamard(wires=0)).terms
    assert term.matrix[0][0] == pytest.approx(math.sqrt(0.5), abs=1e-15)
    for endianness in ("big", "little"):
        hamiltonian = Hamiltonian([0.5, -2.0], ["XZI", "IYZ"], endianness)
        expected = hamiltonian.get_matrix().numpy()
        assert_allclose(Observable.of(hamiltonian).matrix(3), expected, atol=1e-15)


def test_pennylane_observables_are_read_with_their_wires():
    qml = pytest.importorskip("pennylane")
    y = np.array([[0, -1j], [1j, 0]])
    for operator in (
        qml.PauliZ(0) @ qml.PauliX(2),
        0.5 * qml.Z(1) + 2 * qml.X(0) @ qml.Y(2) - qml.Identity(0),
        qml.Hamiltonian([1.0, 2.0], [qml.Z(0), qml.X(1) @ qml.Y(0)]),
        qml.Projector([0, 1], wires=[2, 0]),
        qml.Hermitian(np.kron(y, y + np.eye(2)), wires=[2, 1]),
        qml.Hadamard(1),
        2 * qml.Projector([0], wires=[0]) + qml.Z(1),
    ):
        expected = qml.matrix(operator, wire_order=range(3))
        assert_allclose(Observable.of(operator).matrix(3), expected, atol=1e-15)


def foreign(name):
    """Observables that cannot be read, with the error and its message."""
    import torchquantum as tq
    from qiskit.quantum_info import Pauli, SparsePauliOp

    return {
        "imaginary": (SparsePauliOp(["X"], [1j]), ValueError, "of SparsePauliOp must be real; got"),
        "phase": (Pauli("-iX"), ValueError, "coefficients of Pauli must be real; got"),
        "no wires": (
            tq.PauliZ(),
            ValueError,
            r"wires of PauliZ must be given, as in PauliZ\(wires",
        ),
        "class": (tq.PauliZ, TypeError, "observable must be .* got the class PauliZ"),
        "many": (tq.PauliZ(wires=[0, 1]), ValueError, "PauliZ must be 1; products .* 'Z0 Z2'; got"),
        "angles": (tq.RX(wires=0), ValueError, "an operator without angles; got RX"),
        "unitary": (tq.S(wires=0), ValueError, "matrix of an observable must be Hermitian"),
    }[name]


@pytest.mark.parametrize(
    "name", ["imaginary", "phase", "no wires", "class", "many", "angles", "unitary"]
)
def test_wrong_observables_of_other_packages_are_refused(name):
    value, error, message = foreign(name)
    with pytest.raises(error, match=message):
        Observable.of(value)


def test_wrong_observables_of_pennylane_are_refused():
    qml = pytest.importorskip("pennylane")
    with pytest.raises(TypeError, match="must be an integer >= 0; got 'a'"):
        Observable.of(qml.Z("a"))
    with pytest.raises(ValueError, match="coefficients of S must be real"):
        Observable.of(qml.S(0))


# Values and gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_expectation_values_of_states(kind, dtype):
    rng = random.Random(kind)
    observables = tuple(Observable([random_term(rng, 4, kind)]) for _ in range(6))
    states = torch.randn(3, 16, dtype=dtype, generator=torch.Generator().manual_seed(0))
    states = states / torch.linalg.vector_norm(states, dim=1, keepdim=True)
    values = expectation_values(states, observables, 4)
    expected = [
        [ref.expectation(state, truth.terms(o), 4) for o in observables] for state in states.numpy()
    ]
    assert_allclose(values, expected, atol=1e-14 if dtype == torch.complex128 else 3e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_random_circuits_against_the_reference(kind):
    for seed in range(12):
        circuit = random_circuit(seed, kinds=(kind,), n_qubits=(1, 6), n_gates=(1, 12))
        x, w, cotangent, (_, by_x, by_w) = check_circuit(circuit, seed)
        if circuit.n_qubits > 4 or seed % 2:
            continue
        for source, derivative, which in (("input", by_x, "bk"), ("weight", by_w, "k")):
            jacobian = truth.jacobian(circuit, x, w, source)
            expected = np.einsum(f"bok,o->{which}", jacobian, cotangent)
            assert np.abs(derivative.numpy() - expected).max(initial=0) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_real_numbers(kind):
    names = [*REAL_GATES, "ry", "ry"]
    for seed in range(10):
        circuit = random_circuit(seed, encoding="ry", names=names, kinds=(kind,), n_qubits=(1, 6))
        check_circuit(circuit, seed)
        program = CompiledCircuit(circuit).program(torch.device("cpu"), torch.complex128)
        assert program.dtype == torch.float64


@pytest.mark.parametrize("kind", ["projector", "diagonal", "mixed"])
def test_polynomials_of_the_inputs(kind):
    seen = 0
    for seed in range(12):
        circuit = random_circuit(
            seed, encoding="first", n_qubits=(1, 6), sources=("weight",), kinds=(kind,)
        )
        check_circuit(circuit, seed)
        seen += FusedSimulator().plan(circuit).is_polynomial
    assert seen > (1 if kind == "mixed" else 6)


def test_large_batches_run_in_lanes(monkeypatch):
    monkeypatch.setattr(compiled, "LANES", 2)
    monkeypatch.setattr(compiled, "LANE", 2)
    for seed in range(10):
        circuit = random_circuit(
            seed, layered=True, n_qubits=(7, 10), sources=("input", "weight"), kinds=KINDS
        )
        check_circuit(circuit, seed, batch=4)
        lanes = CompiledCircuit(circuit).program(torch.device("cpu"), torch.complex64, 4).lanes
        assert lanes == 2


@pytest.mark.parametrize("n_qubits", [3, 7, 10])
def test_all_probabilities_with_amplitudes(n_qubits):
    torch.manual_seed(0)
    x = torch.randn(2, 2**n_qubits, dtype=torch.float64, requires_grad=True)
    options = {"encoder": "amplitude", "ansatz": "real_amplitudes", "observables": "probabilities"}
    layer = VQCLayer(n_qubits, 1, **options)
    values = layer(x)
    circuit = layer.circuit
    expected = truth.probabilities(circuit, x, layer.weights, "Z" * n_qubits)
    assert_allclose(values.detach(), expected, atol=1e-13)
    cotangent = torch.randn_like(values)
    by_x = torch.autograd.grad(values, x, cotangent)[0]
    layer.gradient = "backprop"
    (by_autograd,) = torch.autograd.grad(layer(x), x, cotangent)
    torch.testing.assert_close(by_x, by_autograd, rtol=0, atol=1e-12)


def test_probabilities_of_some_wires_are_marginals():
    torch.manual_seed(0)
    layer = VQCLayer(10, 2, observables=[Observable.probabilities((7, 2)), "Z2", "X1"])
    every = VQCLayer(10, 2, observables="probabilities")
    every.ansatz.load_state_dict(layer.ansatz.state_dict())
    x = torch.rand(128, 10, dtype=torch.float64)  # in lanes
    p = every(x).view(128, *[2] * 10)
    assert_allclose(p.flatten(1).sum(1).detach(), 1, atol=1e-12)
    expected = p.permute(0, 8, 3, *(k for k in range(1, 11) if k not in (8, 3))).reshape(128, 4, -1)
    values = layer(x)
    assert_allclose(values[:, :4].detach(), expected.sum(2).detach(), atol=1e-12)
    z = values[:, 0] + values[:, 2] - values[:, 1] - values[:, 3]
    assert_allclose(z.detach(), values[:, 4].detach(), atol=1e-12)
    alone = VQCLayer(10, 2, observables=Observable.probabilities((7, 2)))
    alone.ansatz.load_state_dict(layer.ansatz.state_dict())
    assert_allclose(alone(x).detach(), values[:, :4].detach(), atol=1e-12)
    for one in (layer, every, alone):
        assert one.circuit.n_qubits >= readout.FACTORED
        cotangent = torch.randn(128, one.n_observables, dtype=torch.float64)
        found = []
        for gradient in ("adjoint", "backprop"):
            one.gradient = gradient
            wanted = [x.requires_grad_(), *one.parameters()]
            found.append(torch.autograd.grad(one(x), wanted, cotangent))
        for by, expected in zip(*found, strict=True):
            torch.testing.assert_close(by, expected, rtol=0, atol=1e-6 if by.ndim > 2 else 1e-11)


MIXED = [
    Observable.probabilities((2, 0)),
    Observable.hermitian(np.array(MATRIX), 1),
    {Observable.hermitian(ref.gate_matrix("swap"), (0, 2)): 0.5, "Y1": -1.0, "|1><1| on 1": 2.0},
]


@pytest.mark.parametrize("simulator", ["fused", "torchquantum"])
def test_both_simulators_and_all_rules(simulator):
    torch.manual_seed(0)
    layer = VQCLayer(3, 1, encoder="ry", observables=MIXED, simulator=simulator)
    x = (6 * torch.rand(2, 3) - 3).requires_grad_()
    expected = truth.expectations(layer.circuit, x, layer.weights)
    by_x = truth.jacobian(layer.circuit, x, layer.weights, "input")
    by_w = truth.jacobian(layer.circuit, x, layer.weights, "weight")
    values = layer(x)
    assert_allclose(values.detach(), expected, atol=5e-6)
    cotangent = torch.linspace(-1, 1, values.shape[1])
    rules = ["backprop", "parameter-shift", "commutator", "finite-difference"]
    for rule in [*rules, *["adjoint"] * (simulator == "fused")]:
        layer.gradient = rule
        tolerance = 3e-3 if rule == "finite-difference" else 2e-5
        parameters = list(layer.parameters())
        found = torch.autograd.grad((layer(x) * cotangent).sum(), [x, *parameters])
        expected = np.einsum("bok,o->bk", by_x, cotangent)
        assert_allclose(found[0], expected, atol=tolerance)
        of_weights = torch.cat([part.flatten() for part in found[1:]])
        expected = np.einsum("bok,o->k", by_w, cotangent)
        assert_allclose(of_weights, expected, atol=tolerance)


def test_rules_of_a_layer_from_a_circuit_in_double_precision():
    circuit = random_circuit(3, kinds=("mixed",), n_qubits=(3, 3), n_gates=(6, 8))
    x, w = arguments(circuit, 2)
    layer = VQCLayer.from_circuit(circuit, w, dtype=torch.complex128)
    x.requires_grad_()
    expected = truth.jacobian(circuit, x, w, "input").sum(axis=1)
    for rule in ("adjoint", "backprop", "parameter-shift", "commutator"):
        with quantum_gradient(layer, rule=rule):
            (found,) = torch.autograd.grad(layer(x).sum(), x)
        assert_allclose(found, expected, atol=1e-9)


def test_the_light_cone_and_phases_before_the_readout():
    gates = (
        Gate("ry", (0,), (Angle.of_input(0),)),
        Gate("ry", (1,), (Angle.of_input(1),)),
        Gate("ry", (2,), (Angle.of_input(2),)),
        Gate("rzz", (0, 1), (Angle.of_weight(0),)),
        Gate("rz", (0,), (Angle.of_weight(1),)),
    )

    def names(observable):
        factors = FusedSimulator().plan(Circuit(3, gates, (observable,), 3, 2)).factors
        return sorted(factor.name for factor in factors)

    every = ["ry", "ry", "rz", "rzz"]
    assert names(Observable.projector("1", 0)) == ["ry"]
    assert names(Observable.projector("01", (0, 2))) == ["ry", "ry"]
    assert names(Observable.hermitian([[2, 0], [0, 1]], 0)) == ["ry"]
    assert names(Observable.hermitian(MATRIX, 0)) == every
    # A matrix that is not diagonal beside a projector.
    assert names(Observable.of({Observable.projector("1", 0): 1, "Y0": 1})) == every
    circuit = Circuit(3, gates, (Observable.hermitian(MATRIX, 0),), 3, 2)
    x, w = arguments(circuit, 3)
    values = FusedSimulator().expectations(circuit, x, w, torch.complex128)
    assert_allclose(values, truth.expectations(circuit, x, w), atol=1e-13)


@pytest.mark.parametrize("simulator", ["fused", "torchquantum"])
def test_tables_that_would_be_too_large_are_refused(simulator, monkeypatch):
    monkeypatch.setattr(readout, "LARGEST", 2**9)
    observables = [{Observable.hermitian(np.ones((4, 4)), (0, 1)): 0.123}, "X4", "Z0"]
    layer = VQCLayer(6, 1, observables=observables, simulator=simulator)
    with pytest.raises(
        CircuitError, match="entries of the observables' tables must be at most 512"
    ):
        layer(torch.zeros(1, 6))
    # 3 flips of 3 Pauli strings each would pass it too; what the user wrote is not limited.
    observables = ["X0", "X1", "X2", "Z0", "Y4"]
    layer = VQCLayer(6, 1, observables=observables, simulator=simulator)
    assert layer(torch.zeros(1, 6)).shape == (1, 5)


# Attributions


def test_shares_of_the_observables_add_up_to_the_map():
    torch.manual_seed(0)
    read = ["Z0", Observable.probabilities(1), Observable.hermitian(MATRIX, 2)]
    layer = VQCLayer(3, 1, observables=read)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 3),
        layer,
        torch.nn.Linear(4, 2),
    )
    images = torch.rand(2, 1, 6, 6)
    cam = QuantumLayerGradCam(model, model[0])
    shares = cam.attribute_observables(images, target=1)
    shares = shares[0] if isinstance(shares, tuple) else shares
    maps = cam.attribute(images, target=1)
    assert shares.shape == (2, 4, 4, 4)
    assert_allclose(shares.sum(1).detach(), maps[:, 0].detach(), atol=1e-6)
    # Both outcomes of a wire sum to one: their weights act by their difference alone.
    head = model[5].weight
    ratio = head[1, 1] / head[1, 2]
    assert_allclose(shares[:, 1].detach(), -(ratio * shares[:, 2]).detach(), atol=1e-6)


def test_a_layer_with_matrices_is_copied_and_pickled():
    torch.manual_seed(0)
    layer = VQCLayer(3, 1, observables=MIXED)
    x = torch.rand(2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.circuit == layer.circuit
        assert torch.equal(other(x), layer(x))
    assert len(set(itertools.chain(layer.circuit.observables))) == layer.n_observables
