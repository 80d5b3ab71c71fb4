"""Average drop, gain and increase: probabilities of images that a map masks."""

import math

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode
from captum_quantum._targets import Target
from captum_quantum.metrics import _maps, _scores, registry
from captum_quantum.metrics._scores import Baseline, Model, Probabilities, Probability


def make_masks(maps: Tensor, size: torch.Size | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Makes the masks of maps: positive part, scaled to the image, minimum to 0, maximum to 1.

    Args:
        maps (Tensor): Sums over the channels, shape ``(batch, *spatial)``.
        size (sequence of int): Spatial size of the images.

    Returns:
        tuple[Tensor, Tensor]: The masks, shape ``(batch, *size)``, and where they are defined,
        bool, ``(batch,)``: where the positive part is not constant. An undefined mask is 1.
    """
    positive = _maps.resize(maps.clamp_min(0), size)
    flat = positive.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    mask = (flat - low) / (high - low)
    defined = ~mask.isnan().any(dim=1)
    return torch.where(defined[:, None], mask, 1).reshape(positive.shape), defined


def _probabilities(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    baseline: Baseline,
    probability: Probability | None,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> tuple[Probabilities, Probabilities, Tensor]:
    """Probabilities of the images, those of the masked images, and where the mask is defined.

    An undefined mask shows the whole image, so that the model gets no NaN. Values of a target that
    is a function are in [lowest, highest].
    """
    _maps.check_callable("model", model)
    _scores.check_probability(target, probability)
    inputs = _maps.check_inputs(inputs)
    maps = _maps.read_maps("attributions", attributions, inputs)
    hidden = _scores.read_baseline(baseline, inputs)
    mask, defined = make_masks(maps, inputs.shape[2:])
    masked = torch.lerp(hidden, inputs, mask[:, None].to(inputs.dtype))
    with torch.no_grad(), evaluation_mode(model):
        scores = _scores.check_scores(model, inputs, target)
        index = _scores.read_target(target, scores)
        before = _scores.target_probabilities(scores, index, probability)
        scores = _scores.check_scores(model, masked, target)
        after = _scores.target_probabilities(scores, index, probability)
    if callable(target):
        low, high = torch.stack([before.target, after.target]).aminmax()
        if low < lowest or high > highest:
            must = "at least 0" if highest == math.inf else "in [0, 1]"
            got = f"values from {float(low)} to {float(high)}"
            _checks.refuse("target's values", f"{must}, as they take a probability's place", got)
    return before, after, defined


@registry.register_metric(higher_is_better=False, rounding_scale=100.0)
def average_drop(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average drop: how much of the probability the masked image loses.

    With p the target's probability for the image and o that for the masked image,

    .. math:: AD = 100 \, \frac{\max(0, p - o)}{p},

    in percent, for each example; their mean is the score (arXiv:1710.11063).

    The map is summed over its channels, its positive part is scaled to the size of the image
    (bilinear) and from its minimum and maximum to 0 and 1 (arXiv:2301.07002). With this map m and
    the baseline b, the masked image is :math:`b + m (x - b)`. A signed map and its positive part
    have the same value.

    What it can and cannot tell: it measures mainly how much of the image the mask shows. On digits,
    uniform noise shows 50 % of the image, Grad-CAM 17 to 30 %, and noise has a drop as low, or a
    lower one with blurred images as baseline. Compare maps that show about the same area, or take
    `insertion_deletion`.

    Args:
        model (Callable): Maps images to scores (logits), shape ``(batch, n_classes)``, or to any
            output ``(batch, ...)`` for a target that is a function. A module runs in evaluation
            mode; the mode of every submodule is restored.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions.
        attributions (Tensor): The maps of these images as Captum's ``attribute`` returns them:
            shape ``(batch, channels, *spatial)`` with any number of channels and any spatial size.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``, at least 0, which takes the place of the probability.
        baseline (float, Tensor or "blur"): Replaces hidden pixels: a number, a tensor that
            broadcasts to the images, or ``"blur"`` for the images blurred by a Gaussian of 11
            pixels, standard deviation 5, borders repeated (arXiv:1806.07421).
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.

    Returns:
        Tensor: Shape ``(batch,)``, percent in [0, 100], on the inputs' device, without gradient. 0
        where p is 0. NaN where the positive part of the map is constant, for example zero: such a
        map prefers no pixel.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_drop
        >>> image = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> average_drop(model, image, image, target=0)  # the map shows the pixel that matters
        tensor([0.])
        >>> average_drop(model, image, 1 - image, target=0).round(decimals=2)
        tensor([47.5100])
    """
    p, o, defined = _probabilities(
        model, inputs, attributions, target, baseline, probability, lowest=0
    )
    lost = p.gain_over(o).clamp_min(0)
    drop = torch.where(p.target > 0, lost / p.target, 0)
    return torch.where(defined, 100 * drop, torch.nan)


@registry.register_metric(higher_is_better=True, rounding_scale=100.0)
def average_gain(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average gain: how much of the missing probability the masked image gains.

    With p the target's probability for the image and o that for the masked image,

    .. math:: AG = 100 \, \frac{\max(0, o - p)}{1 - p},

    in percent, for each example; their mean is the score (arXiv:2301.07002). 1 - p is the sum over
    the other classes, so that it keeps its digits where p is nearly 1.

    The map is summed over its channels, its positive part is scaled to the size of the image
    (bilinear) and from its minimum and maximum to 0 and 1 (arXiv:2301.07002). With this map m and
    the baseline b, the masked image is :math:`b + m (x - b)`. A signed map and its positive part
    have the same value.

    What it can and cannot tell: a gain says that the mask hides what speaks for other classes. Like
    average drop it depends on how much the mask shows; on digits it did not separate the maps of
    Grad-CAM from noise.

    Args:
        model (Callable): Maps images to scores (logits), shape ``(batch, n_classes)``, or to any
            output ``(batch, ...)`` for a target that is a function. A module runs in evaluation
            mode; the mode of every submodule is restored.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions.
        attributions (Tensor): The maps of these images as Captum's ``attribute`` returns them:
            shape ``(batch, channels, *spatial)`` with any number of channels and any spatial size.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``, in [0, 1], which takes the place of the probability.
        baseline (float, Tensor or "blur"): Replaces hidden pixels: a number, a tensor that
            broadcasts to the images, or ``"blur"`` for the images blurred by a Gaussian of 11
            pixels, standard deviation 5, borders repeated (arXiv:1806.07421).
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.

    Returns:
        Tensor: Shape ``(batch,)``, percent in [0, 100], on the inputs' device, without gradient. 0
        where p is 1. NaN where the positive part of the map is constant, for example zero: such a
        map prefers no pixel.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_gain
        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> map = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> gain = average_gain(model, image, map, target=0)  # hides the pixel of the other class
        >>> gain.round(decimals=2)
        tensor([63.2100])
    """
    p, o, defined = _probabilities(
        model, inputs, attributions, target, baseline, probability, lowest=0, highest=1
    )
    gained = o.gain_over(p).clamp_min(0)
    gain = torch.where(p.rest > 0, gained / p.rest, 0)
    return torch.where(defined, 100 * gain, torch.nan)


@registry.register_metric(higher_is_better=True)
def average_increase(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = 0.0,
    probability: Probability | None = None,
) -> Tensor:
    r"""Average increase: whether the masked image has a higher probability.

    With p the target's probability for the image and o that for the masked image,

    .. math:: AI = 100 \, [o > p],

    0 or 100 for each example; their mean is the score, in percent (arXiv:1710.11063). Equal
    probabilities are no increase.

    The map is summed over its channels, its positive part is scaled to the size of the image
    (bilinear) and from its minimum and maximum to 0 and 1 (arXiv:2301.07002). With this map m and
    the baseline b, the masked image is :math:`b + m (x - b)`. A signed map and its positive part
    have the same value.

    What it can and cannot tell: it keeps only the sign of a change. Like average drop it depends on
    how much the mask shows; on digits it did not separate the maps of Grad-CAM from noise.

    Args:
        model (Callable): Maps images to scores (logits), shape ``(batch, n_classes)``, or to any
            output ``(batch, ...)`` for a target that is a function. A module runs in evaluation
            mode; the mode of every submodule is restored.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions.
        attributions (Tensor): The maps of these images as Captum's ``attribute`` returns them:
            shape ``(batch, channels, *spatial)`` with any number of channels and any spatial size.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``, which takes the place of the probability.
        baseline (float, Tensor or "blur"): Replaces hidden pixels: a number, a tensor that
            broadcasts to the images, or ``"blur"`` for the images blurred by a Gaussian of 11
            pixels, standard deviation 5, borders repeated (arXiv:1806.07421).
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.

    Returns:
        Tensor: Shape ``(batch,)``, 0 or 100, on the inputs' device, without gradient. NaN where the
        positive part of the map is constant, for example zero: such a map prefers no pixel.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import average_increase
        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> average_increase(model, image, image, target=1)  # only the brightest is shown in full
        tensor([100.])
    """
    p, o, defined = _probabilities(model, inputs, attributions, target, baseline, probability)
    increased = (o.gain_over(p) > 0).to(p.target)
    return torch.where(defined, 100 * increased, torch.nan)
