"""The reference simulator against closed forms, Qiskit, PennyLane and TorchQuantum."""

from functools import reduce

import numpy as np
import pennylane as qml
import pytest
import reference as ref
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from numpy.testing import assert_allclose
from pennylane import numpy as pnp
from qiskit import QuantumCircuit
from qiskit.circuit import library as qk
from qiskit.quantum_info import Operator

ANGLES = (0.7, -1.9, 2.6, 0.4)
EXCLUDED = {
    "cu2",  # not unitary in TorchQuantum
    "globalphase",  # acts on no wire
    "reset",  # not a gate
    "qubitunitary",
    "qubitunitaryfast",
    "qubitunitarystrict",
}
NAMES = sorted(ref.GATES)
# Name, number of wires and number of angles; the gates of any size in several sizes.
CASES = [
    (name, n_wires, n_angles)
    for name, (size, n_angles, _) in sorted(ref.GATES.items())
    for n_wires in ([size] if size else [1, 2, 3, 4])
]


def rz_ry_rz(phi, theta, omega):
    circuit = QuantumCircuit(1)
    circuit.rz(phi, 0)
    circuit.ry(theta, 0)
    circuit.rz(omega, 0)
    return circuit.to_gate()


QISKIT = {
    "hadamard": qk.HGate, "h": qk.HGate,
    "shadamard": lambda: qk.RYGate(np.pi / 4), "sh": lambda: qk.RYGate(np.pi / 4),
    "paulix": qk.XGate, "x": qk.XGate, "pauliy": qk.YGate, "y": qk.YGate,
    "pauliz": qk.ZGate, "z": qk.ZGate, "i": qk.IGate,
    "s": qk.SGate, "sdg": qk.SdgGate, "t": qk.TGate, "tdg": qk.TdgGate,
    "sx": qk.SXGate, "sxdg": qk.SXdgGate,
    "cnot": qk.CXGate, "cx": qk.CXGate, "cy": qk.CYGate, "cz": qk.CZGate,
    "chadamard": qk.CHGate, "ch": qk.CHGate, "cs": qk.CSGate, "csdg": qk.CSdgGate,
    "csx": qk.CSXGate, "swap": qk.SwapGate, "sswap": lambda: qk.SwapGate().power(0.5),
    "iswap": qk.iSwapGate, "dcx": qk.DCXGate,
    "ecr": qk.ECRGate, "echoedcrossresonance": qk.ECRGate,
    "cswap": qk.CSwapGate, "toffoli": qk.CCXGate, "ccnot": qk.CCXGate, "ccx": qk.CCXGate,
    "ccz": qk.CCZGate, "c3x": qk.C3XGate, "c4x": qk.C4XGate, "c3sx": qk.C3SXGate,
    "rccx": qk.RCCXGate, "rc3x": qk.RC3XGate,
    "rx": qk.RXGate, "ry": qk.RYGate, "rz": qk.RZGate,
    "rxx": qk.RXXGate, "xx": qk.RXXGate, "ryy": qk.RYYGate, "yy": qk.RYYGate,
    "rzz": qk.RZZGate, "zz": qk.RZZGate, "rzx": qk.RZXGate, "zx": qk.RZXGate,
    "phaseshift": qk.PhaseGate, "p": qk.PhaseGate,
    "u1": qk.U1Gate, "u2": qk.U2Gate, "u3": qk.U3Gate, "u": qk.UGate, "r": qk.RGate,
    "rot": rz_ry_rz, "crot": lambda *angles: rz_ry_rz(*angles).control(),
    "crx": qk.CRXGate, "cry": qk.CRYGate, "crz": qk.CRZGate,
    "cu1": qk.CU1Gate, "cp": qk.CPhaseGate, "cr": qk.CPhaseGate, "cphase": qk.CPhaseGate,
    "cu3": qk.CU3Gate, "cu": qk.CUGate,
    "xxminyy": qk.XXMinusYYGate, "xxplusyy": qk.XXPlusYYGate,
}  # fmt: skip

