"""Mosaics of images of four classes: maps can be checked without pixel labels."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
"""The order of the four quadrants of a mosaic."""


class Mosaics(NamedTuple):
    """Mosaics of 2 x 2 images of four different classes.

    Attributes:
        images (Tensor): Shape ``(n, channels, 2 * height, 2 * width)``.
        labels (Tensor): Shape ``(n, 4)``: the class in each quadrant, in the order ``QUADRANTS``.
    """

    images: "Tensor"
    labels: "Tensor"

    @property
    def cells(self) -> "Tensor":
        """Where the quadrants are: bool, ``(4, 2 * height, 2 * width)``, in their order."""
        import torch

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


def mosaics(images: "Tensor", labels: "Tensor", n: int, seed: int = 0) -> Mosaics:
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
    import torch

    from captum_quantum import _checks

    _checks.check_real("images", images)
    if images.dim() != 4:
        _checks.wrong_value("images", "of shape (n_images, channels, height, width)", images)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.is_complex():
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
