"""Metrics, each against a slow rewrite from its definition: loops over examples and pixels."""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
import torch
from captum.attr import LayerAttribution
from torch import nn

from captum_quantum import metrics
from captum_quantum.datasets import mosaics
from captum_quantum.metrics._maps import gaussian_blur, resize

N_CLASSES = 4


def slow_resize(image, size):
    """Linear interpolation of one image, axis by axis; pixels are areas, borders repeated.

    In exact fractions, so that ties are ties.
    """
    image = np.vectorize(Fraction, otypes=[object])(image)
    for axis, n in enumerate(size):
        m = image.shape[axis]
        lines = []
        for i in range(n):
            at = min(max((i + Fraction(1, 2)) * Fraction(m, n) - Fraction(1, 2), 0), m - 1)
            low = math.floor(at)
            high = min(low + 1, m - 1)
            lines.append(
                (1 - at + low) * image.take(low, axis) + (at - low) * image.take(high, axis)
            )
        image = np.stack(lines, axis)
    return image.astype(float)


def slow_blur(images):
    return np.stack(
        [
            [scipy.ndimage.gaussian_filter(c, 5, truncate=1, mode="nearest") for c in image]
            for image in images
        ]
    )


def slow_softmax(scores):
    e = [math.exp(s - max(scores)) for s in scores]
    return [x / sum(e) for x in e]


def probability(model, image, target):
    return slow_softmax(model(torch.from_numpy(image)[None])[0].tolist())[target]


def slow_baseline(baseline, inputs):
    if isinstance(baseline, str):
        return slow_blur(inputs)
    return np.broadcast_to(np.asarray(baseline), inputs.shape)


def slow_mask(attributions, size):
    """The share of each pixel that a map ``(channels, *spatial)`` shows."""
    positive = slow_resize(np.maximum(attributions.sum(0), 0), size)
    low, high = positive.min(), positive.max()
    return (positive - low) / (high - low)


def slow_whole_and_masked(model, inputs, attributions, targets, baseline):
    hidden = slow_baseline(baseline, inputs)
    for image, instead, own, target in zip(inputs, hidden, attributions, targets, strict=True):
        mask = slow_mask(own, image.shape[1:])
        masked = mask * image + (1 - mask) * instead
        yield probability(model, image, target), probability(model, masked, target)


def slow_average_drop(*args):
    return [100 * max(0, p - o) / p for p, o in slow_whole_and_masked(*args)]


def slow_average_gain(*args):
    return [100 * max(0, o - p) / (1 - p) for p, o in slow_whole_and_masked(*args)]


def slow_average_increase(*args):
    return [100.0 if o > p else 0.0 for p, o in slow_whole_and_masked(*args)]


def slow_curves(model, inputs, attributions, targets, baseline, steps, inserting):
    """Fractions, and for each example its probabilities and the area under them."""
    n = inputs[0, 0].size
    counts = [t * n // steps for t in range(steps + 1)]
    curves, areas = [], []
    for image, instead, own, target in zip(
        inputs, slow_baseline(baseline, inputs), attributions, targets, strict=True
    ):
        start, end = (instead, image) if inserting else (image, instead)
        values = slow_resize(own.sum(0), image.shape[1:]).ravel()
        order = sorted(range(n), key=lambda i: -values[i])  # sorted() keeps the order of ties
        curve = []
        for count in counts:
            mixed = start.reshape(len(start), -1).copy()
            for pixel in order[:count]:
                mixed[:, pixel] = end.reshape(len(end), -1)[:, pixel]
            curve.append(probability(model, mixed.reshape(image.shape), target))
        curves.append(curve)
        areas.append(
            sum(
                (counts[i + 1] - counts[i]) / n * (curve[i] + curve[i + 1]) / 2
                for i in range(steps)
            )
        )
    return [c / n for c in counts], curves, areas


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 63, N_CLASSES)
    ).double()