# As functions of the wires, then of the angles.
PENNYLANE = {
    "hadamard": qml.Hadamard, "h": qml.Hadamard,
    "paulix": qml.PauliX, "x": qml.PauliX, "pauliy": qml.PauliY, "y": qml.PauliY,
    "pauliz": qml.PauliZ, "z": qml.PauliZ, "i": qml.Identity,
    "s": qml.S, "sdg": lambda w: qml.adjoint(qml.S(w)),
    "t": qml.T, "tdg": lambda w: qml.adjoint(qml.T(w)),
    "sx": qml.SX, "sxdg": lambda w: qml.adjoint(qml.SX(w)),
    "cnot": qml.CNOT, "cx": qml.CNOT, "cy": qml.CY, "cz": qml.CZ,
    "chadamard": qml.CH, "ch": qml.CH, "swap": qml.SWAP, "iswap": qml.ISWAP,
    "ecr": qml.ECR, "echoedcrossresonance": qml.ECR,
    "cs": lambda w: qml.ctrl(qml.S(w[1]), w[0]),
    "csx": lambda w: qml.ctrl(qml.SX(w[1]), w[0]),
    "c3sx": lambda w: qml.ctrl(qml.SX(w[3]), w[:3]),
    "cswap": qml.CSWAP, "toffoli": qml.Toffoli, "ccnot": qml.Toffoli, "ccx": qml.Toffoli,
    "ccz": qml.CCZ, "c3x": qml.MultiControlledX, "c4x": qml.MultiControlledX,
    "multicnot": lambda w: qml.MultiControlledX(w) if len(w) > 1 else qml.PauliX(w),
    "multixcnot": lambda w: (
        qml.MultiControlledX(w, control_values=[0] * (len(w) - 1)) if len(w) > 1 else qml.X(w)
    ),
    "qft": qml.QFT,
    "rx": lambda w, a: qml.RX(a, w), "ry": lambda w, a: qml.RY(a, w),
    "rz": lambda w, a: qml.RZ(a, w),
    "rxx": lambda w, a: qml.IsingXX(a, w), "xx": lambda w, a: qml.IsingXX(a, w),
    "ryy": lambda w, a: qml.IsingYY(a, w), "yy": lambda w, a: qml.IsingYY(a, w),
    "rzz": lambda w, a: qml.IsingZZ(a, w), "zz": lambda w, a: qml.IsingZZ(a, w),
    "rzx": lambda w, a: qml.PauliRot(a, "ZX", w), "zx": lambda w, a: qml.PauliRot(a, "ZX", w),
    "multirz": lambda w, a: qml.MultiRZ(a, w),
    "phaseshift": lambda w, a: qml.PhaseShift(a, w), "p": lambda w, a: qml.PhaseShift(a, w),
    "u1": lambda w, a: qml.U1(a, w), "u2": lambda w, a, b: qml.U2(a, b, w),
    "u3": lambda w, a, b, c: qml.U3(a, b, c, w), "u": lambda w, a, b, c: qml.U3(a, b, c, w),
    "rot": lambda w, a, b, c: qml.Rot(a, b, c, w),
    "crot": lambda w, a, b, c: qml.CRot(a, b, c, w),
    "crx": lambda w, a: qml.CRX(a, w), "cry": lambda w, a: qml.CRY(a, w),
    "crz": lambda w, a: qml.CRZ(a, w),
    "cu1": lambda w, a: qml.ControlledPhaseShift(a, w),
    "cp": lambda w, a: qml.ControlledPhaseShift(a, w),
    "cr": lambda w, a: qml.ControlledPhaseShift(a, w),
    "cphase": lambda w, a: qml.ControlledPhaseShift(a, w),
    "cu3": lambda w, a, b, c: qml.ctrl(qml.U3(a, b, c, w[1]), w[0]),
    "singleexcitation": lambda w, a: qml.SingleExcitation(a, w),
}  # fmt: skip


def max_difference(a, b):
    return np.max(np.abs(np.asarray(a) - np.asarray(b)))


def random_vector(rng, n_qubits):
    vector = rng.normal(size=2**n_qubits) + 1j * rng.normal(size=2**n_qubits)
    return vector / np.linalg.norm(vector)


