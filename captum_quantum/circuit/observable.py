"""Observables: weighted sums of Pauli strings, projectors and Hermitian matrices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.foreign import read_foreign
from captum_quantum.circuit.terms import (
    HermitianMatrix,
    PauliString,
    Projector,
    Term,
    check_coefficient,
    check_wires,
    expand,
    flip_among,
    parse_term,
    states_of,
)

MOST_OUTCOMES = 2**16
"""The most outcomes whose probabilities are read one by one."""
_FORM = (
    "a Pauli string such as 'Z0', 'X0 Z2' or 'XIZ', a projector such as '|01><01| on 0, 2', an "
    "observable of Qiskit, TorchQuantum or PennyLane, or a mapping from such to coefficients"
)


@dataclass(frozen=True)
class Observable:
    """A Hermitian operator ``sum_k c_k T_k`` with real coefficients c_k.

    The operators T_k are Pauli strings, projectors on outcomes, or Hermitian matrices.

    Attributes:
        terms (tuple): The weighted operators, at least one. Each is a ``PauliString``,
            ``Projector`` or ``HermitianMatrix`` of ``captum_quantum.circuit``. Only Pauli strings
            have ``factors``; `pauli_terms` expands all of them into Pauli strings.

    Examples:
        >>> str(Observable.of("Z0"))
        'Z0'
        >>> str(Observable.of({"Z0 Z1": 1.0, "X0": -0.5}))
        'Z0 Z1 + -0.5 X0'
        >>> Observable.of("Z0 Z1 + -0.5 X0") == Observable.of({"Z0 Z1": 1.0, "X0": -0.5})
        True
        >>> str(Observable.of({Observable.projector("01", wires=(0, 2)): 0.5, "X1": 2.0}))
        '0.5 |01><01| on 0, 2 + 2 X1'
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        """Refuses an empty sum and anything but terms."""
        must = "Pauli strings, projectors or matrices"
        if isinstance(self.terms, str) or not isinstance(self.terms, Sequence):
            _checks.wrong_type("terms of an observable", must, self.terms)
        object.__setattr__(self, "terms", tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, get_args(Term)):
                _checks.wrong_type("terms of an observable", must, term)
        if not self.terms:
            _checks.wrong_value("observable", "a sum of at least one term", self.terms)

    @classmethod
    def of(cls, value: Any) -> "Observable":
        """Makes an observable of what describes one.

        Args:
            value (Observable, term, str, Mapping or foreign observable): A text is a Pauli string
                such as ``"Z0"``, ``"X0 Z2"`` or ``"XIZ"``, a projector such as
                ``"|01><01| on 0, 2"``, a matrix such as ``"[[0, -1j], [1j, 0]] on 1"``, or a sum of
                such with coefficients, as ``str(observable)`` gives it: ``"Z0 Z1 + -0.5 X0"``. A
                mapping leads from such, or from observables, to coefficients. Foreign observables
                are Qiskit's ``SparsePauliOp`` and ``Pauli``, whose qubit i is wire i;
                TorchQuantum's ``Hamiltonian``, and its Hermitian operators with their wires, such
                as ``tq.PauliZ(wires=1)``; operators of PennyLane whose wires are integers.

        Returns:
            Observable: The observable; one that is given is returned unchanged.

        Raises:
            TypeError: If the value is of another type.
            ValueError: If a text is none of these, or a foreign observable is not Hermitian.

        Examples:
            >>> from qiskit.quantum_info import SparsePauliOp
            >>> str(Observable.of(SparsePauliOp(["IXZ"], [0.5])))  # qubit 0 is the last letter
            '0.5 Z0 X1'
        """
        if isinstance(value, Observable):
            return value
        if isinstance(value, get_args(Term)):
            return cls((value,))
        if isinstance(value, str):
            return cls(tuple(map(_parse_weighted, value.split(" + "))))
        if isinstance(value, Mapping):
            scaled = (_scaled(key, weight) for key, weight in value.items())
            return cls(tuple(term for terms in scaled for term in terms))
        terms = read_foreign(value)
        if terms is None:
            _checks.wrong_type("observable", _FORM, value)
        return cls(terms)

    @classmethod
    def projector(cls, outcome: str, wires: int | Sequence[int] | None = None) -> "Observable":
        """The projector on an outcome, whose expectation value is the outcome's probability.

        Args:
            outcome (str): A bit for each wire.
            wires (int or Sequence[int], optional): The wires of the bits. Default: the first ones.

        Returns:
            Observable: The projector.

        Raises:
            TypeError, ValueError: If the outcome is not of bits, or the wires do not fit.

        Examples:
            >>> str(Observable.projector("01", wires=(0, 2)))
            '|01><01| on 0, 2'
        """
        if wires is None and isinstance(outcome, str):
            wires = range(len(outcome))
        return cls((Projector(outcome, check_wires("wires of a projector", wires)),))

    @classmethod
    def hermitian(cls, matrix: Any, wires: int | Sequence[int]) -> "Observable":
        """A Hermitian matrix on a few wires.

        Args:
            matrix (Tensor, numpy.ndarray or rows): The matrix, shape ``(2**k, 2**k)``, real or
                complex, equal to its adjoint up to 1e-6 of its largest entry.
            wires (int or Sequence[int]): Its k wires, the first the most significant bit.

        Returns:
            Observable: The observable.

        Raises:
            TypeError, ValueError: If the matrix is not Hermitian, not finite, or of another size.

        Examples:
            >>> Observable.hermitian([[0, -1j], [1j, 0]], wires=1).pauli_terms()
            (PauliString(factors=((1, 'Y'),), coefficient=1.0),)
        """
        return cls((HermitianMatrix(matrix, check_wires("wires of a matrix", wires)),))

    @classmethod
    def probabilities(cls, wires: int | Sequence[int]) -> "tuple[Observable, ...]":
        """The projectors on all outcomes of some wires: their values are all probabilities.

        Args:
            wires (int or Sequence[int]): The k wires, at most 16.

        Returns:
            tuple[Observable, ...]: The ``2**k`` projectors in the order of the outcomes, the first
            wire the most significant bit.

        Raises:
            TypeError, ValueError: If these are no different wires, or too many.

        Examples:
            >>> [str(observable) for observable in Observable.probabilities(2)]
            ['|0><0| on 2', '|1><1| on 2']
        """
        wires = check_wires("wires of probabilities", wires)
        count = len(wires)
        if 2**count > MOST_OUTCOMES:
            must = f"at most {MOST_OUTCOMES.bit_length() - 1}"
            _checks.refuse("number of wires whose probabilities are read", must, str(count))
        return tuple(cls((Projector(f"{k:0{count}b}", wires),)) for k in range(2**count))

    @property
    def wires(self) -> tuple[int, ...]:
        """The wires it acts on, sorted."""
        return tuple(sorted({wire for term in self.terms for wire in term.wires}))

    @property
    def is_diagonal(self) -> bool:
        """Whether its matrix is diagonal: a measurement of all wires gives its value."""
        return all(term.is_diagonal for term in self.terms)

    @property
    def label(self) -> str:
        """A text like ``str(observable)``, but without the entries of large matrices."""
        return " + ".join(term.label for term in self.terms)

    def pauli_terms(self) -> tuple[PauliString, ...]:
        """The observable as a sum of Pauli strings, for simulators that measure these.

        A projector on k wires is a sum of ``2**k`` strings, a matrix of up to ``4**k``.

        Returns:
            tuple[PauliString, ...]: The Pauli strings; ``terms`` themselves if they are such.

        Examples:
            >>> [str(term) for term in Observable.projector("1").pauli_terms()]
            ['0.5 I', '-0.5 Z0']
        """
        given = tuple(term for term in self.terms if isinstance(term, PauliString))
        if len(given) == len(self.terms):
            return given
        coefficients: dict[tuple[tuple[int, str], ...], float] = {}
        for term in self.terms:
            for string in expand(term):
                before = coefficients.get(string.factors, 0.0)
                coefficients[string.factors] = before + string.coefficient
        strings = tuple(PauliString(factors, c) for factors, c in coefficients.items())
        return strings or (PauliString((), 0.0),)

    def matrix(self, n_qubits: int) -> Tensor:
        """The observable as a matrix.

        Args:
            n_qubits (int): Number of wires, more than the largest wire of the observable.

        Returns:
            Tensor: complex128, ``(2**n_qubits, 2**n_qubits)``, wire 0 the most significant bit.
        """
        matrix = torch.zeros(2**n_qubits, 2**n_qubits, dtype=torch.complex128)
        basis = torch.arange(2**n_qubits)
        wires = tuple(range(n_qubits))
        for term in self.terms:
            states = states_of(term.wires, wires)
            for flip, numbers in term.by_flips().items():
                matrix[basis ^ flip_among(flip, term.wires, wires), basis] += numbers[states]
        return matrix

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


