"""Models by name, made from the model of a data set: other circuits, classical layers, no circuit.

One table, which the command line reads. For a hybrid model of 8 qubits and 48 weights, all circuits
and classical layers of the table have 48 parameters: they differ in gates, start and outputs.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from captum_quantum import _checks, _state
from captum_quantum.models.hybrid import HybridClassifier
from captum_quantum.models.twin import classical_twin

Untrained = Callable[..., HybridClassifier]
"""The function ``model`` of a data set: ``model(seed=seed, **config)``."""

Make = Callable[[Untrained, int], HybridClassifier]


@dataclass(frozen=True)
class NamedModel:
    """A model that the command line knows by name.

    Attributes:
        name (str): The name.
        description (str): What the model is, in a few words.
        make (Callable): ``(model, seed)`` to the untrained model, with ``model`` the function of a
            data set that makes its untrained model: ``model(seed=seed, **config)``.
    """

    name: str
    description: str
    make: Make


_MODELS: dict[str, NamedModel] = {}


def register_model(name: str, description: str) -> Callable[[Make], Make]:
    """Adds a model to the table; a decorator of the function that makes it.

    Args:
        name (str): A new name of letters, digits, hyphens and underscores.
        description (str): What the model is, in a few words.

    Returns:
        Callable: The decorator. It takes a function ``(model, seed)`` that returns an untrained
        `HybridClassifier`, and returns that function unchanged. ``model(seed=seed, **config)`` is
        the data set's untrained model, with other arguments of its configuration if need be.

    Raises:
        TypeError: If the description is no string, or what is decorated no function.
        ValueError: If the name is taken or cannot be one.

    Examples:
        >>> from captum_quantum.models import digits_model, named_models, register_model
        >>> @register_model("deep", "four layers of the ansatz")
        ... def deep(model, seed):
        ...     return model(seed=seed, n_layers=4)
        >>> named_models()["deep"].make(digits_model, 0).vqc.circuit.n_weights
        96
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        _checks.wrong_value("name", "a name of letters, digits, hyphens and underscores", name)
    if not isinstance(description, str):
        _checks.wrong_type("description", "a few words", description)

    def register(make: Make) -> Make:
        if name in _MODELS:
            _checks.wrong_value("name", "a new name", name)
        if not callable(make):
            _checks.wrong_type("make", "a function (model, seed) -> model", make)
        _MODELS[name] = NamedModel(name, description, make)
        return make

    return register


def named_models() -> dict[str, NamedModel]:
    """The models of the table.

    Returns:
        dict[str, NamedModel]: The models by name, in the order in which they were registered.

    Examples:
        >>> from captum_quantum.models import named_models
        >>> list(named_models())[:3]
        ['hybrid', 'twin', 'entangled']
    """
    return dict(_MODELS)


def without_circuit(model: HybridClassifier, *, seed: int = 0) -> HybridClassifier:
    """Returns a copy of a hybrid model in which the angles go to the linear layer directly.

    What a circuit does for a model is seen by comparison with this one: backbone, reduction, tanh,
    linear layer. The copy has the same weights elsewhere; the linear layer is drawn anew, from a
    normal distribution with standard deviation 1, if it has another number of inputs.

    Args:
        model (HybridClassifier): The model; not changed.
        seed (int): Fixes the weights of a linear layer that is drawn anew.

    Returns:
        HybridClassifier: The copy, whose ``vqc`` is `torch.nn.Identity`; ``config`` and ``trained``
        are None.

    Raises:
        TypeError: If the model is no `HybridClassifier`, or the seed no integer.
        ValueError: If the seed is negative.

    Examples:
        >>> from captum_quantum.models import digits_model, without_circuit
        >>> without_circuit(digits_model(n_qubits=4)).vqc
        Identity()
    """
    if not isinstance(model, HybridClassifier):
        _checks.wrong_type("model", "a HybridClassifier", model)
    _checks.check_int("seed", seed, 0)
    found = copy.deepcopy(model, {id(model.vqc): nn.Identity().train(model.vqc.training)})
    found.config = found.trained = None
    n_angles = model.reduction.out_features
    if model.head.in_features != n_angles:
        old = model.head.weight
        with _state.seeded(seed):
            found.head = nn.Linear(n_angles, model.n_classes)
            nn.init.normal_(found.head.weight)
        found.head.to(old.device, old.dtype).train(model.head.training)
        found.head.weight.requires_grad_(old.requires_grad)
        found.head.bias.requires_grad_(model.head.bias.requires_grad)
    return found


@register_model("hybrid", "the data set's hybrid model")
def _hybrid(model: Untrained, seed: int) -> HybridClassifier:
    return model(seed=seed)


@register_model("twin", "the hybrid's classical twin")
def _twin(model: Untrained, seed: int) -> HybridClassifier:
    return classical_twin(model(seed=seed), seed=seed)


_RING = {"n_layers": 2, "ansatz": "rx_ry_rz_ring", "weight_std": None}


def _register_circuit(name: str, description: str, **config: Any) -> None:
    @register_model(name, description)
    def make(model: Untrained, seed: int) -> HybridClassifier:
        return model(seed=seed, **config)


_register_circuit(
    "entangled", "U3 and CU3 that start anywhere, read in Z and X",
    n_layers=1, ansatz="u3cu3", observables="ZX", weight_std=None,
)  # fmt: skip
_register_circuit("ring", "rotations and a ring of CNOTs, read in Z", **_RING, observables="Z")
_register_circuit(
    "ring-zx", "rotations and a ring of CNOTs, read in Z and X", **_RING, observables="ZX"
)


@register_model("twin-identity", "the hybrid's classical twin, started near the identity")
def _twin_identity(model: Untrained, seed: int) -> HybridClassifier:
    return classical_twin(model(seed=seed), near_identity=True, seed=seed)


@register_model("twin-16", "a classical twin with two outputs for each qubit")
def _twin_16(model: Untrained, seed: int) -> HybridClassifier:
    return classical_twin(model(seed=seed, observables="ZX"), seed=seed)


@register_model("twin-16-identity", "the same, started near the identity")
def _twin_16_identity(model: Untrained, seed: int) -> HybridClassifier:
    hybrid = model(seed=seed, observables="ZX")
    return classical_twin(hybrid, near_identity=True, seed=seed)


@register_model("linear", "no circuit: reduction, tanh, linear layer")
def _linear(model: Untrained, seed: int) -> HybridClassifier:
    return without_circuit(model(seed=seed), seed=seed)
