"""Saving and loading models as safetensors files."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._files import replace
from captum_quantum.models.digits import digits_model
from captum_quantum.models.hybrid import HybridClassifier
from captum_quantum.models.twin import ClassicalLayer, classical_twin

_METADATA_KEY = "captum_quantum"
_KINDS = ("digits", "digits, classical twin")
_CONFIG = ("ansatz", "channels", "encoder", "n_classes", "n_layers", "n_qubits")


def save_model(model: HybridClassifier, path: str | PathLike[str]) -> None:
    """Writes a model of `digits_model`, or its classical twin, as a safetensors file.

    The metadata of the file contain ``model.config`` and, unless it is None, ``model.trained``.

    Args:
        model (HybridClassifier): The model.
        path (str or PathLike): The file; an existing one is replaced as a whole.

    Raises:
        ValueError: If the model was not made by `digits_model`.
        OSError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> from captum_quantum.models import digits_model, load_model, save_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(digits_model(n_qubits=4), f"{folder}/weights.safetensors")
        ...     model = load_model(f"{folder}/weights.safetensors")
        >>> model.config["n_qubits"]
        4
    """
    from safetensors.torch import save

    if getattr(model, "config", None) is None:
        _checks.wrong_value("model", "one made by digits_model, for save_model", model)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    kind = _KINDS[isinstance(model.vqc, ClassicalLayer)]
    content: dict[str, Any] = {"model": kind, "config": model.config}
    if model.trained is not None:
        content["trained"] = model.trained
    description = json.dumps(content, sort_keys=True)
    # Not safetensors' own save_file, which raises its own type of error for a wrong path.
    replace(Path(path), save(tensors, metadata={_METADATA_KEY: description}))


def load_model(
    path: str | PathLike[str], *, device: str | torch.device = "cpu"
) -> HybridClassifier:
    """Reads a model that `save_model` has written. Runs no code from the file.

    Args:
        path (str or PathLike): The file.
        device (str or torch.device): The device of the model.

    Returns:
        HybridClassifier: The model with the weights of the file, bit for bit, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is not a safetensors file, does not describe a model
            of `digits_model` or its twin, or its weights have another shape or are not finite.

    Examples:
        >>> from captum_quantum.models import load_model
        >>> model = load_model("demo-output/weights.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        _checks.refuse(
            "path", "a weights file", f"{str(path)!r}, which does not exist", FileNotFoundError
        )
    tensors, metadata = _read_safetensors(path)
    kind, config, trained = _read_description(path, metadata)
    try:
        model = digits_model(**config)
    except (TypeError, ValueError) as error:
        _not_weights(path, f"with the description of a model, but {error}")
    if kind == _KINDS[1]:
        model = classical_twin(model)
    _check_weights(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    model.trained = trained
    return model.to(device).eval()


def _not_weights(path: Path, got: str) -> NoReturn:
    """Raises ValueError for a file that `save_model` has not written."""
    _checks.refuse("path", "a file that save_model has written", f"{str(path)!r}: {got}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        _not_weights(path, f"not a whole safetensors file ({error})")


def _read_description(
    path: Path, metadata: Mapping[str, str]
) -> tuple[str, dict[str, Any], dict[str, int] | None]:
    """Returns the kind of model, the arguments of `digits_model` (names checked), the training."""
    if _METADATA_KEY not in metadata:
        _not_weights(path, f"without a model's description ({_METADATA_KEY!r}) in its metadata")
    try:
        description = json.loads(metadata[_METADATA_KEY])
    except json.JSONDecodeError as error:
        _not_weights(path, f"with a description that is not JSON ({error})")
    if not isinstance(description, dict) or description.get("model") not in _KINDS:
        _not_weights(path, "with the description of something else than a digits model")
    config = description.get("config")
    if not isinstance(config, dict) or sorted(config) != list(_CONFIG):
        _not_weights(path, f"with a configuration that does not name {', '.join(_CONFIG)}")
    trained = description.get("trained")
    if trained is not None and (
        not isinstance(trained, dict) or not all(type(number) is int for number in trained.values())
    ):
        _not_weights(path, "with a description of its training that is not made of integers")
    return description["model"], config, trained


def _check_weights(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Raises ValueError if names, shapes, dtypes or values are not those of the described model."""
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unknown:
        _not_weights(path, f"weights missing: {missing or 'none'}, unknown: {unknown or 'none'}")
    for name, value in tensors.items():
        here, there = expected[name], value
        if here.shape != there.shape or here.dtype != there.dtype:
            _not_weights(
                path,
                f"{name!r} is {_checks.describe(there)}, the described model needs "
                f"{_checks.describe(here)}",
            )
        _checks.check_finite(f"{name!r} in {str(path)!r}", value)
