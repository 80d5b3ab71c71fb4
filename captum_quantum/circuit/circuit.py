"""What a circuit is once traced: frozen, validated data."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from captum_quantum import _checks, _compat
from captum_quantum.circuit.gates import (
    ALIASES,
    OPERATORS,
    GateType,
    as_rows,
    gate_type,
    matrix_of,
    operator_type,
)
from captum_quantum.circuit.observable import Observable, describe_readout

Source = Literal["input", "weight", "constant"]

COMPUTED = -2
"""The index of angles that modules compute."""


class CircuitError(ValueError):
    """A circuit that cannot be built, traced or run, with the gate and the reason."""


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # what is kept must serve training later
def index_tensor(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """An index as a tensor, made once: a GPU would have to wait for it at every call.

    Args:
        indices (tuple[int, ...]): The index.
        device (torch.device): Where.

    Returns:
        Tensor: int64, shape ``(len(indices),)``; not to be modified.
    """
    with _compat.outside_transforms():
        return torch.tensor(indices, dtype=torch.long, device=device)


def select(values: Tensor, indices: Sequence[int], dim: int) -> Tensor:
    """Picks entries along a dimension; all of them in order is no work.

    Args:
        values (Tensor): Any shape.
        indices (Sequence[int]): Which entries.
        dim (int): The dimension.
    """
    if list(indices) == list(range(values.shape[dim])):
        return values
    return values.index_select(dim, index_tensor(tuple(indices), values.device))


def _require(condition: bool, argument: str, must: str, got: Any) -> None:
    if not condition:
        _checks.refuse(argument, must, str(got), CircuitError)


@dataclass(frozen=True)
class Angle:
    """Where an angle of a gate comes from.

    Attributes:
        source (str): ``"input"``: it differs from sample to sample; ``"weight"``: the batch shares
            it; or ``"constant"``.
        index (int): Which input feature or weight it is; -1 for a constant; -2 for an angle that
            modules compute from inputs and weights.
        value (float): The constant in radians; 0 otherwise.
    """

    source: Source
    index: int = -1
    value: float = 0.0

    def __post_init__(self) -> None:
        """Refuses unknown sources, indices that are no integers, and infinite constants."""
        _checks.check_choice("source of an angle", self.source, get_args(Source))
        if self.source != "constant":
            if self.index != COMPUTED:
                _checks.check_int("index of an angle", self.index, 0)
        elif not math.isfinite(self.value):
            _checks.wrong_value("constant angle", "finite", self.value)

    @classmethod
    def of_input(cls, index: int) -> "Angle":
        """The angle that an input feature is.

        Args:
            index (int): The feature, from 0 on.
        """
        return cls("input", index)

    @classmethod
    def of_weight(cls, index: int) -> "Angle":
        """The angle that a weight is.

        Args:
            index (int): The weight among the flattened weights, from 0 on.
        """
        return cls("weight", index)

    @classmethod
    def computed(cls, source: Source) -> "Angle":
        """An angle that modules compute; only a layer of these modules knows its values.

        Args:
            source (str): ``"input"`` for one that differs from sample to sample, computed from
                inputs and perhaps weights; ``"weight"`` for one that the batch shares.
        """
        return cls(source, COMPUTED)

    @classmethod
    def constant(cls, value: float) -> "Angle":
        """A fixed angle.

        Args:
            value (float): The angle in radians, finite.
        """
        return cls("constant", value=float(value))

    def __str__(self) -> str:
        if self.source == "constant":
            return f"{self.value:.4g}"
        name = "x" if self.source == "input" else "w"
        return f"{name}[{self.index}]" if self.index >= 0 else f"f({name})"


@dataclass(frozen=True)
class Gate:
    """A gate on wires, each angle with its source.

    Attributes:
        name (str): TorchQuantum's name; aliases are resolved.
        wires (tuple[int, ...]): The wires, the most significant first.
        angles (tuple[Angle, ...]): One entry for each angle of the gate.
        inverse (bool): Whether the adjoint is applied.
        operator (Any): Of ``"qubitunitary"`` the matrix U, as a tuple of rows of complex numbers or
            anything that `torch.as_tensor` takes; of ``"exp"`` the Hermitian generator H of
            ``exp(-i t H / 2)``, an `Observable` or a matrix, wire k of which is the gate's wire k.
            None for all other gates.

    Raises:
        CircuitError: If the gate is unknown, its wires repeat, their number or that of its angles
            is wrong, or a matrix is not unitary or not Hermitian.
    """

    name: str
    wires: tuple[int, ...]
    angles: tuple[Angle, ...] = ()
    inverse: bool = False
    operator: Any = None

    def __post_init__(self) -> None:
        """Validates the gate against the gate set."""
        of_operator = OPERATORS.get(self.name) if isinstance(self.name, str) else None
        try:
            kind = None if of_operator else gate_type(self.name)
        except ValueError as error:
            raise CircuitError(str(error)) from None
        object.__setattr__(self, "name", ALIASES.get(self.name, self.name))
        for field, kinds in (("wires", "integers"), ("angles", "Angle objects")):
            values = getattr(self, field)
            if isinstance(values, str) or not isinstance(values, Sequence):
                _checks.wrong_type(f"{field} of {self.name}", f"a tuple of {kinds}", values)
            object.__setattr__(self, field, tuple(values))
        for angle in self.angles:
            if not isinstance(angle, Angle):
                _checks.wrong_type(f"angles of {self.name}", "Angle objects", angle)
        wires, n_wires = f"wires of {self.name}", len(self.wires)
        valid = all(isinstance(w, int) and not isinstance(w, bool) and w >= 0 for w in self.wires)
        _require(valid, wires, "integers >= 0", _checks.describe(self.wires))
        distinct = 0 < len(set(self.wires)) == n_wires
        _require(distinct, wires, "different from each other", self.wires)
        if kind is not None:
            _require(kind.n_wires in (None, n_wires), wires, f"{kind.n_wires} wire(s)", self.wires)
        wanted = of_operator[1] if of_operator else self.type.n_angles
        n_angles, must = len(self.angles), f"{wanted} angle(s)"
        _require(n_angles == wanted, f"angles of {self.name}", must, n_angles)
        needs = "an operator" if of_operator else "None"
        argument = f"operator of {self.name}"
        _require((self.operator is None) == (of_operator is None), argument, needs, self.operator)
        if of_operator is not None:
            operator = self.operator
            if isinstance(operator, Observable):
                high = max(operator.wires, default=0)
                _require(high < n_wires, argument, f"on wires below {n_wires}", operator)
                operator = operator.matrix(n_wires)
            object.__setattr__(self, "operator", as_rows(self.name, operator, n_wires))

    @property
    def type(self) -> GateType:
        """What simulators and gradient rules need to know of the gate."""
        if self.operator is None:
            return gate_type(self.name)
        return operator_type(self.name, self.operator)

    def matrix(self, angles: Tensor, dtype: torch.dtype = torch.complex128) -> Tensor:
        """The gate's unitary, or its adjoint if it is inverse.

        Args:
            angles (Tensor): Angles in radians, shape ``(..., n_angles)``.
            dtype (torch.dtype): complex64 or complex128.

        Returns:
            Tensor: Shape ``(..., 2**n_wires, 2**n_wires)``, the first wire most significant.
        """
        return matrix_of(self.type, angles, len(self.wires), self.inverse, dtype)

    def __str__(self) -> str:
        name = f"{self.name}^-1" if self.inverse else self.name
        angles = f"({', '.join(map(str, self.angles))})" if self.angles else ""
        return f"{name}{angles} on {', '.join(map(str, self.wires))}"


@dataclass(frozen=True)
class Circuit:
    """A variational quantum circuit as data: what every simulator and gradient rule reads.

    Wire 0 is the most significant bit of the basis index. The circuit starts in ``|0...0>``, or,
    with amplitude encoding, in the state whose first amplitudes are the inputs divided by their
    norm, all others 0, or in one that modules make of the inputs.

    Attributes:
        n_qubits (int): Number of wires.
        gates (tuple[Gate, ...]): The gates in order of application.
        observables (tuple[Observable, ...]): What is read out, one expectation value each.
        n_inputs (int): Number of input features.
        n_weights (int): Number of weights.
        amplitude_encoding (bool): Whether the inputs are amplitudes instead of angles.

    Raises:
        CircuitError: If a wire or an index is out of range.

    Examples:
        >>> gate = Gate("rx", (0,), (Angle.of_input(0),))
        >>> print(Circuit(1, (gate,), (Observable.of("Z0"),), n_inputs=1))
        1 qubit, 1 input, 0 weights
          rx(x[0]) on 0
        reads <Z0>
    """

    n_qubits: int
    gates: tuple[Gate, ...]
    observables: tuple[Observable, ...]
    n_inputs: int
    n_weights: int = 0
    amplitude_encoding: bool = False

    def __post_init__(self) -> None:
        """Validates everything once, so that no simulator needs to check it again."""
        _checks.check_int("n_qubits", self.n_qubits, 1)
        _checks.check_int("n_inputs", self.n_inputs, 0)
        _checks.check_int("n_weights", self.n_weights, 0)
        for field, kind in (("gates", Gate), ("observables", Observable)):
            values = getattr(self, field)
            if not isinstance(values, Sequence) or not all(isinstance(v, kind) for v in values):
                _checks.wrong_type(field, f"a tuple of {kind.__name__} objects", values)
            object.__setattr__(self, field, tuple(values))
        if not self.observables:
            _checks.wrong_value("observables", "at least one observable", self.observables)
        limits = {"input": self.n_inputs, "weight": self.n_weights}
        for position, gate in enumerate(self.gates):
            here = f"gate {position} ({gate})"
            self._require_wires(f"wires of {here}", gate.wires)
            for angle in gate.angles:
                if angle.source == "constant":
                    continue
                high = limits[angle.source] - 1
                must = f"in [0, {high}]"
                _require(angle.index <= high, f"{angle.source} index of {here}", must, angle.index)
        for observable in self.observables:
            self._require_wires(f"wires of observable {observable.label}", observable.wires)

    def _require_wires(self, argument: str, wires: tuple[int, ...]) -> None:
        high = self.n_qubits - 1
        _require(max(wires, default=0) <= high, argument, f"in [0, {high}]", wires)

    @cached_property
    def angles(self) -> tuple[tuple[Gate, int, Angle], ...]:
        """Every angle of every gate, the columns of the angle table: (gate, which, source)."""
        return tuple(
            (gate, which, angle) for gate in self.gates for which, angle in enumerate(gate.angles)
        )

    def columns(self, source: Source) -> list[int]:
        """The columns of the angle table that come from one source.

        Args:
            source (str): ``"input"``, ``"weight"`` or ``"constant"``.

        Returns:
            list[int]: The columns, in ascending order.
        """
        return self._by_source[source][0]

    def indices(self, source: Source) -> list[int]:
        """Which input feature or weight each of ``columns(source)`` is.

        Args:
            source (str): ``"input"``, ``"weight"`` or ``"constant"``.

        Returns:
            list[int]: An index for each column; -1 for constants.
        """
        return self._by_source[source][1]

    @cached_property
    def _by_source(self) -> dict[Source, tuple[list[int], list[int]]]:
        grouped: dict[Source, tuple[list[int], list[int]]] = {s: ([], []) for s in get_args(Source)}
        for column, (_, _, angle) in enumerate(self.angles):
            grouped[angle.source][0].append(column)
            grouped[angle.source][1].append(angle.index)
        return grouped

    @cached_property
    def is_computed(self) -> bool:
        """Whether modules compute some of the angles, so that the circuit alone cannot be run."""
        return any(angle.index == COMPUTED for _, _, angle in self.angles)

    def scatter(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Puts angles into the order of the angle table.

        Args:
            inputs (Tensor): Angles of ``columns("input")``, ``(batch, n_input_angles)``.
            weights (Tensor): Angles of ``columns("weight")``, ``(n_weight_angles,)`` or
                ``(batch, n_weight_angles)``.

        Returns:
            Tensor: Shape ``(batch, len(self.angles))``; differentiable.
        """
        parts = (inputs, weights.to(inputs), inputs.new_tensor(self._constants))
        pool = torch.cat([part.expand(len(inputs), -1) for part in parts], dim=1)
        return select(pool, self._order, 1)

    @cached_property
    def _order(self) -> list[int]:
        sources: tuple[Source, ...] = get_args(Source)
        columns = [column for source in sources for column in self.columns(source)]
        return sorted(range(len(columns)), key=columns.__getitem__)

    @cached_property
    def _constants(self) -> list[float]:
        return [angle.value for _, _, angle in self.angles if angle.source == "constant"]

    @cached_property
    def _sources(self) -> list[int]:
        """Where each angle stands in inputs, weights and constants, one after the other."""
        constants = itertools.count(self.n_inputs + self.n_weights)
        offsets = {"input": 0, "weight": self.n_inputs}
        return [
            next(constants) if angle.source == "constant" else offsets[angle.source] + angle.index
            for _, _, angle in self.angles
        ]

    def angle_table(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Gathers every gate's angles from their sources.

        A feature or weight that several gates use has a column for each of them, so that a rule can
        shift one gate's angle alone; the chain rule adds them up.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``, radians.
            weights (Tensor): Shape ``(n_weights,)``, radians.

        Returns:
            Tensor: Shape ``(batch, len(self.angles))``, radians; differentiable.

        Raises:
            CircuitError: If modules compute an angle.
        """
        if self.is_computed:
            raise CircuitError(
                "modules compute some of the circuit's angles from inputs and weights; ask the "
                "layer for its angle_table(inputs)"
            )
        parts = (inputs, weights.to(inputs.dtype), inputs.new_tensor(self._constants))
        pool = torch.cat([part.expand(len(inputs), -1) for part in parts], dim=1)
        return select(pool, self._sources, 1)

    @cached_property
    def digest(self) -> str:
        """What tells the circuit from others, the same in later versions: 32 hexadecimal digits."""
        lines = [f"{self.n_qubits} {self.n_inputs} {self.n_weights} {self.amplitude_encoding}"]
        for gate in self.gates:
            angles = [f"{a.source} {a.index} {float(a.value).hex()}" for a in gate.angles]
            line = f"{gate.name} {gate.wires} {gate.inverse} {angles}"
            lines.append(line if gate.operator is None else f"{line} {gate.operator}")
        lines += [f"read {[term.fingerprint for term in o.terms]}" for o in self.observables]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def weights_as_inputs(self) -> "Circuit":
        """The same circuit in which every angle is an input of its own, constants apart."""
        count = itertools.count()

        def as_input(angle: Angle) -> Angle:
            return angle if angle.source == "constant" else Angle.of_input(next(count))

        gates = tuple(
            replace(gate, angles=tuple(map(as_input, gate.angles))) for gate in self.gates
        )
        return Circuit(self.n_qubits, gates, self.observables, next(count))

    def split(self, table: Tensor) -> Sequence[Tensor]:
        """Splits an angle table by gates.

        Args:
            table (Tensor): Shape ``(batch, n_angles)``, radians.

        Returns:
            Sequence[Tensor]: For each gate of k angles a tensor ``(batch, k)``.
        """
        return torch.split_with_sizes(table, [len(gate.angles) for gate in self.gates], dim=1)

    def __str__(self) -> str:
        def count(number: int, noun: str) -> str:
            return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

        qubits, inputs = count(self.n_qubits, "qubit"), count(self.n_inputs, "input")
        inputs += " (amplitudes)" if self.amplitude_encoding else ""
        summary = f"{qubits}, {inputs}, {count(self.n_weights, 'weight')}"
        reads = f"reads {describe_readout(self.observables)}"
        return "\n".join([summary, *(f"  {gate}" for gate in self.gates), reads])


class Reading(NamedTuple):
    """A circuit and its angles in one call.

    Attributes:
        circuit (Circuit): The circuit.
        inputs (Tensor): Angles that differ from sample to sample, ``(batch, n_input_angles)``.
        weights (Tensor): Angles that the batch shares, ``(n_weight_angles,)``.
        initial (Tensor or None): Initial states, ``(batch, 2**n_qubits)``.
        plain (bool): Whether all shared angles are elements of parameters.
    """

    circuit: Circuit
    inputs: Tensor
    weights: Tensor
    initial: Tensor | None
    plain: bool
