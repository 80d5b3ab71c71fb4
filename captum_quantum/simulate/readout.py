"""From states to expectation values, without touching the states."""

from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum.circuit import Observable
from captum_quantum.simulate.observables import weights_by_flips


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve training later
def _groups(
    observables: tuple[Observable, ...], n_qubits: int, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[Tensor | None, Tensor], ...]:
    """Pairs (permutation ``(2**n,)`` or None for no flip, weights ``(2**n, n_observables)``)."""
    basis = torch.arange(2**n_qubits)
    return tuple(
        ((basis ^ flip).to(device), weights.T.to(device, dtype))
        if flip
        else (None, weights.T.real.to(device, dtype.to_real()))
        for flip, weights in weights_by_flips(observables, n_qubits).items()
    )


def expectation_values(
    states: Tensor, observables: tuple[Observable, ...], n_qubits: int
) -> Tensor:
    """Expectation values ``<psi| O |psi>`` of Pauli-sum observables.

    Args:
        states (Tensor): Normalized states, complex, shape ``(batch, 2**n_qubits)``, wire 0 the most
            significant bit. Not modified.
        observables (tuple[Observable, ...]): What to read, in any order, repeated or not.
        n_qubits (int): Number of wires.

    Returns:
        Tensor: Real, shape ``(batch, n_observables)``; differentiable.

    Examples:
        >>> import torch
        >>> from captum_quantum import Observable
        >>> plus = torch.full((1, 2), 0.5**0.5, dtype=torch.complex64)
        >>> readout = (Observable.of("X0"), Observable.of("Z0"))
        >>> expectation_values(plus, readout, n_qubits=1).round(decimals=3)
        tensor([[1., 0.]])
    """
    values = states.real.new_zeros(states.shape[0], len(observables))
    for permutation, weights in _groups(observables, n_qubits, states.device, states.dtype):
        if permutation is None:
            values = values + (states.real.square() + states.imag.square()) @ weights
        else:
            values = values + ((states[:, permutation].conj() * states) @ weights).real
    return values
