"""Confidence intervals of means, ties, wins, and a paired test."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import wilcoxon

Array = npt.NDArray[np.float64]

N_RESAMPLES = 2000
ROUNDING = 1e-6
"""Relative rounding of float32: differences up to this share of the values count as ties."""


def bootstrap_mean(
    values: Array, confidence: float = 0.95, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    r"""Computes the confidence interval of a mean by the bootstrap.

    The interval is bias-corrected and accelerated (BCa).

    With :math:`\bar x^*_b` the means of resamples, :math:`\Phi` the normal distribution function,
    :math:`z_0 = \Phi^{-1}(\text{share of } \bar x^*_b < \bar x)` (ties count half) and the
    acceleration :math:`a = \sum d_i^3 / (6 (\sum d_i^2)^{3/2})`, :math:`d_i = x_i - \bar x` (for a
    mean the jackknife needs no resampling), the ends are the quantiles of :math:`\bar x^*_b` at
    :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))`, :math:`z = \pm\Phi^{-1}((1 + c) / 2)` (Efron,
    Better bootstrap confidence intervals, JASA 82, 1987).

    Args:
        values (ndarray): Shape ``(n,)``, finite.
        confidence (float): The confidence level c, in (0, 1).
        seed (int): Fixes the resamples.
        n_resamples (int): Number of resamples.

    Returns:
        tuple[float, float]: The ends of the interval; NaN for fewer than two values, the value
        itself if all are equal.

    Examples:
        >>> import numpy as np
        >>> from captum_quantum.evaluation.statistics import bootstrap_mean
        >>> low, high = bootstrap_mean(np.arange(100.0))
        >>> round(low), round(high)
        (44, 55)
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if (values == values[0]).all():
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    chunk = max(1, 2**21 // n)  # about 16 MB at a time
    means = np.concatenate(
        [
            values[rng.integers(0, n, (min(chunk, n_resamples - done), n))].mean(axis=1)
            for done in range(0, n_resamples, chunk)
        ]
    )
    mean = values.mean()
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / n_resamples
    bias = ndtri(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    deviations = values - mean
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    shifted = bias + ndtri(np.array([1 - confidence, 1 + confidence]) / 2)
    low, high = np.quantile(means, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def bootstrap_clusters(
    clusters: Sequence[Array],
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> tuple[float, float]:
    """Computes the confidence interval of a mean over clusters by a bootstrap of two stages.

    Each resample draws as many clusters as there are, with replacement, and then as many values as
    each drawn cluster has from that cluster, with replacement; its mean is over all drawn values.
    The interval is between the percentiles of these means (Davison and Hinkley, Bootstrap methods
    and their application, 1997, section 3.8). It covers what the values of a cluster have in
    common; with a few clusters only it is too narrow.

    Args:
        clusters (Sequence[ndarray]): The values of each cluster, shape ``(n,)``, finite, not empty.
        confidence (float): The confidence level, in (0, 1).
        seed (int): Fixes the resamples.
        n_resamples (int): Number of resamples.

    Returns:
        tuple[float, float]: The ends of the interval; NaN for fewer than two clusters.

    Examples:
        >>> import numpy as np
        >>> from captum_quantum.evaluation.statistics import bootstrap_clusters
        >>> bootstrap_clusters([np.ones(5), np.zeros(5)])  # both, or twice the same
        (0.0, 1.0)
    """
    n = len(clusters)
    if n < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n, (n_resamples, n))
    sums = np.zeros((n_resamples, n))
    for number, values in enumerate(clusters):
        # The distinct values of a resample are as often drawn as a multinomial distribution tells.
        distinct, counts = np.unique(values, return_counts=True)
        here = drawn == number
        often = rng.multinomial(len(values), counts / len(values), size=int(here.sum()))
        sums[here] = often @ distinct
    sizes = np.array([len(values) for values in clusters])
    means = sums.sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def count_wins(
    values: Array, others: Array, higher_is_better: bool, rounding_scale: float = 0.0
) -> Array:
    """Tells for each sample whether a value beats the other one.

    Args:
        values (ndarray): Shape ``(n,)``; NaN or infinite where undefined.
        others (ndarray): Shape ``(n,)``; NaN or infinite where undefined.
        higher_is_better (bool): Which values are better.
        rounding_scale (float): The rounding scale of `find_ties`.

    Returns:
        ndarray: Shape ``(n,)``: 1 for a win, 0.5 for a tie (see `find_ties`), 0 for a loss. An
        undefined value loses; a defined one wins over an undefined other.
    """
    wins = np.isfinite(values).astype(float)
    both = np.isfinite(values) & np.isfinite(others)
    a, b = values[both], others[both]
    better = a > b if higher_is_better else a < b
    wins[both] = np.where(find_ties(a, b, rounding_scale), 0.5, better)
    return wins


def widen_certainty(
    outcomes: Array, ends: tuple[float, float], confidence: float
) -> tuple[float, float]:
    r"""Corrects the interval of a rate if all outcomes are wins, or all are losses.

    All resamples of such outcomes are alike, so that a bootstrap ends at the rate itself. The
    interval is then that of Clopper and Pearson (Biometrika 26, 1934): of n wins, or of n losses,

    .. math:: [(\alpha / 2)^{1 / n}, 1], \qquad [0, 1 - (\alpha / 2)^{1 / n}],

    with :math:`1 - \alpha` the confidence level.

    Args:
        outcomes (ndarray): 1 for a win, 0.5 for a tie, 0 for a loss; shape ``(n,)``.
        ends (tuple[float, float]): The ends of the interval by a bootstrap.
        confidence (float): The confidence level, in (0, 1).

    Returns:
        tuple[float, float]: The ends of the interval.

    Examples:
        >>> import numpy as np
        >>> from captum_quantum.evaluation.statistics import widen_certainty
        >>> low, high = widen_certainty(np.ones(12), (1.0, 1.0), 0.95)
        >>> round(low, 3), high
        (0.735, 1.0)
    """
    if math.isnan(ends[0]) or not (outcomes == outcomes[0]).all() or outcomes[0] == 0.5:
        return ends
    distance = 1 - ((1 - confidence) / 2) ** (1 / len(outcomes))
    return (1 - distance, 1.0) if outcomes[0] == 1 else (0.0, distance)


def find_ties(a: Array, b: Array, rounding_scale: float = 0.0) -> npt.NDArray[np.bool_]:
    r"""Finds the pairs of values that are equal up to rounding.

    :math:`a_i` and :math:`b_i` are tied if :math:`|a_i - b_i| \le 10^{-6} \max(m_i, \tilde m, s)`
    with :math:`m_i = \max(|a_i|, |b_i|)`, :math:`\tilde m` the median of the :math:`m_i` that are
    not 0, and s the rounding scale of the metric. Values near 0 are often small differences of
    large numbers, with the rounding of these.

    Args:
        a (ndarray): Shape ``(n,)``, finite.
        b (ndarray): Shape ``(n,)``, finite.
        rounding_scale (float): The rounding scale s.

    Returns:
        ndarray: Shape ``(n,)``, bool.
    """
    larger = np.maximum(np.abs(a), np.abs(b))
    nonzero = larger[larger > 0]
    typical = np.median(nonzero) if len(nonzero) else 0.0
    ties: npt.NDArray[np.bool_] = np.abs(a - b) <= ROUNDING * np.maximum(
        larger, max(rounding_scale, typical)
    )
    return ties


def paired_p_value(differences: Array, ties: npt.NDArray[np.bool_]) -> float:
    """Computes the p-value of Wilcoxon's signed-rank test, two-sided, without the ties.

    Args:
        differences (ndarray): Shape ``(n,)``, finite.
        ties (ndarray): Which differences count as 0, shape ``(n,)``, bool.

    Returns:
        float: The p-value; NaN without differences, 1 if all are ties.
    """
    if not len(differences):
        return math.nan
    if ties.all():
        return 1.0
    return float(wilcoxon(differences[~ties]).pvalue)
