"""ROAD: imputation and values, against slow rewrites and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from slow_metrics import (
    MAPS,
    TARGETS,
    probability,
    random_maps,
    random_masks,
    slow_impute,
    slow_road,
)
from torch import nn

from captum_quantum import metrics
from captum_quantum.metrics._noise import Noise
from captum_quantum.metrics.faithfulness.road import impute

ACCURATE = 1e-8
SIZES = [(12,), (7, 6), (1, 9), (4, 5, 3)]


class Recorder:
    """A model that remembers the images of every call."""

    def __init__(self, model):
        self.model, self.asked = model, []

    def __call__(self, images):
        self.asked.append(images.clone())
        return self.model(images)


def linear(size, channels=1, n_classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Linear(channels * math.prod(size), n_classes)
    return nn.Sequential(nn.Flatten(), net).double()


def probabilities(model):
    return lambda image, example: probability(model, image, TARGETS[example].item() % 3)


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_imputation_equals_the_definition(size, share):
    images, removed = random_maps(4, 3, *size), random_masks(4, 1, *size, share=share)
    removed[0] = True
    removed[(slice(None), 0, *[-1] * len(size))] = False  # the first keeps only this corner
    removed[1].reshape(-1)[:3] = True  # on the border
    filled = impute(images, removed, ACCURATE)
    expected = [slow_impute(i, r[0]) for i, r in zip(images.numpy(), removed.numpy(), strict=True)]
    assert filled.numpy() == pytest.approx(np.stack(expected), abs=1e-6)
    assert torch.equal(filled[~removed.expand_as(filled)], images[~removed.expand_as(images)])


def test_large_images_are_imputed_in_chunks_as_alone(monkeypatch):
    images, removed = random_maps(5, 3, 7, 6), random_masks(5, 1, 7, 6)
    filled = impute(images, removed, 0.01)
    monkeypatch.setattr("captum_quantum.metrics.faithfulness.road._CPU_PIXELS", 2 * 42)
    assert torch.equal(impute(images, removed, 0.01), filled)


@pytest.mark.parametrize(
    ("at", "direct", "diagonal"),
    [
        ((1, 1), [(0, 1), (1, 0), (1, 2), (2, 1)], [(0, 0), (0, 2), (2, 0), (2, 2)]),
        ((1, 3), [(0, 3), (1, 2), (2, 3)], [(0, 2), (2, 2)]),
        ((0, 0), [(0, 1), (1, 0)], [(1, 1)]),
    ],
)
def test_a_single_pixel_is_the_papers_mean_of_its_neighbors(at, direct, diagonal):
    image, removed = random_maps(1, 1, 3, 4), torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    removed[(0, 0, *at)] = True
    weights = len(direct) / 6 + len(diagonal) / 12
    total = sum(image[0, 0][p] for p in direct) / 6 + sum(image[0, 0][p] for p in diagonal) / 12
    filled = impute(image, removed, ACCURATE)
    assert filled[0, 0][at].item() == pytest.approx((total / weights).item())


@pytest.mark.parametrize("size", [(12,), (9, 8), (6, 5, 7)], ids=str)
def test_a_linear_image_is_imputed_exactly_in_the_interior(size):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij")
    image = (100 + sum(slope * axis for slope, axis in zip((3, -2, 0.5), axes, strict=False)))[None]
    removed = torch.zeros(1, 1, *size, dtype=torch.bool)
    removed[(0, 0, *[slice(1, -1)] * len(size))] = True
    filled = impute(image[None], removed, ACCURATE)
    assert filled.numpy() == pytest.approx(image[None].numpy(), abs=1e-6)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-2])
def test_each_channel_is_solved_to_the_tolerance(tolerance):
    images, removed = random_maps(6, 2, 9, 8), random_masks(6, 1, 9, 8, share=0.7)
    images[:, 1] *= 1e-5  # a large channel does not hide the residual of a small one
    filled = impute(images, removed, tolerance)
    residuals = []
    for channel in (0, 1):
        for image, true, gone in zip(filled[:, channel], images[:, channel], removed, strict=True):
            start = torch.where(gone[0], true[~gone[0]].mean(), true)  # the residual 1 is its
            right, left = (
                torch.stack([window(x, i, j) for i, j in gone[0].nonzero().tolist()])
                for x in (start, image)
            )
            residuals.append((left.norm() / right.norm()).item())
    assert max(residuals) <= tolerance * 1.001
    assert max(residuals) > tolerance / 100  # it stops there


def window(x, i, j):
    """The weighted sum of the differences between a pixel and its neighbors."""
    near = x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
    rows = torch.arange(max(i - 1, 0), min(i + 2, x.shape[0])) - i
    columns = torch.arange(max(j - 1, 0), min(j + 2, x.shape[1])) - j
    squared = rows[:, None] ** 2 + columns**2
    return torch.where(squared > 0, (x[i, j] - near) / squared.clamp_min(1), 0).sum()


@pytest.mark.parametrize(("factor", "offset"), [(1e-200, 0), (1e200, 0), (1, 1e9), (0, 7.5)])
def test_scale_and_brightness_of_the_image_do_not_matter(factor, offset):
    images, removed = random_maps(3, 2, 7, 6), random_masks(3, 1, 7, 6)
    expected = factor * impute(images, removed, 1e-4) + offset
    filled = impute(factor * images + offset, removed, 1e-4)
    assert filled.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_values_equal_the_definition(shape):
    inputs, maps, model = random_maps(6, 2, 9, 7, seed=2), random_maps(*shape), linear((9, 7), 2)
    options = {"removed": [0.05, 0.4, 0.9], "noise": 0.5, "seed": 3}
    offsets = 0.5 * Noise(inputs, 3).draw_gaussian(126).reshape(inputs.shape)
    score = probabilities(model)
    expected = slow_road(score, inputs.numpy(), maps.numpy(), options["removed"], offsets.numpy())
    for max_batch in (256, 7, 1):
        values = metrics.road(
            model, inputs, maps, TARGETS % 3, tolerance=ACCURATE, max_batch=max_batch, **options
        )
        expected = list(expected)
        assert values.tolist() == pytest.approx(expected, abs=1e-6)
    assert max(map(abs, expected)) > 0.05


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_spatial_dimensions_and_ties(size):
    inputs, model = random_maps(4, 1, *size, seed=2), linear(size)
    maps = (random_maps(4, 1, *size) > 0.5).double()
    maps[:, :, :2] *= -0.0  # the zeros of both signs are equal
    maps[0, 0, ..., -1] = 2  # no map is constant
    maps[1:, 0, ..., 0] = -1
    expected = slow_road(
        probabilities(model), inputs.numpy(), maps.numpy(), (0.3, 0.5), np.zeros(4)
    )
    values = metrics.road(
        model, inputs, maps, TARGETS[:4] % 3, removed=(0.3, 0.5), noise=0, tolerance=ACCURATE
    )
    assert values.tolist() == pytest.approx(list(expected), abs=1e-6)


def test_least_relevant_pixels_first_is_the_better_order():
    image = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    image[..., 2:5, 2:5] = 1
    weights = torch.where(image > 0, 1.0, 0.0)
    found = metrics.road(
        lambda x: x, image, weights, lambda x: (weights * x).sum((1, 2, 3)) / 9,
        removed=[9 / 64], noise=0, tolerance=ACCURATE,
    )  # fmt: skip
    # The least relevant pixels lie in the last rows, where all is 0; without the square all is 0.
    assert found.tolist() == pytest.approx([1.0], abs=1e-7)


def test_images_the_model_sees():
    inputs, maps = random_maps(3, 2, 6, 5, seed=2), random_maps(3, 1, 6, 5)
    asked = Recorder(linear((6, 5), 2))
    metrics.road(asked, inputs, maps, 0, removed=[0.2, 0.6], noise=0.3, seed=4, max_batch=5)
    assert [len(x) for x in asked.asked] == [1, 5, 5, 2]  # a first image for the target's check
    images = torch.cat(asked.asked[1:]).reshape(2, 2, 3, 2, 6, 5)
    order = maps.flatten(1).argsort(dim=1)
    normal = Noise(inputs, 4).draw_gaussian(60).reshape(inputs.shape)
    for share, count in enumerate((6, 18)):
        for which, pixels in enumerate((order[:, :count], order[:, -count:])):
            gone = torch.zeros(3, 30, dtype=torch.bool).scatter(1, pixels, True)
            gone = gone.reshape(3, 1, 6, 5)
            seen = images[share, which]
            assert torch.equal(seen != inputs, gone.expand_as(inputs))
            added = seen - impute(inputs, gone, 1e-4)
            assert added[gone.expand_as(added)].tolist() == pytest.approx(
                (0.3 * normal)[gone.expand_as(added)].tolist()
            )


def test_at_least_one_pixel_is_removed_and_one_remains():
    inputs, maps = torch.tensor([[[2.0, 6.0, 1.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]])
    asked = Recorder(lambda x: x[:, 0])
    metrics.road(asked, inputs, maps, 0, removed=[0.01, 0.99], noise=0)
    expected = [[6, 6, 1], [2, 1.5, 1], [6, 6, 6], [2, 2, 2]]
    assert asked.asked[1][:, 0].numpy() == pytest.approx(np.array(expected), abs=1e-3)


def test_noise_is_gaussian_and_independent():
    images = torch.zeros(40, 1, 5, 5)
    images[:, 0, 0, 0] = torch.arange(40) * 1e-40
    noise = Noise(images, seed=0).draw_gaussian(500)
    assert scipy.stats.kstest(noise.flatten(), "norm").pvalue > 1e-3
    for axis in (0, 1):
        a, b = noise.narrow(axis, 0, noise.shape[axis] - 1), noise.diff(dim=axis)
        neighbor = (a + b).flatten()
        correlation = np.corrcoef(a.flatten(), neighbor)[0, 1]
        assert abs(correlation) < 4 / math.sqrt(len(neighbor))


def test_noise_is_finite_at_the_smallest_uniform_number(monkeypatch):
    source = Noise(torch.zeros(1, 1, 2), seed=0)
    ends = torch.tensor([[0.0, 0.5, 1 - 2.0**-53]], dtype=torch.float64)
    monkeypatch.setattr(source, "draw", lambda rows, n: ends)
    low, middle, high = source.draw_gaussian(3)[0].tolist()
    assert middle == 0
    assert -9 < low < -8 < 8 < high < 9


def test_values_belong_to_the_image_not_to_the_batch():
    inputs, maps, model = (
        random_maps(6, 2, 9, 7, seed=2),
        random_maps(6, 1, 3, 3),
        linear((9, 7), 2),
    )
    inputs[4] *= 1000  # needs as many iterations as the others, at another scale
    values = metrics.road(model, inputs, maps, TARGETS % 3)
    for i in range(6):
        alone = metrics.road(model, inputs[[i]], maps[[i]], TARGETS[[i]] % 3)
        assert alone.item() == pytest.approx(values[i].item(), abs=1e-13)
    noisy = [metrics.road(model, inputs, maps, TARGETS % 3, noise=1.0, seed=s) for s in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert ((noisy[0] - noisy[2]).abs() > 1e-3).sum() >= 5  # the softmax of one is saturated


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    inputs, maps = random_maps(3, 1, 8, 8, seed=2).to(dtype), random_maps(3, 1, 4, 4)
    asked = Recorder(lambda x: x.flatten(1)[:, :3])
    values = metrics.road(asked, inputs, maps, 1)
    assert all(x.dtype == dtype for x in asked.asked)
    assert values.dtype == torch.float32
    double = metrics.road(lambda x: x.flatten(1)[:, :3], inputs.double(), maps, 1)
    assert values.tolist() == pytest.approx(double.tolist(), abs=10 * torch.finfo(dtype).eps)


def test_systems_that_are_not_solved_are_an_error():
    inputs = torch.full((2, 1, 6, 6), 1.7e308, dtype=torch.float64)  # their mean overflows
    model = linear((6, 6)).train()
    with pytest.raises(RuntimeError, match="imputation of 16 of 16 channels .* in 36 iterat"):
        metrics.road(lambda x: model(x / 1e308), inputs, random_maps(2, 1, 6, 6), 0)
    assert model.training
