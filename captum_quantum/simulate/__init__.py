"""How the expectation values of a circuit are computed."""

from captum_quantum.simulate.amplitudes import normalize
from captum_quantum.simulate.fused import FusedSimulator
from captum_quantum.simulate.protocol import (
    SIMULATORS,
    Simulator,
    has_vjp,
    read_simulator,
    register_simulator,
)
from captum_quantum.simulate.readout import expectation_values
from captum_quantum.simulate.torchquantum import TorchQuantumSimulator

__all__ = [
    "SIMULATORS",
    "FusedSimulator",
    "Simulator",
    "TorchQuantumSimulator",
    "expectation_values",
    "has_vjp",
    "normalize",
    "read_simulator",
    "register_simulator",
]