def random_gates(rng, n_qubits, n_gates, names):
    """Draw gates on random wires; every fourth one is an inverse."""
    gates = []
    fitting = [name for name in names if (ref.GATES[name][0] or 1) <= n_qubits]
    for name in rng.permutation(np.resize(rng.permutation(fitting), n_gates)):
        size, n_angles, _ = ref.GATES[name]
        wires = rng.permutation(n_qubits)[: size or rng.integers(1, n_qubits + 1)]
        angles = rng.uniform(-np.pi, np.pi, n_angles)
        gates.append((str(name), wires.tolist(), angles.tolist(), bool(rng.random() < 0.25)))
    return gates


def random_observables(rng, n_qubits, n_observables=4):
    """Draw sums of three Pauli words."""
    return [
        [
            (
                float(rng.normal()),
                {wire: "XYZ"[rng.integers(3)] for wire in range(n_qubits) if rng.random() < 0.6},
            )
            for _ in range(3)
        ]
        for _ in range(n_observables)
    ]


# Gates


def test_the_gates_are_those_of_torchquantum():
    assert set(ref.GATES) == set(tqf.func_name_dict) - EXCLUDED | {"shadamard"}


@pytest.mark.parametrize(("name", "n_wires", "n_angles"), CASES)
def test_gates_are_unitary_and_inverses_undo_them(name, n_wires, n_angles):
    angles = ANGLES[:n_angles]
    matrix = ref.gate_matrix(name, angles, n_wires)
    inverse = ref.gate_matrix(name, angles, n_wires, inverse=True)
    assert matrix.shape == (2**n_wires, 2**n_wires)
    assert matrix.dtype == np.complex128
    assert_allclose(matrix @ matrix.conj().T, np.eye(2**n_wires), atol=1e-14)
    assert_allclose(inverse, matrix.conj().T, atol=0)
    assert_allclose(inverse @ matrix, np.eye(2**n_wires), atol=1e-14)


@pytest.mark.parametrize("name", QISKIT)
def test_gates_equal_those_of_qiskit(name):
    angles = ANGLES[: ref.GATES[name][1]]
    expected = Operator(QISKIT[name](*angles)).reverse_qargs().data
    assert max_difference(ref.gate_matrix(name, angles), expected) < 1e-12


@pytest.mark.parametrize(
    ("name", "n_wires", "n_angles"), [case for case in CASES if case[0] in PENNYLANE]
)
def test_gates_equal_those_of_pennylane(name, n_wires, n_angles):
    angles = ANGLES[:n_angles]
    wires = list(range(n_wires))
    expected = qml.matrix(PENNYLANE[name](wires, *angles), wire_order=wires)
    assert max_difference(ref.gate_matrix(name, angles, n_wires), expected) < 1e-12


def test_another_library_knows_every_gate():
    assert set(NAMES) == set(QISKIT) | set(PENNYLANE)


def torchquantum_name(name):
    """Return the key of TorchQuantum's matrix, from the source of the function itself."""
    if name in tqf.mat_dict:
        return name
    constants = tqf.func_name_dict[name].__code__.co_consts
    return next(text for text in constants if text in tqf.mat_dict)


@pytest.mark.parametrize(("name", "n_wires", "n_angles"), CASES)
def test_gates_equal_those_of_torchquantum(name, n_wires, n_angles):
    angles = ANGLES[:n_angles]
    matrix = tqf.mat_dict[torchquantum_name(name)]
    if callable(matrix):
        sized = ref.GATES[name][0] is None
        arguments = ([torch.tensor([angles], dtype=torch.float32)] if angles else []) + (
            [n_wires] if sized else []
        )
        matrix = matrix(*arguments)
    assert matrix.dtype == torch.complex64
    assert max_difference(ref.gate_matrix(name, angles, n_wires), matrix) < 1e-6


def test_cu2_of_torchquantum_is_no_gate():
    matrix = tqf.cu2_matrix(torch.tensor([ANGLES[:2]])).numpy()
    assert max_difference(matrix @ matrix.conj().T, np.eye(4)) > 0.5