def _parse_weighted(text: str) -> Term:
    """Reads a term that may begin with its coefficient."""
    first, _, rest = text.strip().partition(" ")
    try:
        coefficient = float(first)
    except ValueError:
        return parse_term(text)
    return parse_term(rest if rest else text, coefficient)


def _scaled(value: Any, weight: Any) -> tuple[Term, ...]:
    """The terms of an entry of a mapping."""
    if isinstance(value, str):
        return (parse_term(value, weight),)
    factor = check_coefficient("coefficient of an observable", weight)
    terms = Observable.of(value).terms
    return tuple(replace(term, coefficient=factor * term.coefficient) for term in terms)


def pauli_z_on_each(n_qubits: int) -> tuple[Observable, ...]:
    """``<Z>`` on every qubit, the default readout."""
    return tuple(Observable((PauliString(((wire, "Z"),)),)) for wire in range(n_qubits))


def read_observables(values: Any, n_qubits: int) -> tuple[Observable, ...]:
    """Reads the observables argument of a layer.

    Args:
        values (Sequence or str, optional): What `Observable.of` reads, sequences of such among
            them; or ``"probabilities"``, those of all outcomes of all wires. None means ``<Z>`` on
            every qubit.
        n_qubits (int): Number of qubits.

    Returns:
        tuple[Observable, ...]: The observables.

    Raises:
        TypeError: If it is not a sequence of observables.
        ValueError: If it is empty or one of them is malformed.
    """
    if values is None:
        return pauli_z_on_each(n_qubits)
    if isinstance(values, str) and values == "probabilities":
        return Observable.probabilities(range(n_qubits))
    if not _is_list(values):
        _checks.wrong_type("observables", "a list of observables, or 'probabilities'", values)
    observables = tuple(_flattened(values))
    if not observables:
        _checks.wrong_value("observables", "a list of at least one observable", values)
    return observables


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _flattened(values: Sequence[Any]) -> Iterator[Observable]:
    for value in values:
        if _is_list(value):
            yield from _flattened(value)
        else:
            yield Observable.of(value)


