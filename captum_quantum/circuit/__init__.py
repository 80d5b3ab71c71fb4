"""What a circuit is: gates, angle sources and observables as frozen, validated data."""

from captum_quantum.circuit.circuit import Angle, Circuit, CircuitError, Gate, index_tensor, select
from captum_quantum.circuit.gates import GATE_TYPES, gate_matrix, gate_type
from captum_quantum.circuit.observable import Observable, describe_readout, read_observables
from captum_quantum.circuit.terms import HermitianMatrix, PauliString, Projector, flips_on

__all__ = [
    "GATE_TYPES", "Angle", "Circuit", "CircuitError", "Gate", "HermitianMatrix", "Observable",
    "PauliString", "Projector", "describe_readout", "flips_on", "gate_matrix", "gate_type",
    "index_tensor", "read_observables", "select"
]  # fmt: skip
