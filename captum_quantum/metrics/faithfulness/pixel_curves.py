"""Insertion and deletion: probabilities while pixels enter or leave the image."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, overload

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._targets import Target
from captum_quantum.metrics import _maps, _scores, registry
from captum_quantum.metrics._scores import Baseline, Model, Probability


class PixelCurves(NamedTuple):
    """The target's probability as a function of the share of pixels inserted or deleted.

    Attributes:
        area (Tensor): Area under each curve, shape ``(batch,)``; NaN where the map is constant.
        fractions (Tensor): Shares of pixels from 0 to 1, shape ``(n_points,)``.
        probabilities (Tensor): Probability at each share, shape ``(batch, n_points)``.
    """

    area: Tensor
    fractions: Tensor
    probabilities: Tensor


class _CurveMetric(Protocol):
    """The signature of `insertion` and `deletion`; ``return_curves`` decides what is returned."""

    @overload
    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        attributions: Tensor,
        target: Target,
        *,
        baseline: Baseline = ...,
        steps: int = 32,
        max_batch: int = 256,
        probability: Probability | None = None,
        return_curves: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        attributions: Tensor,
        target: Target,
        *,
        baseline: Baseline = ...,
        steps: int = 32,
        max_batch: int = 256,
        probability: Probability | None = None,
        return_curves: Literal[True],
    ) -> PixelCurves: ...


def _curve_metric(function: Callable[..., Any]) -> _CurveMetric:
    """Returns the function itself; for type checkers its result depends on ``return_curves``."""
    return function


def _pixel_curves(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    baseline: Baseline,
    steps: int,
    max_batch: int,
    probability: Probability | None,
    insert: tuple[bool, ...],
) -> list[PixelCurves]:
    """Computes curves: of insertion for each True of ``insert``, of deletion for each False."""
    _maps.check_callable("model", model)
    _scores.check_probability(target, probability)
    _checks.check_int("steps", steps, 1)
    _checks.check_int("max_batch", max_batch, 1)
    inputs = _maps.check_inputs(inputs)
    rank, defined = _maps.rank_pixels(attributions, inputs)
    hidden = _scores.read_baseline(baseline, inputs)
    n_pixels = rank[0].numel()
    steps = min(steps, n_pixels)
    counts = torch.arange(steps + 1, device=inputs.device) * n_pixels // steps
    inserting = torch.tensor(insert, device=inputs.device)

    def replace(variant: Tensor, example: Tensor) -> Tensor:
        curve, point = variant // (steps + 1), variant % (steps + 1)
        ranks = rank[example]
        best = ranks < counts[point].reshape(-1, *[1] * (ranks.dim() - 1))
        shown = best == inserting[curve].reshape(-1, *[1] * (ranks.dim() - 1))
        return torch.where(shown, inputs[example], hidden[example])

    probabilities = _scores.perturbed_probabilities(
        model, inputs, target, probability, replace, len(insert) * (steps + 1), max_batch
    )
    fractions = counts.to(probabilities.dtype) / n_pixels
    curves = []
    for values in probabilities.split(steps + 1):
        area = torch.trapezoid(values.T, fractions)
        area = torch.where(defined, area, torch.nan)
        curves.append(PixelCurves(area, fractions, values.T.contiguous()))
    return curves


@_curve_metric
@registry.register_metric(higher_is_better=True)
def insertion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = "blur",
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: bool = False,
) -> Tensor | PixelCurves:
    r"""Insertion: area under the probability while pixels replace the baseline, best first.

    .. math:: \mathrm{area} = \int_0^1 p(t) \, dt,

    with p(t) the target's probability for the baseline in which the share t of the pixels, those
    with the largest values of the map, is that of the image (arXiv:1806.07421); trapezoidal rule.

    The map is summed over its channels and scaled to the size of the image (bilinear). Pixels are
    ranked by its values: negative values come last, equal values row by row.

    What it can and cannot tell: it judges the order of the pixels only, and also depends on how
    sure the model is of the image and on the baseline. To compare maps, `insertion_deletion` is the
    better choice.

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
        steps (int): Number of steps from no pixel to all pixels; at most one step for each pixel.
        max_batch (int): Largest number of images in one call of the model.
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.
        return_curves (bool): Whether to return the curves, too.

    Returns:
        Tensor or PixelCurves: Areas, shape ``(batch,)``, in [0, 1] for a class, on the inputs'
        device, without gradient; NaN where the map is constant, which ranks no pixel. With
        ``return_curves`` the areas, the shares of pixels ``(steps + 1,)`` and the probabilities
        ``(batch, steps + 1)``.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import insertion
        >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> insertion(model, image, image, target=0, baseline=0.0)
        tensor([0.9218])
        >>> curves = insertion(model, image, -image, 0, baseline=0.0, return_curves=True)
        >>> curves.probabilities  # the pixel that matters comes last
        tensor([[0.5000, 0.5000, 0.5000, 0.5000, 0.9820]])
    """
    (curves,) = _pixel_curves(
        model, inputs, attributions, target, baseline, steps, max_batch, probability, (True,)
    )
    return curves if return_curves else curves.area


@_curve_metric
@registry.register_metric(higher_is_better=False)
def deletion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = 0.0,
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
    return_curves: bool = False,
) -> Tensor | PixelCurves:
    r"""Deletion: area under the probability while the baseline replaces pixels, best first.

    .. math:: \mathrm{area} = \int_0^1 p(t) \, dt,

    with p(t) the target's probability for the image in which the share t of the pixels, those with
    the largest values of the map, is that of the baseline (arXiv:1806.07421); trapezoidal rule.

    The map is summed over its channels and scaled to the size of the image (bilinear). Pixels are
    ranked by its values: negative values come last, equal values row by row.

    What it can and cannot tell: it judges the order of the pixels only, and also depends on how
    sure the model is of the image and on the baseline: pixels that make an image look unlike the
    data have the same effect as pixels that matter. To compare maps, `insertion_deletion` is the
    better choice.

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
        steps (int): Number of steps from no pixel to all pixels; at most one step for each pixel.
        max_batch (int): Largest number of images in one call of the model.
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.
        return_curves (bool): Whether to return the curves, too.

    Returns:
        Tensor or PixelCurves: Areas, shape ``(batch,)``, in [0, 1] for a class, on the inputs'
        device, without gradient; NaN where the map is constant, which ranks no pixel. With
        ``return_curves`` the areas, the shares of pixels ``(steps + 1,)`` and the probabilities
        ``(batch, steps + 1)``.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import deletion
        >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> deletion(model, image, image, target=0)
        tensor([0.5603])
    """
    (curves,) = _pixel_curves(
        model, inputs, attributions, target, baseline, steps, max_batch, probability, (False,)
    )
    return curves if return_curves else curves.area


@registry.register_metric(higher_is_better=True, rounding_scale=1.0)
def insertion_deletion(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = "blur",
    steps: int = 32,
    max_batch: int = 256,
    probability: Probability | None = None,
) -> Tensor:
    r"""Insertion minus deletion: by how much the best pixels first beat the best pixels last.

    .. math:: \int_0^1 (p(t) - q(t)) \, dt,

    with p(t) the target's probability for the baseline in which the share t of the pixels, those
    with the largest values of the map, is that of the image, and q(t) that for the image in which
    the same pixels are those of the baseline (arXiv:1806.07421); trapezoidal rule. Insertion and
    deletion alone also depend on how sure the model is of the image; in their difference much of
    that cancels, as both use one baseline.

    The map is summed over its channels and scaled to the size of the image (bilinear). Pixels are
    ranked by its values: negative values come last, equal values row by row.

    The recommended baseline is the mean image of the training set,
    ``functools.partial(insertion_deletion, baseline=train_images.mean(0))``: it hides what is
    special about an image and looks like the data. `compare` stores the checksum of the tensor in
    the configuration of the report. The mean over a batch would make the value of an image depend
    on the other images of the batch.

    What it can and cannot tell: on digits, with the mean training image, Grad-CAM's map of the
    demo's model is better than noise of the same area on 90 % of the images, than the map of the
    rival class on 83 %, and than the map of another image on 70 %. It judges the order of the
    pixels only, by images that the model was not trained on.

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
        steps (int): Number of steps from no pixel to all pixels; at most one step for each pixel.
        max_batch (int): Largest number of images in one call of the model.
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.

    Returns:
        Tensor: Differences of areas, shape ``(batch,)``, in [-1, 1] for a class, on the inputs'
        device, without gradient; NaN where the map is constant, which ranks no pixel.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline or scores are not
            finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import insertion_deletion
        >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> model = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 1, 1]], dim=1)
        >>> mean = torch.zeros(1, 2, 2)  # of the training images
        >>> insertion_deletion(model, image, image, target=0, baseline=mean)
        tensor([0.3615])
        >>> insertion_deletion(model, image, -image, target=0, baseline=mean)
        tensor([-0.3615])
    """
    inserted, deleted = _pixel_curves(
        model, inputs, attributions, target, baseline, steps, max_batch, probability, (True, False)
    )
    return inserted.area - deleted.area
