"""Insertion and deletion: the probability as pixels enter or leave the image, best first."""

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode
from captum_quantum.metrics._maps import (
    check_callable,
    check_inputs,
    is_constant,
    read_maps,
    resize,
)
from captum_quantum.metrics._scores import (
    Model,
    Probability,
    check_scores,
    read_answer,
    read_baseline,
    read_target,
)
from captum_quantum.metrics.registry import register_metric


class PixelCurves(NamedTuple):
    """Probability against the share of pixels inserted or deleted.

    Attributes:
        area (Tensor): Area under each curve, ``(batch,)``.
        fractions (Tensor): Shares of pixels from 0 to 1, ``(n_points,)``.
        probabilities (Tensor): The target's probability at each share, ``(batch, n_points)``.
    """

    area: Tensor
    fractions: Tensor
    probabilities: Tensor


def _pixel_curves(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    baseline: float | Tensor | Literal["blur"],
    steps: int,
    max_batch: int,
    probability: Probability | None,
    inserting: bool,
) -> PixelCurves:
    check_callable("model", model)
    _checks.check_int("steps", steps, 1)
    _checks.check_int("max_batch", max_batch, 1)
    inputs = check_inputs(inputs)
    maps = read_maps("attributions", attributions, inputs)
    hidden = read_baseline(baseline, inputs)
    first, then = (hidden, inputs) if inserting else (inputs, hidden)

    batch, device = len(inputs), inputs.device
    # Adding 0 turns -0 into 0; equal pixels keep their order, row by row.
    maps = resize(maps, inputs.shape[2:]) + 0.0
    values = maps.flatten(1)
    order = values.argsort(dim=1, descending=True, stable=True)
    n_pixels = order.shape[1]
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(n_pixels, device=device).expand_as(order))
    rank = rank.reshape(batch, 1, *inputs.shape[2:])
    steps = min(steps, n_pixels)
    counts = torch.arange(steps + 1, device=device) * n_pixels // steps

    answers = []
    with torch.no_grad(), evaluation_mode(model):
        scores = check_scores(model, inputs[:1])
        index = read_target(target, scores.expand(batch, -1))
        # All images of all points of the curves are one long batch, cut where memory says so.
        for rows in torch.arange((steps + 1) * batch, device=device).split(max_batch):
            point, example = rows // batch, rows % batch
            reached = rank[example] < counts[point].reshape(-1, *[1] * (rank.dim() - 1))
            images = torch.where(reached, then[example], first[example])
            answers.append(
                read_answer(check_scores(model, images), index[example], probability).target
            )
    probabilities = torch.cat(answers).reshape(steps + 1, batch).T
    fractions = counts.to(probabilities.dtype) / n_pixels
    area = torch.trapezoid(probabilities, fractions)
    return PixelCurves(
        torch.where(is_constant(maps), torch.nan, area), fractions, probabilities.contiguous()
    )


@overload
def insertion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = "blur",
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: Literal[False] = False,
) -> Tensor: ...


@overload
def insertion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = "blur",
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: Literal[True],
) -> PixelCurves: ...


@register_metric(higher_is_better=True)
def insertion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = "blur",
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: bool = False,
) -> Tensor | PixelCurves:
    r"""Insertion: how soon the probability rises as pixels enter the baseline, best first.

    .. math:: \mathrm{area} = \int_0^1 p(t) \, dt,

    with p(t) the target's probability once the share t of the pixels, those of the map's largest
    values, are the image's and the others the baseline's (arXiv:1806.07421); trapezoidal rule. The
    map is summed over its channels and scaled to the image's size (bilinear); negative pixels come
    last, equal ones row by row. A constant map orders nothing: its area is NaN.

    Args:
        model: As in :func:`average_drop`.
        inputs: As in :func:`average_drop`.
        attributions: As in :func:`average_drop`.
        target: As in :func:`average_drop`.
        baseline: As in :func:`average_drop`.
        steps (int): Number of steps from no pixel to all, at most one for each pixel.
        max_batch (int): Largest number of images that the model gets at once.
        probability: As in :func:`average_drop`.
        return_curves (bool): Whether to return the curves too.

    Returns:
        Tensor or PixelCurves: Areas ``(batch,)`` in [0, 1], on the inputs' device, no gradient; or
        areas, shares of pixels ``(steps + 1,)`` and probabilities ``(batch, steps + 1)``.

    Raises:
        TypeError, ValueError: As :func:`average_drop`.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import insertion
        >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> insertion(model, image, image, target=0, baseline=0.0)
        tensor([0.9218])
        >>> curves = insertion(model, image, -image, 0, baseline=0.0, return_curves=True)
        >>> curves.probabilities  # the pixel that counts comes last
        tensor([[0.5000, 0.5000, 0.5000, 0.5000, 0.9820]])
    """
    curves = _pixel_curves(
        model, inputs, attributions, target, baseline, steps, max_batch, probability, True
    )
    return curves if return_curves else curves.area


@overload
def deletion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: Literal[False] = False,
) -> Tensor: ...


@overload
def deletion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: Literal[True],
) -> PixelCurves: ...


@register_metric(higher_is_better=False)
def deletion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | Literal["blur"] = 0.0,
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: bool = False,
) -> Tensor | PixelCurves:
    r"""Deletion: how soon the probability falls as the baseline replaces pixels, best first.

    The area of :func:`insertion` with image and baseline exchanged: p(t) is the target's
    probability once the share t of the pixels, those of the map's largest values, are the
    baseline's (arXiv:1806.07421). A constant map orders nothing: its area is NaN.

    Args:
        model: As in :func:`average_drop`.
        inputs: As in :func:`average_drop`.
        attributions: As in :func:`average_drop`.
        target: As in :func:`average_drop`.
        baseline: As in :func:`average_drop`.
        steps: As in :func:`insertion`.
        max_batch: As in :func:`insertion`.
        probability: As in :func:`average_drop`.
        return_curves: As in :func:`insertion`.

    Returns:
        Tensor or PixelCurves: As :func:`insertion`.

    Raises:
        TypeError, ValueError: As :func:`average_drop`.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import deletion
        >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> deletion(model, image, image, target=0)
        tensor([0.5603])
    """
    curves = _pixel_curves(
        model, inputs, attributions, target, baseline, steps, max_batch, probability, False
    )
    return curves if return_curves else curves.area
