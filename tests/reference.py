"""Dense complex128 simulator in plain NumPy: the truth that the tests compare against.

Written from definitions (Paulis, exponentials of Hermitian generators, maps of bits), without
any of the code under test and without any quantum library. Slow and literal: every gate becomes
a full ``2**n x 2**n`` matrix, so keep ``n`` at ten or below.

Conventions: wire 0 is the most significant bit of the basis index. ``wires[0]`` of a gate is the
most significant bit of the index of its matrix, so that controls come first. A rotation by
``theta`` about a Hermitian ``G`` is ``exp(-i theta G / 2)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise, product

import numpy as np

Gate = tuple[str, Sequence[int], Sequence[float], bool]
"""Name, wires, angles, and whether the inverse of the gate is meant."""
Local = tuple[np.ndarray, Sequence[int]]
"""A matrix and its wires, the first the most significant bit of the matrix's index."""
Term = tuple[float, Mapping[int, str] | Local]
"""Real coefficient, and the Pauli letter ("X", "Y" or "Z") on each wire, or a matrix on wires."""

PAULIS = {
    "I": np.array([[1, 0], [0, 1]], dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]], dtype=complex),
    "Z": np.array([[1, 0], [0, -1]], dtype=complex),
}


def word(letters: str) -> np.ndarray:
    """Return the tensor product of Paulis, such as ``word("ZX")``, leftmost on wires[0]."""
    return reduce(np.kron, [PAULIS[letter] for letter in letters], np.eye(1, dtype=complex))


def rotation(theta: float, generator: np.ndarray) -> np.ndarray:
    """Return ``exp(-i theta generator / 2)`` of a Hermitian generator."""
    values, vectors = np.linalg.eigh(generator)
    return (vectors * np.exp(-0.5j * theta * values)) @ vectors.conj().T


def power(reflection: np.ndarray, exponent: float) -> np.ndarray:
    """Return the power of a matrix of eigenvalues +1 and -1, with ``-1 = exp(i pi)``."""
    identity = np.eye(len(reflection))
    plus, minus = (identity + reflection) / 2, (identity - reflection) / 2
    return plus + np.exp(1j * np.pi * exponent) * minus


def controlled(unitary: np.ndarray, n_controls: int = 1) -> np.ndarray:
    """Return the matrix that applies ``unitary`` where every control, placed first, is 1."""
    size = len(unitary)
    matrix = np.eye(size * 2**n_controls, dtype=complex)
    matrix[-size:, -size:] = unitary
    return matrix


def classical(image: Callable[..., Sequence[int]], n_wires: int) -> np.ndarray:
    """Return the permutation matrix that sends the basis state ``bits`` to ``image(*bits)``."""
    matrix = np.zeros((2**n_wires, 2**n_wires), dtype=complex)
    for column, bits in enumerate(product((0, 1), repeat=n_wires)):
        row = int("".join(str(int(bit)) for bit in image(*bits)), 2)
        matrix[row, column] = 1
    return matrix


def embed(matrix: np.ndarray, wires: Sequence[int], n_qubits: int) -> np.ndarray:
    """Return the matrix of a gate on the whole register.

    Args:
        matrix: Matrix of the gate, with ``wires[0]`` as the most significant bit of its index.
        wires: Distinct wires the gate acts on.
        n_qubits: Number of qubits of the register.

    Returns:
        The matrix of shape ``(2**n_qubits, 2**n_qubits)``.
    """
    wires = list(wires)
    if len(set(wires)) != len(wires) or not all(0 <= wire < n_qubits for wire in wires):
        raise ValueError(f"wires {wires} are not distinct wires of {n_qubits} qubits")
    if matrix.shape != (2 ** len(wires), 2 ** len(wires)):
        raise ValueError(f"a matrix of shape {matrix.shape} does not fit the wires {wires}")
    column = np.arange(2**n_qubits)
    local = np.zeros_like(column)  # index into the gate's matrix of each basis state
    for wire in wires:
        local = 2 * local + (column >> (n_qubits - 1 - wire) & 1)
    full = np.zeros((2**n_qubits, 2**n_qubits), dtype=complex)
    for target in range(2 ** len(wires)):
        row = column.copy()
        for position, wire in enumerate(reversed(wires)):
            mask = 1 << (n_qubits - 1 - wire)
            row = row | mask if target >> position & 1 else row & ~mask
        full[row, column] = matrix[target, local]
    return full


