"""From weights to the matrices of a plan, and their vector-Jacobian product.

All matrices are made at once, whatever the number of gates: cosines and sines of all angles, the
entries of all gates, products of consecutive one-qubit gates, Kronecker products over the wires of
a step. The vector-Jacobian product goes through the same operations in reverse order.

The cotangent c of a complex tensor z means, here and in all modules of the fused simulator,

    dE = Re(sum_k c_k dz_k)

without a complex conjugate (PyTorch's gradient is its conjugate). The product ``y = A x`` then has
``c_x = A^T c_y`` and ``c_A = c_y x^T``, and nothing needs to be conjugated on the way.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_quantum.simulate.entries import take
from captum_quantum.simulate.plan import Dense
from captum_quantum.simulate.products import KroneckerProduct, as_matrices, as_vectors
from captum_quantum.simulate.tables import Layer, Tables


@dataclass
class Matrices:
    """All that depends on weights alone.

    Attributes:
        weights (Tensor): The weight angles that it was made of.
        harmonics (Tensor): 1, cosines and sines of the weights' and constants' angles.
        entries (Tensor): Entries of all gates without inputs and of chains, ``(e, 1)``.
        chains (list[Tensor]): Products of the first matrices of all chains.
        krons (dict[int, KroneckerProduct]): For each number of wires all Kronecker products.
        squares (dict[int, tuple[Tensor, ...]]): Their values, one by one.
        levels (dict[int, Tensor]): For each level of the preparation that takes no inputs its
            matrices, ``(n, 2, 2)``.
        partial (dict[int, list[Tensor]]): For each dense step the products of its first layers.
        dense (dict[int, Tensor]): For each dense step its matrix, real if its imaginary part is 0.
        phases (dict[int, Tensor]): For each step of phases these, ``(2**n, 1)``.
    """

    weights: Tensor
    harmonics: Tensor
    entries: Tensor
    chains: list[Tensor]
    krons: dict[int, KroneckerProduct]
    squares: dict[int, tuple[Tensor, ...]]
    levels: dict[int, Tensor] = field(default_factory=dict)
    partial: dict[int, list[Tensor]] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class MatrixCotangents:
    """Cotangents of what `Matrices` holds."""

    levels: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


def make_matrices(tables: Tables, weights: Tensor) -> Matrices:
    """Makes all that depends on weights alone.

    Args:
        tables (Tables): Where entries stand.
        weights (Tensor): Weight angles in radians, ``(m,)``.
    """
    angles = torch.cat([weights.to(tables.real), tables.constants])
    harmonics = tables.shared.harmonics(angles[:, None])
    entries = tables.shared.forward(harmonics)
    chains: list[Tensor] = []
    if tables.chains is not None:
        chains = tables.chains.forward(entries)
        entries = torch.cat([entries, chains[-1].reshape(-1, 1)])
    krons = {k: KroneckerProduct(take(entries, index)) for k, index in tables.krons.items()}
    squares = {k: as_matrices(product.value).unbind() for k, product in krons.items()}
    matrices = Matrices(weights, harmonics, entries, chains, krons, squares)
    for number, (index, of_inputs) in enumerate(tables.levels):
        if not of_inputs:
            matrices.levels[number] = take(entries, index)[..., 0]
    for number, layers in tables.layers.items():
        partial: list[Tensor] = []
        for layer in layers:
            if partial and layer.rows is not None:
                partial.append(partial[-1].index_select(0, layer.rows[0]))
            else:
                matrix = _matrix_of(layer, matrices)
                partial.append(matrix @ partial[-1] if partial else matrix)
        matrices.partial[number], matrix = partial, partial[-1]
        step = tables.plan.steps[number]
        if isinstance(step, Dense) and step.real:
            matrix = matrix.real.contiguous() if matrix.is_complex() else matrix
        matrices.dense[number] = matrix
    for number, diagonals in tables.diagonals.items():
        matrices.phases[number] = take(entries, diagonals).prod(dim=0)
    return matrices


def _matrix_of(layer: Layer, matrices: Matrices) -> Tensor:
    if layer.kron is not None:
        k, number = layer.kron
        return matrices.squares[k][number]
    if layer.index is not None:
        return take(matrices.entries, layer.index)[..., 0]
    assert layer.matrix is not None
    return layer.matrix


def matrices_vjp(tables: Tables, matrices: Matrices, cotangents: MatrixCotangents) -> Tensor:
    """From the cotangents of matrices to that of the weight angles, ``(m,)``."""
    entries = matrices.entries
    of_entries = torch.zeros_like(entries)

    def add(index: Tensor, cotangent: Tensor) -> None:
        of_entries.index_add_(0, index.reshape(-1), cotangent.reshape(-1, 1))

    for number, cotangent in cotangents.levels.items():
        add(tables.levels[number][0], cotangent)
    for number, cotangent in cotangents.phases.items():
        diagonals = tables.diagonals[number]
        # A phase is a product of numbers of modulus 1: without one of them, times its conjugate.
        others = matrices.phases[number] * take(entries, diagonals).conj()
        add(diagonals, others * cotangent)
    of_krons = {k: [torch.empty(0)] * len(index) for k, index in tables.krons.items()}
    for number, cotangent in cotangents.dense.items():
        layers, partial = tables.layers[number], matrices.partial[number]
        for position in range(len(layers) - 1, -1, -1):
            layer = layers[position]
            if layer.matrix is None:
                of_layer = cotangent @ partial[position - 1].mT if position else cotangent
                if layer.kron is not None:
                    of_krons[layer.kron[0]][layer.kron[1]] = of_layer
                elif layer.index is not None:
                    add(layer.index, of_layer)
            if position and layer.rows is not None:
                cotangent = cotangent.index_select(0, layer.rows[1])
            elif position:
                cotangent = _matrix_of(layer, matrices).mT @ cotangent
    for k, index in tables.krons.items():
        add(index, matrices.krons[k].vjp(as_vectors(torch.stack(of_krons[k]))))
    if tables.chains is not None:
        of_products = of_entries[tables.shared.size :].view(-1, 2, 2)
        add(tables.chains.index, tables.chains.vjp(entries, matrices.chains, of_products))
    of_angles = tables.shared.vjp(matrices.harmonics, of_entries[: tables.shared.size])
    return of_angles[: len(matrices.weights), 0]
