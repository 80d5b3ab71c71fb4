"""Handwritten digits: those that scikit-learn ships, mosaics of them, and one's own."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_quantum import _checks

SIZE = 32
"""Height and width of the images, in pixels."""

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
"""The order of the four quadrants of a mosaic."""


class Digits(NamedTuple):
    """Handwritten digits, split into a training set and a test set.

    Attributes:
        train_images (Tensor): Shape ``(n_train, 1, 32, 32)``, float32 in [0, 1], digits bright.
        train_labels (Tensor): Shape ``(n_train,)``, int64 in 0..9.
        test_images (Tensor): Shape ``(n_test, 1, 32, 32)``.
        test_labels (Tensor): Shape ``(n_test,)``.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class Mosaics(NamedTuple):
    """Mosaics of 2 x 2 images of four different classes.

    Attributes:
        images (Tensor): Shape ``(n, channels, 2 * height, 2 * width)``.
        labels (Tensor): Shape ``(n, 4)``: the class in each quadrant, in the order ``QUADRANTS``.
    """

    images: Tensor
    labels: Tensor

    @property
    def cells(self) -> Tensor:
        """Where the quadrants are: bool, ``(4, 2 * height, 2 * width)``, in their order."""
        height, width = self.images.shape[2:]
        lower = torch.arange(height, device=self.images.device)[:, None] >= height // 2
        right = torch.arange(width, device=self.images.device) >= width // 2
        return torch.stack(
            [
                (lower == down) & (right == aside)
                for down in (False, True)
                for aside in (False, True)
            ]
        )


def load_digits(seed: int = 0, test_fraction: float = 0.2) -> Digits:
    """Loads the 1,797 handwritten digits that scikit-learn ships.

    They are scaled from 8 x 8 pixels to 32 x 32 (bilinear) and from 0..16 to [0, 1].

    Args:
        seed (int): Fixes the split and the order; the global random state is left alone.
        test_fraction (float): Share of every class that goes to the test set, in (0, 1).

    Returns:
        Digits: Training and test images with their labels, each in random order.

    Raises:
        ImportError: If scikit-learn is not installed.
        TypeError, ValueError: If an argument is wrong.

    References:
        E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning
        Repository, 1998, doi:10.24432/C50P49.

    Examples:
        >>> from captum_quantum.datasets import load_digits
        >>> digits = load_digits(seed=0)
        >>> digits.train_images.shape, digits.test_images.shape
        (torch.Size([1438, 1, 32, 32]), torch.Size([359, 1, 32, 32]))
    """
    _checks.check_int("seed", seed, 0)
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, float):
        _checks.wrong_type("test_fraction", "a number in (0, 1)", test_fraction)
    if not 0 < test_fraction < 1:
        _checks.wrong_value("test_fraction", "a number in (0, 1)", test_fraction)
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed; install it with: "
            "pip install 'captum-quantum[demo]'"
        ) from error

    bunch = datasets.load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = _resize(images)
    labels = torch.from_numpy(bunch.target).long()
    generator = torch.Generator().manual_seed(seed)
    train, test = _stratified(labels, test_fraction, generator)
    return Digits(images[train], labels[train], images[test], labels[test])


