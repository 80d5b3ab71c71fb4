"""Agreement of two methods, and the similarities behind it."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_metrics import MAPS, random_maps, slow_resize

from captum_quantum.metrics import agreement
from captum_quantum.metrics.similarity import (
    Agreement,
    average_ranks,
    rank_correlation,
    structural_similarity,
)

ties = st.lists(st.integers(0, 4), min_size=2, max_size=12)


@given(a=ties, data=st.data())
def test_ranks_and_their_correlation_are_scipys(a, data):
    b = data.draw(st.lists(st.integers(0, 4), min_size=len(a), max_size=len(a)))
    rows = torch.tensor([a, b], dtype=torch.float64)
    assert np.array_equal(average_ranks(rows) + 1, scipy.stats.rankdata(rows, axis=1))
    with np.errstate(all="ignore"):
        expected = scipy.stats.spearmanr(a, b).statistic if len({*a}) > 1 < len({*b}) else math.nan
    assert rank_correlation(rows[:1], rows[1:]).item() == pytest.approx(expected, nan_ok=True)


def test_rank_correlation_of_large_maps_in_single_precision():
    a = random_maps(2, 224 * 224, dtype=torch.float32)
    b = a + random_maps(2, 224 * 224, seed=8, dtype=torch.float32)
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("other", [(6, 1, 9, 7), (6, 2, 4, 5)])
@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_agreement_equals_the_definition(shape, other):
    first, second = random_maps(*shape), random_maps(*other, seed=11)
    size = tuple(max(s) for s in zip(shape[2:], other[2:], strict=True))
    if size == other[2:]:  # ties; between other pixels rounding would break them
        second[:3] = (2 * second[:3]).round()
    result = agreement(first, second, top=0.15)
    for i, (one, two) in enumerate(zip(first.numpy(), second.numpy(), strict=True)):
        a, b = (slow_resize(m.sum(0), size).ravel() for m in (one, two))
        cosine = 1 - scipy.spatial.distance.cosine(a, b)
        assert result.cosine[i].item() == pytest.approx(cosine)
        assert result.rank_correlation[i].item() == pytest.approx(scipy.stats.spearmanr(a, b)[0])
        k = math.ceil(0.15 * len(a))
        tops = []
        for values in (a, b):
            lowest = sorted(values)[-k]
            above = sum(values > lowest)
            shared = (k - above) / sum(values == lowest)
            tops.append([1 if v > lowest else shared if v == lowest else 0 for v in values])
        overlap = sum(min(x, y) for x, y in zip(*tops, strict=True)) / k
        assert result.top_overlap[i].item() == pytest.approx(overlap)


def test_agreement_without_ties_counts_common_pixels():
    a = torch.arange(20.0).reshape(1, 1, 4, 5)
    b = a.flip(3)  # rows 15 to 19 in both: 4 of the 5 strongest are among them
    assert agreement(a, a, top=0.25).top_overlap.item() == 1
    assert agreement(a, -a, top=0.25).top_overlap.item() == 0
    assert agreement(a, b, top=0.15).top_overlap.item() == pytest.approx(1 / 3)  # 17, 18, 19


def test_agreement_does_not_depend_on_the_order_of_pixels_nor_on_scale():
    a, b = random_maps(3, 1, 6, 6).round(), random_maps(3, 1, 6, 6, seed=7).round()
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    shuffled = [m.flatten(2)[:, :, order].unflatten(2, (6, 6)) for m in (a, b)]
    for x, y in ((a, b * 1e-200), tuple(shuffled), (a * 1e200, b)):
        for result, expected in zip(agreement(x, y), agreement(a, b), strict=True):
            assert result.tolist() == pytest.approx(expected.tolist())
    same = agreement(a, a)
    assert isinstance(same, Agreement)
    assert [v.tolist() for v in same] == [pytest.approx([1, 1, 1])] * 3


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_agreement_with_a_constant_map_is_undefined(value):
    a = random_maps(2, 1, 4, 4)
    b = a.clone()
    b[1] = value
    for pair in ((a, b), (b, a)):
        for values in agreement(*pair):
            assert values.isnan().tolist() == [False, True]


def slow_ssim(a, b, radius):
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = 0.02**2, 0.06**2
    result = []
    for i in range(radius, a.shape[0] - radius):
        for j in range(radius, a.shape[1] - radius):
            x, y = (m[i - radius : i + radius + 1, j - radius : j + radius + 1] for m in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            result.append(
                (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return np.mean(result)


@pytest.mark.parametrize(
    ("size", "radius"), [((14, 12), 5), ((11, 30), 5), ((7, 9), 3), ((3, 4), 1)]
)
def test_ssim_equals_the_definition(size, radius):
    a = random_maps(3, *size).tanh()
    b = (a + random_maps(3, *size, seed=6) * torch.tensor([0.1, 0.5, 3]).reshape(3, 1, 1)).tanh()
    expected = [slow_ssim(x, y, radius) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert structural_similarity(a, b).tolist() == pytest.approx(expected)
    assert structural_similarity(a, a).tolist() == pytest.approx([1] * 3)
