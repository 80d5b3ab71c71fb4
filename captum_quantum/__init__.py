"""Captum for hybrid quantum-classical models in PyTorch.

Names are resolved on first use, so importing this package imports neither torch nor TorchQuantum.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_quantum import datasets, metrics, models, training, visualization
    from captum_quantum._versions import show_versions
    from captum_quantum.attr import QuantumLayerGradCam, tokens_to_grid
    from captum_quantum.circuit import Angle, Circuit, CircuitError, Gate, Observable
    from captum_quantum.evaluation import Report, compare
    from captum_quantum.gradients import GradientPathError, GradientRuleError, quantum_gradient
    from captum_quantum.layer import VQCLayer
    from captum_quantum.models import HybridClassifier, classical_twin

__version__ = "0.1.0"

__all__ = [
    "Angle", "Circuit", "CircuitError", "Gate", "GradientPathError", "GradientRuleError",
    "HybridClassifier", "Observable", "QuantumLayerGradCam", "Report", "VQCLayer", "classical_twin",
    "compare", "datasets", "metrics", "models", "quantum_gradient", "show_versions",
    "tokens_to_grid", "training", "visualization"
]  # fmt: skip

_ROOMS = {
    "_versions": ("show_versions",),
    "attr": ("QuantumLayerGradCam", "tokens_to_grid"),
    "circuit": ("Angle", "Circuit", "CircuitError", "Gate", "Observable"),
    "datasets": (),
    "evaluation": ("Report", "compare"),
    "gradients": ("GradientPathError", "GradientRuleError", "quantum_gradient"),
    "layer": ("VQCLayer",),
    "metrics": (),
    "models": ("HybridClassifier", "classical_twin"),
    "training": (),
    "visualization": (),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
