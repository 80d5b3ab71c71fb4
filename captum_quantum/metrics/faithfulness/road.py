"""ROAD: probabilities of images whose most or least relevant pixels are imputed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._targets import Target
from captum_quantum.metrics import _maps, _noise, _scores, registry
from captum_quantum.metrics._scores import Model, Probability

_CPU_PIXELS = 2**15
"""Pixels that are imputed at once on a CPU: conjugate gradients on them stay in its cache."""


@registry.register_metric(higher_is_better=True, rounding_scale=1.0)
def road(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    removed: Sequence[float] = (0.1, 0.3, 0.5, 0.7),
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_batch: int = 256,
    probability: Probability | None = None,
) -> Tensor:
    r"""ROAD: what removing the most relevant pixels costs, beyond removing the least relevant.

    .. math:: \frac{1}{S} \sum_{s=1}^{S} (p^{\mathrm{LeRF}}_s - p^{\mathrm{MoRF}}_s),

    with p the target's probability for the image without the least relevant (LeRF) or the most
    relevant (MoRF) share :math:`r_s` of its pixels (remove and debias, arXiv:2202.00449). The
    combination of both orders is that of pytorch-grad-cam's ``ROADCombined``, without its factor
    1/2.

    Removed pixels are imputed: each is the weighted mean of its neighbors, removed or not, plus
    Gaussian noise. The weights are proportional to 1 / squared distance within the window of 3
    pixels along each axis; in two dimensions these are the paper's, 1/6 for the four direct and
    1/12 for the four diagonal neighbors. Where neighbors lie outside of the image, the weights of
    the others are divided by their sum. With x the differences of an image's channel from the mean
    of its remaining pixels, this is a linear system :math:`A x = b`, symmetric and positive
    definite, where :math:`b` is the weighted sum of the remaining neighbors. Conjugate gradients
    solve it, in double precision, up to :math:`\|b - A x\|_2 \le \mathrm{tolerance} \, \|b\|_2`,
    where the norms are those of one channel of one image: a value does not depend on the batch.

    The map is summed over its channels and scaled to the size of the image (bilinear). Pixels are
    ranked by its values: negative values come last, equal values row by row. The number of removed
    pixels is rounded; at least one is removed and at least one remains. The noise depends on the
    image, the seed and the position only, not on the batch, the process or the device.

    What it can and cannot tell: on digits Grad-CAM's map of the demo's model is better than noise
    of the same area on 90 % of the images, than the map of the rival class on 79 %, and than the
    map of another image on 70 %. Imputed images look more like the data than images with a constant
    in the place of pixels. It judges the order of the pixels only, by images that the model was not
    trained on.

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
        removed (sequence of float): Shares of pixels to remove, each in (0, 1).
        noise (float): Standard deviation of the noise on removed pixels, in the units of the
            images; 0 for none.
        seed (int): Fixes the noise.
        tolerance (float): Largest relative residual of the linear system, in [1e-8, 1).
        max_batch (int): Largest number of images in one call of the model, and imputed at once.
        probability (Callable, optional): Maps scores to probabilities in [0, 1] of the same shape,
            for a target that is a class. Default: softmax over the classes.

    Returns:
        Tensor: Differences of probabilities, shape ``(batch,)``, in [-1, 1] for a class, on the
        inputs' device, without gradient; NaN where the map is constant, which ranks no pixel.

    Raises:
        TypeError, ValueError: If an argument is wrong, or inputs, attributions or scores are not
            finite.
        RuntimeError: If the linear system is not solved after as many iterations as an image has
            pixels.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import road
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> image[..., 2:5, 2:5] = 4
        >>> model = lambda x: torch.stack([x[:, 0, 3, 3], x[:, 0, 6, 6]], dim=1)
        >>> road(model, image, image, target=0, removed=[0.2]).round(decimals=1)
        tensor([0.5000])
        >>> road(model, image, -image, target=0, removed=[0.2]).round(decimals=1)
        tensor([-0.5000])
    """
    _maps.check_callable("model", model)
    _scores.check_probability(target, probability)
    _check_shares(removed)
    _checks.check_number("noise", noise, "a finite number >= 0", lambda s: 0 <= s < math.inf)
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    # Below 1e-8 the rounding of double precision could hide in the residual.
    must = "a relative residual in [1e-8, 1)"
    _checks.check_number("tolerance", tolerance, must, lambda t: 1e-8 <= t < 1)
    _checks.check_int("max_batch", max_batch, 1)
    inputs = _maps.check_inputs(inputs)
    _checks.check_finite("inputs", inputs)
    rank, defined = _maps.rank_pixels(attributions, inputs)
    n_pixels = rank[0].numel()
    counts = torch.tensor(
        [min(max(round(share * n_pixels), 1), n_pixels - 1) for share in removed],
        device=inputs.device,
    )
    offsets = noise * _noise.Noise(inputs, seed).draw_gaussian(inputs[0].numel())
    offsets = offsets.reshape(inputs.shape)

    def remove(variant: Tensor, example: Tensor) -> Tensor:
        """The even variants lack the least relevant pixels, the odd ones the most relevant."""
        ranks, images = rank[example], inputs[example]
        one_per_row = (-1, *[1] * (ranks.dim() - 1))
        count = counts[variant // 2].reshape(one_per_row)
        least = (variant % 2 == 0).reshape(one_per_row)
        gone = torch.where(least, ranks >= n_pixels - count, ranks < count)
        filled = impute(images, gone, tolerance) + offsets[example]
        return torch.where(gone, filled.to(images.dtype), images)

    probabilities = _scores.perturbed_probabilities(
        model, inputs, target, probability, remove, 2 * len(removed), max_batch
    )
    least, most = probabilities.reshape(len(removed), 2, -1).unbind(1)
    return torch.where(defined, (least - most).mean(dim=0), torch.nan)


def _check_shares(removed: Any) -> None:
    must = "a sequence of shares of the pixels, each in (0, 1)"
    if not isinstance(removed, Sequence) or isinstance(removed, str):
        _checks.wrong_type("removed", must, removed)
    if not removed:
        _checks.wrong_value("removed", must, removed)
    for share in removed:
        _checks.check_number("removed", share, must, lambda s: 0 < s < 1)


def impute(images: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """Imputes removed pixels by weighted means of their neighbors, without noise.

    Args:
        images (Tensor): Shape ``(batch, channels, *spatial)``. Removed pixels are not read.
        removed (Tensor): The pixels to impute, not all of an image: bool, shape ``(batch, 1,
            *spatial)``.
        tolerance (float): Largest relative residual.

    Returns:
        Tensor: The images with imputed pixels, float64, in their shape.

    Raises:
        RuntimeError: If the linear system is not solved after as many iterations as pixels.
    """
    gone = removed.expand(images.shape).flatten(0, 1)
    pixels = images.double().flatten(0, 1)
    at_once = len(pixels) if pixels.is_cuda else max(1, _CPU_PIXELS // pixels[0].numel())
    chunks = zip(pixels.split(at_once), gone.split(at_once), strict=True)
    return torch.cat([_impute(*chunk, tolerance) for chunk in chunks]).reshape(images.shape)


def _impute(pixels: Tensor, gone: Tensor, tolerance: float) -> Tensor:
    """Imputes images of one channel, both arguments of shape ``(batch, *spatial)``."""
    pixels = pixels.masked_fill(gone, 0)
    n_kept = (~gone).flatten(1).sum(dim=1)
    mean = (pixels.flatten(1).sum(dim=1) / n_kept).reshape(-1, *[1] * (pixels.dim() - 1))
    # Relative to the mean and the scale, the residual measures contrast, not brightness.
    contrast = (pixels - mean).masked_fill(gone, 0)
    scale = _maps.magnitude(contrast)
    degree = neighbor_sum(torch.ones_like(pixels[:1]))

    def system(x: Tensor) -> Tensor:
        return (degree * x - neighbor_sum(x)).masked_fill(~gone, 0)

    constant = neighbor_sum(contrast / scale).masked_fill(~gone, 0)
    solution = _solve(system, constant, tolerance, pixels[0].numel())
    return torch.where(gone, mean + scale * solution, pixels)


def neighbor_sum(values: Tensor) -> Tensor:
    """Sums the neighbors of each pixel, each divided by its squared distance.

    Neighbors are the other pixels in a window of 3 along each axis, as far as they exist.

    Args:
        values (Tensor): Shape ``(batch, *spatial)``.

    Returns:
        Tensor: The shape of the values.
    """
    # With the axes so far: sums[k] is the sum of all neighbors that differ in k coordinates, and
    # so have the squared distance k. Sums of shifted pixels take fewer operations than a
    # convolution with the window, and are not rounded to TF32 on a GPU.
    sums = [values]
    for dim in range(1, values.dim()):
        moved = [_next_along(part, dim) for part in sums]
        sums = [values, *(a + b for a, b in zip(sums[1:], moved, strict=False)), moved[-1]]
    total = sums[1]
    for k, part in enumerate(sums[2:], start=2):
        total = total + part / k
    return total


def _next_along(values: Tensor, dim: int) -> Tensor:
    """The sum of the pixel before and the pixel after each, 0 where there is none."""
    size = values.shape[dim] - 1
    result = torch.zeros_like(values)
    result.narrow(dim, 1, size).add_(values.narrow(dim, 0, size))
    result.narrow(dim, 0, size).add_(values.narrow(dim, 1, size))
    return result


def _solve(
    system: Callable[[Tensor], Tensor], constant: Tensor, tolerance: float, n_iterations: int
) -> Tensor:
    """Solves symmetric positive definite linear systems by conjugate gradients.

    Each system stops by its own residual.

    Args:
        system (Callable): Applies the matrix of each system to its vector, ``(batch, *spatial)``.
        constant (Tensor): The right-hand sides, shape ``(batch, *spatial)``.
        tolerance (float): Largest Euclidean norm of a residual, relative to the right-hand side.
        n_iterations (int): Largest number of iterations.

    Returns:
        Tensor: The solutions, shape ``(batch, *spatial)``.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.dim() - 1))

    solution, residual, direction = torch.zeros_like(constant), constant.clone(), constant
    square = dot(residual, residual)
    limit = tolerance**2 * square
    for iteration in range(n_iterations + 1):
        unsolved = ~(square <= limit)  # also where it is NaN
        if not bool(unsolved.any()):
            return solution
        if iteration == n_iterations:
            break
        image = system(direction)
        step = torch.where(unsolved, square / dot(direction, image), 0)
        solution += step * direction
        residual -= step * image
        previous, square = square, dot(residual, residual)
        direction = residual + torch.where(unsolved, square / previous, 0) * direction
    raise RuntimeError(
        f"the imputation of {int(unsolved.sum())} of {len(constant)} channels of images did not "
        f"reach a relative residual of {tolerance} in {n_iterations} iterations"
    )