@pytest.fixture
def inputs():
    return torch.randn(6, 2, 9, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


TARGETS = torch.tensor([0, 3, 1, 2, 2, 0])


def random_maps(*shape, seed=3, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MAPS = {
    "one channel": (6, 1, 9, 7),
    "two channels": (6, 2, 9, 7),
    "small": (6, 1, 3, 4),
    "large": (6, 3, 11, 9),
}
BASELINES = {
    "zero": 0.0,
    "number": 0.3,
    "blur": "blur",
    "tensor": random_maps(2, 1, 7, seed=4),
}


# --- faithfulness -------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("name", ["average_drop", "average_gain", "average_increase"])
def test_masked_scores_equal_the_definition(name, shape, baseline, model, inputs):
    maps = random_maps(*shape)
    expected = globals()[f"slow_{name}"](
        model, inputs.numpy(), maps.numpy(), TARGETS.tolist(), baseline
    )
    values = getattr(metrics, name)(model, inputs, maps, TARGETS, baseline=baseline)
    assert values.tolist() == pytest.approx(expected, abs=1e-8)
    assert 0 < sum(v > 0 for v in expected) < 6 or name != "average_increase"


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_curves_equal_the_definition(name, shape, baseline, model, inputs):
    maps = random_maps(*shape)
    fractions, curves, areas = slow_curves(
        model, inputs.numpy(), maps.numpy(), TARGETS.tolist(), baseline, 8, name == "insertion"
    )
    metric = getattr(metrics, name)
    found = metric(
        model, inputs, maps, TARGETS, baseline=baseline, steps=8, max_batch=7, return_curves=True
    )
    assert found.fractions.tolist() == pytest.approx(fractions)
    assert found.probabilities.numpy() == pytest.approx(np.array(curves))
    assert found.area.tolist() == pytest.approx(areas)
    alone = metric(model, inputs, maps, TARGETS, baseline=baseline, steps=8)
    assert alone.tolist() == pytest.approx(areas)


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_tied_pixels_go_row_by_row(name, model, inputs):
    maps = (random_maps(6, 1, 9, 7) > 0.5).double()
    maps[:, :, :2] *= -0.0  # the zeros of both signs are equal
    _, curves, _ = slow_curves(
        model, inputs.numpy(), maps.numpy(), TARGETS.tolist(), 0.0, 63, name == "insertion"
    )
    found = getattr(metrics, name)(
        model, inputs, maps, TARGETS, baseline=0.0, steps=1000, return_curves=True
    )
    assert found.probabilities.shape == (6, 64)  # a step for each pixel, not more
    assert found.probabilities.numpy() == pytest.approx(np.array(curves))


@pytest.mark.parametrize("name", ["average_drop", "average_gain", "average_increase"])
def test_signed_maps_score_as_their_positive_part(name, model, inputs):
    maps = random_maps(6, 1, 4, 3)
    metric = getattr(metrics, name)
    signed = metric(model, inputs, maps, TARGETS)
    assert signed.tolist() == pytest.approx(
        metric(model, inputs, maps.relu(), TARGETS).tolist(), abs=1e-9
    )


@pytest.mark.parametrize("name", ["average_drop", "average_gain", "insertion", "deletion"])
def test_scale_and_size_of_values_do_not_matter(name, model, inputs):
    maps = random_maps(6, 2, 4, 3)
    metric = getattr(metrics, name)
    values = metric(model, inputs, maps, TARGETS)
    for factor in (1e-300, 1e300):  # sums over the channels would overflow
        assert metric(model, inputs, maps * factor, TARGETS).tolist() == pytest.approx(
            values.tolist()
        )


FAITHFULNESS = ("average_drop", "average_gain", "average_increase", "insertion", "deletion")


def shown_and_hidden():
    """An image of ones, and a map that shows only the last pixel of it: the first becomes 0."""
    return torch.ones(1, 1, 2, 2), torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])


def two_pixels(first):
    """A model that asks only whether the first pixel is there."""
    return lambda x: torch.where(x[:, :1, 0, 0] > 0.5, torch.tensor([first]), torch.zeros(1, 2))


