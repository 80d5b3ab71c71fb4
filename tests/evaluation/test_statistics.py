"""Bootstrap, Wilcoxon's test and ties."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from comparison import batch
from torch import nn

from captum_quantum import compare
from captum_quantum.evaluation.report import Report
from captum_quantum.evaluation.statistics import (
    bootstrap_clusters,
    bootstrap_mean,
    paired_p_value,
    widen_certainty,
)
from captum_quantum.metrics import named_metrics


@pytest.mark.parametrize("n", [2, 7, 300])
def test_bootstrap_is_that_of_scipy(n):
    values = np.random.default_rng(5).exponential(size=n) ** 2
    found = bootstrap_mean(values, confidence=0.9, seed=3, n_resamples=2000)
    if n == 300:  # the same resamples: both draw (n_resamples, n) indices
        expected = scipy.stats.bootstrap(
            (values,), np.mean, confidence_level=0.9, n_resamples=2000, rng=np.random.default_rng(3)
        ).confidence_interval
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20000, rng=np.random.default_rng(9)
    ).confidence_interval
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_mean(rng.exponential(size=60), seed=trial, n_resamples=400)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_draws_large_samples_in_parts():
    values = np.random.default_rng(1).normal(size=3_000_000)
    low, high = bootstrap_mean(values, n_resamples=3)
    assert low <= high
    assert abs(low - values.mean()) < 5e-3


def test_bootstrap_without_spread_or_samples():
    assert bootstrap_mean(np.full(9, 0.25)) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_mean(np.array([1.0])))
    assert all(math.isnan(end) for end in bootstrap_mean(np.array([])))


@pytest.mark.parametrize(
    ("n_clusters", "n_each", "wins"), [(40, 1, 28), (5, 200, 130)], ids=["one each", "all equal"]
)
def test_cluster_bootstrap_of_single_or_equal_clusters_is_the_ordinary_one(
    n_clusters, n_each, wins
):
    if n_each == 1:
        clusters = [np.array([float(number < wins)]) for number in range(n_clusters)]
        rate = wins / n_clusters
    else:
        clusters = [np.arange(n_each) < wins] * n_clusters
        rate = wins / n_each
    n = n_clusters * n_each
    found = bootstrap_clusters(clusters, 0.9, n_resamples=20000)
    expected = scipy.stats.binom.ppf([0.05, 0.95], n, rate) / n
    np.testing.assert_allclose(found, expected, rtol=0, atol=1 / n)
    assert found != bootstrap_clusters(clusters, 0.5, n_resamples=20000)


def test_cluster_bootstrap_covers_both_variances():
    rng = np.random.default_rng(0)
    clusters = [rng.normal(rng.normal(0, 0.3), 1, size=5) for _ in range(50)]
    between = np.var([values.mean() for values in clusters])
    within = np.mean([values.var() for values in clusters])
    deviation = np.sqrt(between / 50 + within / (50 * 5))
    mean = np.mean(clusters)
    found = bootstrap_clusters(clusters, n_resamples=5000)
    expected = [mean - 1.96 * deviation, mean + 1.96 * deviation]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.15 * deviation)


def test_cluster_bootstrap_by_hand():
    # Both times the first (1/4), the second (1/4), or one of each, by their sizes (1/2).
    clusters = [np.ones(3), np.zeros(1)]
    assert bootstrap_clusters(clusters, 0.4) == (0.75, 0.75)
    assert bootstrap_clusters(clusters, 0.6) == (0.0, 1.0)
    assert bootstrap_clusters([np.full(3, 0.5)] * 2) == (0.5, 0.5)
    assert all(math.isnan(end) for end in bootstrap_clusters([np.ones(3)]))


def test_p_value_is_that_of_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=40), rng.normal(0.3, size=40)
    none = np.zeros(40, dtype=bool)
    assert paired_p_value(a - b, none) == scipy.stats.wilcoxon(a, b).pvalue
    # By hand: of six differences all positive, the chance of that or the reverse is 2 / 2^6.
    assert paired_p_value(np.arange(1.0, 7), none[:6]) == pytest.approx(2 / 64)
    b[:5] = a[:5]
    assert paired_p_value(a - b, a == b) == scipy.stats.wilcoxon(a[5:], b[5:]).pvalue
    assert paired_p_value(a - a, a == a) == 1.0
    assert math.isnan(paired_p_value(np.array([]), none[:0]))


def test_rounding_is_no_difference():
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    near = values + 1e-7  # all differences of one sign
    report = Report(["a", "b"], {"m": None}, [batch(0, np.stack([values, near])[:, :, None])])
    assert scipy.stats.wilcoxon(values, near).pvalue < 1e-6
    assert report.differences[0].p_value == 1.0
    assert report.differences[0].ties == 50


def test_ties_are_a_matter_of_each_pair_and_of_the_typical_value():
    #          typical  equal     outlier       tiny: rounding   zero   differs
    a = np.array([1.0, 2.0 + 1e-7, 1e9 + 100.0, 1e-9, 0.0, 1.0 + 1e-4, 0.0])
    b = np.array([1.0, 2.0, 1e9, 2e-9, 0.0, 1.0, 1e-4])
    values = np.stack([a, b])[:, :, None]
    report = Report(["a", "b"], {"m": None}, [batch(0, values)])
    assert report.differences[0].ties == 5
    # Without a typical value other than 0 there is still one of those that are not.
    few = np.zeros((2, 9, 1))
    few[:, 0, 0], few[:, 1, 0], few[:, 2, 0] = (5.0, 5.0), (3.0, 4.0), (1e-8, 0.0)
    assert Report(["a", "b"], {"m": None}, [batch(0, few)]).differences[0].ties == 8


def test_small_drops_are_differences_of_large_percentages():
    drops = np.array([0.5, 0.4, 0.6, 0.5])
    scores = np.float32(0.3) * (1 - drops.astype(np.float32) / 100)  # after, of 0.3 before
    others = np.nextafter(scores, np.float32(1))
    values = 100 * (1 - np.stack([scores, others]).astype(float) / 0.3)[:, :, None]
    for scale, ties in ((100.0, 4), (0.0, 0)):
        report = Report(["a", "b"], {"m": False}, [batch(0, values)], rounding_scales={"m": scale})
        assert report.differences[0].ties == ties
    values[1] += 1e-3
    report = Report(["a", "b"], {"m": False}, [batch(0, values)], rounding_scales={"m": 100.0})
    assert report.differences[0].ties == 0


@pytest.mark.parametrize(
    ("metric", "ties"), [("average_drop", 4), ("average_gain", 4), ("insertion", 0)]
)
def test_the_scale_of_rounding_is_that_of_the_metric(metric, ties):
    def values(attributions):
        return attributions[:, 0]

    values.rounding_scale = named_metrics()[metric].rounding_scale
    drops = torch.tensor([[0.5], [0.4], [0.6], [0.5]], dtype=torch.float64)
    methods = {
        "a": (lambda inputs, target: drops, nn.Flatten()),
        "b": (lambda inputs, target: drops + 5e-6, nn.Flatten()),
    }
    loader = [(torch.ones(4, 1), torch.zeros(4, dtype=torch.long))]
    report = compare(methods, loader, {"values": values}, progress=False)
    assert report.differences[0].ties == ties


@pytest.mark.parametrize("n", [2, 12, 300])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_of_a_rate_without_exception_is_clopper_and_pearsons(n, confidence):
    found = widen_certainty(np.ones(n), (1.0, 1.0), confidence)
    expected = scipy.stats.binomtest(n, n).proportion_ci(confidence, method="exact")
    assert found == pytest.approx((expected.low, expected.high))
    low, high = widen_certainty(np.zeros(n), (0.0, 0.0), confidence)
    assert (low, high) == pytest.approx((0, 1 - expected.low))
    for others in (np.full(n, 0.5), np.arange(n) % 2):
        assert widen_certainty(others, (0.25, 0.75), confidence) == (0.25, 0.75)
