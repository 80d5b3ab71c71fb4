"""From the inputs to the first state, and from its gradients back to the inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_quantum.simulate.entries import take
from captum_quantum.simulate.lanes import by_lanes, of_lanes, rows_by_lane
from captum_quantum.simulate.products import Product
from captum_quantum.simulate.static import ByStatic, Static
from captum_quantum.simulate.tables import Tables
from captum_quantum.simulate.turns import Halves


@dataclass
class Batched:
    """All that depends on the sample.

    Attributes:
        angles (Tensor): Input angles, ``(n, batch)``, or amplitudes.
        halves (Halves): The phases of turns on single wires.
        waves (Tensor or None): 1, cosines and sines of input angles of the head but those that are
            first on a wire.
        entries (Tensor): Entries that the head's matrices read, shared ones first, ``(e, batch)``.
        levels (list[Tensor]): The head's matrices: shared ``(n, 2, 2)``, or ``(n, 2, 2, batch)``.
        vectors (list[Tensor]): The wires' vectors before the first level, real, and after each:
            ``(n, 2, batch or 1)``.
        product (Product or None): Their product; None under amplitude encoding.
        state (Tensor): The state after the head, ``(lanes * 2**n, batch / lanes)``.
    """

    angles: Tensor
    halves: Halves
    waves: Tensor | None
    entries: Tensor
    levels: list[Tensor]
    vectors: list[Tensor]
    product: Product | None
    state: Tensor


class Head:
    """The head of a plan.

    Args:
        tables (Tables): Where its entries stand.
        in_reals (bool): Whether the state it makes is real, whatever the dtype of the tables.
    """

    def __init__(self, tables: Tables, in_reals: bool) -> None:
        self.tables, self.in_reals = tables, in_reals
        self.amplitudes = tables.plan.circuit.amplitude_encoding
        self.n_inputs = len(tables.plan.circuit.columns("input"))
        zero = torch.tensor([1, 0], device=tables.device, dtype=tables.real)
        self.zero_vectors = zero.expand(tables.n, 2)[..., None]

    def forward(self, inputs: Tensor, static: Static) -> Batched:
        """Makes what depends on the sample.

        Args:
            inputs (Tensor): Input angles in radians ``(batch, n)``, or amplitudes.
            static (Static): What does not depend on it.
        """
        tables = self.tables
        angles = inputs.to(tables.real).T
        waves: Tensor | None = None
        entries = static.shared
        if tables.batched_factors.size:
            waves = tables.batched_factors.waves(angles)
            own = tables.batched_factors.entries(waves)
            entries = torch.cat([entries.expand(-1, len(inputs)), own])
        levels: list[Tensor] = []
        vectors: list[Tensor] = []
        product: Product | None = None
        if self.amplitudes:
            state = by_lanes(angles.to(tables.dtype), tables.lanes).flatten(0, 1)
        else:
            vectors.append(self._head_waves(angles))
            for number, links in enumerate(tables.head):
                before = vectors[-1]
                if links.batched:
                    levels.append(take(entries, links.index))
                    vectors.append(_multiply(levels[-1], before))
                else:
                    levels.append(static.head[number])
                    vectors.append(_turn(levels[-1], before))
            last = vectors[-1]
            if tables.lanes > 1:
                last = last.expand(-1, -1, len(inputs))
            product = Product(by_lanes(last, tables.lanes))
            state = product.value.flatten(0, 1)
            state = state if self.in_reals else state.to(tables.dtype)
            state = state.expand(-1, len(inputs) // tables.lanes)
        halves = Halves(tables.circles.of(angles), tables.lanes)
        return Batched(angles, halves, waves, entries, levels, vectors, product, state)

    def _head_waves(self, angles: Tensor) -> Tensor:
        """Cosine and sine of every wire's first input angle, ``(n, 2, batch)``; or (1, 0)."""
        tables = self.tables
        if not tables.has_waves:
            return self.zero_vectors
        half = tables.half_angles.of(angles)
        return torch.stack([torch.cos(half), torch.sin(half)], dim=1)

    def back(
        self, batched: Batched, W: Tensor, by: ByStatic, inputs: bool, weights: bool
    ) -> Tensor | None:
        """From the first state to the inputs, ``(n_inputs, batch)``; adds up what it meets."""
        tables = self.tables
        by_inputs: Tensor | None = None
        by_entries: Tensor | None = None
        if batched.waves is not None:
            by_entries = torch.zeros_like(batched.entries)
        if self.amplitudes:
            by_inputs = of_lanes(rows_by_lane(W.real, tables.lanes))
        else:
            by_waves = self._vectors_back(batched, W, by, by_entries, weights)
            if inputs:
                by_inputs = self._waves_back(batched, by_waves)
        if by_entries is not None:
            if batched.waves is not None and inputs:
                own = by_entries[len(tables.shared) :]
                found = tables.batched_factors.back(batched.waves, own)
                by_inputs = found if by_inputs is None else by_inputs + found
            if weights:
                by.shared = by_entries[: len(tables.shared)].sum(dim=1, keepdim=True)
        return by_inputs if inputs else None

    def _vectors_back(
        self, batched: Batched, W: Tensor, by: ByStatic, by_entries: Tensor | None, weights: bool
    ) -> Tensor:
        """From the product to the first vectors, ``(n, 2, batch)`` real; adds up what it meets."""
        assert batched.product is not None
        levels, vectors = batched.levels, batched.vectors
        if not levels:
            W = W.real
        W = of_lanes(batched.product.back(rows_by_lane(W, self.tables.lanes)))
        for number in range(len(levels) - 1, -1, -1):
            matrices, before = levels[number], vectors[number]
            links = self.tables.head[number]
            if links.batched:
                assert by_entries is not None
                W_matrices = W[:, :, None] * before[:, None]
                flat = W_matrices.reshape(-1, W_matrices.shape[-1])
                by_entries.index_add_(0, links.index.reshape(-1), flat)
                W = _multiply(matrices.transpose(1, 2), W)
            elif number or not W.is_complex():
                if weights:
                    by.head[number] = W @ before.mT.expand(-1, W.shape[2], -1)
                W = matrices.mT @ W
            else:
                parts = torch.cat([W.real, -W.imag], dim=1)
                if weights:
                    found = parts @ before.mT.expand(-1, parts.shape[2], -1)
                    by.head[number] = torch.complex(found[:, :2], -found[:, 2:])
                return torch.cat([matrices.real, matrices.imag], dim=1).mT @ parts
        return W.real

    def _waves_back(self, batched: Batched, by_waves: Tensor) -> Tensor:
        """From cosines and sines to the input angles, ``(n_inputs, batch)``."""
        tables = self.tables
        if not tables.has_waves:
            return by_waves.new_zeros(self.n_inputs, by_waves.shape[-1])
        cosine, sine = batched.vectors[0].unbind(1)
        return tables.half_angles.back(cosine * by_waves[:, 1] - sine * by_waves[:, 0])


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Products of 2 x 2 matrices and vectors, a pair for each sample: ``(n, 2, 2, b), (n, 2, b)``.

    Written out, as a library's batched product of such small matrices costs more than it computes.
    """
    return left[:, :, 0] * right[:, 0:1] + left[:, :, 1] * right[:, 1:2]


def _turn(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Shared 2 x 2 matrices ``(n, 2, 2)`` on vectors ``(n, 2, b)``, complex or real."""
    if vectors.dtype == matrices.dtype:
        return matrices @ vectors
    parts = torch.cat([matrices.real, matrices.imag], dim=1) @ vectors
    return torch.complex(parts[:, :2], parts[:, 2:])
