"""Tracing: from TorchQuantum modules to a Circuit.

The modules run twice on a device that records every gate and simulates nothing, with every input
and weight replaced by another number, different in the two runs. An angle that shows the two
numbers of one source comes from that source; one that shows the same number twice is a constant;
anything else was computed from inputs or weights, which no circuit can express, and is refused.
"""

import math
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torchquantum as tq
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Angle, Circuit, CircuitError, Gate, Observable, gate_type
from captum_quantum.tq.installed import name_and_version
from captum_quantum.tq.run import applies, apply_modules, shallow_copy

_MATRIX = "its parameters are the elements of a matrix, not angles; build it from named gates"
REFUSED = {
    "cu2": "TorchQuantum's matrix for it is not unitary; use u2 and cnot",
    "globalphase": "it changes no expectation value, and TorchQuantum loses its gradient",
    "qubitunitary": _MATRIX,
    "qubitunitaryfast": _MATRIX,
    "qubitunitarystrict": _MATRIX,
    "trainableunitary": _MATRIX,
    "trainableunitarystrict": _MATRIX,
}
"""Gates of TorchQuantum that are refused, with the reason."""

_WIDEST_PROBE = 1024


class _Recorder(tq.QuantumDevice):
    """A device that records gates; its state lives on PyTorch's meta device and costs nothing."""

    def __init__(self, n_wires: int) -> None:
        super().__init__(n_wires=n_wires, bsz=1, device="meta", record_op=True)
        self.device = "cpu"  # where modules shall put their angles
        self.gates_applied = 0

    def reset_states(self, bsz: int) -> None:
        """Restarts from |0...0>, as TorchQuantum does."""
        self.op_history.clear()
        self.__dict__["gates_applied"] = 0

    def __setattr__(self, name: str, value: Any) -> None:
        """Notices states written by anything but a gate."""
        if name == "states" and "gates_applied" in self.__dict__:
            if len(self.op_history) != self.gates_applied + 1:
                raise CircuitError(
                    f"after {len(self.op_history)} gates the state is written directly (by reset, "
                    "set_states or an encoding of amplitudes), which is not a gate"
                )
            self.__dict__["gates_applied"] = len(self.op_history)
        super().__setattr__(name, value)


def weight_names(encoder: nn.Module, ansatz: nn.Module) -> list[str]:
    """The names of the real parameters and buffers of both modules, each tensor once.

    Args:
        encoder (nn.Module): Its names start with ``"encoder."``.
        ansatz (nn.Module): Its names start with ``"ansatz."``.
    """
    both = nn.ModuleDict({"encoder": encoder, "ansatz": ansatz})
    tensors = (*both.named_parameters(), *both.named_buffers())
    return [name for name, tensor in tensors if tensor.is_floating_point()]


def weight_tensors(encoder: nn.Module, ansatz: nn.Module) -> list[Tensor]:
    """The tensors of these names, in the same order."""
    both = nn.ModuleDict({"encoder": encoder, "ansatz": ansatz})
    return [attrgetter(name)(both) for name in weight_names(encoder, ansatz)]


