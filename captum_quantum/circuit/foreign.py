"""Observables of Qiskit, TorchQuantum and PennyLane, recognized without importing these."""

from collections.abc import Iterable
from typing import Any

import torch

from captum_quantum import _checks
from captum_quantum.circuit.gates import gate_matrix, gate_type
from captum_quantum.circuit.terms import HermitianMatrix, PauliString, Term, check_wires

_LETTERS = {"i": "", "paulix": "X", "pauliy": "Y", "pauliz": "Z"}
_PHASES = {"": 1, "-": -1, "i": 1j, "-i": -1j}


def read_foreign(value: Any) -> tuple[Term, ...] | None:
    """The terms of an observable of another package.

    Args:
        value: Qiskit's ``SparsePauliOp`` or ``Pauli``, whose qubit i is wire i; TorchQuantum's
            ``Hamiltonian``, or a Hermitian one of its operators with its wires; an operator of
            PennyLane whose wires are integers.

    Returns:
        tuple or None: The terms; None if the value is none of these.

    Raises:
        TypeError, ValueError: If it is one of these and no observable on known wires.
    """
    if isinstance(value, type):
        return None
    if hasattr(value, "paulis") and hasattr(value, "coeffs"):
        if hasattr(value, "endianness"):  # TorchQuantum's: wire 0 is first, in either endianness
            words = value.paulis
        else:  # Qiskit's: qubit 0 is last
            words = [label[::-1] for label in value.paulis.to_labels()]
        return _pauli_sum(value, zip(map(enumerate, words), value.coeffs, strict=True))
    if hasattr(value, "to_label") and hasattr(value, "phase"):
        label = value.to_label()
        letters = label.lstrip("-i")
        phase = _PHASES[label.removesuffix(letters)]
        return _pauli_sum(value, [(enumerate(letters[::-1]), phase)])
    if hasattr(value, "op_name") and hasattr(value, "wires"):
        return (_torchquantum_operator(value),)
    if hasattr(value, "pauli_rep") and hasattr(value, "wires"):
        if value.pauli_rep is None:
            wires = check_wires(f"wires of {type(value).__name__}", tuple(value.wires))
            return (HermitianMatrix(value.matrix(), wires),)
        return _pauli_sum(value, ((word.items(), c) for word, c in value.pauli_rep.items()))
    return None


def _pauli_sum(
    value: Any, pairs: Iterable[tuple[Iterable[tuple[int, str]], Any]]
) -> tuple[Term, ...]:
    """Pauli strings from pairs of factors and a coefficient; real ones up to rounding."""
    words, coefficients = [], []
    for word, coefficient in pairs:
        words.append(tuple((wire, letter) for wire, letter in word if letter != "I"))
        try:
            coefficients.append(complex(coefficient))
        except (TypeError, ValueError, RuntimeError):
            argument = f"coefficients of {type(value).__name__}"
            _checks.wrong_type(argument, "real numbers", coefficient)
    largest = max(map(abs, coefficients), default=0.0)
    for coefficient in coefficients:
        if abs(coefficient.imag) > 1e-12 * largest:
            _checks.wrong_value(f"coefficients of {type(value).__name__}", "real", coefficient)
    return tuple(PauliString(w, c.real) for w, c in zip(words, coefficients, strict=True))


def _torchquantum_operator(operator: Any) -> Term:
    """One of TorchQuantum's operators without angles: a Pauli letter, or else a matrix."""
    name = type(operator).__name__
    if operator.wires is None:
        _checks.refuse(f"wires of {name}", f"given, as in {name}(wires=0)", "None")
    wires = check_wires(f"wires of {name}", operator.wires)
    kind = gate_type(operator.op_name)
    if kind.n_angles:
        _checks.refuse("observable", "Hermitian, so an operator without angles", name)
    if kind.n_wires not in (None, len(wires)):
        must = f"{kind.n_wires}; products of Pauli matrices are written 'Z0 Z2'"
        _checks.wrong_value(f"number of wires of {name}", must, wires)
    letter = _LETTERS.get(kind.name)
    if letter is not None:
        return PauliString(((wires[0], letter),) if letter else ())
    # In double precision, unlike the operator's own matrix.
    matrix: Any = gate_matrix(kind.name, torch.zeros(0), len(wires))
    return HermitianMatrix(matrix, wires)
