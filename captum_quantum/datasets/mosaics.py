"""Mosaics of four images: localization can be measured without pixel labels."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Mosaics(NamedTuple):
    """Mosaics: 2 x 2 images of four different classes each.

    Attributes:
        images (Tensor): Shape ``(n, channels, 2 * height, 2 * width)``.
        labels (Tensor): Shape ``(n, 4)``, the classes in the quadrants top left, top right, bottom
            left, bottom right.
    """

    images: "Tensor"
    labels: "Tensor"

    @property
    def cells(self) -> "Tensor":
        """Masks of the quadrants, in the order of the labels.

        Shape ``(4, 2 * height, 2 * width)``, bool.
        """
        import torch

        height, width = self.images.shape[2:]
        cell = self.images.new_ones(height // 2, width // 2, dtype=torch.bool)
        return torch.kron(torch.eye(4, dtype=torch.bool, device=cell.device).view(4, 2, 2), cell)


def mosaics(images: "Tensor", labels: "Tensor", n: int, seed: int = 0) -> Mosaics:
    """Builds mosaics: 2 x 2 images of four different classes, drawn at random.

    A good map of one of the four classes is positive in the quadrant that shows this class, so
    mosaics measure localization without pixel labels.

    Args:
        images (Tensor): Shape ``(n_images, channels, height, width)``.
        labels (Tensor): Shape ``(n_images,)``, integers, at least four different ones.
        n (int): Number of mosaics.
        seed (int): Fixes the choice. The global random state does not change.

    Returns:
        Mosaics: Images ``(n, channels, 2 * height, 2 * width)`` on the images' device, and the
        classes ``(n, 4)`` of the quadrants top left, top right, bottom left, bottom right.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the shapes do not fit together, there are fewer than four classes, or a
            number is out of range.

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
    # (n, row, column, channels, height, width)
    tiles = images[chosen.to(images.device)].unflatten(1, (2, 2))
    joined = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return Mosaics(joined, labels[chosen.to(labels.device)])
