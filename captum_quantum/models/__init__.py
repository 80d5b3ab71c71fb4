"""Hybrid classifiers, their classical twins, and their weights files."""

from captum_quantum.models.boltzmann import QuantumBoltzmannLayer
from captum_quantum.models.digits import IMAGE_SIZE, SmallCNN, digits_model, load_model, save_model
from captum_quantum.models.hybrid import GlobalAveragePool, HalfPiTanh, HybridClassifier
from captum_quantum.models.twin import ClassicalLayer, classical_twin
from captum_quantum.models.variants import (
    NamedModel,
    named_models,
    register_model,
    without_circuit,
)
from captum_quantum.models.weights import load_weights, save_weights

__all__ = [
    "IMAGE_SIZE", "ClassicalLayer", "GlobalAveragePool", "HalfPiTanh", "HybridClassifier",
    "NamedModel", "QuantumBoltzmannLayer", "SmallCNN", "classical_twin", "digits_model",
    "load_model", "load_weights", "named_models", "register_model", "save_model", "save_weights",
    "without_circuit"
]  # fmt: skip
