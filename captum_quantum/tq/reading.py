"""From recorded gates to a circuit and its angles, live in the graph of autograd.

An angle is looked up, not computed: it is a view of the inputs, a view of a parameter, or a tensor
that the user's modules have computed from these. Views of one tensor are gathered at once.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_quantum.circuit import (
    GATE_TYPES,
    Angle,
    Circuit,
    CircuitError,
    Gate,
    Observable,
    PauliString,
    Reading,
    gate_type,
    select,
)
from captum_quantum.circuit.gates import ALIASES
from captum_quantum.tq.recorder import Entry, Features, Recorder

MATRIX_GATES = {"qubitunitary": "qubitunitary", "qubitunitaryfast": "qubitunitary"}
"""TorchQuantum's gates whose parameters are the elements of a matrix, and the circuit's gate."""

WITHOUT_ANGLES = frozenset(name for name in (*GATE_TYPES, *ALIASES) if not gate_type(name).n_angles)

STRUCTURES = 64
"""The most circuits that a layer keeps; past these, numbers in the modules' code are angles like
weights, as they may be drawn at random."""


class RewrittenError(Exception):
    """Angles were changed in place after their gate: they must be copied as they come."""


class Structure(NamedTuple):
    """What recordings of the same gates, with angles of the same sources, share.

    Attributes:
        circuit (Circuit): The circuit.
        of_samples (tuple[int, ...]): Where the angles that differ from sample to sample stand in
            the tensors that they are views of.
        shared (tuple[int, ...]): Likewise, of those that the batch shares.
        holders (tuple[tuple[int, str, str], ...]): The modules that keep the device: whether of
            encoder or ansatz, their names in it, and the attribute.
    """

    circuit: Circuit
    of_samples: tuple[int, ...]
    shared: tuple[int, ...]
    holders: tuple[tuple[int, str, str], ...] = ()


class Structures:
    """The structures that a layer has met; the least recently used ones are dropped."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Structure] = OrderedDict()
        self.overflown = False

    def get(self, key: Any) -> Structure | None:
        """The structure of a key, or None."""
        structure = self._known.get(key)
        if structure is not None:
            self._known.move_to_end(key)
        return structure

    def add(self, key: Any, structure: Structure) -> None:
        """Keeps a structure."""
        self._known[key] = structure
        if len(self._known) > STRUCTURES:
            self.overflown = True
            self._known.popitem(last=False)

    def __deepcopy__(self, memo: Any) -> "Structures":
        return Structures()

    def __reduce__(self) -> Any:
        return Structures, ()