def test_rot_turns_about_z_by_its_first_angle_first():
    phi, theta, omega = ANGLES[:3]
    first, second, third = (
        ref.gate_matrix(name, [angle])
        for name, angle in (("rz", phi), ("ry", theta), ("rz", omega))
    )
    assert_allclose(ref.gate_matrix("rot", [phi, theta, omega]), third @ second @ first, atol=1e-15)


def test_matrices_by_hand():
    half = np.sqrt(0.5)
    theta = 0.6
    c, s = np.cos(theta / 2), np.sin(theta / 2)
    by_hand = {
        "hadamard": [[half, half], [half, -half]],
        "t": [[1, 0], [0, (1 + 1j) * half]],
        "sx": [[(1 + 1j) / 2, (1 - 1j) / 2], [(1 - 1j) / 2, (1 + 1j) / 2]],
        "cnot": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
        "iswap": [[1, 0, 0, 0], [0, 0, 1j, 0], [0, 1j, 0, 0], [0, 0, 0, 1]],
        "rx": [[c, -1j * s], [-1j * s, c]],
        "ry": [[c, -s], [s, c]],
        "rz": [[np.exp(-0.5j * theta), 0], [0, np.exp(0.5j * theta)]],
        "crz": np.diag([1, 1, np.exp(-0.5j * theta), np.exp(0.5j * theta)]),
    }
    for name, expected in by_hand.items():
        angles = [theta] * ref.GATES[name][1]
        assert_allclose(ref.gate_matrix(name, angles), expected, atol=1e-15, err_msg=name)


def test_two_ways_to_build_a_gate_agree():
    for name, n_controls in (("cnot", 1), ("toffoli", 2), ("c3x", 3), ("c4x", 4)):
        expected = ref.controlled(ref.word("X"), n_controls)
        assert_allclose(ref.gate_matrix(name), expected, atol=0)
        assert_allclose(ref.gate_matrix("multicnot", n_wires=n_controls + 1), expected, atol=0)
    bits = ref.classical(lambda a, b: (b, a ^ b), 2)
    assert_allclose(ref.gate_matrix("dcx"), bits, atol=0)


@pytest.mark.parametrize("theta", [-4.0, 0.0, 1.3, 9.0])
def test_rotation_equals_the_power_series(theta):
    generator = np.array([[1.0, 2 - 1j], [2 + 1j, -0.5]])
    term = total = np.eye(2, dtype=complex)
    for order in range(1, 120):
        term = term @ (-0.5j * theta * generator) / order
        total = total + term
    assert max_difference(ref.rotation(theta, generator), total) < 1e-10


def test_a_returned_matrix_may_be_overwritten():
    ref.gate_matrix("x")[:] = 7
    ref.pauli_matrix({0: "X"}, 1)[:] = 7
    assert_allclose(ref.gate_matrix("x"), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuchgate",), "unknown gate"),
        (("cu2", (0.1, 0.2)), "unknown gate"),
        (("rx",), "takes 1 angles, not 0"),
        (("x", (0.1,)), "takes 0 angles, not 1"),
        (("qft",), "n_wires is None"),
        (("cnot", (), 3), "acts on 2 wires; n_wires is 3"),
    ],
)
def test_wrong_gates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ref.gate_matrix(*arguments)


# Embedding


def test_embed_puts_wire_0_first():
    x, one = ref.word("X"), np.eye(2)
    assert_allclose(ref.embed(x, [0], 3), np.kron(x, np.eye(4)), atol=0)
    assert_allclose(ref.embed(x, [1], 3), np.kron(np.kron(one, x), one), atol=0)
    assert_allclose(ref.embed(x, [2], 3), np.kron(np.eye(4), x), atol=0)


def test_embed_puts_the_control_first():
    cnot = ref.gate_matrix("cnot")
    for control, target in ((0, 1), (1, 0), (0, 2), (2, 0), (2, 1)):
        for bits in np.ndindex(2, 2, 2):
            image = list(bits)
            image[target] ^= image[control]
            before = np.ravel_multi_index(bits, (2, 2, 2))
            after = np.ravel_multi_index(image, (2, 2, 2))
            assert_allclose(ref.embed(cnot, [control, target], 3)[:, before], np.eye(8)[after])


