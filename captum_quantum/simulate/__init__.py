"""How the expectation values of a circuit are computed."""

from captum_quantum.simulate.fused import FusedSimulator
from captum_quantum.simulate.readout import expectation_values

__all__ = ["FusedSimulator", "expectation_values"]
