"""Pauli strings as signs and permutations of basis states."""

import torch
from torch import Tensor

from captum_quantum.circuit import Observable


def masks(factors: tuple[tuple[int, str], ...], n_qubits: int) -> tuple[int, int, int]:
    """Returns (bits flipped, bits that give a sign, number of Y) of a Pauli string."""
    flip = sign = n_y = 0
    for wire, letter in factors:
        bit = 1 << (n_qubits - 1 - wire)
        flip |= bit * (letter != "Z")
        sign |= bit * (letter != "X")
        n_y += letter == "Y"
    return flip, sign, n_y


def parity(numbers: Tensor, bits: int) -> Tensor:
    """The parity of each number's bits: 0 or 1."""
    result = torch.zeros_like(numbers)
    for bit in range(bits):
        result ^= numbers >> bit & 1
    return result


def weights_by_flips(observables: tuple[Observable, ...], n_qubits: int) -> dict[int, Tensor]:
    """Groups the Pauli strings by the bits they flip.

    A Pauli string sends ``|c>`` to ``i^n_y (-1)^parity(c & sign) |c ^ flip>``; all strings with the
    same flips share one product of the state with its permuted self.

    Returns:
        dict[int, Tensor]: For each flip the weights of the products, complex128,
        ``(n_observables, 2**n)``.
    """
    basis = torch.arange(2**n_qubits)
    groups: dict[int, Tensor] = {}
    for k, observable in enumerate(observables):
        for term in observable.terms:
            flip, sign, n_y = masks(term.factors, n_qubits)
            if flip not in groups:
                shape = len(observables), len(basis)
                groups[flip] = torch.zeros(shape, dtype=torch.complex128)
            signs = 1 - 2 * parity(basis & sign, n_qubits).double()
            groups[flip][k] += term.coefficient * 1j**n_y * signs
    return groups
