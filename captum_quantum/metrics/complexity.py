"""Complexity: how concentrated is the map?"""

import torch
from torch import Tensor

from captum_quantum.metrics._maps import read_maps
from captum_quantum.metrics.registry import register_metric


@register_metric(higher_is_better=None)
def sparseness(attributions: Tensor) -> Tensor:
    r"""Sparseness: the Gini index of the map's magnitudes.

    With :math:`a_1 \le \ldots \le a_n` the magnitudes of the map, summed over its channels,

    .. math:: G = \frac{\sum_i (2 i - n - 1) \, a_i}{n \sum_i a_i},

    0 if all pixels weigh the same, 1 - 1/n if one pixel has all (arXiv:0811.4706,
    arXiv:1810.06583). The map is taken in its own size. A map of zeros has no such share: its value
    is NaN. Maps of few pixels are easier to read, not truer, so neither end is better.

    Args:
        attributions (Tensor): Maps as Captum's ``attribute`` returns them,
            ``(batch, channels, *spatial)`` with any number of channels and any spatial size.

    Returns:
        Tensor: Shape ``(batch,)``, in [0, 1), on the attributions' device, no gradient.

    Raises:
        TypeError, ValueError: If attributions are not such maps, or not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import sparseness
        >>> sparseness(torch.tensor([[[[0.0, 0.0], [0.0, -3.0]]], [[[2.0, 2.0], [-2.0, 2.0]]]]))
        tensor([0.7500, 0.0000])
    """
    sizes = read_maps("attributions", attributions).abs().flatten(1).sort(dim=1).values
    n = sizes.shape[1]
    lead = torch.arange(1 - n, n, 2, device=sizes.device, dtype=sizes.dtype) / n
    # Of equal magnitudes it may be a little less than 0, by rounding.
    return ((lead * sizes).sum(dim=1) / sizes.sum(dim=1)).clamp_min(0)
