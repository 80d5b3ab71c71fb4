"""Infidelity: Captum's, batched, with perturbations that belong to the images."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode, seeded
from captum_quantum.metrics._maps import (
    check_attributions,
    check_callable,
    check_inputs,
    magnitude,
    resize,
)
from captum_quantum.metrics._perturbations import (
    Noise,
    check_numbers,
    check_positive,
    draws_at_once,
)
from captum_quantum.metrics._scores import Model, check_scores, read_baseline, read_target
from captum_quantum.metrics.registry import register_metric


@register_metric(higher_is_better=False)
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
    check_numbers(seed, n_perturb_samples, max_batch)
    check_positive("side", side, "a share of the image in (0, 1]", 1)
    if perturb_func is not None:
        check_callable("perturb_func", perturb_func)
    inputs = check_inputs(inputs)
    maps = _maps_of_all_channels(attributions, inputs, normalize)
    hidden = read_baseline(baseline, inputs)
    noise = Noise(inputs, seed)

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
                max_examples_per_batch=draws_at_once(max_batch, len(inputs), n_perturb_samples),
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
