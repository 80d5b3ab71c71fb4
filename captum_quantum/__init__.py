"""Captum for hybrid quantum-classical models in PyTorch.

Names are resolved on first use, so importing this package imports neither torch nor TorchQuantum.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_quantum import metrics
    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.circuit import Angle, Circuit, CircuitError, Gate, Observable
    from captum_quantum.evaluation.comparison import compare
    from captum_quantum.evaluation.report import Report
    from captum_quantum.gradient import GradientPathError, GradientRuleError, quantum_gradient
    from captum_quantum.layer import VQCLayer
    from captum_quantum.models import HybridClassifier, classical_twin

__version__ = "0.1.0"

__all__ = [
    "Angle",
    "Circuit",
    "CircuitError",
    "Gate",
    "GradientPathError",
    "GradientRuleError",
    "HybridClassifier",
    "Observable",
    "QuantumLayerGradCam",
    "Report",
    "VQCLayer",
    "classical_twin",
    "compare",
    "metrics",
    "quantum_gradient",
]

_HOME = {
    "Angle": "circuit",
    "Circuit": "circuit",
    "CircuitError": "circuit",
    "Gate": "circuit",
    "GradientPathError": "gradient",
    "GradientRuleError": "gradient",
    "HybridClassifier": "models",
    "Observable": "circuit",
    "QuantumLayerGradCam": "attr",
    "Report": "evaluation",
    "VQCLayer": "layer",
    "classical_twin": "models",
    "compare": "evaluation",
    "quantum_gradient": "gradient",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module(f"{__name__}.metrics")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
