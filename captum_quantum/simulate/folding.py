"""The readout of a plan: observables into which the last reordering of rows is folded."""

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.observables import masks, parity, weights_by_flips
from captum_quantum.simulate.plan import Parities, Readout

FACTORED = 10
"""From this many qubits on, signs of observables are products of those of half of the bits."""


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
    groups = weights_by_flips(circuit.observables, n)
    signs = groups.pop(0)[:, basis_states].real.contiguous() if 0 in groups else None
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
            flip, sign, _ = masks(term.factors, n)
            signs = parity(basis_states & sign, n)
            mask = sum(1 << j for j in range(n) if signs[1 << j] != signs[0])
            if flip or not torch.equal(signs, parity(torch.arange(2**n) & mask, n) ^ signs[0]):
                return None
            products.append((k, mask, term.coefficient * (1 - 2 * int(signs[0]))))
    firsts = sorted({mask >> n_last for _, mask, _ in products})
    lasts = sorted({mask & (2**n_last - 1) for _, mask, _ in products})
    weights = torch.zeros(len(circuit.observables), len(firsts), len(lasts)).double()
    for k, mask, weight in products:
        weights[k, firsts.index(mask >> n_last), lasts.index(mask & (2**n_last - 1))] += weight

    def table(masks: list[int], bits: int) -> Tensor:
        rows = torch.arange(2**bits)
        return torch.stack([1 - 2 * parity(rows & mask, bits).double() for mask in masks])

    return Parities(table(firsts, n - n_last), table(lasts, n_last), weights.flatten(1))
