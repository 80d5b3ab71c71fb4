"""The product state that a circuit's first gates prepare, from the inputs."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_quantum.simulate.entries import take
from captum_quantum.simulate.layout import join_samples, split_rows, split_samples
from captum_quantum.simulate.matrices import Matrices, MatrixCotangents
from captum_quantum.simulate.products import KroneckerProduct, outer_products
from captum_quantum.simulate.tables import Tables


@dataclass
class Prepared:
    """All that depends on the sample.

    Attributes:
        angles (Tensor): Input angles, ``(n_inputs, batch)``.
        halves (list[Tensor]): What `PhaseTable.halves` makes of the angles.
        state (Tensor): The state after the preparation, ``(lanes * 2**n, batch / lanes)``.
        harmonics (Tensor or None): 1, cosines and sines of the angles of gates in the levels.
        levels (list[Tensor]): The levels' matrices: ``(n, 2, 2)``, or of inputs
            ``(n, 2, 2, batch)``.
        vectors (list[Tensor]): The wires' vectors before the first level, and after each:
            ``(n, 2, batch or 1)``.
        product (KroneckerProduct or None): Their product; None under amplitude encoding.
    """

    angles: Tensor
    halves: list[Tensor]
    state: Tensor
    harmonics: Tensor | None = None
    levels: list[Tensor] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)
    product: KroneckerProduct | None = None


class Preparation:
    """Makes all that depends on the sample.

    As long as only one-qubit gates act on a wire, it is a vector of two numbers. Such a vector
    starts as ``(cos t, sin t)`` with an input angle, or as ``(1, 0)``, and goes through the levels
    of `Tables`. The state is the Kronecker product of the vectors of all wires.

    Args:
        tables (Tables): Where entries stand.
        in_reals (bool): Whether the state stays real, whatever the dtype of the tables.
        in_parts (bool): Whether initial states are given as real and imaginary parts.
    """

    def __init__(self, tables: Tables, in_reals: bool, in_parts: bool = False) -> None:
        self._tables, self._in_parts = tables, in_parts
        self._dtype = tables.real if in_reals else tables.dtype
        self._amplitudes = tables.plan.circuit.amplitude_encoding
        zero = torch.tensor([1, 0], device=tables.device, dtype=tables.real)
        self._zero_vectors = zero.expand(tables.n, 2)[..., None]

    def forward(self, given: Tensor, matrices: Matrices) -> Prepared:
        """Prepares the states of a batch.

        Args:
            given (Tensor): Input angles in radians, then initial states, ``(batch, ...)``.
            matrices (Matrices): What does not depend on the sample.
        """
        tables, lanes = self._tables, self._tables.lanes
        angles = given.to(tables.real).T
        if self._amplitudes:
            angles, start = angles[: tables.n_inputs], angles[tables.n_inputs :]
            start = torch.complex(*start.chunk(2)) if self._in_parts else start.to(tables.dtype)
            state = split_samples(start, lanes).flatten(0, 1)
            return Prepared(angles, tables.phases.halves(angles), state)
        halves = tables.phases.halves(angles)
        first = self._zero_vectors
        if tables.rotates:
            half_angles = tables.half_angles.forward(angles)
            first = torch.stack([torch.cos(half_angles), torch.sin(half_angles)], dim=1)
        vectors = [first.to(self._dtype)] if tables.levels else [first]
        harmonics: Tensor | None = None
        if any(of_inputs for _, of_inputs in tables.levels):
            harmonics = tables.of_inputs.harmonics(angles)
            entries = tables.of_inputs.forward(harmonics)
        levels: list[Tensor] = []
        for number, (index, of_inputs) in enumerate(tables.levels):
            levels.append(take(entries, index) if of_inputs else matrices.levels[number])
            vectors.append((_apply_each if of_inputs else torch.matmul)(levels[-1], vectors[-1]))
        last = vectors[-1]
        if lanes > 1:
            last = last.expand(-1, -1, given.shape[0])
        product = KroneckerProduct(split_samples(last, lanes))
        state = product.value.flatten(0, 1).to(self._dtype).expand(-1, given.shape[0] // lanes)
        return Prepared(angles, halves, state, harmonics, levels, vectors, product)

    def vjp(
        self,
        prepared: Prepared,
        cotangent: Tensor,
        cotangents: MatrixCotangents,
        of_angles: Tensor,
        needs: tuple[bool, bool],
    ) -> Tensor:
        """From the cotangent of the state to that of what was given.

        Args:
            prepared (Prepared): What `forward` returned.
            cotangent (Tensor): ``(lanes * 2**n, batch / lanes)``.
            cotangents (MatrixCotangents): Receives those of the levels' matrices.
            of_angles (Tensor): What steps add to the cotangent of input angles.
            needs (tuple[bool, bool]): Whether to differentiate by what was given and by weights.

        Returns:
            Tensor: ``(n_inputs, batch)``, followed by that of initial states.
        """
        tables = self._tables
        of_rows = split_rows(cotangent, tables.lanes)
        if prepared.product is None:
            of_start = join_samples(of_rows)
            # With c = a - ib for the derivatives a and b by the real and the imaginary part.
            parts = [of_angles, of_start.real]
            return torch.cat([*parts, -of_start.imag] if self._in_parts else parts)
        if not prepared.levels:
            of_rows = of_rows.real
        of_vectors = join_samples(prepared.product.vjp(of_rows))
        of_entries: Tensor | None = None
        for number in range(len(prepared.levels) - 1, -1, -1):
            index, of_inputs = tables.levels[number]
            matrices, before = prepared.levels[number], prepared.vectors[number]
            if of_inputs:
                if of_entries is None:
                    shape = tables.of_inputs.size, of_vectors.shape[2]
                    of_entries = of_vectors.new_zeros(shape)
                of_matrices = of_vectors[:, :, None] * before[:, None]
                of_entries.index_add_(0, index.reshape(-1), of_matrices.flatten(0, 2))
                of_vectors = _apply_each(matrices.transpose(1, 2), of_vectors)
            else:
                if needs[1]:
                    before = before.expand_as(of_vectors)
                    cotangents.levels[number] = outer_products(of_vectors, before)
                of_vectors = matrices.mT @ of_vectors
        if needs[0] and of_entries is not None and prepared.harmonics is not None:
            of_angles = of_angles + tables.of_inputs.vjp(prepared.harmonics, of_entries)
        if needs[0] and tables.rotates:
            cosine, sine = prepared.vectors[0].real.unbind(1)
            of_cosine, of_sine = of_vectors.real.unbind(1)
            of_half = cosine * of_sine - sine * of_cosine
            of_angles = of_angles + tables.half_angles.vjp(of_half)
        return of_angles


def _apply_each(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of 2 x 2 matrices and vectors, one for each sample: ``(n, 2, 2, b), (n, 2, b)``.

    Written out, as a library's batched product of such small matrices costs more than it computes.
    """
    return matrices[:, :, 0] * vectors[:, 0:1] + matrices[:, :, 1] * vectors[:, 1:2]
