"""Models such as that of the demo: a small CNN, a variational quantum circuit, and a linear layer.

With its classical twin, and their weights as safetensors files.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from captum_quantum import _checks, _state
from captum_quantum.layer import VQCLayer
from captum_quantum.models import weights
from captum_quantum.models.hybrid import HybridClassifier
from captum_quantum.models.twin import ClassicalLayer, classical_twin

IMAGE_SIZE = 32
"""Height and width of the images of `digits_model`, in pixels."""

# Of the description in the metadata of a weights file.
_KINDS = ("digits", "digits, classical twin")
_CONFIG = ("ansatz", "channels", "encoder", "n_classes", "n_layers", "n_qubits")
_LATER = ("observables", "weight_std")  # files of 0.1.0 do not have these


class SmallCNN(nn.Sequential):
    """Three convolutions: images ``(batch, 1, 32, 32)`` to maps ``(batch, channels, 8, 8)``.

    Each has padding, batch normalization and a ReLU; the first two are 5 x 5 with stride 2, the
    third is 3 x 3. The receptive field of the last maps is 21 x 21 pixels, most of a digit. Images
    of another size have maps of a quarter of that size, so the same weights also work on mosaics.

    Args:
        in_channels (int): Number of channels of the images.
        channels (Sequence[int]): Number of feature maps after each of the three convolutions.

    Attributes:
        conv1, conv2, conv3 (nn.Conv2d): The convolutions.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import SmallCNN
        >>> SmallCNN()(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = (8, 24, 32)) -> None:
        super().__init__()
        _checks.check_int("in_channels", in_channels, 1)
        first, second, third = _check_channels(channels)
        # The bias is in the normalization after each convolution.
        self.conv1 = nn.Conv2d(in_channels, first, 5, stride=2, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(third)
        self.relu3 = nn.ReLU(inplace=True)


def _check_channels(channels: Any) -> tuple[int, int, int]:
    if not isinstance(channels, Sequence) or isinstance(channels, str) or len(channels) != 3:
        _checks.wrong_type("channels", "three integers", channels)
    first, second, third = (_checks.check_int("channels", c, 1, 4096) for c in channels)
    return first, second, third


def digits_model(
    n_qubits: int = 8,
    n_layers: int = 2,
    *,
    channels: Sequence[int] = (8, 24, 32),
    encoder: str = "ry",
    ansatz: str = "rx_ry_rz_ring",
    observables: str = "Z",
    weight_std: float | None = None,
    n_classes: int = 10,
    seed: int = 0,
) -> HybridClassifier:
    """A hybrid model of digits with initial weights: `SmallCNN`, a `VQCLayer`, a linear layer.

    The model of the demo has another circuit than the default one: U3 and CU3 gates that start near
    the identity, read in X (``captum-quantum demo`` saves it in ``demo.json``).

    Names and numbers describe it completely, so that `save_model` can write it to a file that runs
    no code when it is loaded.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of the ansatz, at most 100.
        channels (Sequence[int]): Number of feature maps after each of the three convolutions.
        encoder (str): Name of the encoder.
        ansatz (str): Name of the ansatz.
        observables (str): Pauli matrices, each of which is read on every qubit: ``"Z"``, ``"X"``,
            ``"ZX"`` for Z on all qubits, then X on all, and so on.
        weight_std (float, optional): Standard deviation of the ansatz's initial weights, normal
            around 0, in radians. Default: as the ansatz draws them, uniform in [-pi, pi).
        n_classes (int): Number of classes.
        seed (int): Fixes the initial weights; the global random state is left as it was.

    Returns:
        HybridClassifier: ``(batch, 1, 32, 32)`` images in [0, 1] to ``(batch, n_classes)`` logits,
        float32, on the CPU.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import digits_model
        >>> model = digits_model(n_qubits=4)
        >>> model(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 10])
    """
    names = {"encoder": encoder, "ansatz": ansatz}
    for name, value in names.items():
        if not isinstance(value, str):
            _checks.wrong_type(name, "a name", value)
    _checks.check_int("n_qubits", n_qubits, 1, 24)
    _checks.check_int("n_layers", n_layers, 1, 100)
    _checks.check_int("n_classes", n_classes, 2, 100_000)
    channels = _check_channels(channels)
    _checks.check_int("seed", seed, 0)
    if not isinstance(observables, str):
        _checks.wrong_type("observables", "letters X, Y, Z", observables)
    if not observables or set(observables) - set("XYZ") or len(set(observables)) < len(observables):
        _checks.wrong_value("observables", "different letters among X, Y, Z", observables)
    if weight_std is not None:
        must = "a number of radians >= 0, or None"
        _checks.check_number("weight_std", weight_std, must, lambda std: 0 <= std < float("inf"))
    with _state.seeded(seed):
        read = [f"{pauli}{qubit}" for pauli in observables for qubit in range(n_qubits)]
        vqc = VQCLayer(n_qubits, n_layers, encoder=encoder, ansatz=ansatz, observables=read)
        if weight_std is not None:
            for parameter in vqc.parameters():
                nn.init.normal_(parameter, std=weight_std)
        model = HybridClassifier(SmallCNN(1, channels), vqc, channels[-1], n_classes)
        # Expectation values are in [-1, 1], near 0 at the start. With the usual small weights it
        # would take dozens of epochs until the logits are large enough for confident predictions.
        nn.init.normal_(model.head.weight)
    sizes = {"n_qubits": n_qubits, "n_layers": n_layers, "channels": list(channels)}
    circuit = {**sizes, **names, "observables": observables, "weight_std": weight_std}
    model.config = {**circuit, "n_classes": n_classes}
    return model


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
    if getattr(model, "config", None) is None:
        must = "one made by digits_model, for save_model (save_weights takes any model)"
        _checks.wrong_value("model", must, model)
    kind = _KINDS[isinstance(model.vqc, ClassicalLayer)]
    content: dict[str, Any] = {"model": kind, "config": model.config}
    if model.trained is not None:
        content["trained"] = model.trained
    weights.write(model, path, content)


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
    file = weights.read(path, "a file that save_model has written")
    _check_description(file)
    description = file.description
    try:
        model = digits_model(**description["config"])
    except (TypeError, ValueError) as error:
        file.refuse(f"with the description of a model, but {error}")
    if description["model"] == _KINDS[1]:
        model = classical_twin(model)
    weights.fill(model, file)
    for name, needed in model.state_dict().items():
        value = file.tensors.get(name, needed)
        if value.dtype != needed.dtype:
            came = _checks.describe(value)
            file.refuse(f"{name!r} is {came}, the model needs {_checks.describe(needed)}")
        _checks.check_finite(f"{name!r} in {str(file.path)!r}", value)
    model.trained = description.get("trained")
    return model.to(device).eval()


def _check_description(file: weights.WeightsFile) -> None:
    """Checks what `save_model` says of the model; not its arguments' values."""
    description = file.description
    if not description:
        file.refuse("without a model's description ('captum_quantum') in its metadata")
    if description.get("model") not in _KINDS:
        file.refuse("with the description of something else than a digits model")
    config = description.get("config")
    if not isinstance(config, dict) or sorted({*config} - {*_LATER}) != list(_CONFIG):
        file.refuse(f"with a configuration that does not name {', '.join(_CONFIG)}")
    trained = description.get("trained")
    integers = isinstance(trained, dict) and all(type(n) is int for n in trained.values())
    if trained is not None and not integers:
        file.refuse("with a description of its training that is not made of integers")