def _resize(images: Tensor) -> Tensor:
    """Scales images ``(n, 1, 8, 8)`` to ``(n, 1, 32, 32)``, bilinear."""
    return F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def read_digit(path: str | PathLike[str], *, invert: bool = False) -> Tensor:
    """Reads an image of one's own as a digit like those of `load_digits`.

    The image becomes gray and its darkest and brightest pixel become 0 and 1; it is padded to a
    square with 0, averaged down to 8 x 8 and scaled to 32 x 32, as those digits were. The digit
    should fill the image from top to bottom. What is transparent counts as white paper.

    Args:
        path (str or PathLike): An image of any size, in any format that Pillow reads.
        invert (bool): Whether to swap dark and bright first, for digits that are dark on bright.

    Returns:
        Tensor: Shape ``(1, 1, 32, 32)``, float32 in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an image that Pillow reads, or all pixels are the same.

    Examples:
        >>> from captum_quantum.datasets import read_digit
        >>> image = read_digit("seven.png", invert=True)  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            _checks.sentence("path", "an image file", f"{str(path)!r}, which does not exist")
        )
    pixels = _read_gray(path)
    _checks.check_finite(f"the pixels of {str(path)!r}", pixels)
    low, high = pixels.min(), pixels.max()
    if low == high:
        raise ValueError(
            _checks.sentence(
                "path", "an image with dark and bright pixels", f"{str(path)!r}, all of one shade"
            )
        )
    pixels = (pixels - low) / (high - low)
    if invert:
        pixels = 1 - pixels
    height, width = pixels.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(pixels, (left, side - width - left, top, side - height - top))
    return _resize(F.adaptive_avg_pool2d(square[None, None], 8)).clamp(0, 1)


def _read_gray(path: Path) -> Tensor:
    """The shades of gray of an image file: float32, shape ``(height, width)``, in its own scale."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image)
            # Modes I and F hold 16 bits and more, which "L" would cut off.
            gray = image if image.mode.startswith(("I", "F")) else image.convert("L")
            return torch.from_numpy(np.array(gray, dtype=np.float32))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            _checks.sentence("path", "an image that Pillow reads", f"{str(path)!r} ({error})")
        ) from error


def _stratified(
    labels: Tensor, test_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of a training and a test set that hold every class in the same share, shuffled.

    Of class c, with n_c examples, the test set takes those between round(f * N_<c) and
    round(f * N_<=c): so its whole size is round(f * N) too.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    train, test = [], []
    start = 0
    for count in torch.bincount(labels).tolist():
        stop = start + count
        n_test = round(test_fraction * stop) - round(test_fraction * start)
        test.append(order[start : start + n_test])
        train.append(order[start + n_test : stop])
        start = stop
    parts = [torch.cat(part) for part in (train, test)]
    train_part, test_part = (p[torch.randperm(len(p), generator=generator)] for p in parts)
    return train_part, test_part


def mosaics(images: Tensor, labels: Tensor, n: int, seed: int = 0) -> Mosaics:
    """Builds mosaics: 2 x 2 images of four different classes, drawn at random.

    Asked about one of the four classes, a map that explains should light up in that class's
    quadrant: a check of maps that needs no pixel labels.

    Args:
        images (Tensor): Shape ``(n_images, channels, height, width)``.
        labels (Tensor): Shape ``(n_images,)``, integers, at least four different ones.
        n (int): Number of mosaics.
        seed (int): Fixes the choice; the global random state is left alone.

    Returns:
        Mosaics: Images ``(n, channels, 2 * height, 2 * width)`` on the images' device, and the
        classes ``(n, 4)`` of the quadrants top left, top right, bottom left, bottom right.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> from captum_quantum.datasets import load_digits, mosaics
        >>> digits = load_digits()
        >>> tiles = mosaics(digits.test_images, digits.test_labels, n=5)
        >>> tiles.images.shape, tiles.labels.shape
        (torch.Size([5, 1, 64, 64]), torch.Size([5, 4]))
    """
    _checks.check_real("images", images)
    if images.dim() != 4:
        _checks.wrong_value("images", "of shape (n_images, channels, height, width)", images)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        _checks.wrong_type("labels", "a tensor of integers", labels)
    if labels.shape != images.shape[:1]:
        _checks.wrong_value("labels", f"of shape ({len(images)},), one for each image", labels)
    _checks.check_int("n", n, 1)
    _checks.check_int("seed", seed, 0)
    on_cpu = labels.cpu()
    classes = on_cpu.unique()
    if len(classes) < 4:
        _checks.wrong_value("labels", "of at least four different classes", classes.tolist())

    generator = torch.Generator().manual_seed(seed)
    members = [(on_cpu == c).nonzero().flatten() for c in classes]
    chosen = torch.empty(n, 4, dtype=torch.long)
    for row in chosen:
        four = torch.randperm(len(classes), generator=generator)[:4].tolist()
        for quadrant, c in enumerate(four):
            row[quadrant] = members[c][torch.randint(len(members[c]), (), generator=generator)]
    tiles = images[chosen.to(images.device)].unflatten(
        1, (2, 2)
    )  # (n, row, column, channels, h, w)
    joined = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return Mosaics(joined, labels[chosen.to(labels.device)])
