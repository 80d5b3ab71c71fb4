"""Localization: does the map lie on the object?"""

from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.metrics import _maps, registry


def _read(attributions: Any, masks: Any) -> tuple[Tensor, Tensor]:
    """Returns the positive parts of the maps, and the masks, both ``(batch, *spatial)``."""
    maps = _maps.read_maps("attributions", attributions)
    must = f"a bool tensor of shape (batch, *spatial) for {len(maps)} maps"
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        _checks.wrong_type("masks", must, masks)
    if masks.dim() != maps.dim() or len(masks) != len(maps) or masks.numel() == 0:
        _checks.wrong_value("masks", must, masks)
    return maps.clamp_min(0), masks.to(maps.device)


def _undefined_without_mask(values: Tensor, masks: Tensor) -> Tensor:
    return torch.where(masks.flatten(1).any(dim=1), values, torch.nan)


def _share_inside(positive: Tensor, masks: Tensor) -> Tensor:
    maps = _maps.resize(positive, masks.shape[1:])
    inside, everywhere = (m.flatten(1).sum(dim=1) for m in (maps * masks, maps))
    share = torch.where(everywhere > 0, inside / everywhere, 0)
    return _undefined_without_mask(share, masks)


@registry.register_metric(higher_is_better=True)
def energy_pointing_game(attributions: Tensor, masks: Tensor) -> Tensor:
    r"""Energy-based pointing game: the share of the positive attribution on the object.

    .. math:: \frac{\sum_{ij \in \mathrm{mask}} \max(0, L_{ij})}{\sum_{ij} \max(0, L_{ij})}

    with L the map, summed over its channels (arXiv:1910.01279).

    Args:
        attributions (Tensor): Maps as Captum's ``attribute`` returns them: shape ``(batch,
            channels, *spatial)`` with any number of channels and any spatial size, scaled to that
            of the masks (bilinear).
        masks (Tensor): The pixels of the object: bool, shape ``(batch, *spatial)``, for images
            ``(batch, height, width)``.

    Returns:
        Tensor: Shape ``(batch,)``, shares in [0, 1], on the attributions' device, without gradient.
        0 where the map is nowhere positive. NaN where the mask is empty.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import energy_pointing_game
        >>> map = torch.tensor([[[[3.0, 1.0], [0.0, -2.0]]]])
        >>> masks = torch.tensor([[[True, False], [True, True]]])
        >>> energy_pointing_game(map, masks)
        tensor([0.7500])
    """
    return _share_inside(*_read(attributions, masks))


@registry.register_metric(higher_is_better=True)
def grid_pointing_game(attributions: Tensor, masks: Tensor) -> Tensor:
    r"""Grid pointing game: the share of the positive attribution on the target's cell of a mosaic.

    .. math:: \frac{\sum_{ij \in \mathrm{cell}} \max(0, L_{ij})}{\sum_{ij} \max(0, L_{ij})}

    with L the map, summed over its channels. In a mosaic of images of different classes the map of
    a class should lie on the image of that class, so that no annotation is needed
    (arXiv:2104.00032). With n cells, chance is 1 / n.

    What it can and cannot tell: it tells whether a map finds the image of its class among others,
    without masking any pixel. It does not tell which pixels within a cell matter, and the model was
    not trained on mosaics.

    Args:
        attributions (Tensor): Maps of the mosaics as Captum's ``attribute`` returns them: shape
            ``(batch, channels, *spatial)`` with any number of channels and any spatial size, scaled
            to that of the masks (bilinear).
        masks (Tensor): The cell of the target in each mosaic: bool, shape ``(batch, *spatial)``,
            True in one rectangle; ``mosaics(...).cells`` contains them.

    Returns:
        Tensor: Shape ``(batch,)``, shares in [0, 1], on the attributions' device, without gradient.
        0 where the map is nowhere positive. Never NaN.

    Raises:
        TypeError, ValueError: If an argument is wrong, a mask is not one rectangle, or attributions
            are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.datasets import load_digits, mosaics
        >>> from captum_quantum.metrics import grid_pointing_game
        >>> digits = load_digits()
        >>> tiles = mosaics(digits.test_images, digits.test_labels, n=2)
        >>> maps = tiles.cells[[0]].float()[:, None].expand(2, 1, 64, 64)  # the top left cell
        >>> grid_pointing_game(maps, tiles.cells[[0, 3]])
        tensor([1., 0.])
    """
    positive, masks = _read(attributions, masks)
    sides = torch.ones(len(masks), dtype=torch.long, device=masks.device)
    for dim in range(1, masks.dim()):
        touched = masks.unsqueeze(-1).movedim(dim, 1).flatten(2).any(dim=2)
        index = torch.arange(touched.shape[1], device=masks.device)
        last = torch.where(touched, index, -1).amax(dim=1)
        first = torch.where(touched, index, touched.shape[1]).amin(dim=1)
        sides *= last - first + 1
    wrong = sides != masks.flatten(1).sum(dim=1)
    if bool(wrong.any()):
        got = f"another shape for example {int(wrong.nonzero()[0])}"
        _checks.refuse("masks", "True in one full rectangle, the target's cell", got)
    return _share_inside(positive, masks)


