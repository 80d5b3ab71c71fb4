"""The factors that gates are products of: fixed matrices, rotations and phases.

Each is ``C + cos(f t) A + sin(f t) B`` of an angle t, with fixed matrices C, A, B and a number f:
that is all that a simulator needs to know, and it makes the matrices of a whole circuit at once, in
either precision, differentiable to any order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PAULI = {
    "I": [[1, 0], [0, 1]],
    "X": [[0, 1], [1, 0]],
    "Y": [[0, -1j], [1j, 0]],
    "Z": [[1, 0], [0, -1]],
}


def pauli_word(word: str) -> Tensor:
    """Returns the complex128 matrix of a Pauli word, first letter the most significant wire."""
    matrix = torch.ones(1, 1, dtype=torch.complex128)
    for letter in word:
        matrix = torch.kron(matrix, torch.tensor(_PAULI[letter], dtype=torch.complex128))
    return matrix


def controlled(matrix: Tensor, n_controls: int = 1, outside: float = 1) -> Tensor:
    """Puts a matrix where all controls, the first wires, are 1; ``outside`` times 1 elsewhere."""
    size = len(matrix) * 2**n_controls
    result = outside * torch.eye(size, dtype=matrix.dtype)
    result[size - len(matrix) :, size - len(matrix) :] = matrix
    return result


@dataclass(frozen=True, eq=False)
class Primitive:
    """A factor of a gate: ``constant + cos(frequency * t) cosine + sin(frequency * t) sine``.

    Attributes:
        wires (tuple[int, ...]): Which of the gate's wires it acts on, the most significant first.
        constant (Tensor): complex128, ``(d, d)``.
        cosine (Tensor or None): Likewise; None for a fixed matrix.
        sine (Tensor or None): Likewise.
        angle (int): Which of the gate's angles is t; -1 for a fixed matrix.
        frequency (float): The number f.
    """

    wires: tuple[int, ...]
    constant: Tensor
    cosine: Tensor | None = None
    sine: Tensor | None = None
    angle: int = -1
    frequency: float = 0.0

    def adjoint(self) -> "Primitive":
        """The inverse."""
        if self.cosine is None or self.sine is None:
            return Primitive(self.wires, self.constant.mH.contiguous().resolve_conj())
        return Primitive(
            self.wires, self.constant, self.cosine, self.sine, self.angle, -self.frequency
        )

    def matrix(self, angles: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix for the gate's angles ``(..., n_angles)``: ``(..., d, d)``."""
        constant = self.constant.to(angles.device, dtype)
        if self.cosine is None or self.sine is None:
            return constant.expand(*angles.shape[:-1], *constant.shape)
        turn = self.frequency * angles[..., self.angle, None, None]
        cosine, sine = (m.to(angles.device, dtype) for m in (self.cosine, self.sine))
        return constant + torch.cos(turn) * cosine + torch.sin(turn) * sine

    @property
    def is_diagonal(self) -> bool:
        """Whether its matrix is diagonal for all angles."""
        parts = [m for m in (self.constant, self.cosine, self.sine) if m is not None]
        return all(bool((m == torch.diag(torch.diag(m))).all()) for m in parts)

    @property
    def is_real(self) -> bool:
        """Whether its matrix has no imaginary part for any angle."""
        parts = [m for m in (self.constant, self.cosine, self.sine) if m is not None]
        return all(bool((m.imag == 0).all()) for m in parts)

    @property
    def is_permutation(self) -> bool:
        """Whether it only reorders basis states."""
        zero_or_one = (self.constant == 0) | (self.constant == 1)
        return self.cosine is None and bool(zero_or_one.all())

    def exponents(self) -> Tensor:
        """For a diagonal matrix the numbers s of its entries ``e^{i s t}``, ``(d,)``, float64."""
        assert self.is_diagonal
        assert self.cosine is not None
        assert self.sine is not None
        cosine, sine = torch.diag(self.cosine), torch.diag(self.sine)
        assert bool((torch.diag(self.constant) + cosine == 1).all())
        assert bool((sine.real == 0).all())
        return self.frequency * sine.imag

    def axes(self) -> str:
        """For each of its wires a Pauli letter that the matrix commutes with there.

        In the eigenbases of these letters the matrix is diagonal.
        """
        n_wires = len(self.wires)
        parts = [m for m in (self.constant, self.cosine, self.sine) if m is not None]
        letters = ""
        for wire in range(n_wires):
            for letter in "ZXY":
                word = pauli_word("I" * wire + letter + "I" * (n_wires - wire - 1))
                if all(torch.equal(word @ part, part @ word) for part in parts):
                    letters += letter
                    break
        assert len(letters) == n_wires
        return letters

    def diagonalized(self) -> "tuple[tuple[Primitive, ...], Primitive, tuple[Primitive, ...]]":
        """Fixed one-qubit gates, a diagonal matrix, and the inverses of the gates: their product.

        The wires of all of them are those of this primitive.
        """
        before, after = [], []
        change = torch.ones(1, 1, dtype=torch.complex128)
        for wire, letter in zip(self.wires, self.axes(), strict=True):
            basis = _EIGENBASES[letter]
            change = torch.kron(change, basis)
            if letter != "Z":
                before.append(Primitive((wire,), basis.mH.contiguous().resolve_conj()))
                after.append(Primitive((wire,), basis))
        constant, cosine, sine = (
            None if m is None else _clean(change.mH @ m @ change)
            for m in (self.constant, self.cosine, self.sine)
        )
        assert constant is not None
        middle = Primitive(self.wires, constant, cosine, sine, self.angle, self.frequency)
        return tuple(before), middle, tuple(after)