def test_probabilities_of_exactly_one_and_zero():
    image, nothing = shown_and_hidden()
    sure = two_pixels([500.0, 0.0])
    assert metrics.average_drop(sure, image, nothing, 0).item() == 50  # from exactly 1 to 1/2
    assert metrics.average_gain(sure, image, nothing, 0).item() == 0  # nothing to gain
    assert metrics.average_increase(sure, image, nothing, 0).item() == 0
    assert metrics.average_drop(sure, image, nothing, 1).item() == 0  # nothing to lose
    assert metrics.average_gain(sure, image, nothing, 1).item() == 50
    assert metrics.average_increase(sure, image, nothing, 1).item() == 100


def test_gains_near_probability_one_keep_their_digits():
    image, nothing = shown_and_hidden()

    def model(x):  # 1 - p is e^-30 with the pixel, e^-40 without: both p are 1 in float32
        there = x[:, 0, 0, 0] > 0.5
        return torch.stack([torch.where(there, 30.0, 40.0), torch.zeros(len(x))], dim=1)

    gain = metrics.average_gain(model, image, nothing, 0)
    assert gain.item() == pytest.approx(100 * (1 - math.exp(-10)), rel=1e-5)
    assert metrics.average_increase(model, image, nothing, 0).item() == 100
    assert metrics.average_drop(model, image, nothing, 0).item() == 0
    assert metrics.average_gain(model, image, nothing, 1).item() == 0
    assert metrics.average_drop(model, image, nothing, 1).item() == pytest.approx(
        100 * (1 - math.exp(-10)), rel=1e-5
    )


def test_a_probability_that_stays_has_neither_risen_nor_fallen():
    x = torch.rand(4, 1, 3, 3)
    for name in ("average_drop", "average_gain", "average_increase"):
        values = getattr(metrics, name)(lambda x: torch.ones(len(x), 3), x, x, 1)
        assert values.tolist() == [0] * 4


@pytest.mark.parametrize("value", [0.0, -2.0, 0.7])
@pytest.mark.parametrize("name", FAITHFULNESS)
def test_maps_without_order_have_no_score(name, value, model, inputs):
    maps = torch.full((6, 1, 4, 5), value, dtype=torch.float64)
    assert getattr(metrics, name)(model, inputs, maps, TARGETS).isnan().all()


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_maps_that_are_nowhere_positive_show_nothing_but_have_an_order(name, model, inputs):
    maps = -random_maps(6, 1, 9, 7).abs()
    undefined = getattr(metrics, name)(model, inputs, maps, TARGETS).isnan()
    assert undefined.tolist() == [name.startswith("average")] * 6


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_constant_map_among_others_leaves_them_alone(name, model, inputs):
    metric, maps = getattr(metrics, name), random_maps(6, 1, 9, 7)
    values = metric(model, inputs, maps, TARGETS)
    maps[2] = 1
    changed = metric(model, inputs, maps, TARGETS)
    assert changed.isnan().tolist() == [i == 2 for i in range(6)]
    assert torch.equal(changed[[0, 1, 3, 4, 5]], values[[0, 1, 3, 4, 5]])


def test_probability_of_ones_own(model, inputs):
    maps = random_maps(6, 1, 9, 7)
    for name in ("average_drop", "average_gain", "average_increase", "insertion", "deletion"):
        metric = getattr(metrics, name)
        sigmoid = metric(model, inputs, maps, TARGETS, probability=torch.sigmoid)
        # The softmax over (score, 0) is the sigmoid of the score.
        pairs = [
            metric(
                lambda x, t=t: torch.stack([model(x)[:, t], torch.zeros(len(x))], dim=1),
                inputs[[i]],
                maps[[i]],
                0,
            ).item()
            for i, t in enumerate(TARGETS.tolist())
        ]
        assert sigmoid.tolist() == pytest.approx(pairs)
    for wrong in (lambda s: -s.abs(), lambda s: 1.5 + s.abs(), lambda s: s * math.nan):
        with pytest.raises(
            ValueError, match=r"probability's result must be in \[0, 1\].*; got val"
        ):
            metrics.average_drop(model, inputs, maps, TARGETS, probability=wrong)
    with pytest.raises(ValueError, match=r"probability's result must be of shape \(6, 4\)"):
        metrics.deletion(model, inputs, maps, TARGETS, max_batch=6, probability=lambda s: s[:, 0])