def describe_readout(observables: Sequence[Observable], brackets: str = "<>") -> str:
    """Names what is read, all probabilities of the same wires together.

    Args:
        observables (Sequence[Observable]): The observables in order.
        brackets (str): What stands around the name of each.

    Examples:
        >>> describe_readout([Observable.of("Z0"), *Observable.probabilities([1, 2])])
        '<Z0>, probabilities of wires 1, 2'
    """
    names, k = [], 0
    while k < len(observables):
        wires = wires_of_probabilities(observables[k:])
        if wires:
            listed = ", ".join(map(str, wires))
            names.append(f"probabilities of wire{'s' * (len(wires) > 1)} {listed}")
            k += 2 ** len(wires)
        else:
            names.append(f"{brackets[0]}{observables[k].label}{brackets[1]}")
            k += 1
    return ", ".join(names)


def wires_of_probabilities(observables: Sequence[Observable]) -> tuple[int, ...]:
    """The wires all of whose probabilities come first, in their order; empty if none.

    Args:
        observables (Sequence[Observable]): The observables in order, at least one.
    """
    first = observables[0].terms[0]
    size = 2 ** len(first.wires)
    if not isinstance(first, Projector) or len(observables) < size or size > MOST_OUTCOMES:
        return ()
    # Outcome 2**k has a single 1, on the k-th wire from the last.
    wires = []
    for bit in reversed(range(len(first.wires))):
        term = observables[2**bit].terms[0]
        if not isinstance(term, Projector) or term.outcome.count("1") != 1:
            return ()
        wires.append(term.wires[term.outcome.index("1")])
    expected = Observable.probabilities(wires) if len(set(wires)) == len(wires) else ()
    return tuple(wires) if tuple(observables[:size]) == expected else ()