def _x(theta: float) -> np.ndarray:
    return rotation(theta, word("X"))


def _y(theta: float) -> np.ndarray:
    return rotation(theta, word("Y"))


def _z(theta: float) -> np.ndarray:
    return rotation(theta, word("Z"))


def _phase(phi: float) -> np.ndarray:
    return power(word("Z"), phi / np.pi)


def _rot(phi: float, theta: float, omega: float) -> np.ndarray:
    """RZ(phi) acts first, then RY(theta), then RZ(omega)."""
    return _z(omega) @ _y(theta) @ _z(phi)


def _u3(theta: float, phi: float, lam: float) -> np.ndarray:
    """Z-Y-Z rotation whose upper left entry is real."""
    return np.exp(0.5j * (phi + lam)) * _z(phi) @ _y(theta) @ _z(lam)


def _xx_minus_yy(theta: float, beta: float) -> np.ndarray:
    frame = np.kron(word("I"), _z(beta))
    return frame @ rotation(theta, (word("XX") - word("YY")) / 2) @ frame.conj().T


def _xx_plus_yy(theta: float, beta: float) -> np.ndarray:
    frame = np.kron(_z(-beta), word("I"))
    return frame @ rotation(theta, (word("XX") + word("YY")) / 2) @ frame.conj().T


def _flip_last(when: int, n_wires: int) -> np.ndarray:
    """Flip the last bit where every other bit equals ``when``."""
    return classical(lambda *b: (*b[:-1], b[-1] ^ all(bit == when for bit in b[:-1])), n_wires)


def _qft(n_wires: int) -> np.ndarray:
    index = np.arange(2**n_wires)
    return np.exp(2j * np.pi * np.outer(index, index) / 2**n_wires) / np.sqrt(2**n_wires)


def _circuit(text: str, n_wires: int) -> np.ndarray:
    """Multiply the gates of a text such as ``"h2 cnot12"``, in time order."""
    matrix = np.eye(2**n_wires, dtype=complex)
    for item in text.split():
        name = item.rstrip("0123456789")
        wires = [int(wire) for wire in item[len(name) :]]
        matrix = embed(gate_matrix(name), wires, n_wires) @ matrix
    return matrix


# Toffoli gates up to phases, defined by their circuits (Maslov, arXiv:1508.03273).
_RCCX = "h2 t2 cnot12 tdg2 cnot02 t2 cnot12 tdg2 h2"
_RC3X = "h3 t3 cnot23 tdg3 h3 cnot03 t3 cnot13 tdg3 cnot03 t3 cnot13 tdg3 h3 t3 cnot23 tdg3 h3"

