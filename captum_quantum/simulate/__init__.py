"""How the expectation values of a circuit are computed."""

from captum_quantum.simulate.fused import FusedSimulator
from captum_quantum.simulate.protocol import SIMULATORS, Simulator, register_simulator
from captum_quantum.simulate.readout import expectation_values
from captum_quantum.simulate.torchquantum import TorchQuantumSimulator

__all__ = [
    "SIMULATORS", "FusedSimulator", "Simulator", "TorchQuantumSimulator", "expectation_values",
    "register_simulator"
]  # fmt: skip
