"""The readout of a plan: observables, into which the last reordering is folded."""

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.plan import Parities, Readout
from captum_quantum.simulate.readout import masks

FACTORED = 10
"""From this many qubits on, signs of observables are made of those of half of the bits."""


def fold_readout(circuit: Circuit, layout: list[int], rows: Tensor | None) -> Readout:
    """Folds the last reordering and the order of the wires into the observables."""
    n, size = circuit.n_qubits, 2**circuit.n_qubits
    order = torch.zeros(size, dtype=torch.long)  # basis index -> row of the state
    basis = torch.arange(size)
    for place, wire in enumerate(layout):
        order |= (basis >> (n - 1 - wire) & 1) << (n - 1 - place)
    if rows is not None:
        order = rows[order]
    index = torch.empty_like(order)
    index[order] = basis  # row -> basis index
    parities = _parities(circuit, index) if n >= FACTORED else None
    if parities is not None:
        return Readout(order, None, parities, ())
    groups: dict[int, Tensor] = {}
    for k, observable in enumerate(circuit.observables):
        for term in observable.terms:
            flip, sign, n_y = masks(term.factors, n)
            if flip not in groups:
                shape = (len(circuit.observables), size)
                groups[flip] = torch.zeros(shape, dtype=torch.complex128)
            signs_of_rows = 1 - 2 * _parity(basis & sign, n).double()
            groups[flip][k] += term.coefficient * 1j**n_y * signs_of_rows
    signs = groups.pop(0)[:, index].real.contiguous() if 0 in groups else None
    pairs = tuple(
        (order[index ^ flip], weights[:, index].contiguous()) for flip, weights in groups.items()
    )
    return Readout(order, signs, None, pairs)


def _parities(circuit: Circuit, index: Tensor) -> Parities | None:
    """Products of Z as parities of bits of the row; None if one of them is not that."""
    n = circuit.n_qubits
    split = n // 2  # number of the last bits
    found: list[tuple[int, int, float]] = []  # observable, mask of bits, weight
    for k, observable in enumerate(circuit.observables):
        for term in observable.terms:
            flip, sign, _ = masks(term.factors, n)
            if flip:
                return None
            signs = _parity(index & sign, n)
            mask = sum(1 << j for j in range(n) if signs[1 << j] != signs[0])
            if not torch.equal(signs, _parity(torch.arange(2**n) & mask, n) ^ signs[0]):
                return None
            found.append((k, mask, term.coefficient * (1 - 2 * int(signs[0]))))
    firsts = sorted({mask >> split for _, mask, _ in found})
    lasts = sorted({mask & (2**split - 1) for _, mask, _ in found})
    weights = torch.zeros(len(circuit.observables), len(firsts), len(lasts)).double()
    for k, mask, weight in found:
        weights[k, firsts.index(mask >> split), lasts.index(mask & (2**split - 1))] += weight

    def table(masks: list[int], bits: int) -> Tensor:
        rows = torch.arange(2**bits)
        return torch.stack([1 - 2 * _parity(rows & mask, bits).double() for mask in masks])

    return Parities(table(firsts, n - split), table(lasts, split), weights.flatten(1))


def _parity(numbers: Tensor, bits: int) -> Tensor:
    """The parity of each number's bits: 0 or 1."""
    result = torch.zeros_like(numbers)
    for bit in range(bits):
        result ^= numbers >> bit & 1
    return result
