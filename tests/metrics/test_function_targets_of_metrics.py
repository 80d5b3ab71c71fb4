"""Metrics of a target that is a function of the model's output: its values take a score's place."""

import itertools

import numpy as np
import pytest
import torch
from slow_metrics import random_maps, slow_road
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, metrics

IMAGES = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MAPS = random_maps(6, 1, 4, 4)
FAITHFULNESS = [
    "average_drop", "average_gain", "average_increase", "insertion", "deletion",
    "insertion_deletion", "road"
]  # fmt: skip


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 3, padding=1).double()


def region(output):
    return output[:, 1, 1:3, :2].mean((1, 2))


def margin(output):
    return output[:, 1] - output[:, 0]


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_probability_as_a_function_is_the_class(name, classifier):
    metric = getattr(metrics, name)
    expected = metric(classifier, IMAGES, MAPS, 1)
    assert expected.any()
    for function in (lambda o: o.softmax(1)[:, 1], lambda o: o.softmax(1)[:, 1:2]):
        values = metric(classifier, IMAGES, MAPS, function)
        assert values.tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    half = metric(classifier.half(), IMAGES.half(), MAPS, lambda o: o.softmax(1)[:, 1])
    assert half.dtype == torch.float32


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_curves_of_a_region_by_their_definition(name, segmenter):
    areas = []
    for image, single in zip(IMAGES, MAPS, strict=True):
        order = single.flatten().argsort(descending=True).tolist()
        shown = torch.zeros(16, dtype=torch.float64)
        values = []
        for pixel in [None, *order]:
            if pixel is not None:
                shown[pixel] = 1
            mask = shown if name == "insertion" else 1 - shown
            values.append(region(segmenter(image[None] * mask.reshape(4, 4))).item())
        areas.append(sum(a + b for a, b in itertools.pairwise(values)) / 32)
    found = getattr(metrics, name)(segmenter, IMAGES, MAPS, region, baseline=0.0, max_batch=5)
    assert found.tolist() == pytest.approx(areas)
    assert min(areas) < 0  # a probability is never


def test_road_of_a_region_by_its_definition(segmenter):
    def score(image, example):
        return region(segmenter(torch.from_numpy(image)[None])).item()

    expected = slow_road(score, IMAGES.numpy(), MAPS.numpy(), (0.3, 0.6), np.zeros(6))
    found = metrics.road(
        segmenter, IMAGES, MAPS, region, removed=(0.3, 0.6), noise=0, tolerance=1e-8, max_batch=5
    )
    assert found.tolist() == pytest.approx(list(expected), abs=1e-7)
    assert found.any()


def test_masks_of_a_pixel_by_their_definition(segmenter):
    def pixel(output):
        return output[:, 1, 2, 1]

    def chance(output):
        return torch.sigmoid(pixel(output))

    positive = MAPS.relu().flatten(1)
    low, high = positive.amin(1, keepdim=True), positive.amax(1, keepdim=True)
    mask = ((positive - low) / (high - low)).reshape(6, 1, 4, 4)
    with torch.no_grad():
        p, o = chance(segmenter(IMAGES)), chance(segmenter(mask * IMAGES))
        a, b = pixel(segmenter(IMAGES)), pixel(segmenter(mask * IMAGES))
    found = metrics.average_drop(segmenter, IMAGES, MAPS, chance)
    assert found.tolist() == pytest.approx((100 * (p - o).relu() / p).tolist())
    assert found.any()
    found = metrics.average_gain(segmenter, IMAGES, MAPS, chance)
    assert found.tolist() == pytest.approx((100 * (o - p).relu() / (1 - p)).tolist())
    assert found.any()
    found = metrics.average_increase(segmenter, IMAGES, MAPS, pixel)
    assert found.tolist() == (100 * (b > a)).tolist()
    assert a.min() < 0


def test_infidelity_of_a_margin(classifier):
    options = {"n_perturb_samples": 4, "max_batch": 6}
    found = metrics.infidelity(classifier, IMAGES, MAPS, margin, **options)
    single = metrics.infidelity(
        lambda x: margin(classifier(x))[:, None], IMAGES, MAPS, target=0, **options
    )
    assert torch.equal(found, single)
    assert not torch.allclose(found, metrics.infidelity(classifier, IMAGES, MAPS, 1, **options))
    # A linear score is explained exactly by input times gradient.
    weights = classifier[1].weight[1] - classifier[1].weight[0]
    exact = (IMAGES.flatten(1) * weights).reshape(IMAGES.shape)
    assert metrics.infidelity(classifier, IMAGES, exact, margin).max() < 1e-9
    assert metrics.infidelity(classifier, IMAGES, exact, 1).max() > 1e-3


def test_maps_of_a_margin_under_noise_and_randomization():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
    )
    images = torch.rand(2, 1, 6, 6)
    attribute = QuantumLayerGradCam(model, model[1]).attribute

    def alone(images, target):
        assert not target.any()
        return attribute(images, margin)

    found = metrics.sensitivity_max(attribute, images, margin, n_perturb_samples=3)
    assert torch.equal(found, metrics.sensitivity_max(alone, images, 0, n_perturb_samples=3))
    assert found.min() > 0
    for metric in (metrics.randomization_quantum, metrics.randomization_classical):
        found = metric(model, attribute, images, margin)
        assert torch.equal(found, metric(model, alone, images, 0))
        assert found.min() < 0.99


ANY = [*FAITHFULNESS, "infidelity"]


@pytest.mark.parametrize(
    ("names", "function", "options", "error", "message"),
    [
        (ANY, lambda o: o, {}, ValueError, r"target's values must be of shape \(\d,\), one for"),
        (ANY, lambda o: o.argmax(1), {}, TypeError, "target's values must be a real floating-poi"),
        (ANY, lambda o: o[:, 0] / 0, {}, ValueError, "target's values must be finite everywhere"),
        (
            FAITHFULNESS,
            lambda o: o.softmax(1)[:, 0],
            {"probability": torch.sigmoid},
            ValueError,
            "probability must be None for a target that is a function",
        ),
        (
            ["average_drop"],
            lambda o: -o.softmax(1)[:, 0],
            {},
            ValueError,
            "target's values must be at least 0, as they take a probability's place; got values f",
        ),
        (
            ["average_gain"],
            lambda o: 3 * o.softmax(1).amax(1),
            {},
            ValueError,
            r"target's values must be in \[0, 1\], as they take a probability's place; got values",
        ),
    ],
)
def test_functions_of_something_else(names, function, options, error, message, classifier):
    for name in names:
        with pytest.raises(error, match=message):
            getattr(metrics, name)(classifier, IMAGES, MAPS, function, **options)


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("output", [3, torch.tensor(1.0), torch.ones(7, 3)])
def test_outputs_without_a_row_for_each_example(name, output):
    with pytest.raises(ValueError, match="the model's output must be a tensor of . rows, one for"):
        getattr(metrics, name)(lambda x: output, IMAGES, MAPS, margin)
