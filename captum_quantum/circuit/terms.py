"""What observables are sums of: Pauli strings, projectors and Hermitian matrices.

A term T on k wires is read by its bit flips f: the numbers ``<c ^ f| T |c>`` of all basis states
``|c>`` of its wires, the first wire the most significant bit. A diagonal term has the flip 0 alone.
"""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.primitives import extended_index

_FACTOR = re.compile(r"([IXYZ])(\d+)")
_WIRES = r"(?: on (?P<wires>\d+(?:, ?\d+)*))?"
_PROJECTOR = re.compile(r"\|(?P<outcome>[01]+)><(?P=outcome)\|" + _WIRES)
_MATRIX = re.compile(r"\[(?P<rows>\[[^\[\]]*\](?:, ?\[[^\[\]]*\])*)\]" + _WIRES)
_FORM = "a Pauli string such as 'Z0', 'X0 Z2' or 'XIZ'"
_LETTERS = {"X": (1, [1, 1]), "Y": (1, [1j, -1j]), "Z": (0, [1, -1])}
"""Of each letter the bit it flips, and the numbers of ``|0>`` and ``|1>``."""


@dataclass(frozen=True)
class PauliString:
    """A product of Pauli matrices on different wires, times a real coefficient.

    Attributes:
        factors (tuple[tuple[int, str], ...]): Pairs (wire, "X" | "Y" | "Z"), sorted by wire; empty
            for the identity.
        coefficient (float): Its weight.
    """

    factors: tuple[tuple[int, str], ...]
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        """Sorts the factors by wire; refuses repeated wires and non-finite coefficients."""
        must = "pairs of a wire and a letter"
        if isinstance(self.factors, str) or not isinstance(self.factors, Sequence):
            _checks.wrong_type("factors of a Pauli string", must, self.factors)
        if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in self.factors):
            _checks.wrong_type("factors of a Pauli string", must, self.factors)
        object.__setattr__(self, "factors", tuple(tuple(pair) for pair in self.factors))
        wires = [wire for wire, _ in self.factors]
        for wire, letter in self.factors:
            _checks.check_int("wire of a Pauli string", wire, 0)
            _checks.check_choice("letter of a Pauli string", letter, "XYZ")
        if len(set(wires)) != len(wires):
            _checks.wrong_value("Pauli string", "given at most one letter for a wire", str(self))
        coefficient = check_coefficient("coefficient of a Pauli string", self.coefficient)
        object.__setattr__(self, "factors", tuple(sorted(self.factors)))
        object.__setattr__(self, "coefficient", coefficient)

    @classmethod
    def parse(cls, text: str, coefficient: float = 1.0) -> "PauliString":
        """Reads a Pauli string.

        Args:
            text (str): ``"X0 Z2"``, letters with wires in any order, or ``"XIZ"``, a letter for
                each wire; letters of either case.
            coefficient (float): Its coefficient.

        Returns:
            PauliString: The Pauli string.

        Raises:
            ValueError: If the text is neither.
            TypeError: If it is not a string.
        """
        if not isinstance(text, str):
            _checks.wrong_type("observable", _FORM, text)
        words = text.upper().split()
        if words and all(_FACTOR.fullmatch(word) for word in words):
            pairs = [(int(word[1:]), word[0]) for word in words]
        elif len(words) == 1 and set(words[0]) <= set("IXYZ"):
            pairs = list(enumerate(words[0]))
        else:
            _checks.wrong_value("observable", _FORM, text)
        return cls(tuple((wire, letter) for wire, letter in pairs if letter != "I"), coefficient)

    @property
    def wires(self) -> tuple[int, ...]:
        """The wires that have a letter, sorted."""
        return tuple(wire for wire, _ in self.factors)

    @property
    def is_diagonal(self) -> bool:
        """Whether all letters are Z."""
        return all(letter == "Z" for _, letter in self.factors)

    @property
    def fingerprint(self) -> str:
        """A text that tells it from other terms, the same in later versions."""
        return f"{self.coefficient.hex()} {self.factors}"

    @property
    def label(self) -> str:
        """A short text."""
        return str(self)

    def by_flips(self) -> dict[int, Tensor]:
        """For its one flip f the numbers ``<c ^ f| T |c>``, complex128, ``(2**k,)``."""
        flip = 0
        numbers = torch.full((1,), self.coefficient, dtype=torch.complex128)
        for _, letter in self.factors:
            bit, column = _LETTERS[letter]
            flip = 2 * flip + bit
            numbers = torch.kron(numbers, torch.tensor(column, dtype=torch.complex128))
        return {flip: numbers}

    def __str__(self) -> str:
        name = " ".join(f"{letter}{wire}" for wire, letter in self.factors) or "I"
        return _weighted(self.coefficient, name)


