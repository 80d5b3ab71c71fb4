"""Attribution methods by name: one table, which the command line reads.

This module imports neither PyTorch nor Captum: each method imports what it needs when it is made.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PATH_STEPS = 16
"""Number of steps of ``qgradcam-path``."""

Make = Callable[["nn.Module", "nn.Module"], Any]


@dataclass(frozen=True)
class NamedMethod:
    """An attribution method that the command line knows by name.

    Attributes:
        name (str): The name.
        description (str): What the method is, in a few words.
        make (Callable): ``(model, layer)`` to what `compare` takes as a method. ``layer`` is the
            module whose activations are explained, for example the last convolution.
        model (str): Which model it explains, by its name in `captum_quantum.models.named_models`:
            ``"hybrid"``, ``"twin"``, ``"ring"``, ...
        uses_model (bool): Whether the maps depend on the model. Maps that do not cannot be tested
            by randomizing the model.
    """

    name: str
    description: str
    make: Make
    model: str
    uses_model: bool


_METHODS: dict[str, NamedMethod] = {}


def register_method(
    name: str,
    description: str,
    *,
    model: str = "hybrid",
    uses_model: bool = True,
) -> Callable[[Make], Make]:
    """Adds an attribution method to the table; a decorator of the function that makes it.

    Args:
        name (str): A new name, without commas, quotes and line breaks.
        description (str): What the method is, in a few words.
        model (str): Which model it explains, by its name in `captum_quantum.models.named_models`:
            ``"hybrid"``, ``"twin"``, ``"ring"``, ... An unknown one is an error where it is used.
        uses_model (bool): Whether the maps depend on the model. Maps that do not cannot be tested
            by randomizing the model.

    Returns:
        Callable: The decorator. It takes a function ``(model, layer)`` that returns what `compare`
        takes as a method, and returns that function unchanged.

    Raises:
        TypeError: If the model is no string.
        ValueError: If the name is taken or cannot be one.

    Examples:
        >>> from captum.attr import LayerActivation
        >>> from captum_quantum.evaluation import named_methods, register_method
        >>> @register_method("activations", "the layer's activations")
        ... def activations(model, layer):
        ...     return LayerActivation(model, layer)
        >>> named_methods()["activations"].description
        "the layer's activations"
    """
    is_name = name.strip() and not re.search(r'[,"\r\n]', name)
    if not is_name or name in _METHODS or not isinstance(model, str):
        from captum_quantum import _checks  # imports PyTorch

        if not isinstance(model, str):
            _checks.wrong_type("model", "the name of a model", model)
        must = "a new name" if is_name else "a name without commas, quotes and line breaks"
        _checks.wrong_value("name", must, name)

    def register(make: Make) -> Make:
        _METHODS[name] = NamedMethod(name, description, make, model, uses_model)
        return make

    return register


def named_methods() -> dict[str, NamedMethod]:
    """The methods of the table.

    Returns:
        dict[str, NamedMethod]: The methods by name, in the order in which they were registered.
    """
    return dict(_METHODS)


def _qgradcam(model: "nn.Module", layer: "nn.Module", path_steps: int | None = None) -> Any:
    from captum_quantum.attr import QuantumLayerGradCam

    return QuantumLayerGradCam(model, layer, path_steps=path_steps)


register_method("qgradcam", "QGrad-CAM on the hybrid model")(_qgradcam)
register_method(
    "qgradcam-path",
    f"QGrad-CAM with channel weights averaged over {PATH_STEPS} steps from no activation to all of "
    "it",
)(functools.partial(_qgradcam, path_steps=PATH_STEPS))


def _gradcam(model: "nn.Module", layer: "nn.Module") -> Any:
    from captum.attr import LayerGradCam

    return LayerGradCam(model, layer)


register_method("gradcam", "Captum's LayerGradCam on the hybrid model")(_gradcam)
for _model, _what in {
    "twin": "its classical twin",
    "entangled": "a circuit that starts entangled",
    "ring": "rotations and a ring of CNOTs, read in Z",
    "ring-zx": "the ring, read in Z and X",
    "twin-identity": "the twin, started near the identity",
    "twin-16": "a twin with two outputs for each qubit",
    "twin-16-identity": "that one, started near the identity",
    "linear": "a model without a circuit",
}.items():
    # Exact simulators: QGrad-CAM and LayerGradCam are the same on them.
    register_method(
        f"{_model}-gradcam", f"Captum's LayerGradCam on {_what}, trained alike", model=_model
    )(_gradcam)


@register_method("random", "noise, for comparison", uses_model=False)
def _random(model: "nn.Module", layer: "nn.Module") -> Any:
    return _noise, model


def _noise(inputs: "Tensor", target: "Tensor") -> "Tensor":
    import torch

    return torch.rand(len(inputs), 1, *inputs.shape[2:], device=inputs.device)
