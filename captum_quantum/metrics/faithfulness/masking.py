"""Average drop, gain and increase: the probability where only the map's pixels are shown."""

from typing import Literal

import torch
from torch import Tensor

from captum_quantum._state import evaluation_mode
from captum_quantum.metrics._maps import (
    check_callable,
    check_inputs,
    read_maps,
    resize,
)
from captum_quantum.metrics._scores import (
    Answer,
    Model,
    Probability,
    check_scores,
    read_answer,
    read_baseline,
    read_target,
)
from captum_quantum.metrics.registry import register_metric


def _shown_share(maps: Tensor, size: torch.Size) -> Tensor:
    """How much of each pixel a map shows: its positive part, resized, min-max to [0, 1].

    Where the positive part is the same everywhere, that is 0 / 0: the shares are NaN.
    """
    positive = resize(maps.clamp_min(0), size)
    dims = tuple(range(1, positive.dim()))
    low, high = positive.amin(dims, keepdim=True), positive.amax(dims, keepdim=True)
    return (positive - low) / (high - low)


def _whole_and_masked(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    baseline: float | Tensor | Literal["blur"],
    probability: Probability | None,
) -> tuple[Answer, Answer, Tensor]:
    """The model's answers about the images and about what their maps show of them.

    And whether they show anything: bool, ``(batch,)``; of the others the whole image is asked.
    """
    check_callable("model", model)
    inputs = check_inputs(inputs)
    maps = read_maps("attributions", attributions, inputs)
    hidden = read_baseline(baseline, inputs)
    shown = _shown_share(maps, inputs.shape[2:])
    defined = ~shown.flatten(1).isnan().any(dim=1)
    shown = torch.where(defined.reshape(-1, *[1] * (shown.dim() - 1)), shown, 1)
    masked = torch.lerp(hidden, inputs, shown[:, None].to(inputs.dtype))
    with torch.no_grad(), evaluation_mode(model):
        scores = check_scores(model, inputs)
        index = read_target(target, scores)
        return (
            read_answer(scores, index, probability),
            read_answer(check_scores(model, masked), index, probability),
            defined,
        )


@register_metric(higher_is_better=False, rounding_scale=100.0)
def average_drop(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average drop: how much of the probability is lost where only the map's pixels are shown.

    With p the target's probability on the image and o that on the masked image,

    .. math:: AD = 100 \, \frac{\max(0, p - o)}{p},

    in percent for each example; their mean is the score (arXiv:1710.11063). The image x is masked
    by the map: :math:`b + m (x - b)`, b the baseline, m the map summed over its channels, its
    positive part, scaled to the image's size (bilinear) and from its smallest and largest value to
    0 and 1 (arXiv:2301.07002). Signed maps and their positive part give the same score.

    Where p is 0, nothing can be lost: the value is 0. A map that is constant, or nowhere positive,
    prefers no pixel, and m is 0 / 0: the value is NaN.

    Args:
        model (Callable): Images to scores (logits) of shape ``(batch, n_classes)``. A module is
            asked in evaluation mode; its mode is restored.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        attributions (Tensor): Their maps as Captum's ``attribute`` returns them,
            ``(batch, channels, *spatial)`` with any number of channels and any spatial size.
        target (int or Tensor): The class, or one for each example, ``(batch,)``.
        baseline (float, Tensor or "blur"): What takes the place of hidden pixels: a number, a
            tensor that broadcasts to the images, or the images blurred (Gaussian of 11 pixels,
            standard deviation 5, as in arXiv:1806.07421; borders are repeated).
        probability (Callable, optional): Scores to probabilities of the same shape, in [0, 1].
            Default: softmax over the classes.

    Returns:
        Tensor: Shape ``(batch,)``, percent in [0, 100], on the inputs' device, no gradient.

    Raises:
        TypeError, ValueError: If an argument is wrong; attributions or scores are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_drop
        >>> image = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> average_drop(model, image, image, target=0)  # the pixel that counts stays
        tensor([0.])
        >>> average_drop(model, image, 1 - image, target=0).round(decimals=2)
        tensor([47.5100])
    """
    whole, masked, defined = _whole_and_masked(
        model, inputs, attributions, target, baseline, probability
    )
    lost = whole.gain_over(masked).clamp_min(0)
    drop = 100 * torch.where(whole.target > 0, lost / whole.target, 0)
    return torch.where(defined, drop, torch.nan)


@register_metric(higher_is_better=True, rounding_scale=100.0)
def average_gain(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average gain: how much of the doubt vanishes where only the map's pixels are shown.

    .. math:: AG = 100 \, \frac{\max(0, o - p)}{1 - p},

    in percent for each example; their mean is the score (arXiv:2301.07002). Images are masked, and
    p and o defined, as in :func:`average_drop`. 1 - p is summed from the other classes, so that it
    keeps its digits where p is nearly 1. Where it is 0, nothing can be gained: the value is 0. NaN
    for a map that is constant, or nowhere positive.

    Args:
        model: As in :func:`average_drop`.
        inputs: As in :func:`average_drop`.
        attributions: As in :func:`average_drop`.
        target: As in :func:`average_drop`.
        baseline: As in :func:`average_drop`.
        probability: As in :func:`average_drop`.

    Returns:
        Tensor: Shape ``(batch,)``, percent in [0, 100], on the inputs' device, no gradient.

    Raises:
        TypeError, ValueError: As :func:`average_drop`.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_gain
        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> map = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> gain = average_gain(model, image, map, target=0)  # without the other class's pixel
        >>> gain.round(decimals=2)
        tensor([63.2100])
    """
    whole, masked, defined = _whole_and_masked(
        model, inputs, attributions, target, baseline, probability
    )
    gained = masked.gain_over(whole).clamp_min(0)
    gain = 100 * torch.where(whole.rest > 0, gained / whole.rest, 0)
    return torch.where(defined, gain, torch.nan)


@register_metric(higher_is_better=True)
def average_increase(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average increase: whether the probability rises where only the map's pixels are shown.

    .. math:: AI = 100 \, [o > p],

    0 or 100 for each example; their mean is the score, in percent (arXiv:1710.11063). Images are
    masked, and p and o defined, as in :func:`average_drop`. A probability that stays the same has
    not risen. NaN for a map that is constant, or nowhere positive.

    Args:
        model: As in :func:`average_drop`.
        inputs: As in :func:`average_drop`.
        attributions: As in :func:`average_drop`.
        target: As in :func:`average_drop`.
        baseline: As in :func:`average_drop`.
        probability: As in :func:`average_drop`.

    Returns:
        Tensor: Shape ``(batch,)``, 0 or 100, on the inputs' device, no gradient.

    Raises:
        TypeError, ValueError: As :func:`average_drop`.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_increase
        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> average_increase(model, image, image, target=1)  # shows all of the brightest pixel
        tensor([100.])
    """
    whole, masked, defined = _whole_and_masked(
        model, inputs, attributions, target, baseline, probability
    )
    risen = 100 * (masked.gain_over(whole) > 0).to(whole.target)
    return torch.where(defined, risen, torch.nan)