class _NotPauli:
    @property
    def factors(self) -> NoReturn:
        """Raises AttributeError: only Pauli strings have factors."""
        raise AttributeError(
            f"a {type(self).__name__} has no Pauli factors; the Pauli strings of an observable are "
            "observable.pauli_terms()"
        )


@dataclass(frozen=True)
class Projector(_NotPauli):
    """The projector on one outcome of some wires, times a real coefficient.

    Its expectation value, the coefficient apart, is the probability of the outcome.

    Attributes:
        outcome (str): A bit for each wire, such as ``"01"``.
        wires (tuple[int, ...]): The wires; they and the outcome's bits are sorted by wire.
        coefficient (float): Its weight.
    """

    outcome: str
    wires: tuple[int, ...]
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        """Sorts the wires; refuses repeated ones, and outcomes that are not a bit for each."""
        must = "a string of bits, such as '01'"
        if not isinstance(self.outcome, str):
            _checks.wrong_type("outcome of a projector", must, self.outcome)
        if not self.outcome or not set(self.outcome) <= {"0", "1"}:
            _checks.wrong_value("outcome of a projector", must, self.outcome)
        wires = check_wires("wires of a projector", self.wires)
        if len(wires) != len(self.outcome):
            must = f"{len(self.outcome)}, one for each bit of {self.outcome!r}"
            _checks.wrong_value("wires of a projector", must, wires)
        coefficient = check_coefficient("coefficient of a projector", self.coefficient)
        by_wire = sorted(zip(wires, self.outcome, strict=True))
        object.__setattr__(self, "wires", tuple(wire for wire, _ in by_wire))
        object.__setattr__(self, "outcome", "".join(bit for _, bit in by_wire))
        object.__setattr__(self, "coefficient", coefficient)

    @property
    def is_diagonal(self) -> bool:
        """True."""
        return True

    @property
    def fingerprint(self) -> str:
        """A text that tells it from other terms, the same in later versions."""
        return f"{self.coefficient.hex()} |{self.outcome}> {self.wires}"

    @property
    def label(self) -> str:
        """A short text."""
        return str(self)

    def by_flips(self) -> dict[int, Tensor]:
        """For the flip 0 the numbers ``<c| T |c>``, complex128, ``(2**k,)``."""
        numbers = torch.zeros(2 ** len(self.wires), dtype=torch.complex128)
        numbers[int(self.outcome, 2)] = self.coefficient
        return {0: numbers}

    def __str__(self) -> str:
        name = f"|{self.outcome}><{self.outcome}| on {_listed(self.wires)}"
        return _weighted(self.coefficient, name)