@pytest.mark.parametrize("name", ["average_drop", "insertion", "infidelity"])
def test_modules_are_asked_in_evaluation_mode_and_restored(name, inputs):
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(126), nn.Dropout(0.5), nn.Linear(126, 4))
    net.double().train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    maps = random_maps(6, 1, 9, 7)
    values = getattr(metrics, name)(net, inputs, maps, TARGETS)
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(values, getattr(metrics, name)(net.eval(), inputs, maps, TARGETS))
    net.train()
    with pytest.raises(ValueError, match="target"):
        getattr(metrics, name)(net, inputs, maps, 17)
    assert all(m.training for m in net.modules())


def test_one_and_three_spatial_dimensions():
    for size in ((12,), (4, 5, 3)):
        x = random_maps(3, 1, *size)
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(size), 3)).double()
        maps = random_maps(3, 1, *(s // 2 for s in size), seed=9)
        expected = slow_average_drop(net, x.numpy(), maps.numpy(), [1, 1, 1], 0.2)
        assert metrics.average_drop(net, x, maps, 1, baseline=0.2).tolist() == pytest.approx(
            expected
        )
        _, _, areas = slow_curves(net, x.numpy(), maps.numpy(), [1, 1, 1], "blur", 6, True)
        assert metrics.insertion(net, x, maps, 1, steps=6).tolist() == pytest.approx(areas)


# --- shared steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 7), (3, 4), (30, 2)])
def test_resizing_equals_captums_and_the_definition(size):
    maps = random_maps(3, 5, 6)
    found = resize(maps, size)
    of_captum = LayerAttribution.interpolate(maps[:, None], size, "bilinear")[:, 0]
    assert found.numpy() == pytest.approx(of_captum.numpy())
    for one, own in zip(found, maps, strict=True):
        assert one.numpy() == pytest.approx(slow_resize(own.numpy(), size))


def test_blur_equals_scipys():
    for size in ((9, 7), (20, 3), (40,), (5, 6, 7)):
        images = random_maps(2, 3, *size)
        assert gaussian_blur(images, 5.0, 5).numpy() == pytest.approx(slow_blur(images.numpy()))


# --- localisation -------------------------------------------------------------------------------


def random_masks(*shape, seed=5, share=0.3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
def test_energy_pointing_game_equals_the_definition(shape):
    maps, masks = random_maps(*shape), random_masks(6, 9, 7)
    expected = []
    for own, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        positive = slow_resize(np.maximum(own.sum(0), 0), (9, 7))
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
    for own, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        large = slow_resize(np.maximum(own.sum(0), 0), (9, 7))
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
    for place in [(0, 1), (1, 0), (1, 2)]:
        masks = torch.zeros(1, 2, 3, dtype=torch.bool)
        masks[0][place] = True
        assert metrics.pointing_game(maps, masks).item() == float(place == (0, 1))


# --- what all have in common --------------------------------------------------------------------

DIRECTIONS = {
    "average_drop": False,
    "average_gain": True,
    "average_increase": True,
    "insertion": True,
    "deletion": False,
    "infidelity": False,
    "sensitivity_max": False,
    "grid_pointing_game": True,
    "energy_pointing_game": True,
    "pointing_game": True,
    "parameter_randomization": False,
    "sparseness": None,
    "agreement": None,
}


def test_names_directions_and_parameters():
    functions = [n for n in metrics.__all__ if n[0].islower()]
    assert sorted(functions) == sorted(DIRECTIONS)
    given = {"model", "inputs", "attributions", "target", "masks", "attribute", "other"}
    for name, higher_is_better in DIRECTIONS.items():
        metric = getattr(metrics, name)
        assert metric.higher_is_better is higher_is_better
        for parameter in inspect.signature(metric).parameters.values():
            if parameter.name in given:
                assert parameter.default is inspect.Parameter.empty
            else:
                assert parameter.kind is parameter.KEYWORD_ONLY
                assert parameter.default is not inspect.Parameter.empty


def call(name, attributions, dtype=torch.float32, device="cpu"):
    """Calls a metric with reasonable arguments: 3 images of 8 x 8 and the given maps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(device, dtype)
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    attributions = attributions.to(device)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :4, :4] = True

    def attribute(x, target):
        model(x)
        return attributions.repeat_interleave(len(x) // 3, dim=0)

    own = {
        "model": model,
        "inputs": inputs,
        "attributions": attributions,
        "target": torch.tensor([0, 2, 1]),  # on the CPU: moved where they are needed
        "masks": masks,
        "attribute": attribute,
        "other": inputs,
    }
    metric = getattr(metrics, name)
    return metric(**{n: own[n] for n in inspect.signature(metric).parameters if n in own})


def tensors(result):
    if isinstance(result, dict):
        return [t for pair in result.values() for t in pair]
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_one_finite_number_for_each_example_without_gradient(name, dtype):
    maps = random_maps(3, 1, 4, 4).to(dtype).requires_grad_()
    before = torch.get_rng_state()
    results = tensors(call(name, maps, torch.float64 if dtype == torch.float64 else torch.float32))
    assert torch.equal(torch.get_rng_state(), before)
    assert results
    for values in results:
        assert values.shape == (3,)
        assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not values.requires_grad
        assert values.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_maps_that_are_not_finite_are_refused(name, value):
    maps = random_maps(3, 1, 4, 4)
    maps[1, 0, 2, 3] = value
    argument = (
        "attribute's maps"
        if "attribute" in inspect.signature(getattr(metrics, name)).parameters
        else "attributions"
    )
    with pytest.raises(ValueError, match=rf"^{argument} must be finite everywhere.*\(1, 0, 2, 3\)"):
        call(name, maps)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_maps_of_another_shape_or_type_are_refused(name):
    with pytest.raises(ValueError, match=r"must be"):
        call(name, random_maps(3, 4, 4)[:, 0])
    with pytest.raises(TypeError, match="must be a real floating-point tensor"):
        call(name, torch.ones(3, 1, 4, 4, dtype=torch.long))


NAN_MODEL = {"average_drop", "average_gain", "average_increase", "insertion", "deletion"}


@pytest.mark.parametrize("name", sorted({*NAN_MODEL, "infidelity"}))
@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (lambda x: x.flatten(1).log() * math.nan, ValueError, "output must be finite everywhere"),
        (lambda x: x.flatten(1)[0], ValueError, "output must be scores of shape"),
        (lambda x: x.flatten(1).long(), TypeError, "output must be a real floating-point"),
        ("resnet", TypeError, "model must be a module or a function"),
    ],
)
def test_models_that_give_no_scores_are_refused(name, model, error, says):
    x = torch.rand(3, 1, 4, 4)
    with pytest.raises(error, match=says):
        getattr(metrics, name)(model, x, x, 0)


@pytest.mark.parametrize("name", sorted(NAN_MODEL))
def test_a_single_score_has_no_softmax(name):
    x = torch.rand(3, 1, 4, 4)
    with pytest.raises(ValueError, match="scores of at least two classes"):
        getattr(metrics, name)(lambda x: x.flatten(1)[:, :1], x, x, 0)


def score(x):
    return x.flatten(1)


X = torch.rand(3, 1, 4, 4)
MASK = torch.ones(3, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (
            lambda: metrics.average_drop(score, X[0, 0], X, 0),
            ValueError,
            "inputs must be of shape .* 3 spatial",
        ),
        (lambda: metrics.average_drop(score, X, X[:2], 0), ValueError, "as many examples"),
        (lambda: metrics.average_drop(score, X, X[:, 0], 0), ValueError, "as many dim"),
        (lambda: metrics.average_drop(score, X, X, 16), ValueError, r"target must be an index"),
        (lambda: metrics.average_drop(score, X, X, None), TypeError, "target must be a class"),
        (lambda: metrics.average_drop(score, X, X, 1.5), TypeError, "target must be a class"),
        (lambda: metrics.average_drop(score, X, X, [1, 2]), ValueError, "one for each of 3"),
        (lambda: metrics.average_gain(score, X, X, 0, baseline="gray"), ValueError, "'blur', a nu"),
        (lambda: metrics.average_gain(score, X, X, 0, baseline=X[:2]), ValueError, "broadcasts to"),
        (lambda: metrics.average_gain(score, X, X, 0, baseline=[0]), TypeError, "baseline must"),
        (lambda: metrics.average_gain(score, X, X, 0, baseline=math.nan), ValueError, "baseline m"),
        (lambda: metrics.insertion(score, X, X, 0, steps=0), ValueError, "steps must be"),
        (lambda: metrics.deletion(score, X, X, 0, max_batch=1.0), TypeError, "max_batch must be"),
        (lambda: metrics.energy_pointing_game(X, MASK.float()), TypeError, "masks must be a bool"),
        (lambda: metrics.energy_pointing_game(X, MASK[:2]), ValueError, "masks must be a bool"),
        (lambda: metrics.energy_pointing_game(X, MASK[:, 0]), ValueError, "masks must be a bool"),
        (
            lambda: metrics.grid_pointing_game(X, torch.eye(4, dtype=torch.bool).expand(3, 4, 4)),
            ValueError,
            "masks must be True in one full rectangle.*example 0",
        ),
        (lambda: metrics.pointing_game(X, MASK, tolerance=-1), ValueError, "tolerance must be"),
        (lambda: metrics.pointing_game(X, MASK, tolerance="1"), TypeError, "tolerance must be"),
        (lambda: metrics.agreement(X, X[:2]), ValueError, "other must be maps for"),
        (lambda: metrics.agreement(X, X, top=1), TypeError, "top must be a share"),
        (lambda: metrics.agreement(X, X, top=1.0), ValueError, "top must be a share"),
        (lambda: metrics.infidelity(score, X, X, 0, side=2), ValueError, "side must be a share"),
        (lambda: metrics.infidelity(score, X, X, 0, side="1"), TypeError, "side must be a share"),
        (
            lambda: metrics.infidelity(score, X, X, 0, perturb_func=1),
            TypeError,
            "perturb_func must",
        ),
        (lambda: metrics.infidelity(score, X, X, 0, seed=-1), ValueError, "seed must be"),
        (
            lambda: metrics.infidelity(score, X, X.expand(3, 2, 4, 4), 0),
            ValueError,
            "attributions must be maps of 1 or 1 channels",
        ),
        (
            lambda: metrics.sensitivity_max(lambda x, t: x, X, 0, perturb_radius=0),
            ValueError,
            "perturb_radius must be a positive number",
        ),
        (
            lambda: metrics.sensitivity_max("saliency", X, 0),
            TypeError,
            "attribute must be a module",
        ),
        (
            lambda: metrics.sensitivity_max(lambda x, t: x, X, 0, n_perturb_samples=0),
            ValueError,
            "n_perturb_samples must be",
        ),
    ],
)
def test_wrong_arguments_are_named(wrong, error, says):
    with pytest.raises(error, match=says):
        wrong()


@pytest.mark.gpu
@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_gpu_gives_the_same_numbers(name):
    # Double precision, so that rounding exchanges no pixels.
    maps = random_maps(3, 1, 4, 4)
    on_cpu = tensors(call(name, maps, torch.float64))
    on_gpu = tensors(call(name, maps, torch.float64, "cuda"))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.device.type == "cuda"
        if name != "parameter_randomization":  # the generators of the devices differ
            assert b.cpu().tolist() == pytest.approx(a.tolist())
