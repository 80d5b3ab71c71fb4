"""Why modules cannot be traced: which call it is, what it is, and what to do instead."""

import traceback
from numbers import Integral
from pathlib import Path

import torch
import torchquantum as tq

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, CircuitError, gate_type
from captum_quantum.tq.installed import name_and_version
from captum_quantum.tq.reading import MATRIX_GATES
from captum_quantum.tq.recorder import Entry
from captum_quantum.tq.run import applies

_TRAINED = "its parameters are the elements of a matrix, not angles; build it from named gates"
REFUSED = {
    "cu2": "TorchQuantum's matrix for it is not unitary; use u2 and cnot",
    "globalphase": "it changes no expectation value, and TorchQuantum loses its gradient",
    "qubitunitarystrict": "TorchQuantum's matrix for it is not unitary; use qubitunitary",
    "trainableunitary": _TRAINED,
    "trainableunitarystrict": _TRAINED,
}
"""Gates of TorchQuantum that are refused, with the reason."""


def check_entry(entry: Entry, n_qubits: int) -> None:
    """Raises CircuitError where a gate's name or wires are wrong."""
    name, wires = entry.name, entry.wires
    if name in REFUSED:
        raise CircuitError(f"{name} is refused: {REFUSED[name]}")
    if wires is None:
        raise CircuitError(
            f"{name} has no wires; give them when it is made or called, as {name}(wires=0)"
        )
    listed = [wires] if isinstance(wires, Integral) else list(wires)
    if not all(isinstance(wire, Integral) for wire in listed):
        raise CircuitError(_checks.sentence(f"wires of {name}", "integers", repr(wires)))
    if any(not 0 <= int(wire) < n_qubits for wire in listed):
        must = f"in [0, {n_qubits - 1}]"
        raise CircuitError(_checks.sentence(f"wires of {name}", must, str(listed)))
    if name in MATRIX_GATES or name == "exp":
        return
    n_angles = gate_type(name).n_angles
    if entry.params is None and n_angles:
        raise CircuitError(
            f"{name} has no angle; pass params=, or make the operator with has_params=True"
        )


def check_gates(circuit: Circuit) -> None:
    """Raises CircuitError for gates that TorchQuantum itself cannot apply."""
    for gate in circuit.gates:
        if gate.name in REFUSED:
            raise CircuitError(f"{gate.name} is refused: {REFUSED[gate.name]}")
        of_input = any(angle.source == "input" for angle in gate.angles)
        if of_input and gate.operator is None and not applies(gate.name):
            raise CircuitError(
                f"{gate.name} on wires {gate.wires} is refused with an input as angle: "
                f"{name_and_version()} fails for a batch of them"
            )


def explain(error: Exception, entries: list[Entry]) -> CircuitError:
    """Words what went wrong inside the user's or TorchQuantum's modules."""
    line = user_line(error)
    if isinstance(error, NameError) and "mat_dict" in str(error):
        gate = traceback.extract_tb(error.__traceback__)[-1].name
        return CircuitError(
            f"gate {len(entries)}, {gate}, cannot run{line}: {name_and_version()}'s own code for "
            f"it ends in NameError ({error}); build it from other gates"
        )
    source = traceback.extract_tb(error.__traceback__)[-1].line or ""
    if isinstance(error, KeyError) and "name_dict" in source:
        name = str(error.args[0])
        return CircuitError(
            f"gate {len(entries)} has a name that TorchQuantum does not know: {name!r}"
            + _checks.near_miss(name, tq.functional.func_name_dict)
        )
    where = (
        f"after gate {len(entries) - 1}, {entries[-1].name} on wires {entries[-1].wires}"
        if entries
        else "before the first gate"
    )
    if "meta tensor" in str(error) or "device meta" in str(error):
        return CircuitError(
            f"the modules read the quantum state {where}{line}, as resets and measurements do; a "
            "circuit has gates only, and observables to read"
        )
    return CircuitError(
        f"the modules raised {type(error).__name__} {where}{line}: {error}".rstrip(": ")
    )


def user_line(error: BaseException) -> str:
    """The innermost line of the user's own code, to name the call that failed."""
    own = Path(str(_checks.__file__)).parent
    libraries = (*(str(Path(str(module.__file__)).parent) for module in (torch, tq)), str(own))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if not frame.filename.startswith(libraries)]
    return f", in {lines[-1]!r}" if lines and lines[-1] else ""