@dataclass(frozen=True)
class HermitianMatrix(_NotPauli):
    """A Hermitian matrix on a few wires, times a real coefficient.

    Attributes:
        matrix (tuple[tuple[complex, ...], ...]): Its ``2**k`` rows. Given as a tensor, an array or
            rows; entries that differ from the adjoint's by rounding are replaced by the mean.
        wires (tuple[int, ...]): The k wires, the first the most significant bit.
        coefficient (float): Its weight.
    """

    matrix: tuple[tuple[complex, ...], ...]
    wires: tuple[int, ...]
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        """Refuses matrices that are not Hermitian, not finite, or of another size."""
        wires = check_wires("wires of a matrix", self.wires)
        matrix = _hermitian(self.matrix, len(wires))
        coefficient = check_coefficient("coefficient of a matrix", self.coefficient)
        object.__setattr__(self, "matrix", tuple(map(tuple, matrix.tolist())))
        object.__setattr__(self, "wires", wires)
        object.__setattr__(self, "coefficient", coefficient)

    @property
    def is_diagonal(self) -> bool:
        """Whether all entries beside the diagonal are zero."""
        return not any(z for r, row in enumerate(self.matrix) for c, z in enumerate(row) if r != c)

    @property
    def fingerprint(self) -> str:
        """A text that tells it from other terms, the same in later versions."""
        entries = [f"{z.real.hex()} {z.imag.hex()}" for row in self.matrix for z in row]
        return f"{self.coefficient.hex()} {entries} {self.wires}"

    @property
    def label(self) -> str:
        """A short text: entries of 2 x 2 matrices alone."""
        size = len(self.matrix)
        if size == 2:
            return str(self)
        return _weighted(self.coefficient, f"{size} x {size} matrix on {_listed(self.wires)}")

    def by_flips(self) -> dict[int, Tensor]:
        """For each flip f that it has the numbers ``<c ^ f| T |c>``, complex128, ``(2**k,)``."""
        matrix = self.coefficient * torch.tensor(self.matrix, dtype=torch.complex128)
        basis = torch.arange(len(matrix))
        by_flip = matrix[basis[:, None] ^ basis, basis]
        flips = by_flip.any(dim=1).nonzero()[:, 0].tolist() or [0]
        return {flip: by_flip[flip] for flip in flips}

    def __str__(self) -> str:
        rows = ", ".join(f"[{', '.join(map(_complex_number, row))}]" for row in self.matrix)
        return _weighted(self.coefficient, f"[{rows}] on {_listed(self.wires)}")


Term = PauliString | Projector | HermitianMatrix


def parse_term(text: str, coefficient: float = 1.0) -> Term:
    """Reads a term without a coefficient.

    Args:
        text (str): A Pauli string such as ``"Z0"``, ``"X0 Z2"`` or ``"XIZ"``; a projector such as
            ``"|01><01| on 0, 2"``; a matrix such as ``"[[0, -1j], [1j, 0]] on 1"``. Projectors and
            matrices without wires are on the first ones.
        coefficient (float): Its coefficient.

    Returns:
        PauliString, Projector or HermitianMatrix: The term.

    Raises:
        ValueError: If the text is none of these.
        TypeError: If it is not a string.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    if stripped.startswith("|"):
        match = _PROJECTOR.fullmatch(stripped)
        if match is None:
            _checks.wrong_value("observable", "a projector such as '|01><01| on 0, 2'", text)
        outcome = match["outcome"]
        return Projector(outcome, _read_wires(match["wires"], len(outcome)), coefficient)
    if stripped.startswith("["):
        match = _MATRIX.fullmatch(stripped)
        try:
            rows = [] if match is None else re.findall(r"\[([^\[\]]*)\]", match["rows"])
            matrix = tuple(tuple(map(complex, row.split(","))) for row in rows)
        except ValueError:
            match = None
        if match is None:
            _checks.wrong_value("observable", "a matrix such as '[[0, -1j], [1j, 0]] on 1'", text)
        wires = _read_wires(match["wires"], max(len(matrix) - 1, 1).bit_length())
        return HermitianMatrix(matrix, wires, coefficient)
    return PauliString.parse(text, coefficient)


def _read_wires(text: str | None, count: int) -> tuple[int, ...]:
    return tuple(range(count)) if text is None else tuple(map(int, text.split(",")))


def check_coefficient(argument: str, value: Any) -> float:
    """Returns a real, finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        _checks.wrong_type(argument, "a real number", value)
    if not math.isfinite(value):
        _checks.wrong_value(argument, "finite", value)
    return float(value)


def check_wires(argument: str, value: Any) -> tuple[int, ...]:
    """Returns one wire or a sequence of different wires, at least one, as a tuple."""
    if isinstance(value, int):
        value = (value,)
    if isinstance(value, str) or not isinstance(value, Sequence):
        _checks.wrong_type(argument, "a wire or a sequence of wires", value)
    wires = tuple(value)
    for wire in wires:
        _checks.check_int(argument, wire, 0)
    if not 0 < len(set(wires)) == len(wires):
        _checks.wrong_value(argument, "at least one, and different from each other", wires)
    return wires