GATES: dict[str, tuple[int | None, int, Callable[..., np.ndarray]]] = {
    "i": (1, 0, lambda: word("I")),
    "paulix": (1, 0, lambda: word("X")),
    "pauliy": (1, 0, lambda: word("Y")),
    "pauliz": (1, 0, lambda: word("Z")),
    "hadamard": (1, 0, lambda: (word("X") + word("Z")) / np.sqrt(2)),
    "shadamard": (1, 0, lambda: _y(np.pi / 4)),  # as TorchQuantum has it: no square root of H
    "s": (1, 0, lambda: power(word("Z"), 1 / 2)),
    "sdg": (1, 0, lambda: power(word("Z"), -1 / 2)),
    "t": (1, 0, lambda: power(word("Z"), 1 / 4)),
    "tdg": (1, 0, lambda: power(word("Z"), -1 / 4)),
    "sx": (1, 0, lambda: power(word("X"), 1 / 2)),
    "sxdg": (1, 0, lambda: power(word("X"), -1 / 2)),
    "cnot": (2, 0, lambda: _flip_last(1, 2)),
    "toffoli": (3, 0, lambda: _flip_last(1, 3)),
    "c3x": (4, 0, lambda: _flip_last(1, 4)),
    "c4x": (5, 0, lambda: _flip_last(1, 5)),
    "multicnot": (None, 0, lambda n_wires: _flip_last(1, n_wires)),
    "multixcnot": (None, 0, lambda n_wires: _flip_last(0, n_wires)),
    "swap": (2, 0, lambda: classical(lambda a, b: (b, a), 2)),
    "cswap": (3, 0, lambda: controlled(gate_matrix("swap"))),
    "dcx": (2, 0, lambda: _circuit("cnot01 cnot10", 2)),
    "rccx": (3, 0, lambda: _circuit(_RCCX, 3)),
    "rc3x": (4, 0, lambda: _circuit(_RC3X, 4)),
    "sswap": (2, 0, lambda: power(gate_matrix("swap"), 1 / 2)),
    "iswap": (2, 0, lambda: rotation(-np.pi / 2, word("XX") + word("YY"))),
    "ecr": (2, 0, lambda: (word("XI") - word("YX")) / np.sqrt(2)),
    "cy": (2, 0, lambda: controlled(word("Y"))),
    "cz": (2, 0, lambda: controlled(word("Z"))),
    "ccz": (3, 0, lambda: controlled(word("Z"), 2)),
    "chadamard": (2, 0, lambda: controlled(gate_matrix("hadamard"))),
    "cs": (2, 0, lambda: controlled(gate_matrix("s"))),
    "csdg": (2, 0, lambda: controlled(gate_matrix("sdg"))),
    "csx": (2, 0, lambda: controlled(gate_matrix("sx"))),
    "c3sx": (4, 0, lambda: controlled(gate_matrix("sx"), 3)),
    "qft": (None, 0, _qft),
    "rx": (1, 1, _x),
    "ry": (1, 1, _y),
    "rz": (1, 1, _z),
    "phaseshift": (1, 1, _phase),
    "u1": (1, 1, _phase),
    "u2": (1, 2, lambda phi, lam: _u3(np.pi / 2, phi, lam)),
    "u3": (1, 3, _u3),
    "rot": (1, 3, _rot),
    "r": (1, 2, lambda t, phi: rotation(t, np.cos(phi) * word("X") + np.sin(phi) * word("Y"))),
    "rxx": (2, 1, lambda theta: rotation(theta, word("XX"))),
    "ryy": (2, 1, lambda theta: rotation(theta, word("YY"))),
    "rzz": (2, 1, lambda theta: rotation(theta, word("ZZ"))),
    "rzx": (2, 1, lambda theta: rotation(theta, word("ZX"))),
    "multirz": (None, 1, lambda n_wires, theta: rotation(theta, word("Z" * n_wires))),
    "crx": (2, 1, lambda theta: controlled(_x(theta))),
    "cry": (2, 1, lambda theta: controlled(_y(theta))),
    "crz": (2, 1, lambda theta: controlled(_z(theta))),
    "crot": (2, 3, lambda *angles: controlled(_rot(*angles))),
    "cu1": (2, 1, lambda phi: controlled(_phase(phi))),
    "cu3": (2, 3, lambda *angles: controlled(_u3(*angles))),
    "cu": (2, 4, lambda *angles: controlled(np.exp(1j * angles[3]) * _u3(*angles[:3]))),
    "singleexcitation": (2, 1, lambda theta: rotation(theta, (word("YX") - word("XY")) / 2)),
    "xxminyy": (2, 2, _xx_minus_yy),
    "xxplusyy": (2, 2, _xx_plus_yy),
}
"""Of each gate: the number of wires (None: any), the number of angles, and its matrix."""
ALIASES = {
    "h": "hadamard", "sh": "shadamard", "x": "paulix", "y": "pauliy", "z": "pauliz",
    "cx": "cnot", "ccnot": "toffoli", "ccx": "toffoli", "ch": "chadamard",
    "echoedcrossresonance": "ecr", "p": "phaseshift", "u": "u3",
    "cp": "cu1", "cr": "cu1", "cphase": "cu1", "xx": "rxx", "yy": "ryy", "zz": "rzz", "zx": "rzx",
}  # fmt: skip
GATES |= {alias: GATES[name] for alias, name in ALIASES.items()}


def gate_matrix(
    name: str, angles: Sequence[float] = (), n_wires: int | None = None, inverse: bool = False
) -> np.ndarray:
    """Return the matrix of a gate.

    Args:
        name: Name of the gate in TorchQuantum, one of the keys of `GATES`.
        angles: Angles in TorchQuantum's order; for ``rot`` the first one acts first.
        n_wires: Number of wires; only the gates of any size need it.
        inverse: Whether to return the conjugate transpose.

    Returns:
        The matrix, complex128, of shape ``(2**n_wires, 2**n_wires)``.
    """
    if name not in GATES:
        raise ValueError(f"unknown gate {name!r}")
    size, n_angles, build = GATES[name]
    if len(angles) != n_angles:
        raise ValueError(f"{name} takes {n_angles} angles, not {len(angles)}")
    n_wires = size if n_wires is None else n_wires
    if n_wires is None or size not in (None, n_wires):
        raise ValueError(f"{name} acts on {size or 'any number of'} wires; n_wires is {n_wires}")
    matrix = build(*angles) if size else build(n_wires, *angles)
    return matrix.conj().T if inverse else matrix


