"""The model of the demo: a small CNN, a variational quantum circuit, and a linear layer."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from captum_quantum import _checks
from captum_quantum._state import seeded
from captum_quantum.layer import VQCLayer
from captum_quantum.models.hybrid import HybridClassifier

IMAGE_SIZE = 32
"""Height and width of the images of `digits_model`, in pixels."""


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
    n_classes: int = 10,
    seed: int = 0,
) -> HybridClassifier:
    """The model of the demo with initial weights: `SmallCNN`, a `VQCLayer` and a linear layer.

    Names and numbers describe it completely, so that `save_model` can write it to a file that runs
    no code when it is loaded.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of the ansatz, at most 100.
        channels (Sequence[int]): Number of feature maps after each of the three convolutions.
        encoder (str): Name of the encoder.
        ansatz (str): Name of the ansatz.
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
    for name, value in (("encoder", encoder), ("ansatz", ansatz)):
        if not isinstance(value, str):
            _checks.wrong_type(name, "a name", value)
    _checks.check_int("n_layers", n_layers, 1, 100)
    _checks.check_int("n_classes", n_classes, 2, 100_000)
    channels = _check_channels(channels)
    _checks.check_int("seed", seed, 0)
    with seeded(seed):
        vqc = VQCLayer(n_qubits, n_layers, encoder=encoder, ansatz=ansatz)
        model = HybridClassifier(SmallCNN(1, channels), vqc, channels[-1], n_classes)
        # Expectation values are in [-1, 1], near 0 at the start. With the usual small weights it
        # would take dozens of epochs until the logits are large enough for confident predictions.
        nn.init.normal_(model.head.weight)
    model.config = {
        "n_qubits": n_qubits,
        "n_layers": n_layers,
        "channels": list(channels),
        "encoder": encoder,
        "ansatz": ansatz,
        "n_classes": n_classes,
    }
    return model
