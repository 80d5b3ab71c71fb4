"""The gate set: TorchQuantum's gates by TorchQuantum's names, as products of primitives.

Every gate is a product of fixed matrices, rotations ``exp(-i t P / 2)`` about a Pauli word P, and
phases ``diag(1, ..., 1, e^{i t})``, possibly controlled. Each is ``C + cos(f t) A + sin(f t) B``,
with fixed matrices C, A, B and a number f: that is all that a simulator needs to know, and it makes
the matrices of a whole circuit in one go, in either precision, differentiable to any order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum import _checks

ShiftRule = tuple[tuple[float, float], ...]
"""Pairs (shift in radians, coefficient): f'(t) = sum of coefficient * f(t + shift)."""

TWO_TERM: ShiftRule = ((math.pi / 2, 0.5), (-math.pi / 2, -0.5))
_NEAR = (math.sqrt(2) + 1) / (4 * math.sqrt(2))
_FAR = (math.sqrt(2) - 1) / (4 * math.sqrt(2))
FOUR_TERM: ShiftRule = (
    (math.pi / 2, _NEAR),
    (-math.pi / 2, -_NEAR),
    (3 * math.pi / 2, -_FAR),
    (-3 * math.pi / 2, _FAR),
)

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

    def diagonalised(self) -> "tuple[tuple[Primitive, ...], Primitive, tuple[Primitive, ...]]":
        """Fixed one-qubit gates, a diagonal matrix, and the inverses of the gates: their product.

        The wires of all of them are those of this primitive.
        """
        before, after = [], []
        change = torch.ones(1, 1, dtype=torch.complex128)
        for wire, letter in zip(self.wires, self.axes(), strict=True):
            own = _EIGENBASES[letter]
            change = torch.kron(change, own)
            if letter != "Z":
                before.append(Primitive((wire,), own.mH.contiguous().resolve_conj()))
                after.append(Primitive((wire,), own))
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


def _fixed(matrix: Tensor, *wires: int) -> Primitive:
    return Primitive(wires or tuple(range(len(matrix).bit_length() - 1)), matrix)


def _rotation(
    word: str, angle: int = 0, *, scale: float = 1, controls: int = 0, wires: tuple[int, ...] = ()
) -> Primitive:
    """``exp(-i s t P / 2) = cos(s t / 2) 1 - i sin(s t / 2) P`` for the Pauli word P, scale s."""
    pauli = pauli_word(word)
    identity = torch.eye(len(pauli), dtype=pauli.dtype)
    return Primitive(
        wires or tuple(range(controls + len(word))),
        controlled(0 * identity, controls),
        controlled(identity, controls, outside=0),
        controlled(-1j * pauli, controls, outside=0),
        angle,
        scale / 2,
    )


def _phase(angle: int = 0, *, controls: int = 0, wires: tuple[int, ...] = ()) -> Primitive:
    """``diag(1, ..., 1, e^{i t})``."""
    last = torch.diag(torch.tensor([0, 1], dtype=torch.complex128))
    return Primitive(
        wires or tuple(range(controls + 1)),
        controlled(torch.eye(2, dtype=last.dtype) - last, controls),
        controlled(last, controls, outside=0),
        controlled(1j * last, controls, outside=0),
        angle,
        1.0,
    )


@dataclass(frozen=True)
class GateType:
    """What the simulators and gradient rules need to know of a gate.

    Attributes:
        name (str): TorchQuantum's name.
        n_wires (int or None): Number of wires; None for any number.
        shifts (tuple): One entry for each angle: its parameter-shift rule, or None where the
            generator has neither two eigenvalues nor three equidistant ones. Two-term rule: Schuld
            et al., arXiv:1811.11184; four-term rule for controlled rotations: Anselmetti et al.,
            arXiv:2104.05695.
        factors (Callable): From the number of wires to the primitives, in order of application.
    """

    name: str
    n_wires: int | None
    shifts: tuple[ShiftRule | None, ...]
    factors: Callable[[int], tuple[Primitive, ...]]

    @property
    def n_angles(self) -> int:
        """Number of angles, in radians."""
        return len(self.shifts)

    def primitives(self, n_wires: int, inverse: bool = False) -> tuple[Primitive, ...]:
        """The primitives of the gate or of its inverse, in order of application."""
        return _primitives(self, n_wires, inverse)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # what is kept must serve training later
def _primitives(kind: GateType, n_wires: int, inverse: bool) -> tuple[Primitive, ...]:
    factors = kind.factors(n_wires)
    return tuple(factor.adjoint() for factor in reversed(factors)) if inverse else factors


def _always(*factors: Primitive) -> Callable[[int], tuple[Primitive, ...]]:
    return lambda n_wires: factors


def _of_size(make: Callable[[int], Tensor]) -> Callable[[int], tuple[Primitive, ...]]:
    return lambda n_wires: (_fixed(make(n_wires)),)


def _reorder(images: Sequence[int]) -> Tensor:
    """The permutation matrix that sends basis state i to images[i]."""
    matrix = torch.zeros(len(images), len(images), dtype=torch.complex128)
    matrix[list(images), list(range(len(images)))] = 1
    return matrix


