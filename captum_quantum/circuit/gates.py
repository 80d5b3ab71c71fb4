"""The gate set: TorchQuantum's gates by TorchQuantum's names, as batched PyTorch matrices.

Every parametrised gate is a product of two primitives, a rotation ``exp(-i t G / 2)`` about a Pauli
word ``G`` and a phase ``diag(1, e^{i t})``, possibly controlled. The matrices are written out of
place from the angles, so they are differentiable to any order and in either precision.
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
        build (Callable): ``(angles (..., n_angles), n_wires, dtype) -> (..., 2**k, 2**k)``.
    """

    name: str
    n_wires: int | None
    shifts: tuple[ShiftRule | None, ...]
    build: Callable[[Tensor, int, torch.dtype], Tensor]

    @property
    def n_angles(self) -> int:
        """Number of angles, in radians."""
        return len(self.shifts)


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


_generator = lru_cache(maxsize=32)(pauli_word)


def rotation(angle: Tensor, word: str, dtype: torch.dtype) -> Tensor:
    """``exp(-i angle G / 2) = cos(angle / 2) 1 - i sin(angle / 2) G`` for the Pauli word G."""
    generator = _generator(word).to(angle.device, dtype)
    half = angle[..., None, None] / 2
    identity = torch.eye(len(generator), device=angle.device, dtype=dtype)
    return torch.cos(half) * identity - 1j * torch.sin(half) * generator


def phase(angle: Tensor, dtype: torch.dtype) -> Tensor:
    """``diag(1, e^{i angle})``."""
    ones = torch.ones_like(angle).to(dtype)
    return torch.diag_embed(torch.stack([ones, torch.exp(1j * angle)], dim=-1))


def controlled(matrix: Tensor, n_controls: int = 1) -> Tensor:
    """Applies ``matrix`` where all controls, the most significant wires, are 1."""
    inner = matrix.shape[-1]
    size = inner * 2**n_controls
    place = torch.zeros(size, inner, dtype=matrix.dtype, device=matrix.device)
    place[size - inner :] = torch.eye(inner, dtype=matrix.dtype, device=matrix.device)
    outside = torch.ones(size, dtype=matrix.dtype, device=matrix.device)
    outside[size - inner :] = 0
    return torch.diag(outside) + place @ matrix @ place.mT


