"""Complexity: how concentrated is the map?"""

import torch
from torch import Tensor

from captum_quantum.metrics import _maps, registry


@registry.register_metric(higher_is_better=None)
def sparseness(attributions: Tensor) -> Tensor:
    r"""Sparseness: the Gini index of the magnitudes of the map.

    With :math:`a_1 \le \ldots \le a_n` the magnitudes of the map, summed over its channels,

    .. math:: G = \frac{\sum_i (2 i - n - 1) \, a_i}{n \sum_i a_i},

    0 if all pixels have the same magnitude, 1 - 1/n if only one pixel is not zero (arXiv:0811.4706,
    arXiv:1810.06583). Sparse maps are easier to read, not more faithful, so neither end is better.

    Args:
        attributions (Tensor): Maps as Captum's ``attribute`` returns them: shape ``(batch,
            channels, *spatial)`` with any number of channels and any spatial size.

    Returns:
        Tensor: Shape ``(batch,)``, in [0, 1), on the attributions' device, without gradient. NaN
        where the map is zero.

    Raises:
        TypeError, ValueError: If attributions have another type or shape, or are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import sparseness
        >>> sparseness(torch.tensor([[[[0.0, 0.0], [0.0, -3.0]]], [[[2.0, 2.0], [-2.0, 2.0]]]]))
        tensor([0.7500, 0.0000])
    """
    magnitudes = _maps.read_maps("attributions", attributions).abs().flatten(1).sort(dim=1).values
    n = magnitudes.shape[1]
    factors = torch.arange(1 - n, n, 2, device=magnitudes.device, dtype=magnitudes.dtype) / n
    # For equal magnitudes rounding can make it negative.
    return ((factors * magnitudes).sum(dim=1) / magnitudes.sum(dim=1)).clamp_min(0)
