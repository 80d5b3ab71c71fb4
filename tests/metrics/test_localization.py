"""Pointing games, against slow rewrites from the definitions."""

import math

import numpy as np
import pytest
import torch
from slow_metrics import MAPS, random_maps, random_masks, slow_resize

from captum_quantum import metrics
from captum_quantum.datasets import mosaics


@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_energy_pointing_game_equals_the_definition(shape):
    maps, masks = random_maps(*shape), random_masks(6, 9, 7)
    expected = []
    for single, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        positive = slow_resize(np.maximum(single.sum(0), 0), (9, 7))
        inside = sum(positive[i, j] for i in range(9) for j in range(7) if mask[i, j])
        expected.append(inside / positive.sum())
    assert metrics.energy_pointing_game(maps, masks).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_pointing_game_equals_the_definition(shape, tolerance):
    shape = (60, *shape[1:])
    maps, masks = random_maps(*shape), random_masks(60, 9, 7, share=0.1)
    masks[:, 0, 0] = True
    expected = []
    for single, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        large = slow_resize(np.maximum(single.sum(0), 0), (9, 7))
        best = min((i, j) for i in range(9) for j in range(7) if large[i, j] == large.max())
        expected.append(
            float(any(math.dist(best, at) <= tolerance for at in np.argwhere(mask).tolist()))
        )
    assert 0 < sum(expected) < 60
    assert metrics.pointing_game(maps, masks, tolerance=tolerance).tolist() == expected


def test_grid_pointing_game_on_mosaics():
    images = torch.rand(8, 1, 5, 4)
    tiles = mosaics(images, torch.arange(8), n=6)
    assert tiles.cells.shape == (4, 10, 8)
    assert torch.equal(tiles.cells.sum(0), torch.ones(10, 8, dtype=torch.long))
    maps = random_maps(6, 1, 10, 8)
    shares = []
    for quadrant, (rows, columns) in enumerate(
        (slice(5 * r, 5 * r + 5), slice(4 * c, 4 * c + 4)) for r in (0, 1) for c in (0, 1)
    ):
        cell = tiles.cells[[quadrant] * 6]
        assert bool(tiles.cells[quadrant, rows, columns].all())
        positive = maps[:, 0].relu()
        expected = positive[:, rows, columns].sum((1, 2)) / positive.sum((1, 2))
        shares.append(metrics.grid_pointing_game(maps, cell))
        assert shares[-1].tolist() == pytest.approx(expected.tolist())
    assert torch.stack(shares).sum(0).tolist() == pytest.approx([1] * 6)


def test_what_points_nowhere_is_a_miss_and_an_empty_mask_undefined():
    masks = torch.tensor([[[True, True], [False, False]]] * 3 + [[[False] * 2] * 2])
    maps = torch.stack(
        [torch.zeros(1, 2, 2), -torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.rand(1, 2, 2)]
    )
    nan = pytest.approx(math.nan, nan_ok=True)
    assert metrics.pointing_game(maps, masks).tolist() == [0, 0, 0, nan]
    assert metrics.pointing_game(maps, masks, tolerance=100).tolist() == [0, 0, 0, nan]
    assert metrics.energy_pointing_game(maps, masks).tolist() == [0, 0, 0.5, nan]
    assert metrics.grid_pointing_game(maps[:3], masks[:3]).tolist() == [0, 0, 0.5]


def test_of_tied_peaks_the_first_counts():
    maps = torch.tensor([[[[0.0, 2.0, 1.0], [2.0, 0.0, 2.0]]]])
    for peak in [(0, 1), (1, 0), (1, 2)]:
        masks = torch.zeros(1, 2, 3, dtype=torch.bool)
        masks[0][peak] = True
        assert metrics.pointing_game(maps, masks).item() == float(peak == (0, 1))
