"""What all metrics share: checked inputs and maps; resizing, ranking and blurring."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_quantum import _checks

_SHAPE = "of shape (batch, channels, *spatial) with 1 to 3 spatial dimensions, none empty"


def check_inputs(inputs: Any, argument: str = "inputs") -> Tensor:
    """Returns the model's inputs, detached, if they are ``(batch, channels, *spatial)``."""
    if _checks.check_real(argument, inputs).dim() not in (3, 4, 5) or inputs.numel() == 0:
        _checks.wrong_value(argument, _SHAPE, inputs)
    detached: Tensor = inputs.detach()
    return detached


def check_attributions(argument: str, attributions: Any, like: Tensor | None = None) -> Tensor:
    """Returns attributions if they are finite and fit the inputs.

    Args:
        argument (str): The argument's name, for errors.
        attributions (Tensor): Shape ``(batch, channels, *spatial)``.
        like (Tensor, optional): The explained inputs, shape ``(batch, channels, *spatial)``.

    Returns:
        Tensor: The attributions, detached, at least float32, on the device of ``like``.
    """
    if isinstance(attributions, tuple) and len(attributions) == 1:
        attributions = attributions[0]  # as Captum returns them for inputs in a tuple
    maps = check_inputs(attributions, argument)
    if like is not None:
        if maps.dim() != like.dim() or len(maps) != len(like):
            must = f"maps for inputs of shape {tuple(like.shape)}: as many examples, as many "
            _checks.wrong_value(argument, must + "dimensions", maps)
        maps = maps.to(like.device)
    if maps.dtype not in (torch.float32, torch.float64):
        maps = maps.float()
    _checks.check_finite(argument, maps)
    return maps


def magnitude(values: Tensor) -> Tensor:
    """Returns the scale of each example: a power of two, 1 for an example of zeros.

    It is the largest power of two that is at most the largest magnitude. Division by a power of two
    does not round: equal values, and equal sums, stay equal.

    Args:
        values (Tensor): Shape ``(batch, ...)``.

    Returns:
        Tensor: Shape ``(batch, 1, ...)``, with as many dimensions as the values.
    """
    largest = values.abs().flatten(1).amax(dim=1)
    largest = torch.where(largest > 0, largest, 1)
    power = largest / (2 * torch.frexp(largest).mantissa)
    return power.reshape(-1, *[1] * (values.dim() - 1))


def read_maps(argument: str, attributions: Any, like: Tensor | None = None) -> Tensor:
    """Reads attributions as one map for each example: the sum over the channels.

    For metrics of which only ratios and the order within a map matter: each map is divided by its
    magnitude, so that no sum or square overflows or vanishes.

    Args:
        argument (str): The argument's name, for errors.
        attributions (Tensor): Shape ``(batch, channels, *spatial)``.
        like (Tensor, optional): The explained inputs, shape ``(batch, channels, *spatial)``.

    Returns:
        Tensor: Shape ``(batch, *spatial)``.
    """
    checked = check_attributions(argument, attributions, like)
    return (checked / magnitude(checked)).sum(dim=1)


def is_constant(maps: Tensor) -> Tensor:
    """Tells which maps ``(batch, *spatial)`` have one value everywhere: bool, ``(batch,)``."""
    flat = maps.flatten(1)
    return flat.amax(dim=1) == flat.amin(dim=1)


def resize(maps: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Resizes maps by linear interpolation along each axis.

    Equal to ``captum.attr.LayerAttribution.interpolate`` in mode "bilinear" up to rounding: corners
    are not aligned, borders are repeated. Unlike there, the value between equal neighbors is
    exactly theirs, so that ties stay ties and the order of pixels does not depend on rounding.

    Args:
        maps (Tensor): Shape ``(batch, *spatial)``.
        size (sequence of int): The new spatial size.

    Returns:
        Tensor: Shape ``(batch, *size)``.
    """
    for dim, (old, new) in enumerate(zip(maps.shape[1:], size, strict=True), start=1):
        if old == new:
            continue
        position = torch.arange(new, device=maps.device, dtype=maps.dtype)
        position = ((position + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
        low = position.long()
        weight = (position - low).reshape(-1, *[1] * (maps.dim() - 1 - dim))
        high = (low + 1).clamp_max(old - 1)
        maps = torch.lerp(maps.index_select(dim, low), maps.index_select(dim, high), weight)
    return maps


def rank_pixels(attributions: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks the pixels of images by their maps, scaled to the size of the images.

    Args:
        attributions (Tensor): Shape ``(batch, channels, *spatial)``.
        inputs (Tensor): The explained inputs, shape ``(batch, channels, *spatial)``.

    Returns:
        tuple[Tensor, Tensor]: The rank of each pixel, 0 for the largest value, equal values row by
        row: int64, shape ``(batch, 1, *spatial)``. And where the map ranks the pixels at all,
        because it is not constant: bool, shape ``(batch,)``.
    """
    # Adding 0 turns -0 into 0; the stable order of equal pixels is row by row.
    maps = resize(read_maps("attributions", attributions, inputs), inputs.shape[2:]) + 0.0
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).reshape(maps[:, None].shape), ~is_constant(maps)


def gaussian_blur(images: Tensor, sigma: float, radius: int) -> Tensor:
    """Convolves images with a Gaussian; borders are repeated outwards.

    Args:
        images (Tensor): Shape ``(batch, channels, *spatial)``.
        sigma (float): Standard deviation in pixels.
        radius (int): Radius of the window, which has ``2 * radius + 1`` pixels along each axis.

    Returns:
        Tensor: The shape of the images.
    """
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images)[None, None]
    for dim in range(2, images.dim()):
        lines = images.movedim(dim, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="replicate")
        images = F.conv1d(padded, kernel)[:, 0].reshape(lines.shape).movedim(-1, dim)
    return images


def check_callable(argument: str, value: Any) -> None:
    """Raises TypeError if a value cannot be called."""
    if not callable(value):
        _checks.wrong_type(argument, "a module or a function", value)
