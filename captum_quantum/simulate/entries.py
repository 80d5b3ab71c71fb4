"""From angles to the entries of gates' matrices, and from gradients by entries back to angles."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum.simulate.factors import Factor

IDENTITY = torch.tensor([[1, 0], [0, 1]])
"""Entries 0 and 1 are the numbers 0 and 1: the places of the identity's entries."""


def square(start: int, side: int) -> Tensor:
    """Places of a matrix's entries that are stored one after the other, ``(side, side)``."""
    return torch.arange(start, start + side * side).reshape(side, side)


def take(entries: Tensor, index: Tensor) -> Tensor:
    """``(e, b)`` and an index of any shape to ``(*index.shape, b)``."""
    return entries.index_select(0, index.reshape(-1)).reshape(*index.shape, entries.shape[1])


def cast(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Complex numbers in a dtype; if that is real, they have no imaginary part."""
    return (numbers if dtype.is_complex else numbers.real).to(dtype)


def by_parts(W: Tensor) -> Tensor:
    """Gradients by real, then by imaginary parts, along dimension 0; real ones as they are."""
    return torch.cat([W.real, -W.imag]) if W.is_complex() else W


class Multiples:
    """Angles picked from a table, each times its frequency, and the way back.

    Args:
        columns (Sequence[int]): The angle that each multiple is of.
        frequencies (Sequence[float]): By what it is multiplied.
        n_angles (int): Number of angles in the table.
        device (torch.device): Where.
        dtype (torch.dtype): Of the angles.
    """

    def __init__(
        self,
        columns: Sequence[int],
        frequencies: Sequence[float],
        n_angles: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.n_angles = n_angles
        # None where there is nothing to do: all in order, all frequencies 1.
        self.columns: Tensor | None = None
        if list(columns) != list(range(n_angles)):
            self.columns = torch.tensor(columns, dtype=torch.int32, device=device)
        self.frequencies: Tensor | None = None
        if any(frequency != 1 for frequency in frequencies):
            self.frequencies = torch.tensor(frequencies, device=device, dtype=dtype)[:, None]

    def of(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(m, b)``."""
        if self.columns is not None:
            angles = angles.index_select(0, self.columns)
        return angles if self.frequencies is None else angles * self.frequencies

    def back(self, W: Tensor) -> Tensor:
        """Gradients by multiples ``(m, b)`` to those by angles ``(n_angles, b)``."""
        W = W if self.frequencies is None else W * self.frequencies
        if self.columns is None:
            return W
        return W.new_zeros(self.n_angles, W.shape[1]).index_add_(0, self.columns, W)


class Factors:
    """The entries of many factors' matrices from their angles, all at once.

    The real and the imaginary part of an entry are each a number times 1, cos(f t) or sin(f t).
    """

    def __init__(
        self,
        factors: Sequence[Factor],
        place: dict[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        turning = [factor for factor in factors if not factor.is_fixed]
        slot = {id(factor): k for k, factor in enumerate(turning)}
        self.starts: list[int] = []
        self.size, m = 0, len(turning)
        numbers = [torch.zeros(0, 2, dtype=torch.float64)]
        places = [torch.zeros(0, 2, dtype=torch.long)]
        for factor in factors:
            own = factor.primitive
            self.starts.append(self.size)
            self.size += own.constant.numel()
            rows = (0, 1 + slot.get(id(factor), 0), 1 + m + slot.get(id(factor), 0))
            number = torch.zeros(own.constant.numel(), 2, dtype=torch.float64)
            where = torch.zeros_like(number, dtype=torch.long)
            for row, matrix in zip(rows, (own.constant, own.cosine, own.sine), strict=True):
                if matrix is not None:
                    parts = torch.view_as_real(matrix.resolve_conj().reshape(-1))
                    assert not bool(((number != 0) & (parts != 0)).any()), factor.name
                    where[parts != 0] = row
                    number = number + parts
            numbers.append(number)
            places.append(where)
        real = dtype.to_real()
        self.is_complex = dtype.is_complex
        count = 2 if self.is_complex else 1
        self.numbers = torch.cat(numbers).T[:count].reshape(-1, 1).to(device, real)
        self.places = torch.cat(places).T[:count].reshape(-1).to(device, torch.int32)
        columns = [place[factor.column] for factor in turning]
        frequencies = [factor.primitive.frequency for factor in turning]
        self.multiples = Multiples(columns, frequencies, len(place), device, real)
        self.one = torch.ones(1, 1, device=device, dtype=real)

    def waves(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(1 + 2m, b)``: 1, then every factor's cosine, then its sine."""
        turns = self.multiples.of(angles)
        one = self.one.expand(1, angles.shape[1])
        return torch.cat([one, torch.cos(turns), torch.sin(turns)])

    def entries(self, waves: Tensor) -> Tensor:
        """The entries of the factors' matrices, ``(n_entries, b)``."""
        parts = waves.index_select(0, self.places) * self.numbers
        if not self.is_complex:
            return parts
        return torch.complex(parts[: self.size], parts[self.size :])

    def back(self, waves: Tensor, W: Tensor) -> Tensor:
        """Gradients by angles, ``(n_angles, b)``, from those by entries."""
        by_part = by_parts(W) * self.numbers
        by_wave = torch.zeros_like(waves).index_add_(0, self.places, by_part)
        cosine, sine = waves[1:].chunk(2)
        by_cosine, by_sine = by_wave[1:].chunk(2)
        return self.multiples.back(cosine * by_sine - sine * by_cosine)