_EIGENBASES = {
    "Z": torch.eye(2, dtype=torch.complex128),
    "X": math.sqrt(0.5) * torch.tensor([[1, 1], [1, -1]], dtype=torch.complex128),
    "Y": math.sqrt(0.5) * torch.tensor([[1, 1], [1j, -1j]], dtype=torch.complex128),
}


def _clean(matrix: Tensor) -> Tensor:
    """Entries are 0, 1, -1, i or -i up to rounding: without it."""
    parts = torch.view_as_real(matrix.resolve_conj().contiguous())
    rounded = parts.round()
    assert bool(((parts - rounded).abs() < 1e-12).all())
    return torch.view_as_complex(rounded)


def fixed(matrix: Tensor, *wires: int) -> Primitive:
    """A fixed matrix."""
    return Primitive(wires or tuple(range(len(matrix).bit_length() - 1)), matrix)


def rotation(
    word: str, angle: int = 0, *, scale: float = 1, controls: int = 0, wires: tuple[int, ...] = ()
) -> Primitive:
    """``exp(-i s t P / 2) = cos(s t / 2) 1 - i sin(s t / 2) P`` for the Pauli word P, scale s."""
    pauli = pauli_word(word)
    identity = torch.eye(len(pauli), dtype=pauli.dtype)
    cosine, sine = (controlled(m, controls, outside=0) for m in (identity, -1j * pauli))
    wires = wires or tuple(range(controls + len(word)))
    return Primitive(wires, controlled(0 * identity, controls), cosine, sine, angle, scale / 2)


def phase(angle: int = 0, *, controls: int = 0, wires: tuple[int, ...] = ()) -> Primitive:
    """``diag(1, ..., 1, e^{i t})``."""
    last = torch.diag(torch.tensor([0, 1], dtype=torch.complex128))
    constant = controlled(torch.eye(2, dtype=last.dtype) - last, controls)
    cosine, sine = (controlled(m, controls, outside=0) for m in (last, 1j * last))
    return Primitive(wires or tuple(range(controls + 1)), constant, cosine, sine, angle, 1.0)


def extended_index(wires: Sequence[int], n_wires: int) -> tuple[Tensor, Tensor]:
    """How a matrix on some wires extends to more: for row r, its row there and what must agree.

    Args:
        wires (Sequence[int]): The matrix's wires among the ``n_wires``.
        n_wires (int): Number of wires to extend to.

    Returns:
        tuple[Tensor, Tensor]: ``(2**n_wires,)`` each: the row of the small matrix, and the bits of
        all other wires. Entry (r, c) of the large matrix is that of the small one where the latter
        agree, and 0 elsewhere.
    """
    rows = torch.arange(2**n_wires)
    inner, others = torch.zeros_like(rows), rows.clone()
    for wire in wires:
        shift = n_wires - 1 - wire
        inner = 2 * inner + (rows >> shift & 1)
        others &= ~(1 << shift)
    return inner, others


def extend(matrix: Tensor, wires: Sequence[int], n_wires: int) -> Tensor:
    """Extends a matrix on some wires to more, where it does nothing.

    Args:
        matrix (Tensor): Shape ``(..., 2**k, 2**k)``.
        wires (Sequence[int]): Its k wires, the most significant first.
        n_wires (int): Number of wires to extend to.

    Returns:
        Tensor: Shape ``(..., 2**n_wires, 2**n_wires)``.
    """
    if tuple(wires) == tuple(range(n_wires)):
        return matrix
    inner, others = extended_index(wires, n_wires)
    keep = (others[:, None] == others[None, :]).to(matrix.device)
    return matrix[..., inner[:, None], inner[None, :]] * keep
