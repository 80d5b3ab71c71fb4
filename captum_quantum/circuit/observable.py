"""Observables: weighted sums of Pauli strings."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.primitives import pauli_word

_FACTOR = re.compile(r"([IXYZ])(\d+)")
_FORM = "a Pauli string such as 'Z0', 'X0 Z2' or 'XIZ'"


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
        if isinstance(self.coefficient, bool) or not isinstance(self.coefficient, Real):
            _checks.wrong_type("coefficient of a Pauli string", "a real number", self.coefficient)
        if not math.isfinite(self.coefficient):
            _checks.wrong_value("coefficient of a Pauli string", "finite", self.coefficient)
        object.__setattr__(self, "factors", tuple(sorted(self.factors)))
        object.__setattr__(self, "coefficient", float(self.coefficient))

    @classmethod
    def parse(cls, text: str, coefficient: float = 1.0) -> "PauliString":
        """Reads a Pauli string.

        Args:
            text (str): ``"X0 Z2"``, letters with wires in any order, or ``"XIZ"``, a letter for
                each wire.
            coefficient (float): Its coefficient.

        Returns:
            PauliString: The Pauli string.

        Raises:
            ValueError: If the text is neither.
            TypeError: If it is not a string.
        """
        if not isinstance(text, str):
            _checks.wrong_type("observable", _FORM, text)
        words = text.split()
        if words and all(_FACTOR.fullmatch(word) for word in words):
            pairs = [(int(word[1:]), word[0]) for word in words]
        elif len(words) == 1 and set(words[0]) <= set("IXYZ"):
            pairs = list(enumerate(words[0]))
        else:
            _checks.wrong_value("observable", _FORM, text)
        return cls(tuple((wire, letter) for wire, letter in pairs if letter != "I"), coefficient)

    def __str__(self) -> str:
        name = " ".join(f"{letter}{wire}" for wire, letter in self.factors) or "I"
        return name if self.coefficient == 1 else f"{_number(self.coefficient)} {name}"


def _number(value: float) -> str:
    """The shortest text that reads as the same float."""
    return min(f"{value:g}", repr(value), key=lambda text: (float(text) != value, len(text)))


@dataclass(frozen=True)
class Observable:
    """A Hermitian operator ``sum_k c_k P_k`` with Pauli strings P_k.

    Attributes:
        terms (tuple[PauliString, ...]): The weighted Pauli strings; at least one.

    Examples:
        >>> str(Observable.of("Z0"))
        'Z0'
        >>> str(Observable.of({"Z0 Z1": 1.0, "X0": -0.5}))
        'Z0 Z1 + -0.5 X0'
        >>> Observable.of("Z0 Z1 + -0.5 X0") == Observable.of({"Z0 Z1": 1.0, "X0": -0.5})
        True
    """

    terms: tuple[PauliString, ...]

    def __post_init__(self) -> None:
        """Refuses an empty sum and anything but Pauli strings."""
        if isinstance(self.terms, str) or not isinstance(self.terms, Sequence):
            _checks.wrong_type("terms of an observable", "Pauli strings", self.terms)
        object.__setattr__(self, "terms", tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, PauliString):
                _checks.wrong_type("terms of an observable", "Pauli strings", term)
        if not self.terms:
            _checks.wrong_value("observable", "a sum of at least one Pauli string", self.terms)

    @classmethod
    def of(cls, value: "Observable | PauliString | str | Mapping[str, float]") -> "Observable":
        """Makes an observable of a Pauli string, a sum of such, or a mapping to coefficients.

        Args:
            value (Observable, PauliString, str or Mapping): A Pauli string such as ``"Z0"``,
                ``"X0 Z2"`` or ``"XIZ"``; a sum of such with coefficients, as ``str(observable)``
                gives it: ``"Z0 Z1 + -0.5 X0"``; or a mapping from Pauli strings to coefficients.

        Returns:
            Observable: The observable; one that is given is returned unchanged.

        Raises:
            TypeError: If the value is of another type.
            ValueError: If a string is not a Pauli string.
        """
        if isinstance(value, Observable):
            return value
        if isinstance(value, PauliString):
            return cls((value,))
        if isinstance(value, str):
            return cls(tuple(_parse_term(term) for term in value.split(" + ")))
        if not isinstance(value, Mapping):
            _checks.wrong_type(
                "observable", f"{_FORM} or a mapping from such to coefficients", value
            )
        return cls(tuple(PauliString.parse(text, weight) for text, weight in value.items()))

    @property
    def wires(self) -> tuple[int, ...]:
        """The wires it acts on, sorted."""
        return tuple(sorted({wire for term in self.terms for wire, _ in term.factors}))

    def matrix(self, n_qubits: int) -> Tensor:
        """The observable as a matrix.

        Args:
            n_qubits (int): Number of wires, more than the largest wire of the observable.

        Returns:
            Tensor: complex128, ``(2**n_qubits, 2**n_qubits)``, wire 0 the most significant bit.
        """
        matrix = torch.zeros(2**n_qubits, 2**n_qubits, dtype=torch.complex128)
        for term in self.terms:
            letters = dict(term.factors)
            word = "".join(letters.get(wire, "I") for wire in range(n_qubits))
            matrix = matrix + term.coefficient * pauli_word(word)
        return matrix

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


def _parse_term(text: str) -> PauliString:
    """Reads a Pauli string that may begin with its coefficient."""
    first, _, rest = text.strip().partition(" ")
    try:
        coefficient = float(first)
    except ValueError:
        return PauliString.parse(text)
    return PauliString.parse(rest if rest else text, coefficient)


def pauli_z_on_each(n_qubits: int) -> tuple[Observable, ...]:
    """``<Z>`` on every qubit, the default readout."""
    return tuple(Observable((PauliString(((wire, "Z"),)),)) for wire in range(n_qubits))


def read_observables(
    values: "Sequence[Observable | PauliString | str | Mapping[str, float]] | None", n_qubits: int
) -> tuple[Observable, ...]:
    """Reads the observables argument of a layer.

    Args:
        values (Sequence, optional): Observables, Pauli strings as objects or texts, or mappings
            from such texts to coefficients. None means ``<Z>`` on every qubit.
        n_qubits (int): Number of qubits.

    Returns:
        tuple[Observable, ...]: The observables.

    Raises:
        TypeError: If it is not a sequence of observables.
        ValueError: If it is empty or a Pauli string is malformed.
    """
    if values is None:
        return pauli_z_on_each(n_qubits)
    if isinstance(values, (str, Mapping)) or not isinstance(values, Sequence):
        _checks.wrong_type("observables", "a list of observables", values)
    if not values:
        _checks.wrong_value("observables", "a list of at least one observable", values)
    return tuple(Observable.of(value) for value in values)
