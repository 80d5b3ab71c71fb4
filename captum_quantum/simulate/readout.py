"""From observables to weights of products of a state's rows; expectation values of states.

With the bit flips f of an observable, ``<psi| O |psi> = sum_fc <c ^ f| O |c> psi*_(c ^ f) psi_c``.
A Pauli string has one flip, the bits of its X and Y; a projector has the flip 0, and a matrix on k
wires up to ``2**k``.
"""

from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import (
    Circuit,
    CircuitError,
    Observable,
    PauliString,
    flip_among,
    states_of,
    wires_of_probabilities,
)
from captum_quantum.simulate.plan import Marginals, Parities, Readout

FACTORED = 10
"""From this many qubits on, squared moduli are not weighted by one table of all rows."""
LARGEST = 2**26
"""The most entries of all tables for observables that are no sums of Pauli strings."""


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve training later
def _tables(
    observables: tuple[Observable, ...], n_qubits: int, device: torch.device, dtype: torch.dtype
) -> tuple[Marginals | None, tuple[tuple[Tensor, Tensor], ...]]:
    """What is read of the squared moduli, and pairs (partner, weights) as in `Readout`."""
    marginals, groups = _weights(observables, n_qubits, torch.arange(2**n_qubits))
    if marginals is not None:
        weights = marginals.weights
        weights = None if weights is None else weights.to(device, dtype.to_real())
        order, outcomes = marginals.order.to(device), marginals.outcomes.to(device)
        marginals = Marginals(order, outcomes, marginals.n_outcomes, weights)
    basis = torch.arange(2**n_qubits)
    pairs = ((basis ^ flip, weights) for flip, weights in groups.items())
    return marginals, tuple((partner.to(device), w.to(device, dtype)) for partner, w in pairs)


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

    Raises:
        CircuitError: If projectors or matrices need tables of more than ``2**26`` entries.

    Examples:
        >>> import torch
        >>> from captum_quantum import Observable
        >>> plus = torch.full((1, 2), 0.5**0.5, dtype=torch.complex64)
        >>> readout = (Observable.of("X0"), Observable.of("Z0"))
        >>> expectation_values(plus, readout, n_qubits=1).round(decimals=3)
        tensor([[1., 0.]])
    """
    values = states.real.new_zeros(states.shape[0], len(observables))
    marginals, pairs = _tables(observables, n_qubits, states.device, states.dtype)
    if marginals is not None:
        squares = (states.real.square() + states.imag.square())[:, marginals.order]
        probabilities = squares.unflatten(1, (marginals.n_outcomes, -1)).sum(dim=2)
        values = probabilities
        if marginals.weights is not None:
            values = probabilities @ marginals.weights.T
    for partner, weights in pairs:
        values = values + ((states[:, partner].conj() * states) @ weights.T).real
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
        return Readout(rows, None, parities, None, ())
    marginals, groups = _weights(circuit.observables, n, basis_states)
    pairs = tuple(
        (rows[basis_states ^ flip], weights[:, basis_states].contiguous())
        for flip, weights in groups.items()
    )
    if n >= FACTORED or marginals is None:
        return Readout(rows, None, None, marginals, pairs)
    weights = marginals.weights
    if weights is None:
        weights = torch.eye(len(circuit.observables), dtype=torch.float64)
    return Readout(rows, weights[:, marginals.outcomes].contiguous(), None, None, pairs)


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


def _weights(
    observables: tuple[Observable, ...], n_qubits: int, basis_states: Tensor
) -> tuple[Marginals | None, dict[int, Tensor]]:
    """The weights of squared moduli, and those of products of the state with its permuted selves.

    Args:
        observables (tuple[Observable, ...]): The observables O_k.
        n_qubits (int): Number of wires.
        basis_states (Tensor): The basis state of each row, ``(2**n,)``.

    Returns:
        tuple: The part of the flip 0, None if there is none; and for each other flip f the numbers
        ``<c ^ f| O_k |c>``, complex128, ``(n_observables, 2**n)``.

    Raises:
        CircuitError: If the tables would be too large.
    """
    every = tuple(range(n_qubits))
    count, groups = len(observables), dict[int, Tensor]()
    terms = [(k, term) for k, observable in enumerate(observables) for term in observable.terms]
    read = wires_of_probabilities(observables)
    is_distribution = bool(read) and 2 ** len(read) == count
    if is_distribution:
        terms = []
    else:
        read = _diagonal_wires(observables)
    # Pauli strings have few flips, and a table of theirs grows with what the user wrote.
    is_limited = not all(isinstance(term, PauliString) for _, term in terms)
    n_entries = 0
    for k, term in terms:
        for local, numbers in term.by_flips().items():
            among = every if local else read
            flip = flip_among(local, term.wires, among)
            if flip not in groups:
                n_entries += count * 2 ** len(among)
                if is_limited and n_entries > LARGEST:
                    must = f"at most {LARGEST}: read fewer observables, or on fewer wires"
                    argument = "number of entries of the observables' tables"
                    _checks.refuse(argument, must, f"{n_entries} or more", CircuitError)
                dtype = torch.complex128 if flip else torch.float64
                groups[flip] = torch.zeros(count, 2 ** len(among), dtype=dtype)
            weights = numbers[states_of(term.wires, among)]
            groups[flip][k] += weights if flip else weights.real
    diagonal = groups.pop(0, None)
    if diagonal is None and not is_distribution:
        return None, groups
    outcomes = states_of(read, every)[basis_states]
    order = torch.argsort(outcomes, stable=True)
    return Marginals(order, outcomes, 2 ** len(read), diagonal), groups


def _diagonal_wires(observables: tuple[Observable, ...]) -> tuple[int, ...]:
    """The wires of all terms but Pauli strings with X or Y, which have no flip 0."""
    wires = {
        wire
        for observable in observables
        for term in observable.terms
        for wire in term.wires
        if term.is_diagonal or not isinstance(term, PauliString)
    }
    return tuple(sorted(wires))