def _substitute(module: nn.Module, stand_ins: dict[int, Tensor]) -> None:
    """Replaces a shallow copy's parameters and buffers by stand-ins."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None and id(parameter) in stand_ins:
                child._parameters[name] = nn.Parameter(stand_ins[id(parameter)])
        for name, buffer in child._buffers.items():
            if buffer is not None and id(buffer) in stand_ins:
                child._buffers[name] = stand_ins[id(buffer)].requires_grad_()


def _stand_in_values(count: int, run: int) -> Tensor:
    """``count`` different numbers, in (31, 63) in run 0 and, reversed, in (-126, -62) in run 1.

    No source has the same number twice, and no rounding, sign or clipping maps both to one
    constant. They are large and no integers, so that neither clipping to a few periods nor rounding
    passes for the number itself.
    """
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1)
    values = 0.5 + steps / 2 if run == 0 else -2 + steps.flip(0)
    return (20 * math.pi * values).float()


def _record(
    run: int, n_qubits: int, n_inputs: int, apply: Callable[..., None], modules: list[nn.Module]
) -> tuple[list[dict[str, Any]], Tensor]:
    """One run with stand-ins: the gates recorded and the values of all inputs, then all weights."""
    weights = weight_tensors(*modules)
    values = _stand_in_values(n_inputs + sum(w.numel() for w in weights), run)
    stand_ins, offset = {}, n_inputs
    for weight in weights:
        stand_in = values[offset : offset + weight.numel()].reshape(weight.shape)
        stand_ins[id(weight)] = stand_in.to(weight.dtype)
        offset += weight.numel()
    memo: dict[int, nn.Module] = {}
    copies = [shallow_copy(module, memo) for module in modules]
    for copy in copies:
        _substitute(copy, stand_ins)
    recorder = _Recorder(n_qubits)
    inputs = values[None, :n_inputs].clone().requires_grad_()
    try:
        with torch.enable_grad():
            apply(*copies, recorder, inputs)
    except CircuitError:
        raise
    # The user's own forward runs here, on stand-in values: there is no list of what it may raise.
    # Whatever it is stays the cause of an error that names the gate at which it happened.
    except Exception as error:
        raise _explain(error, recorder.op_history, n_qubits) from error
    return recorder.op_history, values


def _explain(error: Exception, history: list[dict[str, Any]], n_qubits: int) -> CircuitError:
    """Words what went wrong inside the user's or TorchQuantum's modules."""
    if history:
        wires = history[-1]["wires"]
        wires = wires if isinstance(wires, list) else [wires]
        if any(not 0 <= wire < n_qubits for wire in wires):
            argument = f"wires of {history[-1]['name']}, gate {len(history) - 1},"
            must = f"in [0, {n_qubits - 1}]"
            return CircuitError(_checks.sentence(argument, must, str(wires)))
        if history[-1]["name"] in REFUSED:
            name = history[-1]["name"]
            return CircuitError(f"gate {len(history) - 1}, {name}, is refused: {REFUSED[name]}")
    if isinstance(error, NameError) and "mat_dict" in str(error):
        gate = traceback.extract_tb(error.__traceback__)[-1].name
        return CircuitError(
            f"gate {len(history)}, {gate}, cannot run: {name_and_version()}'s own code for it ends "
            f"in NameError ({error}); build it from other gates"
        )
    source = traceback.extract_tb(error.__traceback__)[-1].line or ""
    if isinstance(error, KeyError) and "name_dict" in source:
        name = str(error.args[0])
        return CircuitError(
            f"gate {len(history)} has a name that TorchQuantum does not know: {name!r}"
            + _checks.near_miss(name, tq.functional.func_name_dict)
        )
    where = (
        f"at or after gate {len(history) - 1}, {history[-1]['name']} on wires "
        f"{history[-1]['wires']}"
        if history
        else "before the first gate"
    )
    where += _user_line(error)
    if "meta tensor" in str(error):
        return CircuitError(
            f"the modules read the quantum state {where}, as resets and measurements do; a circuit "
            "has gates only, and observables to read"
        )
    return CircuitError(f"the modules raised {type(error).__name__} {where}: {error}".rstrip(": "))


def _user_line(error: Exception) -> str:
    """The innermost line of the user's own code, to name the call that failed."""
    libraries = tuple(str(Path(str(module.__file__)).parent) for module in (torch, tq, _checks))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if not frame.filename.startswith(libraries)]
    return f", in {lines[-1]!r}" if lines and lines[-1] else ""


def _values(entry: dict[str, Any]) -> list[Any]:
    params = entry["params"]
    return [] if params is None else params if isinstance(params, list) else [params]


def _read_gate(
    position: int, first: dict[str, Any], second: dict[str, Any], sources: dict[Any, Angle]
) -> Gate:
    """Reads one gate from its records in the two runs."""
    name, wires = first["name"], first["wires"]
    wires = tuple(wires) if isinstance(wires, list) else (wires,)
    here = f"gate {position}, {name} on wires {wires},"
    if name in REFUSED:
        raise CircuitError(f"{here} is refused: {REFUSED[name]}")
    try:
        n_angles = gate_type(name).n_angles
    except ValueError as error:
        raise CircuitError(f"{here} is unknown: {error}") from None
    angles = []
    for pair in zip(_values(first)[:n_angles], _values(second)[:n_angles], strict=True):
        if pair in sources:
            angles.append(sources[pair])
        elif pair[0] == pair[1] and not first["trainable"]:
            angles.append(Angle.constant(pair[0]))
        else:
            raise CircuitError(
                f"{here} has an angle that is computed from inputs or weights, or is drawn at "
                "random, or belongs to a tensor that is no parameter or buffer of the modules; "
                "every angle must be one input feature, one weight, or a constant: scale or "
                "combine before the layer"
            )
    if any(angle.source == "input" for angle in angles) and not applies(name):
        raise CircuitError(
            f"{here} is refused with an input as angle: {name_and_version()} fails for a batch of "
            "them"
        )
    return Gate(name, wires, tuple(angles), bool(first["inverse"]))