def _fourier(n_wires: int) -> Tensor:
    size = 2**n_wires
    index = torch.arange(size, dtype=torch.float64)
    return torch.exp(2j * math.pi * torch.outer(index, index) / size) / math.sqrt(size)


def _blocks(n_controls: int, targets: dict[str, Tensor]) -> Tensor:
    """The last wire's gate for each pattern of the other wires; nothing for the other patterns."""
    patterns = (format(i, f"0{n_controls}b") for i in range(2**n_controls))
    blocks = [targets.get(pattern, pauli_word("I")) for pattern in patterns]
    matrix: Tensor = torch.block_diag(*blocks)
    return matrix


def _exchange(sign: float) -> tuple[Primitive, ...]:
    """``exp(-i t (XX + sign YY) / 4)`` between a turn of the first wire by -sign beta and back."""
    return (
        _rotation("Z", 1, scale=sign, wires=(0,)),
        _rotation("YY", 0, scale=sign / 2),
        _rotation("XX", 0, scale=0.5),
        _rotation("Z", 1, scale=-sign, wires=(0,)),
    )


def _fixed_gates() -> dict[str, Tensor]:
    i, x, y, z = (pauli_word(letter) for letter in "IXYZ")
    root = math.sqrt(0.5)
    h = (x + z) * root
    s = torch.diag(torch.tensor([1, 1j], dtype=torch.complex128))
    t = torch.diag(torch.tensor([1, complex(root, root)], dtype=torch.complex128))
    sx = ((1 + 1j) * i + (1 - 1j) * x) / 2
    swap = _reorder([0, 2, 1, 3])
    return {
        "i": i,
        "hadamard": h,
        "shadamard": math.cos(math.pi / 8) * i - 1j * math.sin(math.pi / 8) * y,
        "paulix": x,
        "pauliy": y,
        "pauliz": z,
        "s": s,
        "sdg": s.conj(),
        "t": t,
        "tdg": t.conj(),
        "sx": sx,
        "sxdg": sx.mH,
        "cnot": controlled(x),
        "cy": controlled(y),
        "cz": controlled(z),
        "chadamard": controlled(h),
        "cs": controlled(s),
        "csdg": controlled(s.conj()),
        "csx": controlled(sx),
        "swap": swap,
        "sswap": ((1 + 1j) * pauli_word("II") + (1 - 1j) * swap) / 2,
        "iswap": swap @ torch.diag(torch.tensor([1, 1j, 1j, 1], dtype=torch.complex128)),
        "dcx": _reorder([0, 3, 1, 2]),
        "ecr": root * (pauli_word("XI") - pauli_word("YX")),
        "cswap": controlled(swap),
        "toffoli": controlled(x, 2),
        "ccz": controlled(z, 2),
        "c3x": controlled(x, 3),
        "c4x": controlled(x, 4),
        "c3sx": controlled(sx, 3),
        "rccx": _blocks(2, {"10": z, "11": y}),
        "rc3x": _blocks(3, {"110": 1j * z, "111": 1j * y}),
    }


def _gate_types() -> dict[str, GateType]:
    quarter = math.cos(math.pi / 4) * pauli_word("I") - 1j * math.sin(math.pi / 4) * pauli_word("Y")
    two, four = TWO_TERM, FOUR_TERM
    cr = {axis: _rotation(axis, controls=1) for axis in "XYZ"}
    with_angles: dict[str, tuple[int, tuple[ShiftRule | None, ...], tuple[Primitive, ...]]] = {
        "rx": (1, (two,), (_rotation("X"),)),
        "ry": (1, (two,), (_rotation("Y"),)),
        "rz": (1, (two,), (_rotation("Z"),)),
        "rxx": (2, (two,), (_rotation("XX"),)),
        "ryy": (2, (two,), (_rotation("YY"),)),
        "rzz": (2, (two,), (_rotation("ZZ"),)),
        "rzx": (2, (two,), (_rotation("ZX"),)),
        "crx": (2, (four,), (cr["X"],)),
        "cry": (2, (four,), (cr["Y"],)),
        "crz": (2, (four,), (cr["Z"],)),
        "phaseshift": (1, (two,), (_phase(),)),
        "u1": (1, (two,), (_phase(),)),
        "cu1": (2, (two,), (_phase(controls=1),)),
        # Angles (phi, lambda); (theta, phi, lambda); (phi, theta, omega); (theta, axis).
        "u2": (1, (two,) * 2, (_phase(1), _fixed(quarter), _phase(0))),
        "u3": (1, (two,) * 3, (_phase(2), _rotation("Y", 0), _phase(1))),
        "rot": (1, (two,) * 3, (_rotation("Z", 0), _rotation("Y", 1), _rotation("Z", 2))),
        "r": (
            1,
            (two, None),
            (_rotation("Z", 1, scale=-1), _rotation("X", 0), _rotation("Z", 1)),
        ),
        "crot": (
            2,
            (four,) * 3,
            tuple(_rotation(axis, k, controls=1) for k, axis in enumerate("ZYZ")),
        ),
        "cu3": (
            2,
            (four, two, two),
            (_phase(2, controls=1), cr["Y"], _phase(1, controls=1)),
        ),
        "cu": (
            2,
            (four, two, two, two),
            (_phase(2, controls=1), cr["Y"], _phase(1, controls=1), _phase(3, wires=(0,))),
        ),
        "singleexcitation": (
            2,
            (four,),
            (_rotation("YX", 0, scale=0.5), _rotation("XY", 0, scale=-0.5)),
        ),
        "xxplusyy": (2, (four, None), _exchange(1)),
        "xxminyy": (2, (four, None), _exchange(-1)),
    }
    sized: dict[str, Callable[[int], Tensor]] = {
        "qft": _fourier,
        "multicnot": lambda n_wires: controlled(pauli_word("X"), n_wires - 1),
        # Flips the last wire where all the others are 0.
        "multixcnot": lambda n_wires: _reorder([1, 0, *range(2, 2**n_wires)]),
    }
    types = [
        GateType(name, len(matrix).bit_length() - 1, (), _always(_fixed(matrix)))
        for name, matrix in _fixed_gates().items()
    ]
    types += [
        GateType(name, n_wires, shifts, _always(*factors))
        for name, (n_wires, shifts, factors) in with_angles.items()
    ]
    types += [GateType(name, None, (), _of_size(make)) for name, make in sized.items()]
    types.append(GateType("multirz", None, (two,), lambda n_wires: (_rotation("Z" * n_wires),)))
    return {kind.name: kind for kind in types}