def state(n_qubits: int, gates: Sequence[Gate], initial: np.ndarray | None = None) -> np.ndarray:
    """Return the state after the gates, in time order.

    Args:
        n_qubits: Number of qubits.
        gates: Tuples of name, wires, angles and whether the inverse is meant.
        initial: Vector to start from; by default the state of all zeros.

    Returns:
        The vector of shape ``(2**n_qubits,)``.
    """
    vector = np.eye(2**n_qubits)[0] if initial is None else np.reshape(initial, 2**n_qubits)
    vector = vector.astype(complex)
    for name, wires, angles, inverse in gates:
        vector = embed(gate_matrix(name, angles, len(wires), inverse), wires, n_qubits) @ vector
    return vector


def pauli_matrix(factors: Mapping[int, str], n_qubits: int) -> np.ndarray:
    """Return the full matrix of a Pauli word; wires that are not named carry the identity."""
    if not all(0 <= wire < n_qubits for wire in factors):
        raise ValueError(f"{dict(factors)} names wires beyond {n_qubits} qubits")
    return word("".join(factors.get(wire, "I") for wire in range(n_qubits)))


def observable_matrix(terms: Sequence[Term], n_qubits: int) -> np.ndarray:
    """Return the sum of coefficient * Pauli word, or coefficient * matrix on wires."""
    matrix = np.zeros((2**n_qubits, 2**n_qubits), dtype=complex)
    for weight, what in terms:
        is_word = isinstance(what, Mapping)
        matrix += weight * (pauli_matrix(what, n_qubits) if is_word else embed(*what, n_qubits))
    return matrix


def expectation(state: np.ndarray, terms: Sequence[Term], n_qubits: int) -> float:
    """Return ``<state| sum of terms |state>``."""
    matrix = observable_matrix(terms, n_qubits)
    return float(np.real(np.vdot(state, matrix @ state)))


def expectations(
    n_qubits: int,
    gates: Sequence[Gate],
    observables: Sequence[Sequence[Term]],
    initial: np.ndarray | None = None,
) -> np.ndarray:
    """Return the expectation of each observable (a list of terms) after the gates."""
    vector = state(n_qubits, gates, initial)
    return np.array([expectation(vector, terms, n_qubits) for terms in observables])


def derivative(
    n_qubits: int,
    gates: Sequence[Gate],
    observables: Sequence[Sequence[Term]],
    gate_index: int,
    angle_index: int,
    initial: np.ndarray | None = None,
) -> np.ndarray:
    """Return the derivative of each expectation with respect to one angle of one gate.

    Central differences with the steps 0.1, 0.05, 0.025 and 0.0125 are extrapolated three times
    (Richardson), which leaves an error of order eight in the step and knows no shift rule. An
    expectation is a sum of sines of the angle with frequencies of at most two. The truncation
    error is therefore below 4e-15, and the rounding error about 1e-13, for an observable of
    norm one.

    Args:
        n_qubits: Number of qubits.
        gates: As in `state`.
        observables: As in `expectations`.
        gate_index: Position in ``gates`` of the gate, from 0.
        angle_index: Position of the angle among those of the gate.
        initial: As in `state`.

    Returns:
        The derivatives, of shape ``(len(observables),)``.
    """
    before = state(n_qubits, gates[:gate_index], initial)
    (name, wires, angles, inverse), *after = gates[gate_index:]

    def value(shift: float) -> np.ndarray:
        moved = [*angles]
        moved[angle_index] += shift
        return expectations(n_qubits, [(name, wires, moved, inverse), *after], observables, before)

    row = [(value(step) - value(-step)) / (2 * step) for step in (0.1, 0.05, 0.025, 0.0125)]
    for order in (4, 16, 64):
        row = [(order * finer - coarser) / (order - 1) for coarser, finer in pairwise(row)]
    return row[0]
