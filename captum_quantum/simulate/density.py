"""Operators on density matrices, in complex128."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum.circuit import Observable
from captum_quantum.circuit.gates import pauli_word

MAX_QUBITS = 10


def embed(matrix: Tensor, wires: Sequence[int], n_qubits: int) -> Tensor:
    """Extends ``(batch, 2**k, 2**k)`` on the given wires to ``(batch, 2**n, 2**n)``."""
    n_others = n_qubits - len(wires)
    identity = torch.eye(2**n_others, dtype=matrix.dtype, device=matrix.device)
    full = torch.einsum("bij,kl->bikjl", matrix, identity).reshape(-1, *[2] * (2 * n_qubits))
    order = [*wires, *(w for w in range(n_qubits) if w not in wires)]
    place = [order.index(w) for w in range(n_qubits)]
    axes = [0, *(1 + p for p in place), *(1 + n_qubits + p for p in place)]
    return full.permute(axes).reshape(-1, 2**n_qubits, 2**n_qubits)


def observable_matrix(observable: Observable, n_qubits: int) -> Tensor:
    """The matrix of an observable: ``(2**n, 2**n)``, complex128."""
    matrix = torch.zeros(2**n_qubits, 2**n_qubits, dtype=torch.complex128)
    for term in observable.terms:
        letters = dict(term.factors)
        word = "".join(letters.get(wire, "I") for wire in range(n_qubits))
        matrix = matrix + term.coefficient * pauli_word(word)
    return matrix
