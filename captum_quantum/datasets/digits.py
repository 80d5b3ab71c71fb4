"""Handwritten digits: those that scikit-learn ships, and image files of the user."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from captum_quantum.datasets.mosaics import mosaics
from captum_quantum.datasets.registry import Dataset, register_dataset
from captum_quantum.datasets.splits import check_split, stratified

# PyTorch is imported where it is used, so that the command line's --help answers at once.
if TYPE_CHECKING:
    from torch import Tensor

    from captum_quantum.models import HybridClassifier


class Digits(NamedTuple):
    """Handwritten digits, split into a training set and a test set.

    Attributes:
        train_images (Tensor): Shape ``(n_train, 1, 32, 32)``, float32 in [0, 1], digits bright.
        train_labels (Tensor): Shape ``(n_train,)``, int64 in 0..9.
        test_images (Tensor): Shape ``(n_test, 1, 32, 32)``.
        test_labels (Tensor): Shape ``(n_test,)``.
    """

    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"


def load_digits(seed: int = 0, test_fraction: float = 0.2) -> Digits:
    """Loads the 1,797 handwritten digits that scikit-learn ships.

    The images are scaled from 8 x 8 to 32 x 32 pixels (bilinear interpolation), and the pixels
    from 0..16 to [0, 1].

    Args:
        seed (int): Fixes the split and the order. The global random state does not change.
        test_fraction (float): Share of every class that goes to the test set, in (0, 1).

    Returns:
        Digits: Training and test images with their labels, each in random order.

    Raises:
        ImportError: If scikit-learn is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If ``seed`` is negative, or ``test_fraction`` is not in (0, 1).

    References:
        E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning
        Repository, 1998, doi:10.24432/C50P49.

    Examples:
        >>> from captum_quantum.datasets import load_digits
        >>> digits = load_digits(seed=0)
        >>> digits.train_images.shape, digits.test_images.shape
        (torch.Size([1438, 1, 32, 32]), torch.Size([359, 1, 32, 32]))
    """
    import torch

    check_split(seed, test_fraction)
    try:
        from sklearn import datasets
    except ImportError as error:
        reason = "the digits come with scikit-learn, which is not installed"
        install = "pip install 'captum-quantum[demo]'"
        raise ImportError(f"{reason}; install it with: {install}") from error

    bunch = datasets.load_digits()
    images = _resize(torch.from_numpy(bunch.images).float()[:, None] / 16)
    labels = torch.from_numpy(bunch.target).long()
    train, test = stratified(labels, test_fraction, seed)
    return Digits(images[train], labels[train], images[test], labels[test])


def _resize(images: "Tensor") -> "Tensor":
    """Scales images ``(n, 1, 8, 8)`` to ``(n, 1, 32, 32)`` by bilinear interpolation."""
    from torch.nn import functional as F

    return F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)


def read_digit(path: str | PathLike[str], *, invert: bool = False) -> "Tensor":
    """Reads an image file as a digit in the format of `load_digits`.

    The image is converted to gray; its darkest pixel becomes 0 and its brightest 1. It is padded
    with 0 to a square, averaged down to 8 x 8 pixels and scaled to 32 x 32, as the digits of
    `load_digits` are. The digit should be bright on dark and fill the image from top to bottom.
    Transparent pixels count as white.

    Args:
        path (str or PathLike): An image file of any size, in any format that Pillow reads.
        invert (bool): Whether to swap dark and bright first, for a dark digit on bright paper.

    Returns:
        Tensor: Shape ``(1, 1, 32, 32)``, float32 in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If Pillow cannot read the file, or all pixels are the same.

    Examples:
        >>> from captum_quantum.datasets import read_digit
        >>> image = read_digit("seven.png", invert=True)  # doctest: +SKIP
    """
    from torch.nn import functional as F

    pixels = _read_gray(Path(path))
    if invert:
        pixels = 1 - pixels
    height, width = pixels.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(pixels, (left, side - width - left, top, side - height - top))
    return _resize(F.adaptive_avg_pool2d(square[None, None], 8)).clamp(0, 1)


def _read_gray(path: Path) -> "Tensor":
    """Reads an image file as gray values, the darkest 0 and the brightest 1.

    Args:
        path (Path): The file. Transparent pixels count as white.

    Returns:
        Tensor: Shape ``(height, width)``, float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If Pillow cannot read the file, or all pixels are the same.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from captum_quantum import _checks

    name = repr(str(path))
    if not path.is_file():
        _checks.refuse("path", "an image file", f"{name}, which does not exist", FileNotFoundError)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image.convert("RGBA"))
            # Modes I and F hold 16 bits and more, which "L" would cut off.
            gray = image if image.mode.startswith(("I", "F")) else image.convert("L")
            pixels = torch.from_numpy(np.array(gray, dtype=np.float32))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        message = _checks.sentence("path", "an image that Pillow reads", f"{name} ({error})")
        raise ValueError(message) from error
    _checks.check_finite(f"the pixels of {name}", pixels)
    low, high = pixels.min(), pixels.max()
    if low == high:
        _checks.refuse("path", "an image with dark and bright pixels", f"{name}, all of one shade")
    return (pixels - low) / (high - low)


CLASSES = {str(d): f"an {d}" if d == 8 else f"a {d}" for d in range(10)}
"""The names of the digits, and the words for them in a sentence."""

CIRCUIT = {"n_layers": 1, "ansatz": "u3cu3", "observables": "X", "weight_std": 0.1}
"""The circuit of the demo: one whose maps can be trusted.

Chosen by a rule that was written down before: among four circuits of 48 weights, of those whose
accuracy (mean over seeds 10 to 12) is within half a point of the best one's, that with the largest
share of a map on the own digit of a mosaic.
"""


def demo_model(seed: int = 0, **config: Any) -> "HybridClassifier":
    """The model of the demo with initial weights.

    Args:
        seed (int): Fixes the initial weights.
        **config (Any): Arguments of `captum_quantum.models.digits_model`, to change its circuit.

    Returns:
        HybridClassifier: ``(batch, 1, 32, 32)`` images in [0, 1] to logits.
    """
    from captum_quantum.models import digits_model

    return digits_model(**{**CIRCUIT, **config}, seed=seed)


register_dataset(
    Dataset(
        name="digits",
        description="handwritten digits that scikit-learn ships",
        noun="digit",
        classes=CLASSES,
        load=load_digits,
        model=demo_model,
        training={"epochs": 40, "batch_size": 64, "lr": 5e-3},
        read=read_digit,
        read_help="The image may have any size. The digit should be bright on dark and fill the "
        "image from top to bottom; for dark ink on bright paper, use --invert.",
        mosaics=mosaics,
    )
)
