"""Faithfulness: does the map show what the model's score depends on?

The model is asked again about images from which the map chose what stays.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode
from captum_quantum.metrics._maps import (
    check_callable,
    check_index,
    check_inputs,
    direction,
    gaussian_blur,
    is_constant,
    read_maps,
    resize,
)

Model = Callable[[Tensor], Tensor]
Probability = Callable[[Tensor], Tensor]

# The blur of RISE: 11 x 11 pixels, standard deviation 5.
_BLUR_SIGMA, _BLUR_RADIUS = 5.0, 5


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


class _Answer(NamedTuple):
    """The target's probability, and that of all other classes: 1 - p without cancellation."""

    target: Tensor
    rest: Tensor

    def gain_over(self, before: "_Answer") -> Tensor:
        """The difference of the target's probabilities, from the smaller numbers of the two."""
        return torch.where(
            before.target < 0.5, self.target - before.target, before.rest - self.rest
        )


def check_scores(model: Model, inputs: Tensor) -> Tensor:
    """The model's scores ``(batch, n_classes)``, checked, at least float32."""
    scores = model(inputs)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(inputs):
        _checks.wrong_value(
            "the model's output", f"scores of shape ({len(inputs)}, n_classes)", scores
        )
    _checks.check_real("the model's output", scores)
    _checks.check_finite("the model's output", scores)
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    return scores.to(inputs.device)


def read_target(target: Any, scores: Tensor) -> Tensor:
    """The target as an index for each example: ``(batch,)``, int64, not negative."""
    index = check_index(target, len(scores), scores.device)
    _checks.check_target(index, scores)
    return index % scores.shape[1]


def _answer(scores: Tensor, target: Tensor, probability: Probability | None) -> _Answer:
    column = target[:, None]
    if probability is None:
        if scores.shape[1] < 2:
            _checks.wrong_value(
                "the model's output",
                "scores of at least two classes (the softmax of a single one is always 1; for "
                "another meaning give probability)",
                scores,
            )
        shares = scores.softmax(dim=1)
        rest = shares.scatter(1, column, 0).sum(dim=1)
        return _Answer(shares.gather(1, column)[:, 0], rest)
    shares = probability(scores)
    if not isinstance(shares, Tensor) or shares.shape != scores.shape:
        _checks.wrong_value("probability's result", f"of shape {tuple(scores.shape)}", shares)
    _checks.check_real("probability's result", shares)
    if not bool(((shares >= 0) & (shares <= 1)).all()):  # NaN is in no range
        low, high = float(shares.min()), float(shares.max())
        raise ValueError(
            _checks.sentence(
                "probability's result", "in [0, 1] everywhere", f"values from {low} to {high}"
            )
        )
    chosen = shares.gather(1, column)[:, 0]
    return _Answer(chosen, 1 - chosen)


def read_baseline(baseline: Any, inputs: Tensor) -> Tensor:
    """What takes the place of hidden pixels, in the shape of the inputs."""
    must = f"'blur', a number, or a tensor that broadcasts to {tuple(inputs.shape)}"
    if isinstance(baseline, str):
        if baseline != "blur":
            _checks.wrong_value("baseline", must, baseline)
        return gaussian_blur(inputs, _BLUR_SIGMA, _BLUR_RADIUS)
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        _checks.wrong_type("baseline", must, baseline)
    values = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).detach()
    _checks.check_finite("baseline", values)
    try:
        return values.expand(inputs.shape)
    except RuntimeError:
        _checks.wrong_value("baseline", must, baseline)


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
) -> tuple[_Answer, _Answer, Tensor]:
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
            _answer(scores, index, probability),
            _answer(check_scores(model, masked), index, probability),
            defined,
        )


@direction(higher_is_better=False)
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


@direction(higher_is_better=True)
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


@direction(higher_is_better=True)
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
            answers.append(_answer(check_scores(model, images), index[example], probability).target)
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


@direction(higher_is_better=True)
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


@direction(higher_is_better=False)
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
