"""Similarity: how much do two maps agree?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.metrics import _maps, registry

# The window of doi:10.1109/TIP.2003.819861 (11 pixels, standard deviation 1.5), and its constants.
_SSIM_SIGMA, _SSIM_RADIUS, _SSIM_K1, _SSIM_K2 = 1.5, 5, 0.01, 0.03


class Agreement(NamedTuple):
    """The agreement of two maps of each example; NaN where one of the two maps is constant.

    Attributes:
        cosine (Tensor): Cosine similarity, shape ``(batch,)``, in [-1, 1].
        rank_correlation (Tensor): Spearman's rank correlation, shape ``(batch,)``, in [-1, 1].
        top_overlap (Tensor): Share of the largest values at the same pixels, shape ``(batch,)``, in
            [0, 1].
    """

    cosine: Tensor
    rank_correlation: Tensor
    top_overlap: Tensor


def average_ranks(values: Tensor) -> Tensor:
    """Returns ranks along dimension 1, from 0; equal values share the mean of their ranks."""
    ordered, order = values.sort(dim=1)
    n = values.shape[1]
    position = torch.arange(n, device=values.device).expand_as(order)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = differs.new_ones(len(values), 1)
    first = torch.where(torch.cat([edge, differs], dim=1), position, 0).cummax(dim=1).values
    last = torch.where(torch.cat([differs, edge], dim=1), position, n - 1)
    last = last.flip(1).cummin(dim=1).values.flip(1)
    ranks = (first + last).to(values.dtype) / 2
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Returns the cosine along dimension 1, NaN where a row is zero."""
    cosine: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosine.clamp(-1, 1)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of rows.

    Args:
        a (Tensor): Shape ``(batch, n)``.
        b (Tensor): Shape ``(batch, n)``.

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1]. NaN where a row is constant.
    """
    half, n = (a.shape[1] - 1) / 2, a.shape[1]
    return _cosine((average_ranks(a) - half) / n, (average_ranks(b) - half) / n)


def _membership(values: Tensor, k: int) -> Tensor:
    """Returns the membership in the k largest values, in [0, 1]; ties for the last share it."""
    lowest = values.topk(k, dim=1).values[:, -1:]
    above, tied = values > lowest, values == lowest
    remaining = k - above.sum(dim=1, keepdim=True)
    return above + tied * (remaining / tied.sum(dim=1, keepdim=True)).to(values.dtype)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns the structural similarity (SSIM) of images.

    .. math:: \frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}
              {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}

    with means and covariances under a Gaussian window of 11 pixels, standard deviation 1.5,
    :math:`C_1 = (0.01 \cdot 2)^2` and :math:`C_2 = (0.03 \cdot 2)^2`; averaged over all positions
    where the window lies inside the image (doi:10.1109/TIP.2003.819861). For smaller images the
    window is as large as they allow.

    Args:
        a (Tensor): Shape ``(batch, *spatial)``, in [-1, 1].
        b (Tensor): Shape ``(batch, *spatial)``, in [-1, 1].

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1].
    """
    radius = min(_SSIM_RADIUS, (min(a.shape[1:]) - 1) // 2)
    c1, c2 = (2 * _SSIM_K1) ** 2, (2 * _SSIM_K2) ** 2
    inside = (slice(None), slice(None), *(slice(radius, size - radius) for size in a.shape[1:]))
    planes = torch.stack([a, b, a * a, b * b, a * b], dim=1)
    mean_a, mean_b, aa, bb, ab = _maps.gaussian_blur(planes, _SSIM_SIGMA, radius)[inside].unbind(1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return ssim.flatten(1).mean(dim=1)


@registry.register_metric(higher_is_better=None, named=False)
def agreement(attributions: Tensor, other: Tensor, *, top: float = 0.1) -> Agreement:
    r"""Agreement of two maps: cosine, rank correlation and overlap of the largest values.

    With a and b the two maps of an example as vectors of n pixels, summed over their channels:

    - cosine: :math:`a \cdot b / (|a| |b|)`;
    - rank correlation: Spearman's; equal values share the mean of their ranks;
    - overlap: :math:`|T_a \cap T_b| / k` with T the :math:`k = \lceil top \, n \rceil` largest
      values; chance is k / n. Pixels that tie for the last of them share a membership t in [0, 1],
      so that the order of the pixels does not matter: :math:`\sum_i \min(t_{a,i}, t_{b,i}) / k`.

    Where the sizes differ, both maps are scaled to the larger size (bilinear). Neither end is
    better.

    Args:
        attributions (Tensor): Maps as Captum's ``attribute`` returns them: shape ``(batch,
            channels, *spatial)`` with any number of channels and any spatial size.
        other (Tensor): Other maps of the same examples, shape ``(batch, channels, *spatial)`` with
            as many spatial dimensions, any number of channels and any spatial size.
        top (float): The share of pixels that counts as the largest values, in (0, 1).

    Returns:
        Agreement: Three tensors ``(batch,)`` on the attributions' device, without gradient. NaN
        where one of the two maps is constant: it has no order and no largest values.

    Raises:
        TypeError, ValueError: If an argument is wrong, or maps are not finite.

    Examples:
        >>> import torch
        >>> from captum_quantum.metrics import agreement
        >>> a = torch.tensor([[[[4.0, 1.0], [2.0, 0.0]]]])
        >>> agreement(a, 10 * a, top=0.5).rank_correlation
        tensor([1.])
        >>> agreement(a, torch.tensor([[[[4.0, 2.0], [1.0, 0.0]]]]), top=0.5).top_overlap
        tensor([0.5000])
    """
    if not isinstance(top, float):
        _checks.wrong_type("top", "a share of the pixels in (0, 1)", top)
    if not 0 < top < 1:
        _checks.wrong_value("top", "a share of the pixels in (0, 1)", top)
    first = _maps.read_maps("attributions", attributions)
    checked = attributions[0] if isinstance(attributions, tuple) else attributions
    second = _maps.read_maps("other", other, checked)
    undefined = _maps.is_constant(first) | _maps.is_constant(second)
    size = tuple(max(sizes) for sizes in zip(first.shape[1:], second.shape[1:], strict=True))
    dtype = torch.promote_types(first.dtype, second.dtype)
    a, b = (_maps.resize(maps.to(dtype), size).flatten(1) for maps in (first, second))
    k = math.ceil(top * a.shape[1])
    overlap = torch.minimum(_membership(a, k), _membership(b, k)).sum(dim=1) / k
    values = (_cosine(a, b), rank_correlation(a, b), overlap)
    return Agreement(*(torch.where(undefined, torch.nan, value) for value in values))
