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
from captum_quantum.circuit.observable import (
    Observable,
    describe_readout,
    read_observables,
    wires_of_probabilities,
)
from captum_quantum.circuit.terms import (
    HermitianMatrix,
    PauliString,
    Projector,
    flip_among,
    states_of,
)

__all__ = [
    "GATE_TYPES", "Angle", "Circuit", "CircuitError", "Gate", "HermitianMatrix", "Observable",
    "PauliString", "Projector", "Reading", "describe_readout", "flip_among", "gate_matrix",
    "gate_type", "index_tensor", "read_observables", "select", "states_of",
    "wires_of_probabilities"
]  # fmt: skip
