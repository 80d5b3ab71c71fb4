"""Saving and loading models as safetensors files."""

import json
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
    tensors = {n: value.detach().cpu().contiguous() for n, value in model.state_dict().items()}
    kind = _KINDS[isinstance(model.vqc, ClassicalLayer)]
    content: dict[str, Any] = {"model": kind, "config": model.config}
    if model.trained is not None:
        content["trained"] = model.trained
    # Not safetensors' own save_file, which raises its own type of error for a wrong path.
    metadata = {_METADATA_KEY: json.dumps(content, sort_keys=True)}
    replace(Path(path), save(tensors, metadata=metadata))


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
        got = f"{str(path)!r}, which does not exist"
        _checks.refuse("path", "a weights file", got, FileNotFoundError)
    tensors, description = _read_file(path)
    try:
        model = digits_model(**description["config"])
    except (TypeError, ValueError) as error:
        _not_weights(path, f"with the description of a model, but {error}")
    if description["model"] == _KINDS[1]:
        model = classical_twin(model)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unknown:
        _not_weights(path, f"weights missing: {missing or 'none'}, unknown: {unknown or 'none'}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            came, needed = _checks.describe(value), _checks.describe(expected[name])
            _not_weights(path, f"{name!r} is {came}, the described model needs {needed}")
        _checks.check_finite(f"{name!r} in {str(path)!r}", value)
    model.load_state_dict(tensors)
    model.trained = description.get("trained")
    return model.to(device).eval()


def _not_weights(path: Path, got: str) -> NoReturn:
    """Raises ValueError for a file that `save_model` has not written."""
    _checks.refuse("path", "a file that save_model has written", f"{str(path)!r}: {got}")


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the weights and the checked description of the model; not its arguments' values."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        _not_weights(path, f"not a whole safetensors file ({error})")
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
    integers = isinstance(trained, dict) and all(type(n) is int for n in trained.values())
    if trained is not None and not integers:
        _not_weights(path, "with a description of its training that is not made of integers")
    return tensors, description
