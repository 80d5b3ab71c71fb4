"""From angles to the matrices of a plan, and from gradients by matrices back to angles.

All matrices are made at once, whatever the number of gates: cosines and sines of all angles, the
entries of all factors, products of consecutive one-qubit gates, Kronecker products over the wires
of a step. The way back goes through the same operations in reverse order.

Everywhere here and in the fused simulator, the gradient W by a complex tensor z means

    dE = Re(sum_k W_k dz_k),

without a complex conjugate. Then a product ``y = A x`` gives ``W_x = A^T W_y`` and
``W_A = W_y x^T``, and nothing needs to be conjugated on the way.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_quantum.simulate.entries import take
from captum_quantum.simulate.plan import Dense, Monomial
from captum_quantum.simulate.products import Product, as_matrices, as_vectors
from captum_quantum.simulate.tables import Layer, Tables


@dataclass
class Static:
    """All that depends on weights alone.

    Attributes:
        weights (Tensor): The weight angles it was made of.
        waves (Tensor): 1, cosines and sines of the static factors' angles.
        runs (list[Tensor]): Levels of the products of consecutive one-qubit gates between the
            first and the last, which stand in ``entries``.
        krons (list[Product]): For each number of wires all Kronecker products, as vectors.
        squares (list): The same as matrices.
        entries (Tensor): 0, 1, fixed entries, then those of all factors and runs, ``(e, 1)``.
        shared (Tensor): Those entries that batched matrices read too, ``(e, 1)``.
        head (dict): For each shared level of the head its matrices, ``(n, 2, 2)``.
        dense (dict): For each dense step its matrix.
        partial (dict): For each of several layers the products of its first layers.
        phases (dict): For each monomial step its phases, ``(2**n, 1)``.
    """

    weights: Tensor
    waves: Tensor
    runs: list[Tensor]
    krons: list[Product]
    squares: list[tuple[Tensor, ...]]
    entries: Tensor
    shared: Tensor
    head: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    partial: dict[int, list[Tensor]] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class ByStatic:
    """Gradients by what `Static` holds, found on the way back."""

    shared: Tensor | None = None
    head: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


def make_static(tables: Tables, weights: Tensor) -> Static:
    """Makes what depends on weights alone: ``(m,)`` weight angles in radians."""
    angles = weights.to(tables.real)
    if len(tables.constants):
        angles = torch.cat([angles, tables.constants])
    waves = tables.static_factors.waves(angles[:, None])
    entries = torch.cat([tables.numbers, tables.static_factors.entries(waves)])
    runs: list[Tensor] = []
    if tables.runs is not None:
        _, *runs, products = tables.runs.levels(entries)
        entries = torch.cat([entries, products.reshape(-1, 1)])
    krons = [Product(take(entries, index)) for index in tables.krons]
    squares = [as_matrices(kron.release())[..., 0].unbind() for kron in krons]
    shared = entries.index_select(0, tables.shared)
    static = Static(weights, waves, runs, krons, squares, entries, shared)
    for number, links in enumerate(tables.head):
        if not links.batched:
            static.head[number] = take(entries, links.index)[..., 0]
    for number, step in enumerate(tables.plan.steps):
        if isinstance(step, Dense):
            partial: list[Tensor] = []
            for layer in tables.layers[number]:
                partial.append(_apply_layer(layer, entries, squares, partial))
            static.dense[number] = partial[-1]
            static.partial[number] = partial
        elif isinstance(step, Monomial) and step.phases:
            static.phases[number] = take(entries, tables.phase_rows[number]).prod(dim=0)
    return static


def static_back(tables: Tables, static: Static, by: ByStatic) -> Tensor:
    """Gradients by weight angles, ``(m,)``, from those by the matrices."""
    entries = static.entries
    W = torch.zeros_like(entries)
    if by.shared is not None:
        W.index_add_(0, tables.shared, by.shared)
    for number, W_head in by.head.items():
        W.index_add_(0, tables.head[number].index.reshape(-1), W_head.reshape(-1, 1))
    for number, W_phases in by.phases.items():
        rows = tables.phase_rows[number]
        # A phase is a product of numbers of modulus 1: without one of them, its conjugate more.
        others = (static.phases[number] * take(entries, rows).conj()) * W_phases
        W.index_add_(0, rows.reshape(-1), others.reshape(-1, 1))
    by_kron: list[list[Tensor]] = [[torch.empty(0)] * len(index) for index in tables.krons]
    for number, W_matrix in by.dense.items():
        _layers_back(tables, static, number, W_matrix, W, by_kron)
    for index, kron, found in zip(tables.krons, static.krons, by_kron, strict=True):
        own = kron.back(as_vectors(torch.stack(found)))
        W.index_add_(0, index.reshape(-1), own.reshape(-1, 1))
    if tables.runs is not None:
        W_runs = W[tables.first_run :].reshape(-1, 2, 2)
        W.index_add_(0, tables.runs.index, tables.runs.back(entries, static.runs, W_runs))
    own = W[len(tables.numbers) : tables.first_run]
    return tables.static_factors.back(static.waves, own)[: len(static.weights), 0]


def _layers_back(
    tables: Tables,
    static: Static,
    number: int,
    W: Tensor,
    by_entries: Tensor,
    by_kron: list[list[Tensor]],
) -> None:
    """From the matrix of a dense step to its layers: gradients by entries are added up."""
    layers, partial = tables.layers[number], static.partial[number]
    for k in range(len(layers) - 1, -1, -1):
        layer = layers[k]
        if layer.rows is not None:
            W = W.index_select(0, layer.rows[1])
            continue
        factor = _matrix_of(layer, static.entries, static.squares)
        if layer.matrix is None:
            W_factor = W @ partial[k - 1].mT if k else W
            if layer.kron is not None:
                by_kron[layer.kron[0]][layer.kron[1]] = W_factor
            else:
                assert layer.index is not None
                # Entry 0, the number 0, stands where the factor has none: nobody reads it.
                by_entries.index_add_(0, layer.index.reshape(-1), W_factor.reshape(-1, 1))
        if k:
            W = factor.mT @ W


def _matrix_of(layer: Layer, entries: Tensor, squares: list[tuple[Tensor, ...]]) -> Tensor:
    if layer.kron is not None:
        return squares[layer.kron[0]][layer.kron[1]]
    if layer.index is not None:
        return take(entries, layer.index)[..., 0]
    assert layer.matrix is not None
    return layer.matrix


def _apply_layer(
    layer: Layer, entries: Tensor, squares: list[tuple[Tensor, ...]], partial: list[Tensor]
) -> Tensor:
    """The product of a step's layers so far and one more."""
    if layer.rows is not None:
        if partial:
            return partial[-1].index_select(0, layer.rows[0])
        size = len(layer.rows[0])
        eye = torch.eye(size, dtype=entries.dtype, device=entries.device)
        return eye.index_select(0, layer.rows[0])
    matrix = _matrix_of(layer, entries, squares)
    return matrix @ partial[-1] if partial else matrix