def test_embed_equals_a_contraction_over_the_wires():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8))
    vector = random_vector(rng, 5)
    for wires in ([0, 1, 2], [3, 0, 4], [4, 2, 1]):
        tensor = np.tensordot(
            matrix.reshape([2] * 6), vector.reshape([2] * 5), axes=([3, 4, 5], wires)
        )
        expected = np.moveaxis(tensor, [0, 1, 2], wires).ravel()
        assert max_difference(ref.embed(matrix, wires, 5) @ vector, expected) < 1e-13


@pytest.mark.parametrize(
    ("wires", "message"),
    [
        ([0, 0], "distinct"),
        ([0, 3], "distinct"),
        ([-1, 0], "distinct"),
        ([0], "does not fit"),
    ],
)
def test_wrong_wires_are_refused(wires, message):
    with pytest.raises(ValueError, match=message):
        ref.embed(np.eye(4), wires, 3)


# States and expectations


@pytest.mark.parametrize("theta", [-2.0, 0.0, 0.3, 1.5])
def test_one_rotation_in_closed_form(theta):
    z, y, x = [(1.0, {0: "Z"})], [(1.0, {0: "Y"})], [(1.0, {0: "X"})]
    after = ref.expectations(1, [("rx", [0], [theta], False)], [z, y, x])
    assert_allclose(after, [np.cos(theta), -np.sin(theta), 0], atol=1e-14)
    after = ref.expectations(1, [("rx", [0], [theta], True)], [z, y, x])
    assert_allclose(after, [np.cos(theta), np.sin(theta), 0], atol=1e-14)
    after = ref.expectations(1, [("ry", [0], [theta], False)], [z, y, x])
    assert_allclose(after, [np.cos(theta), 0, np.sin(theta)], atol=1e-14)


def test_bell_state():
    gates = [("h", [0], [], False), ("cnot", [0, 1], [], False)]
    assert_allclose(ref.state(2, gates), np.sqrt([0.5, 0, 0, 0.5]), atol=1e-15)
    pairs = [[(1.0, {0: p, 1: p})] for p in "XYZ"]
    singles = [[(1.0, {wire: p})] for wire in (0, 1) for p in "XYZ"]
    assert_allclose(ref.expectations(2, gates, pairs), [1, -1, 1], atol=1e-14)
    assert_allclose(ref.expectations(2, gates, singles), np.zeros(6), atol=1e-14)


def test_ghz_state():
    gates = [("h", [0], [], False), ("cnot", [0, 1], [], False), ("cnot", [1, 2], [], False)]
    words = ({0: "X", 1: "X", 2: "X"}, {0: "X", 1: "Y", 2: "Y"}, {0: "Z", 1: "Z"}, {2: "Z"})
    values = ref.expectations(3, gates, [[(1.0, factors)] for factors in words])
    assert_allclose(values, [1, -1, 1, 0], atol=1e-14)


def test_states_by_hand():
    assert_allclose(ref.state(2, []), [1, 0, 0, 0])
    assert_allclose(ref.state(2, [("x", [0], [], False)]), [0, 0, 1, 0])
    assert_allclose(ref.state(2, [("x", [1], [], False)]), [0, 1, 0, 0])
    assert_allclose(ref.state(2, [("x", [1], [], False)], [0, 0, 0, 1j]), [0, 0, 1j, 0])
    in_order = [("h", [0], [], False), ("s", [0], [], False), ("h", [0], [], False)]
    assert_allclose(ref.state(1, in_order), [(1 + 1j) / 2, (1 - 1j) / 2], atol=1e-15)
    assert ref.state(2, []).dtype == np.complex128


def test_initial_state_is_left_as_it_was():
    initial = np.array([1, 0], dtype=complex)
    ref.state(1, [("x", [0], [], False)], initial)
    ref.state(1, [], initial)[:] = 7
    assert_allclose(initial, [1, 0])