def _hermitian(value: Any, n_wires: int) -> Tensor:
    """A Hermitian matrix of ``n_wires`` wires, complex128, on the CPU."""
    argument = "matrix of an observable"
    if isinstance(value, Tensor) and value.requires_grad:
        _checks.wrong_value(argument, "constant; detach() one that requires a gradient", value)
    try:
        matrix = torch.as_tensor(value, dtype=torch.complex128, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        _checks.wrong_type(argument, "a tensor, an array or rows of numbers", value)
    shape = (2**n_wires, 2**n_wires)
    if matrix.shape != shape:
        _checks.wrong_value(argument, f"of shape {shape} for {n_wires} wire(s)", matrix)
    if not bool(torch.isfinite(matrix).all()):
        _checks.wrong_value(argument, "finite", value)
    adjoint = matrix.mH
    distance = float((matrix - adjoint).abs().max())
    if distance > 1e-6 * float(matrix.abs().max()):
        must = "Hermitian"
        _checks.refuse(argument, must, f"one that differs from its adjoint by {distance:.3g}")
    # Where both agree, nothing may change; adding 0 makes -0 a 0, so that equal ones print alike.
    return torch.where(matrix == adjoint, matrix, (matrix + adjoint) / 2) + 0


def _weighted(coefficient: float, name: str) -> str:
    return name if coefficient == 1 else f"{_number(coefficient)} {name}"


def _listed(wires: Sequence[int]) -> str:
    return ", ".join(map(str, wires))


def _number(value: float) -> str:
    """The shortest text that reads as the same float."""
    return min(f"{value:g}", repr(value), key=lambda text: (float(text) != value, len(text)))


def _complex_number(value: complex) -> str:
    """The shortest text that reads as the same number."""
    if not value.imag:
        return _number(value.real)
    imaginary = f"{_number(value.imag)}j"
    if not value.real:
        return imaginary
    return f"{_number(value.real)}{'' if imaginary.startswith('-') else '+'}{imaginary}"


@functools.lru_cache(maxsize=4)
@torch.inference_mode(False)  # what is kept must serve training later
def states_of(wires: tuple[int, ...], among: tuple[int, ...]) -> Tensor:
    """The basis state of some wires in each basis state of more wires.

    Args:
        wires (tuple[int, ...]): The k wires, the first the most significant bit.
        among (tuple[int, ...]): The m wires, which contain them, likewise.

    Returns:
        Tensor: int64, ``(2**m,)``; not to be modified.
    """
    return extended_index(list(map(among.index, wires)), len(among))[0]


def flip_among(flip: int, wires: tuple[int, ...], among: tuple[int, ...]) -> int:
    """A flip of bits of some wires as one of more wires; both from the most significant bit."""
    last, result = len(wires) - 1, 0
    for k, wire in enumerate(wires):
        if flip >> (last - k) & 1:
            result |= 1 << (len(among) - 1 - among.index(wire))
    return result


def expand(term: Term) -> list[PauliString]:
    r"""A term as a sum of Pauli strings.

    With ``P(f, s)`` the Pauli string that flips the bits f and gives the bits s a sign, and y the
    number of its letters Y, its coefficient is
    ``(-i)**y / 2**k * sum_c (-1)**parity(c & s) <c ^ f| T |c>``, a Walsh-Hadamard transform.

    Args:
        term (PauliString, Projector or HermitianMatrix): The term T.

    Returns:
        list[PauliString]: The strings whose coefficients are not zero up to rounding.
    """
    if isinstance(term, PauliString):
        return [term]
    k = len(term.wires)
    strings = []
    flips = term.by_flips()
    smallest = 2.0**-50 * max(float(numbers.abs().max()) for numbers in flips.values())
    for flip, numbers in flips.items():
        transformed = numbers / 2**k
        for bit in range(k):
            first, second = transformed.view(2**bit, 2, -1).unbind(1)
            transformed = torch.stack([first + second, first - second], dim=1).flatten()
        for sign, value in enumerate(cast("list[complex]", transformed.tolist())):
            coefficient = (value * (-1j) ** ((flip & sign).bit_count() % 4)).real
            if abs(coefficient) > smallest:
                bits = zip(term.wires, f"{flip:0{k}b}", f"{sign:0{k}b}", strict=True)
                letters = ((wire, "IZXY"[2 * int(x) + int(z)]) for wire, x, z in bits)
                factors = tuple(pair for pair in letters if pair[1] != "I")
                strings.append(PauliString(factors, coefficient))
    return strings