class _Pool:
    """The tensors that angles are views of, and which element each angle is."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def add(self, tensor: Tensor) -> int:
        """The number of a tensor, which is added when it is new."""
        number = self.numbers.get(id(tensor))
        if number is None:
            number = self.numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return number


class Reader:
    """Reads what a recorder has recorded for a batch.

    Args:
        recorder (Recorder): The recorder.
        rows (Tensor): The inputs, ``(batch, n_inputs)``, contiguous.
        numbers_too (bool): Whether numbers become shared angles, not constants of the circuit.
    """

    def __init__(self, recorder: Recorder, rows: Tensor, numbers_too: bool = False) -> None:
        self.recorder, self.rows, self._numbers_too = recorder, rows, numbers_too
        self.batch, self._width = rows.shape[0], int(rows.shape[1])
        self._of_rows = rows if rows._base is None else rows._base
        self._start = rows.storage_offset()
        self._tracked = torch.is_grad_enabled()
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._numbers: list[float] = []
        self.samples, self.shared = _Pool(), _Pool()
        self.samples.add(rows)
        entries = recorder.entries
        if recorder.cut:
            entries = [self._detached(entry) for entry in entries[: recorder.cut]]
            entries += recorder.entries[recorder.cut :]
        self.keys = [
            self.read(entry, version)
            for entry, version in zip(entries, recorder.versions, strict=True)
        ]
        if any(tensor._version != version for tensor, version in self._versions.values()):
            raise RewrittenError
        if self._numbers:
            self.shared.add(torch.tensor(self._numbers, dtype=torch.float64))

    def _detached(self, entry: Entry) -> Entry:
        params = entry.params
        if isinstance(params, Features):
            params = self.rows[:, list(params)]
        return entry._replace(params=params.detach()) if isinstance(params, Tensor) else entry

    @property
    def key(self) -> Any:
        """What tells the structure of the recording from others."""
        widths = tuple(map(_width, self.samples.tensors))
        sizes = tuple(int(tensor.numel()) for tensor in self.shared.tensors)
        return tuple(self.keys), widths, sizes, self.recorder.initial is not None

    def read(self, entry: Entry, version: int) -> tuple[Any, ...]:
        """A gate's part of the key: name, wires, inverse, its operator, a tag for each angle.

        A tag is a number, or ``(0, number of the tensor, element of a sample's row)``, or ``(1,
        number of the tensor, element)``.
        """
        name, wires, params, inverse, generator = entry
        if wires is None:
            _refuse(entry, "is not defined")
        wires = (wires,) if isinstance(wires, Integral) else tuple(wires)
        if name in MATRIX_GATES:
            return MATRIX_GATES[name], wires, inverse, _matrix(entry), ()
        operator = None if generator is None else _terms(entry)
        if params is None or name in WITHOUT_ANGLES:  # TorchQuantum ignores angles of these
            return name, wires, inverse, operator, ()
        if isinstance(params, Features):
            for feature in params:
                if not -self._width <= feature < self._width:
                    _refuse(entry, f"takes feature {feature} of {self._width}")
            tags = tuple((0, 0, feature % self._width) for feature in params)
            return name, wires, inverse, operator, tags
        if not isinstance(params, Tensor):
            params = torch.tensor(params, dtype=torch.float64)
            numbers: list[float] = params.reshape(-1).tolist()
            if params.dim() < 2 or params.shape[0] == 1:
                if len(numbers) > 1 and params.dim() < 2:
                    _refuse(entry, f"has {len(numbers)} angles in one dimension")
                if not self._numbers_too:
                    return name, wires, inverse, operator, tuple(numbers)
                first = len(self._numbers)
                self._numbers += numbers
                of_numbers = tuple((2, first + k) for k in range(len(numbers)))
                return name, wires, inverse, operator, of_numbers
        if type(params) is nn.Parameter and params.dim() == 2 and params.shape[0] == 1:
            # An operator's own weights: the most frequent case, and the quickest.
            self._note(params, version)
            number = self.shared.add(params)
            return name, wires, inverse, operator, tuple(
                [(1, number, k) for k in range(params.shape[1])]
            )  # fmt: skip
        return name, wires, inverse, operator, self._tags(entry, params, version)

    def _tags(self, entry: Entry, angles: Tensor, version: int) -> tuple[Any, ...]:
        if not angles.is_floating_point():
            if angles.is_complex() or angles.is_meta:
                _refuse(entry, f"has angles of {angles.dtype}")
            angles = angles.to(self.rows.dtype)
        if angles.is_meta:
            _refuse(entry, "has an angle that is computed from the quantum state")
        shape: Sequence[int] = angles.shape
        strides: Sequence[int] = angles.stride()
        n_rows = shape[0] if shape else 1
        n_angles = int(shape[1]) if len(shape) > 1 else 1
        step, across = (strides[0] if shape else 0), (strides[1] if len(shape) == 2 else 0)
        if len(shape) > 2 or n_rows not in (1, self.batch):
            _refuse(
                entry, f"has angles of shape {tuple(shape)}, for a batch of {self.batch} samples"
            )
        base = angles if angles._base is None else angles._base
        # A view made where gradients are off is none of the base for autograd.
        follows = (
            base is angles
            or angles.grad_fn is not None
            or not (self._tracked and base.requires_grad)
        )
        offset = angles.storage_offset()
        by_sample = n_rows == self.batch and (step != 0 or self.batch == 1)
        if by_sample and follows and base is self._of_rows:
            first = offset - self._start
            last = first + (n_angles - 1) * across
            if (step == self._width or self.batch == 1) and 0 <= first <= last < self._width:
                self._note(base, version)
                return tuple((0, 0, first + k * across) for k in range(n_angles))
        if self.batch == 1 and (isinstance(base, nn.Parameter) or (self._tracked and base.is_leaf)):
            by_sample = False
        pool = self.samples if by_sample else self.shared
        if by_sample:
            whole = base.dim() > 0 and base.shape[0] == self.batch and base.is_contiguous()
            width = _width(base) if whole else 0
            whole = whole and (step == width or self.batch == 1)
        elif not base.is_contiguous() and follows:
            places = [_element(base, int(offset) + k * across) for k in range(n_angles)]
            if None not in places:
                self._note(base, version)
                number = pool.add(base)
                return tuple((1, number, place) for place in places)
            whole, width = False, 0
        else:
            whole, width = base.is_contiguous(), int(base.numel())
        first = offset - base.storage_offset()
        if not (follows and whole and 0 <= first <= first + (n_angles - 1) * across < width):
            base = angles if by_sample or n_rows == 1 else angles[:1]
            first, across = 0, 1
        self._note(base, version)
        number = pool.add(base)
        kind = 0 if by_sample else 1
        return tuple((kind, number, first + k * across) for k in range(n_angles))

    def _note(self, tensor: Tensor, version: int) -> None:
        """Raises RewrittenError if a tensor has changed since an earlier gate."""
        if version < 0:
            return
        if self._versions.setdefault(id(tensor), (tensor, version))[1] != version:
            raise RewrittenError

    def reading(self, structure: Structure) -> Reading:
        """The recording's circuit and angles."""
        rows = self.rows
        parts = self.samples.tensors
        if len(parts) > 1:
            rows = torch.cat([part.reshape(rows.shape[0], -1).to(rows.device) for part in parts], 1)
        inputs = select(rows, structure.of_samples, 1)
        weights = select(_joined(self.shared.tensors, rows), structure.shared, 0)
        initial = self.recorder.initial
        if initial is not None and self.recorder.cut:
            initial = initial.detach()
        if initial is not None and initial.shape[0] != self.batch:
            if initial.shape[0] != 1:
                raise CircuitError(
                    f"the states written must be for {self.batch} samples; got {initial.shape[0]}"
                )
            initial = initial.expand(rows.shape[0], -1)
        plain = all(isinstance(tensor, nn.Parameter) for tensor in self.shared.tensors)
        return Reading(structure.circuit, inputs, weights, initial, plain)

    def structure(
        self,
        n_qubits: int,
        observables: tuple[Observable, ...],
        weights: Sequence[Tensor],
        constants: bool = False,
    ) -> Structure:
        """Makes the circuit of the recording.

        Args:
            n_qubits (int): Number of wires.
            observables (tuple[Observable, ...]): What is read.
            weights (Sequence[Tensor]): The tensors whose elements, flattened, are the weights.
            constants (bool): Whether shared angles that no gradient reaches, and that are no
                elements of ``weights``, become constants of the circuit.
        """
        ends = [0]
        for tensor in self.samples.tensors:
            ends.append(ends[-1] + _width(tensor))
        starts = [0]
        for tensor in self.shared.tensors:
            starts.append(starts[-1] + int(tensor.numel()))
        places, count = {}, 0
        for tensor in weights:
            places[id(tensor)] = count
            count += int(tensor.numel())
        numbers = len(self.shared.tensors) - 1
        of_samples: list[int] = []
        shared: list[int] = []

        def angle(tag: Any) -> Angle:
            if isinstance(tag, float):
                return Angle.constant(tag)
            kind, number, element = tag if len(tag) == 3 else (1, numbers, tag[1])
            if kind == 0:
                tensor = self.samples.tensors[number]
                if constants and not tensor.requires_grad:
                    column = tensor.reshape(self.batch, -1)[:, element]
                    if bool((column == column[0]).all()):
                        return Angle.constant(float(column[0]))
                of_samples.append(ends[number] + element)
                return Angle.of_input(element) if number == 0 else Angle.computed("input")
            tensor = self.shared.tensors[number]
            if id(tensor) in places:
                shared.append(starts[number] + element)
                return Angle.of_weight(places[id(tensor)] + element)
            if constants and not tensor.requires_grad:
                return Angle.constant(float(tensor.reshape(-1)[element]))
            shared.append(starts[number] + element)
            return Angle.computed("weight")

        gates = []
        for name, wires, inverse, operator, tags in self.keys:
            angles = tuple(map(angle, tags))
            gates.append(Gate(name, tuple(map(int, wires)), angles, inverse, operator))
        has_start = self.recorder.initial is not None
        circuit = Circuit(n_qubits, tuple(gates), observables, self._width, count, has_start)
        return Structure(circuit, tuple(of_samples), tuple(shared))


