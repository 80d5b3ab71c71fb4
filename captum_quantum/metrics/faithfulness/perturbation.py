"""Infidelity: Captum's, in batches, with perturbations that depend on the image alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks, _state
from captum_quantum._targets import Target
from captum_quantum.metrics import _maps, _noise, _scores, registry
from captum_quantum.metrics._scores import Baseline, Model


@registry.register_metric(higher_is_better=False)
def infidelity(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Target,
    *,
    baseline: Baseline = 0.0,
    side: float = 0.25,
    perturb_func: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    n_perturb_samples: int = 32,
    normalize: bool = True,
    max_batch: int = 256,
    seed: int = 0,
) -> Tensor:
    r"""Infidelity: how badly the map predicts the change of the score under perturbations.

    .. math:: E_I \left[ (\beta \, I \cdot \Phi - (f(x) - f(\tilde x)))^2 \right]

    with f the target's score (not its probability) and :math:`\Phi` the map; computed by
    ``captum.metrics.infidelity`` (arXiv:1901.09392). The perturbation is the square removal of that
    paper: I is 1 in a square at a random position and 0 elsewhere, :math:`\tilde x` is the image
    with the baseline in the square. The perturbations depend on the image and the seed, not on the
    batch, the process or the device; the global random state is restored.

    With ``normalize``, :math:`\beta` is the factor that fits each map best, as the scale of a class
    activation map has no meaning. A map of zeros then predicts no change; its value is the mean
    square of the changes. Without, :math:`\beta = 1`.

    What it can and cannot tell: it asks for the size of every change of the score, which class
    activation maps do not claim to predict. On digits it hardly separated the maps of Grad-CAM from
    noise.

    Args:
        model (Callable): Maps images to scores (logits), shape ``(batch, n_classes)``, or to any
            output ``(batch, ...)`` for a target that is a function. A module runs in evaluation
            mode; the mode of every submodule is restored.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions.
        attributions (Tensor): The maps of these images, shape ``(batch, channels, *spatial)``, of
            any spatial size, scaled to that of the images (bilinear); with as many channels as the
            images, or with one channel, of which each channel of the image gets an equal share.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``, which takes the place of the score.
        baseline (float, Tensor or "blur"): Replaces the pixels in the square: a number, a tensor
            that broadcasts to the images, or ``"blur"`` for the images blurred by a Gaussian of 11
            pixels, standard deviation 5, borders repeated (arXiv:1806.07421).
        side (float): Side of the square as a share of each side of the image, in (0, 1].
        perturb_func (Callable, optional): Captum's: maps the images, each repeated, to
            perturbations and perturbed images. Random numbers that it draws from torch are seeded.
            Default: square removal.
        n_perturb_samples (int): Number of perturbations of each image.
        normalize (bool): Whether to fit the scale of each map.
        max_batch (int): Largest number of images in one call of the model, but at least one
            perturbation of each image.
        seed (int): Fixes the perturbations.

    Returns:
        Tensor: Shape ``(batch,)``, at least 0, in squared units of the score, on the inputs'
        device, without gradient. Never NaN.

    Raises:
        TypeError, ValueError: If an argument is wrong, or attributions, baseline, scores or the
            result are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import infidelity
        >>> images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        >>> def model(x):
        ...     return torch.stack([x.sum(dim=(1, 2, 3)), x[:, 0, 0, 0]], dim=1)
        >>> exact = infidelity(model, images, images, target=0)  # x explains a sum over x exactly
        >>> exact.shape, bool((exact < 1e-6).all())
        (torch.Size([2]), True)
        >>> bool((infidelity(model, images, 1 - images, target=0) > 0.01).all())
        True
    """
    from captum.metrics import infidelity as captum_infidelity

    _maps.check_callable("model", model)
    _noise.check_options(seed, n_perturb_samples, max_batch, perturb_func)
    _checks.check_number("side", side, "a share of the image in (0, 1]", lambda s: 0 < s <= 1)
    inputs = _maps.check_inputs(inputs)
    maps = _maps_of_all_channels(attributions, inputs, normalize)
    hidden = _scores.read_baseline(baseline, inputs)
    noise = _noise.Noise(inputs, seed)

    def remove_square(images: Tensor) -> tuple[Tensor, Tensor]:
        sizes = images.shape[2:]
        inside = torch.ones(len(images), 1, *sizes, dtype=torch.bool, device=images.device)
        positions = noise.draw(len(images), len(sizes)).unbind(1)
        for dim, (size, position) in enumerate(zip(sizes, positions, strict=True), start=2):
            length = max(1, round(side * size))
            start = (position * (size - length + 1)).long()[:, None]
            index = torch.arange(size, device=images.device)
            covered = (index >= start) & (index < start + length)
            inside &= covered.reshape(-1, *[1] * (dim - 1), size, *[1] * (images.dim() - 1 - dim))
        replacement = hidden.repeat_interleave(len(images) // len(inputs), dim=0)
        return inside.expand_as(images).to(images), torch.where(inside, replacement, images)

    with _state.evaluation_mode(model), torch.no_grad():
        original = _scores.check_scores(model, inputs, target)
        index = _scores.read_target(target, original)
        with _state.seeded(seed, inputs):
            values: Tensor = captum_infidelity(
                # Captum evaluates the images themselves again with every chunk of perturbations.
                lambda x: original if x is inputs else _scores.check_scores(model, x, target),
                perturb_func or remove_square,
                inputs,
                maps.to(torch.promote_types(maps.dtype, inputs.dtype)),
                target=None if callable(index) else index,
                n_perturb_samples=n_perturb_samples,
                max_examples_per_batch=_noise.draws_at_once(
                    max_batch, len(inputs), n_perturb_samples
                ),
                normalize=normalize,
            )
    _checks.check_finite("infidelity", values)
    return values.clamp_min(0)  # with normalize a difference, which rounding can make negative


def _maps_of_all_channels(attributions: Any, inputs: Tensor, rescale: bool) -> Tensor:
    """Returns the attributions in the shape of the inputs, with ``rescale`` of magnitude 1."""
    maps = _maps.check_attributions("attributions", attributions, inputs)
    channels = inputs.shape[1]
    if maps.shape[1] not in (1, channels):
        _checks.wrong_value("attributions", f"maps of 1 or {channels} channels", maps)
    if rescale:
        maps = maps / _maps.magnitude(maps)
    if maps.shape[1] != channels:
        maps = maps.expand(-1, channels, *maps.shape[2:]) / channels
    size = inputs.shape[2:]
    return _maps.resize(maps.flatten(0, 1), size).reshape(inputs.shape)