GATE_TYPES: dict[str, GateType] = _gate_types()
"""Every gate by its name in TorchQuantum."""

ALIASES: dict[str, str] = {
    "h": "hadamard",
    "sh": "shadamard",
    "x": "paulix",
    "y": "pauliy",
    "z": "pauliz",
    "cx": "cnot",
    "ch": "chadamard",
    "xx": "rxx",
    "yy": "ryy",
    "zz": "rzz",
    "zx": "rzx",
    "p": "phaseshift",
    "cp": "cu1",
    "cr": "cu1",
    "cphase": "cu1",
    "u": "u3",
    "ccx": "toffoli",
    "ccnot": "toffoli",
    "echoedcrossresonance": "ecr",
}


def gate_type(name: str) -> GateType:
    """Returns the gate of a name or alias.

    Raises:
        ValueError: If there is no gate of that name; the message offers the nearest one.
    """
    known = GATE_TYPES.keys() | ALIASES.keys()
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            _checks.sentence("gate", "a gate of TorchQuantum by name", _checks.describe(name))
            + (_checks.near_miss(name, known) if isinstance(name, str) else "")
        )
    return GATE_TYPES[ALIASES.get(name, name)]


def extended_index(wires: Sequence[int], n_wires: int) -> tuple[Tensor, Tensor]:
    """How a matrix on some wires extends to more: for row r, its row there and what must agree.

    Args:
        wires (Sequence[int]): The places of the matrix's wires among the ``n_wires``.
        n_wires (int): Number of wires to extend to.

    Returns:
        tuple[Tensor, Tensor]: ``(2**n_wires,)`` each: the row of the small matrix, and the bits of
        all other wires. Entry (r, c) of the large matrix is that of the small one where the latter
        agree, and 0 elsewhere.
    """
    rows = torch.arange(2**n_wires)
    own, others = torch.zeros_like(rows), rows.clone()
    for wire in wires:
        shift = n_wires - 1 - wire
        own = 2 * own + (rows >> shift & 1)
        others &= ~(1 << shift)
    return own, others


def _extend(matrix: Tensor, wires: Sequence[int], n_wires: int) -> Tensor:
    if tuple(wires) == tuple(range(n_wires)):
        return matrix
    own, others = extended_index(wires, n_wires)
    keep = (others[:, None] == others[None, :]).to(matrix.device)
    return matrix[..., own[:, None], own[None, :]] * keep


def gate_matrix(
    name: str,
    angles: Tensor,
    n_wires: int,
    *,
    inverse: bool = False,
    dtype: torch.dtype = torch.complex128,
) -> Tensor:
    """Returns a gate's unitary, the first wire being the most significant.

    Args:
        name (str): TorchQuantum's name.
        angles (Tensor): Angles in radians, shape ``(..., n_angles)``.
        n_wires (int): Number of wires it acts on.
        inverse (bool): Whether to return the adjoint.
        dtype (torch.dtype): complex64 or complex128.

    Returns:
        Tensor: Shape ``(..., 2**n_wires, 2**n_wires)``.

    Examples:
        >>> import torch
        >>> gate_matrix("rx", torch.tensor([0.0]), 1).real
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    result: Tensor | None = None
    for primitive in gate_type(name).primitives(n_wires, inverse):
        factor = _extend(primitive.matrix(angles, dtype), primitive.wires, n_wires)
        result = factor if result is None else factor @ result
    assert result is not None
    return result