def test_observables_by_hand():
    assert_allclose(ref.pauli_matrix({}, 2), np.eye(4))
    assert_allclose(
        ref.pauli_matrix({2: "X", 0: "Y"}, 3),
        reduce(np.kron, [[[0, -1j], [1j, 0]], np.eye(2), [[0, 1], [1, 0]]]),
    )
    terms = [(2.0, {0: "Z"}), (-0.5, {1: "Z"}), (0.25, {})]
    for index, expected in enumerate([1.75, 2.75, -2.25, -1.25]):
        assert ref.expectation(np.eye(4)[index], terms, 2) == pytest.approx(expected)
    with pytest.raises(ValueError, match="beyond 2 qubits"):
        ref.pauli_matrix({2: "Z"}, 2)


def test_dagger_of_a_circuit_undoes_it():
    rng = np.random.default_rng(2)
    gates = random_gates(rng, 5, 2 * len(NAMES), NAMES)
    assert {name for name, *_ in gates} == set(NAMES)
    back = [(name, wires, angles, not inverse) for name, wires, angles, inverse in gates[::-1]]
    initial = random_vector(rng, 5)
    forth = ref.state(5, gates, initial)
    assert max_difference(forth, initial) > 0.1
    assert max_difference(ref.state(5, back, forth), initial) < 1e-12


def apply_pennylane(gates):
    for name, wires, angles, inverse in gates:
        build = PENNYLANE[name]
        (qml.adjoint(build) if inverse else build)(wires, *angles)


def pennylane_observable(terms):
    return qml.sum(
        *(
            qml.s_prod(
                weight,
                qml.prod(*(getattr(qml, p)(wire) for wire, p in factors.items()))
                if factors
                else qml.Identity(0),
            )
            for weight, factors in terms
        )
    )


@pytest.mark.parametrize(("seed", "n_qubits"), [(3, 1), (4, 3), (5, 5)])
def test_random_circuits_equal_pennylane(seed, n_qubits):
    rng = np.random.default_rng(seed)
    gates = random_gates(rng, n_qubits, 70, list(PENNYLANE))
    observables = random_observables(rng, n_qubits)
    initial = random_vector(rng, n_qubits)

    @qml.qnode(qml.device("default.qubit", wires=n_qubits))
    def circuit():
        qml.StatePrep(initial, wires=range(n_qubits))
        apply_pennylane(gates)
        return qml.state(), *(qml.expval(pennylane_observable(terms)) for terms in observables)

    state, *values = circuit()
    assert max_difference(ref.state(n_qubits, gates, initial), state) < 1e-12
    ours = ref.expectations(n_qubits, gates, observables, initial)
    assert ours.shape == (len(observables),)
    assert max_difference(ours, values) < 1e-12


def test_random_circuit_equals_torchquantum():
    """Its functional forms, wires and inverses; those that fail to run there are left out."""
    rng = np.random.default_rng(6)
    broken = {  # a NameError for every argument
        "toffoli", "ccnot", "ccx", "rccx", "rc3x", "ch", "chadamard", "singleexcitation",
        "u1", "u2", "cu1", "cp", "cr", "cphase",
    }  # fmt: skip
    gates = random_gates(rng, 5, 80, sorted(set(tqf.func_name_dict) - EXCLUDED - broken))
    device = tq.QuantumDevice(5)
    for name, wires, angles, inverse in gates:
        params = torch.tensor([angles]) if angles else None
        apply = tqf.func_name_dict[name]
        apply(device, wires, params=params, n_wires=len(wires), inverse=inverse)
    assert max_difference(ref.state(5, gates), device.get_states_1d()[0]) < 1e-5


# Derivatives


@pytest.mark.parametrize("theta", [-2.0, 0.0, 0.3, 1.5])
def test_derivative_of_one_rotation_in_closed_form(theta):
    observables = [[(3.0, {0: "Z"})], [(1.0, {0: "Y"}), (1.0, {})]]
    for inverse, sign in ((False, 1), (True, -1)):
        gates = [("rx", [0], [theta], inverse)]
        slope = ref.derivative(1, gates, observables, 0, 0)
        expected = [-3 * np.sin(theta), -sign * np.cos(theta)]
        assert_allclose(slope, expected, atol=1e-12)


