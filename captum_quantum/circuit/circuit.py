"""What a circuit is once traced: frozen, validated data."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_quantum import _checks, _compat
from captum_quantum.circuit.gates import ALIASES, GateType, gate_type
from captum_quantum.circuit.observable import Observable, describe_readout

Source = Literal["input", "weight", "constant"]


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
        source (str): ``"input"``, ``"weight"`` or ``"constant"``.
        index (int): Which input feature or weight; -1 for a constant.
        value (float): The constant in radians; 0 otherwise.
    """

    source: Source
    index: int = -1
    value: float = 0.0

    def __post_init__(self) -> None:
        """Refuses unknown sources, indices that are no integers, and infinite constants."""
        _checks.check_choice("source of an angle", self.source, get_args(Source))
        if self.source != "constant":
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
    def constant(cls, value: float) -> "Angle":
        """A fixed angle.

        Args:
            value (float): The angle in radians, finite.
        """
        return cls("constant", value=float(value))

    def __str__(self) -> str:
        if self.source == "constant":
            return f"{self.value:.4g}"
        return f"{'x' if self.source == 'input' else 'w'}[{self.index}]"


@dataclass(frozen=True)
class Gate:
    """A gate on wires, each angle with its source.

    Attributes:
        name (str): TorchQuantum's name; aliases are resolved.
        wires (tuple[int, ...]): The wires, the most significant first.
        angles (tuple[Angle, ...]): One entry for each angle of the gate.
        inverse (bool): Whether the adjoint is applied.

    Raises:
        CircuitError: If the gate is unknown, its wires repeat, or their number or that of its
            angles is wrong.
    """

    name: str
    wires: tuple[int, ...]
    angles: tuple[Angle, ...] = ()
    inverse: bool = False

    def __post_init__(self) -> None:
        """Validates the gate against the gate set."""
        try:
            kind = gate_type(self.name)
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
        _require(kind.n_wires in (None, n_wires), wires, f"{kind.n_wires} wire(s)", self.wires)
        n_angles = len(self.angles)
        must = f"{kind.n_angles} angle(s)"
        _require(n_angles == kind.n_angles, f"angles of {self.name}", must, n_angles)

    @property
    def type(self) -> GateType:
        """The entry of the gate set."""
        return gate_type(self.name)

    def __str__(self) -> str:
        name = f"{self.name}^-1" if self.inverse else self.name
        angles = f"({', '.join(map(str, self.angles))})" if self.angles else ""
        return f"{name}{angles} on {', '.join(map(str, self.wires))}"


@dataclass(frozen=True)
class Circuit:
    """A variational quantum circuit as data: what every simulator and gradient rule reads.

    Wire 0 is the most significant bit of the basis index. The circuit starts in ``|0...0>``, or,
    with amplitude encoding, in the state whose amplitudes are the inputs divided by their norm.

    Attributes:
        n_qubits (int): Number of wires.
        gates (tuple[Gate, ...]): The gates in order of application.
        observables (tuple[Observable, ...]): What is read out, one expectation value each.
        n_inputs (int): Number of input features.
        n_weights (int): Number of weights.
        amplitude_encoding (bool): Whether the inputs are amplitudes instead of angles.

    Raises:
        CircuitError: If a wire or an index is out of range, an input feature is never used, or
            amplitudes do not number ``2**n_qubits``.

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
        used = set()
        for position, gate in enumerate(self.gates):
            here = f"gate {position} ({gate})"
            self._require_wires(f"wires of {here}", gate.wires)
            for angle in gate.angles:
                if angle.source == "constant":
                    continue
                high = limits[angle.source] - 1
                must = f"in [0, {high}]"
                _require(angle.index <= high, f"{angle.source} index of {here}", must, angle.index)
                if angle.source == "input":
                    used.add(angle.index)
        for observable in self.observables:
            self._require_wires(f"wires of observable {observable.label}", observable.wires)
        if self.amplitude_encoding:
            _require(
                not used and self.n_inputs == 2**self.n_qubits,
                "inputs of a circuit with amplitude encoding",
                f"{2**self.n_qubits} amplitudes and no angles",
                f"{self.n_inputs} inputs, {len(used)} of them used as angles",
            )
        else:
            unused = f"unused input features {sorted(set(range(self.n_inputs)) - used)}"
            must = "used by at least one gate each"
            _require(len(used) == self.n_inputs, "inputs", must, unused)

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
        """
        parts = (inputs, weights.to(inputs.dtype), inputs.new_tensor(self._constants))
        pool = torch.cat([part.expand(len(inputs), -1) for part in parts], dim=1)
        return select(pool, self._sources, 1)

    @cached_property
    def digest(self) -> str:
        """What tells the circuit from others, the same in later versions: 32 hexadecimal digits."""
        lines = [f"{self.n_qubits} {self.n_inputs} {self.n_weights} {self.amplitude_encoding}"]
        for gate in self.gates:
            angles = [f"{a.source} {a.index} {float(a.value).hex()}" for a in gate.angles]
            lines.append(f"{gate.name} {gate.wires} {gate.inverse} {angles}")
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
