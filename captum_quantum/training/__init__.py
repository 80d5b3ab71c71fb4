"""Training of hybrid models."""

from captum_quantum.training.entanglement import (
    EntanglementTest,
    entanglement_test,
    without_entangling_gates,
)
from captum_quantum.training.loop import accuracy, fit, predict

__all__ = [
    "EntanglementTest", "accuracy", "entanglement_test", "fit", "predict",
    "without_entangling_gates"
]  # fmt: skip