def test_derivative_at_the_highest_frequency():
    """<X> after R(theta, phi) on the state (|0> + i |1>) / sqrt(2) has frequency two in phi."""
    theta, phi = 2.1, 0.4
    initial = np.array([1, 1j]) / np.sqrt(2)
    slope = ref.derivative(1, [("r", [0], [theta, phi], False)], [[(1.0, {0: "X"})]], 0, 1, initial)
    assert_allclose(slope, (1 - np.cos(theta)) * np.cos(2 * phi), atol=1e-12)


ANGLED = [
    (name, n_wires, index)
    for name, n_wires, n_angles in CASES
    for index in range(n_angles)
    if name in PENNYLANE and name not in ref.ALIASES
]


@pytest.mark.filterwarnings("ignore:Casting complex values:Warning:autograd")
@pytest.mark.parametrize(("name", "n_wires", "index"), ANGLED)
def test_derivatives_equal_those_of_pennylane(name, n_wires, index):
    """Backpropagation there, which knows neither differences nor shifts."""
    rng = np.random.default_rng(7)
    n_qubits = max(n_wires, 2)
    before = random_gates(rng, n_qubits, 3, ["rx", "ry", "cnot"])
    after = random_gates(rng, n_qubits, 3, ["ry", "rz", "cnot"])
    observables = random_observables(rng, n_qubits, 2)
    initial = random_vector(rng, n_qubits)
    wires = rng.permutation(n_qubits)[:n_wires].tolist()
    angles = list(ANGLES[: ref.GATES[name][1]])

    @qml.qnode(qml.device("default.qubit", wires=n_qubits), diff_method="backprop")
    def circuit(angle):
        qml.StatePrep(initial, wires=range(n_qubits))
        moved = [*angles[:index], angle, *angles[index + 1 :]]
        apply_pennylane([*before, (name, wires, moved, True), *after])
        return [qml.expval(pennylane_observable(terms)) for terms in observables]

    expected = qml.jacobian(lambda angle: pnp.stack(circuit(angle)))(
        pnp.array(angles[index], requires_grad=True)
    )
    gates = [*before, (name, wires, angles, True), *after]
    slope = ref.derivative(n_qubits, gates, observables, len(before), index, initial)
    assert slope.shape == (2,)
    assert max_difference(slope, expected) < 1e-11


def test_derivative_takes_the_named_gate_and_angle():
    """Against the expectation of the commutator with the generator of the gate."""
    rng = np.random.default_rng(8)
    observables = random_observables(rng, 3)
    gates = [
        ("rot", [0], [0.3, 0.5, -1.1], False),
        ("rxx", [2, 0], [0.9], False),
        ("rzx", [1, 2], [-0.4], False),
        ("cry", [0, 1], [1.7], False),
    ]
    generators = {1: {2: "X", 0: "X"}, 2: {1: "Z", 2: "X"}}
    for index, factors in generators.items():
        generator = ref.pauli_matrix(factors, 3)
        then = reduce(
            lambda matrix, gate: ref.embed(ref.gate_matrix(gate[0], gate[2]), gate[1], 3) @ matrix,
            gates[index + 1 :],
            np.eye(8),
        )
        vector = ref.state(3, gates[: index + 1])
        expected = [
            2 * np.real(np.vdot(then @ vector, matrix @ then @ (-0.5j * generator @ vector)))
            for terms in observables
            for matrix in [sum(w * ref.pauli_matrix(f, 3) for w, f in terms)]
        ]
        assert_allclose(ref.derivative(3, gates, observables, index, 0), expected, atol=1e-12)
    before = [list(gate[2]) for gate in gates]
    slopes = [ref.derivative(3, gates, observables, 0, angle) for angle in range(3)]
    assert_allclose(slopes[0], 0, atol=1e-12)  # RZ leaves the first state alone
    assert np.abs(slopes[1]).max() > 0.01
    assert max_difference(slopes[1], slopes[2]) > 0.01
    assert [list(gate[2]) for gate in gates] == before
