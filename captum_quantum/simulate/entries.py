"""From angles to the entries of gates' matrices, and their vector-Jacobian product."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum.circuit.primitives import Primitive


def take(entries: Tensor, index: Tensor) -> Tensor:
    """``(e, b)`` and an index of any shape to ``(*index.shape, b)``."""
    return entries.index_select(0, index.reshape(-1)).reshape(*index.shape, entries.shape[1])


def cast(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Complex numbers in a dtype; if that is real, they have no imaginary part."""
    return (numbers if dtype.is_complex else numbers.real).to(dtype)


class AngleMap:
    """``theta_m = f_m * angles[c_m]``, and its vector-Jacobian product.

    Args:
        columns (Sequence[int]): The numbers c_m.
        frequencies (Sequence[float]): The numbers f_m.
        n_angles (int): Number of angles.
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
        self._n_angles = n_angles
        # None where there is nothing to do: all in order, all frequencies 1.
        self._columns: Tensor | None = None
        if list(columns) != list(range(n_angles)):
            self._columns = torch.tensor(columns, dtype=torch.int32, device=device)
        self._frequencies: Tensor | None = None
        if any(frequency != 1 for frequency in frequencies):
            self._frequencies = torch.tensor(frequencies, device=device, dtype=dtype)[:, None]

    def forward(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(m, b)``."""
        if self._columns is not None:
            angles = angles.index_select(0, self._columns)
        return angles if self._frequencies is None else angles * self._frequencies

    def vjp(self, cotangent: Tensor) -> Tensor:
        """``(m, b)`` to ``(n_angles, b)``."""
        if self._frequencies is not None:
            cotangent = cotangent * self._frequencies
        if self._columns is None:
            return cotangent
        zeros = cotangent.new_zeros(self._n_angles, cotangent.shape[1])
        return zeros.index_add_(0, self._columns, cotangent)


class Entries:
    """The entries of many gates' matrices, all at once.

    The real and the imaginary part of an entry are each a number times 1, cos(f t) or sin(f t); we
    call these the harmonics of the angle t. The first four entries are those of the identity.

    Args:
        primitives (Sequence[tuple[Primitive, int]]): Matrices, each with its angle's index; -1 for
            a fixed matrix.
        n_angles (int): Number of angles.
        device (torch.device): Where.
        dtype (torch.dtype): Of the entries.

    Attributes:
        starts (list[int]): Where the entries of each matrix start.
        size (int): Number of entries.
    """

    def __init__(
        self,
        primitives: Sequence[tuple[Primitive, int]],
        n_angles: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        identity = Primitive((0,), torch.eye(2, dtype=torch.complex128))
        turning = [(primitive, angle) for primitive, angle in primitives if angle >= 0]
        numbers, harmonics, starts, count = [], [], [0], 0
        for primitive, angle in ((identity, -1), *primitives):
            count += angle >= 0
            rows = (0, count, len(turning) + count)
            number = torch.zeros(primitive.constant.numel(), 2, dtype=torch.float64)
            harmonic = torch.zeros_like(number, dtype=torch.long)
            matrices = (primitive.constant, primitive.cosine, primitive.sine)
            for row, matrix in zip(rows, matrices, strict=True):
                if matrix is not None:
                    parts = torch.view_as_real(matrix.resolve_conj().reshape(-1))
                    assert not bool(((number != 0) & (parts != 0)).any())
                    harmonic[parts != 0] = row
                    number = number + parts
            numbers.append(number)
            harmonics.append(harmonic)
            starts.append(starts[-1] + len(number))
        *self.starts, self.size = starts[1:]
        self._is_complex = dtype.is_complex
        n_parts, real = 2 if dtype.is_complex else 1, dtype.to_real()
        self._numbers = torch.cat(numbers).T[:n_parts].reshape(-1, 1).to(device, real)
        self._harmonics = torch.cat(harmonics).T[:n_parts].reshape(-1).to(device, torch.int32)
        frequencies = [primitive.frequency for primitive, _ in turning]
        angles = [angle for _, angle in turning]
        self._angle_map = AngleMap(angles, frequencies, n_angles, device, real)
        self._one = torch.ones(1, 1, device=device, dtype=real)

    def harmonics(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(1 + 2m, b)``: 1, then the cosines, then the sines."""
        turns = self._angle_map.forward(angles)
        one = self._one.expand(1, angles.shape[1])
        return torch.cat([one, torch.cos(turns), torch.sin(turns)])

    def forward(self, harmonics: Tensor) -> Tensor:
        """The entries, ``(size, b)``."""
        parts = harmonics.index_select(0, self._harmonics) * self._numbers
        return torch.complex(*parts.chunk(2)) if self._is_complex else parts

    def vjp(self, harmonics: Tensor, cotangent: Tensor) -> Tensor:
        """From the cotangent of the entries to that of the angles, ``(n_angles, b)``."""
        if self._is_complex:
            cotangent = torch.cat([cotangent.real, -cotangent.imag])
        of_parts = cotangent * self._numbers
        of_harmonics = torch.zeros_like(harmonics).index_add_(0, self._harmonics, of_parts)
        cosine, sine = harmonics[1:].chunk(2)
        of_cosine, of_sine = of_harmonics[1:].chunk(2)
        return self._angle_map.vjp(cosine * of_sine - sine * of_cosine)
