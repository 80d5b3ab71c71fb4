"""Training of hybrid models."""

from captum_quantum.training.loop import accuracy, fit, predict

__all__ = ["accuracy", "fit", "predict"]
