"""From observables to weights of products of a state's rows; expectation values of states.

With the bit flips f of an observable, ``<psi| O |psi> = sum_fc <c ^ f| O |c> psi*_(c ^ f) psi_c``.
A Pauli string has one flip, the bits of its X and Y; a projector has the flip 0, and a matrix on k
wires up to ``2**k``.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, CircuitError, Observable, PauliString, flips_on
from captum_quantum.simulate.plan import Parities, Readout

FACTORED = 10
"""From this many qubits on, signs of observables are products of those of half of the bits."""
LARGEST = 2**26
"""The most entries of all tables for observables that are no sums of Pauli strings."""


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
        else (None, weights.T.to(device, dtype.to_real()))
        for flip, weights in _weights_by_flips(observables, n_qubits).items()
    )


def expectation_values(
    states: Tensor, observables: tuple[Observable, ...], n_qubits: int
) -> Tensor:
    """Expectation values ``<psi| O |psi>`` of observables.

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


def fold_readout(circuit: Circuit, rows: Tensor) -> Readout:
    """Makes the readout of a circuit.

    Args:
        circuit (Circuit): The circuit.
        rows (Tensor): The row of each basis state's amplitude, ``(2**n,)``.
    """
    n = circuit.n_qubits
    basis_states = torch.argsort(rows)
    parities = _parities(circuit, basis_states) if n >= FACTORED else None
    if parities is not None:
        return Readout(rows, None, parities, ())
    groups = _weights_by_flips(circuit.observables, n)
    signs = groups.pop(0)[:, basis_states].contiguous() if 0 in groups else None
    pairs = tuple(
        (rows[basis_states ^ flip], weights[:, basis_states].contiguous())
        for flip, weights in groups.items()
    )
    return Readout(rows, signs, None, pairs)


def _parities(circuit: Circuit, basis_states: Tensor) -> Parities | None:
    """Products of Z as parities of bits of the row; None if one of them is not that."""
    n = circuit.n_qubits
    n_last = n // 2
    products: list[tuple[int, int, float]] = []  # observable, mask of bits, weight
    for k, observable in enumerate(circuit.observables):
        for term in observable.terms:
            if not isinstance(term, PauliString) or not term.is_diagonal:
                return None
            sign = sum(1 << (n - 1 - wire) for wire in term.wires)
            signs = _parity(basis_states & sign, n)
            mask = sum(1 << j for j in range(n) if signs[1 << j] != signs[0])
            if not torch.equal(signs, _parity(torch.arange(2**n) & mask, n) ^ signs[0]):
                return None
            products.append((k, mask, term.coefficient * (1 - 2 * int(signs[0]))))
    firsts = sorted({mask >> n_last for _, mask, _ in products})
    lasts = sorted({mask & (2**n_last - 1) for _, mask, _ in products})
    weights = torch.zeros(len(circuit.observables), len(firsts), len(lasts)).double()
    for k, mask, weight in products:
        weights[k, firsts.index(mask >> n_last), lasts.index(mask & (2**n_last - 1))] += weight

    def table(masks: list[int], bits: int) -> Tensor:
        rows = torch.arange(2**bits)
        return torch.stack([1 - 2 * _parity(rows & mask, bits).double() for mask in masks])

    return Parities(table(firsts, n - n_last), table(lasts, n_last), weights.flatten(1))


def _parity(numbers: Tensor, bits: int) -> Tensor:
    """The parity of each number's bits: 0 or 1."""
    result = torch.zeros_like(numbers)
    for bit in range(bits):
        result ^= numbers >> bit & 1
    return result


def _weights_by_flips(observables: tuple[Observable, ...], n_qubits: int) -> dict[int, Tensor]:
    """Groups terms by their bit flips: they share a product of the state with its permuted self.

    Returns:
        dict[int, Tensor]: For each flip f the weights ``<c ^ f| O_k |c>`` of the products,
        complex128, for f = 0 float64, ``(n_observables, 2**n)``.

    Raises:
        CircuitError: If the tables would be too large.
    """
    shape = len(observables), 2**n_qubits
    # Pauli strings have few flips, and a table of theirs grows with what the user wrote.
    terms = [term for observable in observables for term in observable.terms]
    is_limited = not all(isinstance(term, PauliString) for term in terms)
    groups: dict[int, Tensor] = {}
    for k, observable in enumerate(observables):
        for term in observable.terms:
            for flip, weights in flips_on(term, n_qubits).items():
                if flip not in groups:
                    count = (len(groups) + 1) * math.prod(shape)
                    if is_limited and count > LARGEST:
                        must = f"at most {LARGEST}: read fewer observables, or on fewer wires"
                        argument = "number of entries of the observables' tables"
                        _checks.refuse(argument, must, f"{count} or more", CircuitError)
                    dtype = torch.complex128 if flip else torch.float64
                    groups[flip] = torch.zeros(shape, dtype=dtype)
                groups[flip][k] += weights if flip else weights.real
    return groups
