"""Sparseness."""

import math

import numpy as np
import pytest
import torch
from slow_metrics import MAPS, random_maps

from captum_quantum.metrics import sparseness


@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_sparseness_is_half_the_mean_relative_difference_of_all_pairs(shape):
    maps = random_maps(*shape)
    expected = []
    for single in maps.numpy():
        sizes = np.abs(single.sum(0)).ravel()
        differences = sum(abs(a - b) for a in sizes for b in sizes)
        expected.append(differences / (2 * len(sizes) ** 2 * sizes.mean()))
    assert sparseness(maps).tolist() == pytest.approx(expected)


def test_sparseness_of_extremes():
    one_pixel, constant, nothing = torch.zeros(1, 5, 4), -torch.ones(1, 5, 4), torch.zeros(1, 5, 4)
    one_pixel[0, 2, 1] = -1e-30
    values = sparseness(torch.stack([one_pixel, constant, nothing]))
    assert values.tolist() == pytest.approx([1 - 1 / 20, 0, math.nan], nan_ok=True, abs=1e-7)


def test_sparseness_of_equal_magnitudes_is_not_negative():
    for n in range(2, 40):
        maps = torch.full((3, 1, n, n), 1 / 3) * torch.tensor([1.0, 0.7, -0.1]).reshape(-1, 1, 1, 1)
        assert (sparseness(maps) >= 0).all()