def _read(
    n_qubits: int, n_inputs: int, apply: Callable[..., None], modules: list[nn.Module]
) -> tuple[Gate, ...]:
    (first, values), (second, others) = (
        _record(run, n_qubits, n_inputs, apply, modules) for run in (0, 1)
    )
    skeletons = [
        [(entry["name"], entry["wires"], entry["inverse"]) for entry in history]
        for history in (first, second)
    ]
    if skeletons[0] != skeletons[1]:
        raise CircuitError(
            "the gates depend on the values of inputs or weights, or are drawn at random; a "
            "circuit has the same gates for every sample"
        )
    sources = {}
    for k, pair in enumerate(zip(values.tolist(), others.tolist(), strict=True)):
        sources[pair] = Angle.of_input(k) if k < n_inputs else Angle.of_weight(k - n_inputs)
    return tuple(
        _read_gate(position, *entries, sources)
        for position, entries in enumerate(zip(first, second, strict=True))
    )


def _n_inputs_of(gates: tuple[Gate, ...]) -> int:
    return max(
        (a.index + 1 for gate in gates for a in gate.angles if a.source == "input"), default=0
    )


def trace(
    encoder: nn.Module,
    ansatz: nn.Module,
    n_qubits: int,
    observables: tuple[Observable, ...],
    reupload: bool = False,
) -> Circuit:
    """Traces TorchQuantum modules into a Circuit; neither their tensors nor the RNG are touched.

    Args:
        encoder (nn.Module): A ``tq.Encoder``; ``tq.StateEncoder`` is amplitude encoding.
        ansatz (nn.Module): A ``tq.QuantumModule``.
        n_qubits (int): Number of wires.
        observables (tuple[Observable, ...]): What to read out.
        reupload (bool): Whether to apply the encoder before every layer of the ansatz.

    Returns:
        Circuit: The circuit; weight j is element j of the flattened :func:`weight_tensors`.

    Raises:
        CircuitError: If the modules cannot be traced, with the gate and the reason.
    """
    n_weights = sum(tensor.numel() for tensor in weight_tensors(encoder, ansatz))
    if isinstance(encoder, tq.StateEncoder):
        if reupload:
            raise CircuitError(
                "reupload must be False for amplitude encoding, which sets the state"
            )
        gates = _read(n_qubits, 0, lambda _, ansatz, qdev, x: ansatz(qdev), [encoder, ansatz])
        return Circuit(n_qubits, gates, observables, 2**n_qubits, n_weights, True)

    def apply(encoder_copy: nn.Module, ansatz_copy: nn.Module, qdev: nn.Module, x: Tensor) -> None:
        apply_modules(encoder_copy, ansatz_copy, qdev, x, reupload)

    if isinstance(encoder, tq.GeneralEncoder):
        n_inputs = 1 + max(
            (i for entry in encoder.func_list for i in entry.get("input_idx") or ()), default=-1
        )
        gates = _read(n_qubits, n_inputs, apply, [encoder, ansatz])
        return Circuit(n_qubits, gates, observables, n_inputs, n_weights)

    def read(width: int) -> Circuit:
        gates = _read(n_qubits, width, apply, [encoder, ansatz])
        return Circuit(n_qubits, gates, observables, _n_inputs_of(gates), n_weights)

    # A module of the user's does not say how many features it reads. One that picks features by
    # number shows it on a wide input; one that reads all it gets is taken to read one a qubit; one
    # that takes its input apart (a view) may want two or three a qubit.
    for width in (_WIDEST_PROBE, n_qubits, 2 * n_qubits, 3 * n_qubits):
        try:
            circuit = read(width)
        except CircuitError:
            continue
        if 0 < circuit.n_inputs < _WIDEST_PROBE:
            return circuit
    read(n_qubits)  # raises if the modules cannot be traced
    raise CircuitError(
        f"encoder must use its inputs as angles; got {_checks.describe(encoder)}, whose gates use "
        "none"
    )
