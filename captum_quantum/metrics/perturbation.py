"""Faithfulness under perturbed images: Captum's `infidelity` and `sensitivity_max`, batched."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode, seeded
from captum_quantum.metrics._maps import (
    check_attributions,
    check_callable,
    check_index,
    check_inputs,
    direction,
    magnitude,
    resize,
)
from captum_quantum.metrics.faithfulness import Model, check_scores, read_baseline, read_target

Attribute = Callable[[Tensor, Tensor], Tensor]


def _mixed(bits: Tensor) -> Tensor:
    """Scrambles 64-bit integers: the finaliser of SplitMix64 (doi:10.1145/2660193.2660195)."""
    bits = (bits ^ ((bits >> 30) & 0x3_FFFF_FFFF)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ ((bits >> 27) & 0x1F_FFFF_FFFF)) * (0x94D049BB133111EB - 2**64)
    return bits ^ ((bits >> 31) & 0x1_FFFF_FFFF)


class _Noise:
    """Uniform random numbers that depend on the image, the draw and the seed only.

    A generator would give an image other numbers in another batch, process or micro-batch, or on
    another device. These are hashes: of the image's bits, the number of the draw, and the place.

    Args:
        inputs (Tensor): Shape ``(batch, ...)``.
        seed (int): Chooses the sequence.
    """

    def __init__(self, inputs: Tensor, seed: int) -> None:
        values = (inputs + 0.0).double().flatten(1)
        place = torch.arange(values.shape[1], device=inputs.device)
        self._keys = _mixed(_mixed(values.view(torch.int64) + _mixed(place + 1)).sum(dim=1) + seed)
        self._drawn = 0

    def draw(self, rows: int, n: int) -> Tensor:
        """The next ``rows / batch`` draws of each image: ``(rows, n)`` in [0, 1), float64.

        Rows are in Captum's order: all draws of the first image, then all of the second.
        """
        draws = rows // len(self._keys)
        number = torch.arange(self._drawn, self._drawn + draws, device=self._keys.device)
        self._drawn += draws
        rows_keys = _mixed(self._keys[:, None] + _mixed(number + 1)).flatten()
        place = torch.arange(1, n + 1, device=self._keys.device)
        bits = _mixed(rows_keys[:, None] + _mixed(-place)) >> 11 & 2**53 - 1
        return bits.double() * 2.0**-53


def _draws_at_once(max_batch: int, batch: int, n_samples: int) -> int:
    """``max_examples_per_batch`` for Captum, which wants at least one draw and at most all."""
    return min(max(max_batch // batch, 1), n_samples) * batch


def _check_numbers(seed: int, n_perturb_samples: int, max_batch: int) -> None:
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    _checks.check_int("n_perturb_samples", n_perturb_samples, 1)
    _checks.check_int("max_batch", max_batch, 1)


def _check_positive(argument: str, value: Any, must: str, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _checks.wrong_type(argument, must, value)
    if not 0 < value <= high or not math.isfinite(value):
        _checks.wrong_value(argument, must, value)


@direction(higher_is_better=False)
def infidelity(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    side: float = 0.25,
    perturb_func: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    n_perturb_samples: int = 32,
    normalize: bool = True,
    max_batch: int = 256,
    seed: int = 0,
) -> Tensor:
    r"""Infidelity: how badly the map predicts the change of the score when the image is perturbed.

    .. math:: E_I \left[ (\beta \, I \cdot \Phi - (f(x) - f(\tilde x)))^2 \right]

    with f the target's score (not its probability) and :math:`\Phi` the map; computed by
    :func:`captum.metrics.infidelity` (arXiv:1901.09392). The perturbation is the paper's square
    removal: I is 1 in a square at a random place, 0 elsewhere, and :math:`\tilde x` is the image
    with the baseline in that square. With ``normalize``, :math:`\beta` is the factor that fits
    each map best, so its scale, which means nothing in a class activation map, does not count; a
    map of zeros then predicts no change, and its value is the mean square of the changes.

    The squares depend on the image and the seed, not on the batch, the process or the device, and
    the global random state is left alone.

    Args:
        model (Callable): As in :func:`average_drop`.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        attributions (Tensor): Their maps, with one channel, which the images' channels share
            equally, or as many as the images; scaled to the images' size (bilinear).
        target (int or Tensor): The class, or one for each example, ``(batch,)``.
        baseline (float, Tensor or "blur"): As in :func:`average_drop`.
        side (float): Side of the square as a share of each side of the image, in (0, 1].
        perturb_func (Callable, optional): Captum's: repeated images to perturbations and perturbed
            images, instead of squares. Random numbers that it takes from torch are seeded.
        n_perturb_samples (int): Number of perturbations of each image.
        normalize (bool): Whether to fit the scale of each map.
        max_batch (int): Largest number of images that the model gets at once, as far as one
            perturbation of each image allows.
        seed (int): Fixes the perturbations.

    Returns:
        Tensor: Shape ``(batch,)``, squared units of the score, on the inputs' device, no gradient.

    Raises:
        TypeError, ValueError: If an argument is wrong; attributions, scores or the result are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import infidelity
        >>> images = torch.rand(2, 1, 8, 8)
        >>> def model(x):
        ...     return torch.stack([x.sum(dim=(1, 2, 3)), x[:, 0, 0, 0]], dim=1)
        >>> exact = infidelity(model, images, images, target=0)  # x explains a sum over x
        >>> exact.shape, bool((exact < 1e-6).all())
        (torch.Size([2]), True)
        >>> bool((infidelity(model, images, 1 - images, target=0) > 0.01).all())
        True
    """
    from captum.metrics import infidelity as of_captum

    check_callable("model", model)
    _check_numbers(seed, n_perturb_samples, max_batch)
    _check_positive("side", side, "a share of the image in (0, 1]", 1)
    if perturb_func is not None:
        check_callable("perturb_func", perturb_func)
    inputs = check_inputs(inputs)
    maps = _maps_of_all_channels(attributions, inputs, normalize)
    hidden = read_baseline(baseline, inputs)
    noise = _Noise(inputs, seed)

    def remove_square(images: Tensor) -> tuple[Tensor, Tensor]:
        draws = len(images) // len(inputs)
        sizes = images.shape[2:]
        inside = torch.ones(len(images), 1, *sizes, dtype=torch.bool, device=images.device)
        for dim, (size, place) in enumerate(
            zip(sizes, noise.draw(len(images), len(sizes)).unbind(1), strict=True), start=2
        ):
            length = max(1, round(side * size))
            start = (place * (size - length + 1)).long()[:, None]
            index = torch.arange(size, device=images.device)
            covered = (index >= start) & (index < start + length)
            inside &= covered.reshape(
                len(images), *(size if d == dim else 1 for d in range(1, images.dim()))
            )
        instead = hidden.repeat_interleave(draws, dim=0)
        return inside.expand_as(images).to(images), torch.where(inside, instead, images)

    with evaluation_mode(model), torch.no_grad():
        whole = check_scores(model, inputs)
        index = read_target(target, whole)
        with seeded(seed, inputs):
            values: Tensor = of_captum(
                # Captum asks about the images themselves again with every chunk of perturbations.
                lambda images: whole if images is inputs else check_scores(model, images),
                perturb_func or remove_square,
                inputs,
                maps.to(torch.promote_types(maps.dtype, inputs.dtype)),
                target=index,
                n_perturb_samples=n_perturb_samples,
                max_examples_per_batch=_draws_at_once(max_batch, len(inputs), n_perturb_samples),
                normalize=normalize,
            )
    _checks.check_finite("infidelity", values)
    return values.clamp_min(0)  # normalised, it is a difference that rounding can turn negative


def _maps_of_all_channels(attributions: Any, inputs: Tensor, any_scale: bool) -> Tensor:
    """The attributions in the shape of the inputs, divided by their magnitude if that is free."""
    maps = check_attributions("attributions", attributions, inputs)
    channels = inputs.shape[1]
    if maps.shape[1] not in (1, channels):
        _checks.wrong_value("attributions", f"maps of 1 or {channels} channels", maps)
    if any_scale:
        maps = maps / magnitude(maps)
    if maps.shape[1] != channels:
        maps = maps.expand(-1, channels, *maps.shape[2:]) / channels
    size = inputs.shape[2:]
    return resize(maps.flatten(0, 1), size).reshape(inputs.shape)


@direction(higher_is_better=False)
def sensitivity_max(
    attribute: Attribute,
    inputs: Tensor,
    target: int | Tensor,
    *,
    perturb_radius: float = 0.02,
    perturb_func: Callable[[Tensor], Tensor] | None = None,
    n_perturb_samples: int = 10,
    max_batch: int = 256,
    seed: int = 0,
) -> Tensor:
    r"""Maximum sensitivity: how much the map changes when the image changes a little.

    .. math:: \max_{\|\epsilon\|_\infty \le r} \frac{\|\Phi(x + \epsilon) - \Phi(x)\|}{\|\Phi(x)\|}

    over random :math:`\epsilon`; computed by :func:`captum.metrics.sensitivity_max`
    (arXiv:1901.09392). Where the map of the image itself is zero, the change is relative to
    nothing: the value is NaN.

    The perturbations depend on the image and the seed, not on the batch, the process or the
    device; random numbers that ``attribute`` takes from torch are seeded, and the global random
    state is restored.

    Args:
        attribute (Callable): Images and targets ``(batch,)`` to maps ``(batch, channels,
            *spatial)``: a method's ``attribute``. It decides about the model's mode.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        target (int or Tensor): The class, or one for each example, ``(batch,)``.
        perturb_radius (float): Largest change of a pixel, in the images' units.
        perturb_func (Callable, optional): Repeated images to perturbed images, instead of uniform
            noise of this radius.
        n_perturb_samples (int): Number of perturbations of each image.
        max_batch (int): Largest number of images that are explained at once, as far as one
            perturbation of each image allows.
        seed (int): Fixes the perturbations.

    Returns:
        Tensor: Shape ``(batch,)``, relative changes >= 0, on the inputs' device, no gradient.

    Raises:
        TypeError, ValueError: If an argument is wrong or a map is not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import sensitivity_max
        >>> images = torch.rand(2, 1, 8, 8)
        >>> sensitivity_max(lambda x, target: torch.ones_like(x), images, target=0)
        tensor([0., 0.])
        >>> bool((sensitivity_max(lambda x, target: x, images, target=0) > 0).all())
        True
    """
    from captum.metrics import sensitivity_max as of_captum

    check_callable("attribute", attribute)
    _check_numbers(seed, n_perturb_samples, max_batch)
    _check_positive("perturb_radius", perturb_radius, "a positive number", math.inf)
    if perturb_func is not None:
        check_callable("perturb_func", perturb_func)
    inputs = check_inputs(inputs)
    index = check_index(target, len(inputs), inputs.device)
    noise = _Noise(inputs, seed)
    scale: Tensor | None = None
    empty = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)

    def explain(images: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor]:
        nonlocal scale, empty
        images = images[0] if isinstance(images, tuple) else images
        with torch.enable_grad():
            maps = check_attributions("attribute's maps", attribute(images, target), images)
        if scale is None:  # Captum explains the images themselves first
            scale, empty = magnitude(maps), (maps == 0).flatten(1).all(dim=1)
        # Captum's ratio does not depend on the scale, but norms of tiny maps would vanish.
        return (maps / scale.repeat_interleave(len(maps) // len(scale), dim=0),)

    def shake(images: Tensor) -> Tensor:
        uniform = noise.draw(len(images), images[0].numel()).reshape(images.shape)
        return images + (perturb_radius * (2 * uniform - 1)).to(images)

    with seeded(seed, inputs):
        values: Tensor = of_captum(
            explain,
            inputs,
            perturb_func or shake,
            n_perturb_samples=n_perturb_samples,
            max_examples_per_batch=_draws_at_once(max_batch, len(inputs), n_perturb_samples),
            target=index,
        )
    _checks.check_finite("sensitivity_max", values)
    return torch.where(empty, torch.nan, values)