def _constant(rows: Sequence[Sequence[complex]] | Tensor) -> Callable[..., Tensor]:
    matrix = torch.as_tensor(rows, dtype=torch.complex128)

    def build(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
        return matrix.to(angles.device, dtype).expand(*angles.shape[:-1], *matrix.shape)

    return build


def _sized(make: Callable[[int], Tensor]) -> Callable[..., Tensor]:
    def build(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
        matrix = make(n_wires).to(angles.device, dtype)
        return matrix.expand(*angles.shape[:-1], *matrix.shape)

    return build


def _rotated(word: str) -> Callable[..., Tensor]:
    return lambda angles, n_wires, dtype: rotation(angles[..., 0], word, dtype)


def _controlled_rotation(word: str) -> Callable[..., Tensor]:
    return lambda angles, n_wires, dtype: controlled(rotation(angles[..., 0], word, dtype))


def _rot(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    first, middle, last = angles.unbind(-1)
    return rotation(last, "Z", dtype) @ rotation(middle, "Y", dtype) @ rotation(first, "Z", dtype)


def _u2(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    phi, lam = angles.unbind(-1)
    quarter = torch.full_like(phi, math.pi / 2)
    return phase(phi, dtype) @ rotation(quarter, "Y", dtype) @ phase(lam, dtype)


def _u3(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    theta, phi, lam = angles.unbind(-1)
    return phase(phi, dtype) @ rotation(theta, "Y", dtype) @ phase(lam, dtype)


def _cu(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    gamma = torch.exp(1j * angles[..., 3, None, None])
    return controlled(gamma * _u3(angles[..., :3], 1, dtype))


def _r(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    theta, axis = angles.unbind(-1)
    return rotation(axis, "Z", dtype) @ rotation(theta, "X", dtype) @ rotation(-axis, "Z", dtype)


def _exchange(angles: Tensor, sign: float, beta: Tensor, dtype: torch.dtype) -> Tensor:
    """``exp(-i t (XX + sign YY) / 4)`` between a turn of the first wire by beta and back."""
    half = rotation(angles / 2, "XX", dtype) @ rotation(sign * angles / 2, "YY", dtype)
    turn = rotation(beta, "Z", dtype)
    identity = torch.eye(2, dtype=dtype, device=angles.device)
    turn = torch.einsum("...ij,kl->...ikjl", turn, identity).flatten(-4, -3).flatten(-2, -1)
    return turn @ half @ turn.mH


def _single_excitation(angles: Tensor, n_wires: int, dtype: torch.dtype) -> Tensor:
    theta = angles[..., 0]
    return rotation(-theta / 2, "XY", dtype) @ rotation(theta / 2, "YX", dtype)


def _reorder(images: Sequence[int]) -> Tensor:
    """The permutation matrix that sends basis state i to images[i]."""
    matrix = torch.zeros(len(images), len(images), dtype=torch.complex128)
    matrix[list(images), list(range(len(images)))] = 1
    return matrix


def _fourier(n_wires: int) -> Tensor:
    size = 2**n_wires
    index = torch.arange(size, dtype=torch.float64)
    return torch.exp(2j * math.pi * torch.outer(index, index) / size) / math.sqrt(size)


def _multi_x(n_wires: int) -> Tensor:
    return controlled(pauli_word("X"), n_wires - 1)


def _multi_x_open(n_wires: int) -> Tensor:
    """Flips the last wire where all the others are 0."""
    return _reorder([1, 0, *range(2, 2**n_wires)])


def _blocks(n_controls: int, targets: dict[str, Tensor]) -> Tensor:
    """The last wire's gate for each pattern of the other wires; nothing for the other patterns."""
    patterns = (format(i, f"0{n_controls}b") for i in range(2**n_controls))
    blocks = [targets.get(pattern, pauli_word("I")) for pattern in patterns]
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def _tables() -> dict[str, GateType]:
    i, x, y, z = (pauli_word(letter) for letter in "IXYZ")
    root = math.sqrt(0.5)
    h = (x + z) * root
    s = torch.diag(torch.tensor([1, 1j], dtype=torch.complex128))
    eighth = torch.diag(torch.tensor([1, complex(root, root)], dtype=torch.complex128))
    sx = ((1 + 1j) * i + (1 - 1j) * x) / 2
    swap = _reorder([0, 2, 1, 3])
    identity4 = torch.eye(4, dtype=torch.complex128)
    fixed: dict[str, tuple[int, Tensor]] = {
        "i": (1, i),
        "hadamard": (1, h),
        "shadamard": (
            1,
            rotation(torch.tensor(math.pi / 4, dtype=torch.float64), "Y", torch.complex128),
        ),
        "paulix": (1, x),
        "pauliy": (1, y),
        "pauliz": (1, z),
        "s": (1, s),
        "sdg": (1, s.mH),
        "t": (1, eighth),
        "tdg": (1, eighth.mH),
        "sx": (1, sx),
        "sxdg": (1, sx.mH),
        "cnot": (2, controlled(x)),
        "cy": (2, controlled(y)),
        "cz": (2, controlled(z)),
        "chadamard": (2, controlled(h)),
        "cs": (2, controlled(s)),
        "csdg": (2, controlled(s.mH)),
        "csx": (2, controlled(sx)),
        "swap": (2, swap),
        "sswap": (2, ((1 + 1j) * identity4 + (1 - 1j) * swap) / 2),
        "iswap": (2, swap @ torch.diag(torch.tensor([1, 1j, 1j, 1], dtype=torch.complex128))),
        "dcx": (2, _reorder([0, 3, 1, 2])),
        "ecr": (2, root * (pauli_word("XI") - pauli_word("YX"))),
        "cswap": (3, controlled(swap)),
        "toffoli": (3, controlled(x, 2)),
        "ccz": (3, controlled(z, 2)),
        "c3x": (4, controlled(x, 3)),
        "c4x": (5, controlled(x, 4)),
        "c3sx": (4, controlled(sx, 3)),
        "rccx": (3, _blocks(2, {"10": z, "11": y})),
        "rc3x": (4, _blocks(3, {"110": 1j * z, "111": 1j * y})),
    }
    types = {
        name: GateType(name, n_wires, (), _constant(matrix))
        for name, (n_wires, matrix) in fixed.items()
    }
    types |= {
        "qft": GateType("qft", None, (), _sized(_fourier)),
        "multicnot": GateType("multicnot", None, (), _sized(_multi_x)),
        "multixcnot": GateType("multixcnot", None, (), _sized(_multi_x_open)),
        "multirz": GateType(
            "multirz",
            None,
            (TWO_TERM,),
            lambda angles, n_wires, dtype: rotation(angles[..., 0], "Z" * n_wires, dtype),
        ),
    }
    for name in ("rx", "ry", "rz", "rxx", "ryy", "rzz", "rzx"):
        word = name[1:].upper()
        types[name] = GateType(name, len(word), (TWO_TERM,), _rotated(word))
    for name in ("crx", "cry", "crz"):
        types[name] = GateType(name, 2, (FOUR_TERM,), _controlled_rotation(name[2:].upper()))
    for name in ("phaseshift", "u1"):
        types[name] = GateType(
            name, 1, (TWO_TERM,), lambda angles, n_wires, dtype: phase(angles[..., 0], dtype)
        )
    return types | {
        "cu1": GateType(
            "cu1",
            2,
            (TWO_TERM,),
            lambda angles, n_wires, dtype: controlled(phase(angles[..., 0], dtype)),
        ),
        "u2": GateType("u2", 1, (TWO_TERM,) * 2, _u2),
        "u3": GateType("u3", 1, (TWO_TERM,) * 3, _u3),
        "rot": GateType("rot", 1, (TWO_TERM,) * 3, _rot),
        "r": GateType("r", 1, (TWO_TERM, None), _r),
        "crot": GateType(
            "crot",
            2,
            (FOUR_TERM,) * 3,
            lambda angles, n_wires, dtype: controlled(_rot(angles, 1, dtype)),
        ),
        "cu3": GateType(
            "cu3",
            2,
            (FOUR_TERM, TWO_TERM, TWO_TERM),
            lambda angles, n_wires, dtype: controlled(_u3(angles, 1, dtype)),
        ),
        "cu": GateType("cu", 2, (FOUR_TERM, TWO_TERM, TWO_TERM, TWO_TERM), _cu),
        "singleexcitation": GateType("singleexcitation", 2, (FOUR_TERM,), _single_excitation),
        "xxplusyy": GateType(
            "xxplusyy",
            2,
            (FOUR_TERM, None),
            lambda angles, n_wires, dtype: _exchange(angles[..., 0], 1, -angles[..., 1], dtype),
        ),
        "xxminyy": GateType(
            "xxminyy",
            2,
            (FOUR_TERM, None),
            lambda angles, n_wires, dtype: _exchange(angles[..., 0], -1, angles[..., 1], dtype),
        ),
    }


GATE_TYPES: dict[str, GateType] = _tables()

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
    matrix = gate_type(name).build(angles, n_wires, dtype)
    return matrix.mH if inverse else matrix