def _width(tensor: Tensor) -> int:
    """The number of elements for each sample; the batch may be symbolic."""
    return math.prod(map(int, tensor.shape[1:]))


def _joined(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """All elements of tensors, one after the other, on the device of another one."""
    if not tensors:
        return like.new_zeros(0)
    device = like.device
    if all(t.dim() == 2 and t.shape[0] == 1 and t.device == device for t in tensors):
        return torch.cat([*tensors], 1).reshape(-1)  # one node of the graph, not one for each
    parts = [tensor.reshape(-1).to(device) for tensor in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _element(base: Tensor, offset: int) -> int | None:
    """Which element, counted as by ``reshape(-1)``, a tensor that is not contiguous has at a place.

    Args:
        base (Tensor): The tensor.
        offset (int): The place in memory.

    Returns:
        int or None: None if the place is none of the tensor's, or one of several elements'.
    """
    rest, index = int(offset - base.storage_offset()), [0] * base.dim()
    strides: Sequence[int] = base.stride()
    for dim in sorted(range(base.dim()), key=lambda k: -strides[k]):
        if base.shape[dim] == 1:
            continue
        if strides[dim] == 0:
            return None
        index[dim], rest = divmod(rest, strides[dim])
        if not 0 <= index[dim] < base.shape[dim]:
            return None
    element = 0
    for size, place in zip(base.shape, index, strict=True):
        element = element * size + place
    return None if rest else element


def _refuse(entry: Entry, why: str) -> None:
    raise CircuitError(f"{entry.name} on wires {entry.wires} {why}")


def _matrix(entry: Entry) -> tuple[tuple[complex, ...], ...]:
    """The matrix of a gate as data."""
    matrix = torch.as_tensor(entry.params)
    if matrix.requires_grad:
        _refuse(entry, "is refused: its matrix is trained; build it from named gates")
    if matrix.dim() == 3 and len(matrix) == 1:
        matrix = matrix[0]
    if matrix.dim() != 2:
        _refuse(
            entry, f"is refused: its matrix has the shape {tuple(matrix.shape)}, one a sample; "
            "build it from named gates"
        )  # fmt: skip
    return tuple(map(tuple, matrix.to(torch.complex128).tolist()))


def _terms(entry: Entry) -> Observable:
    """The generator of a matrix exponential; wire k of it is the gate's wire k."""
    coefficients = entry.generator.coeffs
    if any(isinstance(c, Tensor) and c.requires_grad for c in coefficients):
        _refuse(entry, "is refused: the coefficients of its Hamiltonian are trained")
    pairs = zip(entry.generator.paulis, coefficients, strict=True)  # a string may stand there twice
    return Observable(tuple(PauliString.parse(text, float(weight)) for text, weight in pairs))
