"""From states to expectation values, without touching the states."""

from collections import defaultdict
from functools import lru_cache

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


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve training later
def _readout_plan(
    observables: tuple[Observable, ...], n_qubits: int, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[Tensor | None, Tensor], ...]:
    """Groups the Pauli strings by the bits they flip.

    A Pauli string sends ``|c>`` to ``i^nY (-1)^parity(c & sign) |c ^ flip>``; all strings with the
    same flips share one product of the state with its permuted self.

    Returns:
        Pairs (permutation ``(2**n,)`` or None for no flip, weights ``(2**n, n_observables)``).
    """
    size = 2**n_qubits
    basis = torch.arange(size)
    groups: dict[int, Tensor] = defaultdict(
        lambda: torch.zeros(size, len(observables), dtype=torch.complex128)
    )
    for column, observable in enumerate(observables):
        for term in observable.terms:
            flip, sign, n_y = masks(term.factors, n_qubits)
            parity = torch.zeros(size, dtype=torch.long)
            for bit in range(n_qubits):
                if sign >> bit & 1:
                    parity ^= basis >> bit & 1
            signs = (1 - 2 * parity).to(torch.complex128)
            groups[flip][:, column] += term.coefficient * 1j**n_y * signs
    plan: list[tuple[Tensor | None, Tensor]] = []
    for flip, weights in groups.items():
        if flip == 0:
            plan.append((None, weights.real.to(device, dtype.to_real())))
        else:
            plan.append(((basis ^ flip).to(device), weights.to(device, dtype)))
    return tuple(plan)


def expectation_values(
    states: Tensor, observables: tuple[Observable, ...], n_qubits: int
) -> Tensor:
    """Expectation values ``<psi| O |psi>`` of Pauli-sum observables.

    Args:
        states (Tensor): Normalised states, complex, shape ``(batch, 2**n_qubits)``, wire 0 the most
            significant bit. Not modified.
        observables (tuple[Observable, ...]): What to read, in any order, repeated or not.
        n_qubits (int): Number of wires.

    Returns:
        Tensor: Real, shape ``(batch, n_observables)``; differentiable.

    Examples:
        >>> import torch
        >>> plus = torch.full((1, 2), 0.5**0.5, dtype=torch.complex64)
        >>> readout = (Observable.of("X0"), Observable.of("Z0"))
        >>> expectation_values(plus, readout, n_qubits=1).round(decimals=3)
        tensor([[1., 0.]])
    """
    plan = _readout_plan(observables, n_qubits, states.device, states.dtype)
    values = states.real.new_zeros(states.shape[0], len(observables))
    for permutation, weights in plan:
        if permutation is None:
            values = values + (states.real.square() + states.imag.square()) @ weights
        else:
            values = values + ((states[:, permutation].conj() * states) @ weights).real
    return values