@registry.register_metric(higher_is_better=True)
def pointing_game(attributions: Tensor, masks: Tensor, *, tolerance: float = 0.0) -> Tensor:
    r"""Pointing game: whether the largest value of the map lies on the object.

    .. math:: \left[ \min_{s \in \mathrm{mask}} \|s - \arg\max_u \max(0, L_u)\| \le
              \mathrm{tolerance} \right]

    with L the map, summed over its channels: 1 for a hit, 0 for a miss; their mean is the score
    (arXiv:1608.00507). Of several equal maxima the first one, row by row, is taken.

    Args:
        attributions (Tensor): Maps as Captum's ``attribute`` returns them: shape ``(batch,
            channels, *spatial)`` with any number of channels and any spatial size, scaled to that
            of the masks (bilinear).
        masks (Tensor): The pixels of the object: bool, shape ``(batch, *spatial)``, for images
            ``(batch, height, width)``.
        tolerance (float): Largest Euclidean distance from the mask that is still a hit, in pixels
            of the mask. The paper uses 15 for photographs.

    Returns:
        Tensor: Shape ``(batch,)``, 0 or 1, on the attributions' device, without gradient. 0 where
        the positive part of the map is constant, for example zero: such a map points nowhere. NaN
        where the mask is empty.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import pointing_game
        >>> map = torch.tensor([[[[3.0, 1.0], [0.0, -2.0]]]])
        >>> masks = torch.tensor([[[False, True], [False, False]]])
        >>> pointing_game(map, masks), pointing_game(map, masks, tolerance=1)
        (tensor([0.]), tensor([1.]))
    """
    must = "a number of pixels >= 0"
    _checks.check_number("tolerance", tolerance, must, lambda t: 0 <= t < float("inf"))
    maps, masks = _read(attributions, masks)
    maps = _maps.resize(maps, masks.shape[1:])
    peak = maps.flatten(1).argmax(dim=1)
    distance = torch.zeros(maps.shape, device=maps.device)
    for dim in reversed(range(1, maps.dim())):
        size = maps.shape[dim]
        index = torch.arange(size, device=maps.device)
        away = (index - (peak % size)[:, None]).to(distance) ** 2
        distance += away.reshape(-1, *[1] * (dim - 1), size, *[1] * (maps.dim() - 1 - dim))
        peak = peak // size
    nearest = torch.where(masks, distance, torch.inf).flatten(1).amin(dim=1)
    hit = (nearest <= tolerance**2) & ~_maps.is_constant(maps)
    return _undefined_without_mask(hit.to(maps), masks)
