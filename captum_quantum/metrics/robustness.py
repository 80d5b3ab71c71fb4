"""Robustness: does the map stay the same when the image changes a little?"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks, _state
from captum_quantum._targets import Target, read_classes
from captum_quantum.metrics import _maps, _noise, registry

Attribute = Callable[[Tensor, Any], Tensor]


@registry.register_metric(higher_is_better=False)
def sensitivity_max(
    attribute: Attribute,
    inputs: Tensor,
    target: Target,
    *,
    perturb_radius: float = 0.02,
    perturb_func: Callable[[Tensor], Tensor] | None = None,
    n_perturb_samples: int = 10,
    max_batch: int = 256,
    seed: int = 0,
) -> Tensor:
    r"""Maximum sensitivity: how much the map changes when the image changes a little.

    .. math:: \max_{\|\epsilon\|_\infty \le r} \frac{\|\Phi(x + \epsilon) - \Phi(x)\|}{\|\Phi(x)\|}

    with :math:`\Phi(x)` the map of image x, over random :math:`\epsilon`; computed by
    ``captum.metrics.sensitivity_max`` (arXiv:1901.09392). The perturbations depend on the image and
    the seed, not on the batch, the process or the device. Random numbers that ``attribute`` draws
    from torch are seeded; the global random state is restored.

    What it can and cannot tell: it tells whether a map is stable, not whether it is right. A map
    that ignores the image has the best value.

    Args:
        attribute (Callable): Maps images and a target, classes ``(batch,)`` or the function, to
            maps ``(batch, channels, *spatial)``, as the ``attribute`` of Captum's methods does. The
            mode of its model is not changed.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``. ``attribute`` gets it.
        perturb_radius (float): Largest change r of a pixel, in the units of the images.
        perturb_func (Callable, optional): Maps the images, each repeated, to perturbed images.
            Random numbers that it draws from torch are seeded. Default: uniform noise in [-r, r].
        n_perturb_samples (int): Number of perturbations of each image.
        max_batch (int): Largest number of images in one call of ``attribute``, but at least one
            perturbation of each image.
        seed (int): Fixes the perturbations.

    Returns:
        Tensor: Shape ``(batch,)``, relative changes, at least 0, on the inputs' device, without
        gradient. NaN where the map of the image itself is zero.

    Raises:
        TypeError, ValueError: If an argument is wrong, or a map is not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import sensitivity_max
        >>> images = torch.rand(2, 1, 8, 8)
        >>> sensitivity_max(lambda x, target: torch.ones_like(x), images, target=0)
        tensor([0., 0.])
        >>> bool((sensitivity_max(lambda x, target: x, images, target=0) > 0).all())
        True
    """
    from captum.metrics import sensitivity_max as captum_sensitivity_max

    _maps.check_callable("attribute", attribute)
    _noise.check_options(seed, n_perturb_samples, max_batch, perturb_func)
    must = "a positive number"
    _checks.check_number("perturb_radius", perturb_radius, must, lambda r: 0 < r < math.inf)
    inputs = _maps.check_inputs(inputs)
    index = read_classes(target, len(inputs), inputs.device)
    noise = _noise.Noise(inputs, seed)
    scale: Tensor | None = None
    empty = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)

    def explain(images: Tensor | tuple[Tensor, ...], target: Any) -> tuple[Tensor]:
        nonlocal scale, empty
        images = images[0] if isinstance(images, tuple) else images
        with torch.enable_grad():
            maps = _maps.check_attributions("attribute's maps", attribute(images, target), images)
        if scale is None:  # Captum explains the images themselves first
            scale, empty = _maps.magnitude(maps), (maps == 0).flatten(1).all(dim=1)
        # The ratio does not depend on the scale, but the norms of tiny maps would vanish.
        return (maps / scale.repeat_interleave(len(maps) // len(scale), dim=0),)

    def add_noise(images: Tensor) -> Tensor:
        uniform = noise.draw(len(images), images[0].numel()).reshape(images.shape)
        return images + (perturb_radius * (2 * uniform - 1)).to(images)

    at_once = _noise.draws_at_once(max_batch, len(inputs), n_perturb_samples)
    sizes = {"n_perturb_samples": n_perturb_samples, "max_examples_per_batch": at_once}
    perturb = perturb_func or add_noise
    with _state.seeded(seed, inputs):
        values: Tensor = captum_sensitivity_max(explain, inputs, perturb, **sizes, target=index)
    _checks.check_finite("sensitivity_max", values)
    return torch.where(empty, torch.nan, values)
