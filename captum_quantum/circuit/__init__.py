"""What a circuit is: gates, angle sources and observables as frozen, validated data."""

from captum_quantum.circuit.circuit import (
    Angle,
    Circuit,
    CircuitError,
    Gate,
    Reading,
    index_tensor,
    select,
)
from captum_quantum.circuit.gates import GATE_TYPES, gate_matrix, gate_type
from captum_quantum.circuit.observable import Observable, PauliString, read_observables

__all__ = [
    "GATE_TYPES", "Angle", "Circuit", "CircuitError", "Gate", "Observable", "PauliString",
    "Reading", "gate_matrix", "gate_type", "index_tensor", "read_observables", "select"
]  # fmt: skip
