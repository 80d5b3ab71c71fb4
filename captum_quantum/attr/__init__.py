"""Why a hybrid model decides as it does: attribution with quantum gradient rules."""

from captum_quantum.attr._transform import tokens_to_grid
from captum_quantum.attr.quantum_grad_cam import QuantumLayerGradCam

__all__ = ["QuantumLayerGradCam", "tokens_to_grid"]
