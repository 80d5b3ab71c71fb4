"""Tracing: from TorchQuantum modules to a Circuit and its angles.

The modules run on a `Recorder`. At construction copies of them are tried on made-up inputs, to
learn how many features they take. Modules whose gates cannot change are not run again; all others
at every call, so that the layer follows what they do.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torchquantum as tq
from torch import Tensor, nn

from captum_quantum import _checks, _compat, _state
from captum_quantum.circuit import Circuit, CircuitError, Observable, Reading
from captum_quantum.tq.ansaetze import NAMED
from captum_quantum.tq.reading import (
    Reader,
    RewrittenError,
    Structure,
    Structures,
)
from captum_quantum.tq.recorder import Entry, Recorder, install
from captum_quantum.tq.refusals import check_entry, check_gates, explain, user_line
from captum_quantum.tq.run import (
    apply_modules,
    is_hooked,
    is_plain,
    running,
    shallow_copy,
)

_WIDE, _WIDE_SIDE = 1024, 32
"""How many features are offered to a module that does not say how many it takes."""

Modules = Sequence[nn.Module | None]
"""An encoder and an ansatz."""

install()


def weight_names(*modules: nn.Module | None) -> list[str]:
    """The names of the real parameters and buffers of encoder and ansatz, each tensor once.

    Args:
        *modules (nn.Module or None): The encoder, whose names start with ``"encoder."``, and the
            ansatz, whose names start with ``"ansatz."``.
    """
    return [name for name, _ in _named_weights(modules)]


def weight_tensors(*modules: nn.Module | None) -> list[Tensor]:
    """The tensors of these names, in the same order."""
    return [tensor for _, tensor in _named_weights(modules)]


def _named_weights(modules: Modules) -> list[tuple[str, Tensor]]:
    named = zip(("encoder", "ansatz"), modules, strict=True)
    both = nn.ModuleDict({name: module for name, module in named if module is not None})
    # The states of a device that a module keeps are nobody's weights.
    devices = [name for name, part in both.named_modules() if isinstance(part, tq.QuantumDevice)]
    return [
        (name, tensor)
        for name, tensor in (*both.named_parameters(), *both.named_buffers())
        if tensor.is_floating_point() and name.rpartition(".")[0] not in devices
    ]


def leave_out_states(modules: Modules) -> None:
    """Keeps the states of devices that modules hold out of state_dicts: they are of some batch.

    Args:
        modules (Sequence): Encoder and ansatz; None for none.
    """
    for module in modules:
        for part in () if module is None else module.modules():
            if isinstance(part, tq.QuantumDevice):
                part._non_persistent_buffers_set.update(part._buffers)


def known_gates(*modules: nn.Module | None) -> Any:
    """What the gates of named modules depend on; None for modules that must be run.

    Args:
        *modules (nn.Module or None): Encoder and ansatz.

    Returns:
        Any: What `are_known` compares.
    """
    parts: list[Any] = []
    for module in modules:
        if module is None:
            parts.append(None)
        elif is_plain(module):
            parts.append(copy.deepcopy(list(getattr(module, "func_list", ()))))
        elif type(module) in NAMED and not is_hooked(module) and "weights" in module._parameters:
            parts.append(_sizes(module))
        else:
            return None
    return parts


def are_known(modules: Modules, known: Any) -> bool:
    """Whether named modules are as they were; quick, as it is asked at every call.

    Args:
        modules (Sequence): Encoder and ansatz; None for none.
        known (Any): What `known_gates` has returned of them.
    """
    for module, part in zip(modules, known, strict=True):
        if module is None or part is None:
            same = module is part
        elif is_hooked(module):
            return False
        elif type(module) is tq.GeneralEncoder:
            same = module.func_list == part
        elif type(module) in NAMED:
            same = _sizes(module) == part and "weights" in module._parameters
        else:
            same = type(module) is tq.StateEncoder and not part
        if not same:
            return False
    return True


def _sizes(module: Any) -> tuple[int, int, bool]:
    return module.n_qubits, module.n_layers, "layer" in module.__dict__


def takes_amplitudes(encoder: nn.Module | None) -> bool:
    """Whether an encoder sets the amplitudes to its inputs, divided by their norm.

    Args:
        encoder (nn.Module, optional): The encoder.
    """
    return type(encoder) is tq.StateEncoder and is_plain(encoder)


class Probe(NamedTuple):
    """What was learned of modules from inputs of one shape.

    Attributes:
        circuit (Circuit): The circuit.
        shape (tuple[int, ...]): The shape of one sample's inputs.
        unused (list[int]): The features, flattened, that no angle or amplitude depends on.
    """

    circuit: Circuit
    shape: tuple[int, ...]
    unused: list[int]


class Tracer:
    """How the modules of a layer are run on a recorder. It holds no module and no tensor.

    Args:
        n_qubits (int): Number of wires.
        observables (tuple[Observable, ...]): What is read out.
        reupload (bool): Whether to apply the encoder before every layer of the ansatz.
    """

    def __init__(
        self, n_qubits: int, observables: tuple[Observable, ...], reupload: bool = False
    ) -> None:
        self.n_qubits, self.observables, self.reupload = n_qubits, observables, reupload
        self.structures = Structures()
        # Whether angles are changed in place, and must be copied as they come.
        self.rewrites = False

    def probe(self, modules: Modules, shape: tuple[int, ...] | None = None) -> Probe:
        """Finds the circuit of modules; neither they nor the random state are changed.

        Args:
            modules (Sequence): Encoder and ansatz; None for none.
            shape (tuple[int, ...], optional): The shape of one sample's inputs. Default: found out.

        Raises:
            CircuitError: If the modules cannot be traced, with the gate and the reason.
        """
        encoder = modules[0]
        if shape is None and encoder is None:
            shape = (0,)
        if takes_amplitudes(encoder):
            return self._probe_amplitudes(modules, shape or (2**self.n_qubits,))
        if shape is None and isinstance(encoder, tq.GeneralEncoder):
            indices = [i for entry in encoder.func_list for i in entry.get("input_idx") or ()]
            shape = (1 + max(indices, default=-1),)
        if shape is not None:
            return self._probe(modules, shape)
        return self._search(modules)

    def known(self, modules: Modules) -> Any:
        """What the gates of named modules depend on; None for modules that must be run.

        Args:
            modules (Sequence): Encoder and ansatz; None for none.

        Returns:
            Any: What `is_known` compares.
        """
        return known_gates(*modules)

    def is_known(self, modules: Modules, known: Any) -> bool:
        """Whether the gates of modules are as they were.

        Args:
            modules (Sequence): Encoder and ansatz; None for none.
            known (Any): What `known` has returned of them.
        """
        return known is not None and are_known(modules, known)

    def _search(self, modules: Modules) -> Probe:
        """Offers features to an encoder that does not say how many it takes.

        One that picks features by number shows it on many; one that reads all it gets is taken to
        read as few a qubit as it can.
        """
        n, wide, side = self.n_qubits, _WIDE, _WIDE_SIDE
        widths = [wide, *(k * n for k in (1, 2, 3, 4)), *range(1, 65), 2**n, 128, 256, 512, 784]
        shapes: list[tuple[int, ...]] = [(width,) for width in dict.fromkeys(widths)]
        shapes += [(side, side), (16, 16, 16)]
        first: Probe | None = None
        reason: CircuitError | None = None
        for shape in shapes:
            try:
                probe = self._probe(modules, shape)
            except CircuitError as error:
                # Of n features, the error is about the gates; of others, about their number.
                reason = error if shape == (n,) or reason is None else reason
                continue
            used = sorted(set(range(math.prod(shape))) - set(probe.unused))
            if not used:
                reason = CircuitError(
                    "encoder must use its inputs as angles; got "
                    f"{_checks.describe(modules[0])}, whose gates show no derivative by them "
                    "(encoder=None is a circuit without inputs)"
                )
                continue
            if shape in ((wide,), (side, side), (16, 16, 16)):
                kept = _smallest(used, shape)
                if len(shape) > 1 and max(kept) == shape[0]:
                    got = tuple("n" if size == shape[0] else size for size in kept)
                    raise CircuitError(
                        "encoder reads as many inputs as it gets: n_inputs must say the shape of a "
                        f"sample, ({', '.join(map(str, got))}) with numbers for n"
                    )
                if math.prod(kept) >= wide:
                    continue
                try:
                    probe = self._probe(modules, kept)
                except CircuitError:
                    continue
            if not probe.unused:
                return probe
            first = first or probe
        if first is None:
            hint = "; n_inputs= says how many inputs there are, or of which shape"
            raise CircuitError(f"{reason}{hint}") from reason
        return first

    def _probe(self, modules: Modules, shape: tuple[int, ...]) -> Probe:
        with trial():
            copies, weights = copies_of(modules)
            x = torch.rand(2, math.prod(shape), generator=torch.Generator().manual_seed(0))
            device = weights[0].device if weights else x.device
            dtype = weights[0].dtype if weights else x.dtype
            x = x.to(device, torch.promote_types(dtype, torch.float32)).requires_grad_()
            # No leaf, as it may be changed in place; all angles show what they depend on.
            reader = self._reader(copies, x.clone(), shape, sees_all=True)
            structure = self._structure(copies, reader, weights, shape, constants=True)
            reading = reader.reading(structure)
            given = [reading.inputs, reading.weights]
            given += [] if reading.initial is None else [torch.view_as_real(reading.initial + 0j)]
            score = sum((part * torch.rand(part.shape).to(part)).sum() for part in given)
            (used,) = torch.autograd.grad(score + 0 * x.sum(), x)
        unused = (used == 0).all(dim=0).nonzero().flatten().tolist()
        return Probe(reading.circuit, shape, unused)

    def _probe_amplitudes(self, modules: Modules, shape: tuple[int, ...]) -> Probe:
        if self.reupload:
            raise CircuitError(
                "reupload must be False for amplitude encoding, which sets the state"
            )
        size = 2**self.n_qubits
        if len(shape) > 1 or shape[0] > size:
            raise CircuitError(f"n_inputs must be at most {size} amplitudes; got {shape}")
        probe = self._probe((None, modules[1]), (0,))
        circuit = probe.circuit
        n_weights = sum(tensor.numel() for tensor in weight_tensors(*modules))
        circuit = Circuit(self.n_qubits, circuit.gates, self.observables, shape[0], n_weights, True)
        return Probe(circuit, shape, [])

    def read(self, modules: Modules, rows: Tensor, shape: tuple[int, ...]) -> Reading:
        """Runs the modules themselves, and reads the circuit and its angles.

        Args:
            modules (Sequence): Encoder and ansatz; None for none.
            rows (Tensor): Inputs, ``(batch, n_inputs)``, at least one row.
            shape (tuple[int, ...]): The shape of one sample's inputs.

        Raises:
            CircuitError: If the modules cannot be followed, with the gate and the reason.
        """
        # torch.jit.trace would take the calls of parts that it knows for a graph of their own.
        is_static = any(getattr(module, "static_mode", False) for module in modules)
        if is_static or _compat.in_transform():
            memo: dict[int, nn.Module] = {}
            modules = [m if m is None else shallow_copy(m, memo) for m in modules]
        holders: Sequence[tuple[int, str, str]] | None = None
        with running:  # modules may write to themselves while they run
            try:
                reader = self._reader(modules, rows.contiguous(), shape)
                key = reader.key
                structure = self.structures.get(key)
                if structure is None:
                    weights = weight_tensors(*modules)
                    structure = self._structure(modules, reader, weights, shape)
                    structure = structure._replace(holders=tuple(_holders(modules)))
                    self.structures.add(key, structure)
                holders = structure.holders
                reading = reader.reading(structure)
                reader.recorder.clear()  # the user's modules may keep it somewhere
                return reading
            finally:
                _release(modules, holders)

    def _reader(
        self,
        modules: Modules,
        rows: Tensor,
        shape: tuple[int, ...],
        on_gate: Callable[[Entry], None] | None = None,
        sees_all: bool = False,
    ) -> Reader:
        x = rows if len(shape) == 1 else rows.view(rows.shape[0], *shape)
        untracked = torch.is_inference_mode_enabled() or _compat.in_transform()
        before = None if untracked else rows._version
        for copies in (untracked or self.rewrites, True):
            made: list[Recorder] = []
            try:
                self._run(modules, x, made, on_gate, copies)
                if sees_all:
                    made[0].__dict__["cut"] = 0
                return Reader(made[0], rows, self.structures.overflown)
            except RewrittenError:
                if rows._version != before:
                    raise CircuitError(
                        "the encoder changes its inputs in place while gates use them; it must "
                        "work on a copy, x = x.clone()"
                    ) from None
                self.rewrites = True
            except CircuitError as error:
                if on_gate is None:
                    self._find(modules, rows, shape)
                raise CircuitError(f"{error}{user_line(error)}") from error
            # The user's own forward runs here: there is no list of what it may raise. Whatever it
            # is stays the cause of an error that names the gate at which it happened.
            except Exception as error:
                raise explain(error, made[0].entries if made else []) from error
        raise AssertionError("copied angles cannot be rewritten")

    def _run(
        self,
        modules: Modules,
        x: Tensor,
        made: list[Recorder],
        on_gate: Callable[[Entry], None] | None,
        copies: bool,
    ) -> None:
        """Runs modules on a recorder, which is appended to ``made`` before anything can fail."""
        recorder = Recorder(self.n_qubits, bsz=x.shape[0], device=x.device)
        recorder.__dict__.update(on_gate=on_gate, copies=copies)
        made.append(recorder)
        apply_modules(modules, recorder, x, self.reupload)

    def _structure(
        self,
        modules: Modules,
        reader: Reader,
        weights: Sequence[Tensor],
        shape: tuple[int, ...],
        constants: bool = False,
    ) -> Structure:
        try:
            structure = reader.structure(self.n_qubits, self.observables, weights, constants)
            check_gates(structure.circuit)
        except ValueError as error:
            self._find(modules, reader.rows, shape)
            raise CircuitError(str(error)) from error
        return structure

    def _find(self, modules: Modules, rows: Tensor, shape: tuple[int, ...]) -> None:
        """Runs copies of modules once more, to say in which call a gate is wrong."""
        with trial():
            copies, weights = copies_of(modules)
            rows = rows.detach().clone()

            def check(entry: Entry) -> None:
                alone = Recorder(self.n_qubits, bsz=len(rows), device=rows.device)
                alone.add(entry)
                position = len(history)
                history.append(entry)
                try:
                    check_entry(entry, self.n_qubits)
                    circuit = Reader(alone, rows).structure(
                        self.n_qubits, self.observables, weights
                    )
                    check_gates(circuit.circuit)
                except ValueError as error:
                    raise CircuitError(f"gate {position}: {error}") from None

            history: list[Entry] = []
            self._reader(copies, rows, shape, check)


def _holders(modules: Modules) -> Iterator[tuple[int, str, str]]:
    """The modules that keep a recorder as their device, and in which attribute."""
    for position, module in enumerate(modules):
        for name, part in () if module is None else module.named_modules():
            for attribute, child in part._modules.items():
                if type(child) is Recorder:
                    yield position, name, attribute


def _release(modules: Modules, holders: Sequence[tuple[int, str, str]] | None) -> None:
    """Takes the recorder from modules that keep their device, as TorchQuantum's own layers do.

    Args:
        modules (Sequence): Encoder and ansatz.
        holders (Sequence, optional): Which modules may; None for any of them.
    """
    for position, name, attribute in list(_holders(modules)) if holders is None else holders:
        module = modules[position]
        assert module is not None
        part = module.get_submodule(name)
        if type(part._modules.get(attribute)) is Recorder:
            # Its place stays: other threads may be walking through the modules.
            part._modules[attribute] = None


@contextmanager
def trial() -> Iterator[None]:
    """Modules are tried: outside of all modes, and without a trace in the random state."""
    before = random.getstate()
    try:
        with (
            _compat.outside_transforms(),
            torch.inference_mode(False),
            torch.enable_grad(),
            _state.random_state_kept(),
        ):
            yield
    finally:
        random.setstate(before)


def copies_of(modules: Modules) -> tuple[list[nn.Module | None], list[Tensor]]:
    """Copies of modules with parameters and buffers of their own, and these in order."""
    memo: dict[int, nn.Module] = {}
    copies = [None if module is None else shallow_copy(module, memo) for module in modules]
    tensors: dict[int, Tensor] = {}
    for one in memo.values():
        both: tuple[dict[str, Any], ...] = (one._parameters, one._buffers)
        for values in both:
            for name, tensor in values.items():
                if tensor is None:
                    continue
                if id(tensor) not in tensors:
                    clone = tensor.detach().clone()
                    if isinstance(tensor, nn.Parameter):  # so that all show what depends on them
                        trains = tensor.is_floating_point() or tensor.requires_grad
                        clone = nn.Parameter(clone, requires_grad=trains)
                    tensors[id(tensor)] = clone
                values[name] = tensors[id(tensor)]
    return copies, [tensors[id(tensor)] for tensor in weight_tensors(*modules)]


def _smallest(used: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest shape that holds the features used, given flattened in a shape."""
    sizes = [1] * len(shape)
    for feature in used:
        for dim in range(len(shape) - 1, -1, -1):
            feature, place = divmod(feature, shape[dim])
            sizes[dim] = max(sizes[dim], place + 1)
    return tuple(sizes)
