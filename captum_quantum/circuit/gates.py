"""The gate set: TorchQuantum's gates by TorchQuantum's names, as products of primitives.

Every gate is a product of fixed matrices, rotations ``exp(-i t P / 2)`` about a Pauli word P, and
phases ``diag(1, ..., 1, e^{i t})``, possibly controlled. Every simulator and every gradient rule
reads this table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.primitives import (
    Primitive,
    controlled,
    extend,
    fixed,
    pauli_word,
    phase,
    rotation,
)

ShiftRule = tuple[tuple[float, float], ...]
"""Pairs (shift in radians, coefficient): f'(t) = sum of coefficient * f(t + shift)."""

TWO_TERM: ShiftRule = ((math.pi / 2, 0.5), (-math.pi / 2, -0.5))
_NEAR = (math.sqrt(2) + 1) / (4 * math.sqrt(2))
_FAR = (math.sqrt(2) - 1) / (4 * math.sqrt(2))
_PAIRS = ((math.pi / 2, _NEAR), (3 * math.pi / 2, -_FAR))
FOUR_TERM: ShiftRule = tuple((sign * shift, sign * c) for shift, c in _PAIRS for sign in (1, -1))


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
    return lambda n_wires: (fixed(make(n_wires)),)


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
    """``exp(-i t (XX + sign YY) / 4)`` between two opposite RZ on the first wire."""
    return (
        rotation("Z", 1, scale=sign, wires=(0,)),
        rotation("YY", 0, scale=sign / 2),
        rotation("XX", 0, scale=0.5),
        rotation("Z", 1, scale=-sign, wires=(0,)),
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
    cr = {axis: rotation(axis, controls=1) for axis in "XYZ"}
    with_angles: dict[str, tuple[int, tuple[ShiftRule | None, ...], tuple[Primitive, ...]]] = {
        "rx": (1, (two,), (rotation("X"),)),
        "ry": (1, (two,), (rotation("Y"),)),
        "rz": (1, (two,), (rotation("Z"),)),
        "rxx": (2, (two,), (rotation("XX"),)),
        "ryy": (2, (two,), (rotation("YY"),)),
        "rzz": (2, (two,), (rotation("ZZ"),)),
        "rzx": (2, (two,), (rotation("ZX"),)),
        "crx": (2, (four,), (cr["X"],)),
        "cry": (2, (four,), (cr["Y"],)),
        "crz": (2, (four,), (cr["Z"],)),
        "phaseshift": (1, (two,), (phase(),)),
        "u1": (1, (two,), (phase(),)),
        "cu1": (2, (two,), (phase(controls=1),)),
        # Angles (phi, lambda); (theta, phi, lambda); (phi, theta, omega); (theta, axis).
        "u2": (1, (two,) * 2, (phase(1), fixed(quarter), phase(0))),
        "u3": (1, (two,) * 3, (phase(2), rotation("Y", 0), phase(1))),
        "rot": (1, (two,) * 3, (rotation("Z", 0), rotation("Y", 1), rotation("Z", 2))),
        "r": (
            1,
            (two, None),
            (rotation("Z", 1, scale=-1), rotation("X", 0), rotation("Z", 1)),
        ),
        "crot": (
            2,
            (four,) * 3,
            tuple(rotation(axis, k, controls=1) for k, axis in enumerate("ZYZ")),
        ),
        "cu3": (
            2,
            (four, two, two),
            (phase(2, controls=1), cr["Y"], phase(1, controls=1)),
        ),
        "cu": (
            2,
            (four, two, two, two),
            (phase(2, controls=1), cr["Y"], phase(1, controls=1), phase(3, wires=(0,))),
        ),
        "singleexcitation": (
            2,
            (four,),
            (rotation("YX", 0, scale=0.5), rotation("XY", 0, scale=-0.5)),
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
        GateType(name, len(matrix).bit_length() - 1, (), _always(fixed(matrix)))
        for name, matrix in _fixed_gates().items()
    ]
    types += [
        GateType(name, n_wires, shifts, _always(*factors))
        for name, (n_wires, shifts, factors) in with_angles.items()
    ]
    types += [GateType(name, None, (), _of_size(make)) for name, make in sized.items()]
    types.append(GateType("multirz", None, (two,), lambda n_wires: (rotation("Z" * n_wires),)))
    return {kind.name: kind for kind in types}


GATE_TYPES: dict[str, GateType] = _gate_types()
"""Every gate by its name in TorchQuantum."""

ALIASES: dict[str, str] = {
    "h": "hadamard", "sh": "shadamard", "x": "paulix", "y": "pauliy", "z": "pauliz",
    "cx": "cnot", "ch": "chadamard", "xx": "rxx", "yy": "ryy", "zz": "rzz", "zx": "rzx",
    "p": "phaseshift", "cp": "cu1", "cr": "cu1", "cphase": "cu1", "u": "u3", "ccx": "toffoli",
    "ccnot": "toffoli", "echoedcrossresonance": "ecr",
}  # fmt: skip


Rows = tuple[tuple[complex, ...], ...]


def _unitary(matrix: Tensor) -> tuple[Primitive, ...]:
    return (fixed(matrix),)


def _exponential(generator: Tensor) -> tuple[Primitive, ...]:
    """``exp(-i t H / 2) = V diag(exp(-i t e / 2)) V^H`` with the eigenvalues e of H."""
    values, vectors = torch.linalg.eigh(generator)
    phases = []
    for value in sorted(set(values.round(decimals=12).tolist()) - {0.0}):
        chosen = torch.diag((values.round(decimals=12) == value).to(generator.dtype))
        rest = torch.eye(len(generator), dtype=generator.dtype) - chosen
        wires = tuple(range(len(generator).bit_length() - 1))
        phases.append(Primitive(wires, rest, chosen, 1j * chosen, 0, -value / 2))
    if torch.equal(generator, torch.diag(torch.diag(generator))):
        return tuple(phases) or (fixed(torch.eye(len(generator), dtype=generator.dtype)),)
    return (fixed(vectors.mH.contiguous().resolve_conj()), *phases, fixed(vectors))


OPERATORS: dict[str, tuple[str, int, Callable[[Tensor], tuple[Primitive, ...]]]] = {
    "qubitunitary": ("unitary", 0, _unitary),
    "exp": ("Hermitian", 1, _exponential),
}
"""Gates that come with a matrix: what it must be, the number of angles, and the primitives."""


def as_rows(name: str, operator: Any, n_wires: int) -> Rows:
    """A gate's matrix as data.

    Args:
        name (str): ``"qubitunitary"`` or ``"exp"``.
        operator (Any): The matrix: rows of numbers, or anything that `torch.as_tensor` takes.
        n_wires (int): Number of wires.

    Raises:
        ValueError: If it has another shape, or is not unitary or not Hermitian.
    """
    matrix = torch.as_tensor(operator).detach().to("cpu", torch.complex128)
    shape, kind = (2**n_wires, 2**n_wires), OPERATORS[name][0]
    if matrix.shape != shape:
        _checks.wrong_value(f"operator of {name}", f"of shape {shape}", matrix)
    other = torch.eye(len(matrix), dtype=matrix.dtype) if kind == "unitary" else matrix
    found = matrix @ matrix.mH if kind == "unitary" else matrix.mH
    off = float((found - other).abs().max())
    if not off <= 1e-5 * max(1.0, float(matrix.abs().max())):
        _checks.refuse(f"operator of {name}", kind, f"a matrix that is off by {off:.1e}")
    if kind == "Hermitian":
        matrix = (matrix + matrix.mH) / 2
    return tuple(map(tuple, matrix.tolist()))


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # what is kept must serve training later
def operator_type(name: str, rows: Rows) -> GateType:
    """The type of a gate that comes with a matrix.

    Args:
        name (str): ``"qubitunitary"`` or ``"exp"``.
        rows (tuple): What `as_rows` returned.
    """
    _, n_angles, make = OPERATORS[name]
    factors = make(torch.tensor(rows, dtype=torch.complex128))
    shifts: tuple[ShiftRule | None, ...] = (None,) * n_angles
    if n_angles:
        frequencies = sorted({f.frequency for f in factors if f.cosine is not None})
        dims = [
            round(float(torch.diag(f.cosine).sum().real)) for f in factors if f.cosine is not None
        ]
        if sum(dims) < len(rows):  # the other eigenvectors belong to the eigenvalue 0
            frequencies = sorted({0.0, *frequencies})
        if len(frequencies) == 2:  # two eigenvalues: values oscillate with their difference
            gap = frequencies[1] - frequencies[0]
            pairs = ((math.pi / 2 / gap, gap / 2), (-math.pi / 2 / gap, -gap / 2))
            shifts = (pairs,)
    return GateType(name, len(rows).bit_length() - 1, shifts, _always(*factors))


def gate_type(name: str) -> GateType:
    """Returns the gate of a name or alias.

    Args:
        name (str): TorchQuantum's name of the gate, or one of its other names.

    Returns:
        GateType: The gate.

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
    return matrix_of(gate_type(name), angles, n_wires, inverse, dtype)


def matrix_of(
    kind: GateType, angles: Tensor, n_wires: int, inverse: bool, dtype: torch.dtype
) -> Tensor:
    """The unitary of a gate of a type.

    Args:
        kind (GateType): The type.
        angles (Tensor): Angles in radians, shape ``(..., n_angles)``.
        n_wires (int): Number of wires it acts on.
        inverse (bool): Whether to return the adjoint.
        dtype (torch.dtype): complex64 or complex128.

    Returns:
        Tensor: Shape ``(..., 2**n_wires, 2**n_wires)``.
    """
    result: Tensor | None = None
    for primitive in kind.primitives(n_wires, inverse):
        factor = extend(primitive.matrix(angles, dtype), primitive.wires, n_wires)
        result = factor if result is None else factor @ result
    assert result is not None
    return result
