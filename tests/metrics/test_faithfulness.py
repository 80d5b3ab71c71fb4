"""Faithfulness, against slow rewrites from the definitions: loops over examples and pixels."""

import math

import numpy as np
import pytest
import slow_metrics
import torch
from slow_metrics import BASELINES, MAPS, TARGETS, random_maps, slow_average_drop, slow_curves
from torch import nn

from captum_quantum import metrics

N_CLASSES = 4


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 63, N_CLASSES)
    ).double()


@pytest.fixture
def inputs():
    return torch.randn(6, 2, 9, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("name", ["average_drop", "average_gain", "average_increase"])
def test_masked_scores_equal_the_definition(name, shape, baseline, model, inputs):
    maps = random_maps(*shape)
    expected = getattr(slow_metrics, f"slow_{name}")(
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
    result = metric(
        model, inputs, maps, TARGETS, baseline=baseline, steps=8, max_batch=7, return_curves=True
    )
    assert result.fractions.tolist() == pytest.approx(fractions)
    assert result.probabilities.numpy() == pytest.approx(np.array(curves))
    assert result.area.tolist() == pytest.approx(areas)
    alone = metric(model, inputs, maps, TARGETS, baseline=baseline, steps=8)
    assert alone.tolist() == pytest.approx(areas)


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_insertion_deletion_is_the_difference_of_both(baseline, model, inputs):
    maps, options = random_maps(6, 2, 5, 4), {"baseline": baseline, "steps": 8}
    inserted = metrics.insertion(model, inputs, maps, TARGETS, **options)
    deleted = metrics.deletion(model, inputs, maps, TARGETS, **options)
    values = metrics.insertion_deletion(model, inputs, maps, TARGETS, **options)
    assert values.tolist() == pytest.approx((inserted - deleted).tolist(), abs=1e-12)
    assert values.abs().max() > 0.01
    parts = [
        metrics.insertion_deletion(
            model, inputs[[i]], maps[[i]], TARGETS[[i]], max_batch=5, **options
        )
        for i in range(6)
    ]
    assert torch.cat(parts).tolist() == pytest.approx(values.tolist(), abs=1e-12)


def test_insertion_deletion_of_a_linear_score_has_a_closed_form():
    # The k best pixels of n carry the share s_k of the score; both curves are linear in s_k.
    weights = torch.tensor([5.0, 1.0, 3.0, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    baseline, image = torch.full((1, 2, 2), 0.25), torch.full((3, 1, 2, 2), 1.25).double()
    shown = torch.tensor([0, 5, 8, 9, 10.0])  # sums of weights, best first
    area = torch.trapezoid(shown - (10 - shown), dx=0.25).item()
    found = metrics.insertion_deletion(
        lambda x: x, image, weights.expand(3, 1, 2, 2), lambda x: (x * weights).sum((1, 2, 3)),
        baseline=baseline,
    )  # fmt: skip
    assert found.tolist() == pytest.approx([area] * 3)
    assert area == 3.5


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_tied_pixels_go_row_by_row(name, model, inputs):
    maps = (random_maps(6, 1, 9, 7) > 0.5).double()
    maps[:, :, :2] *= -0.0  # the zeros of both signs are equal
    _, curves, _ = slow_curves(
        model, inputs.numpy(), maps.numpy(), TARGETS.tolist(), 0.0, 63, name == "insertion"
    )
    result = getattr(metrics, name)(
        model, inputs, maps, TARGETS, baseline=0.0, steps=1000, return_curves=True
    )
    assert result.probabilities.shape == (6, 64)  # a step for each pixel, not more
    assert result.probabilities.numpy() == pytest.approx(np.array(curves))


@pytest.mark.parametrize("name", ["average_drop", "average_gain", "average_increase"])
def test_signed_maps_score_as_their_positive_part(name, model, inputs):
    maps = random_maps(6, 1, 4, 3)
    metric = getattr(metrics, name)
    signed = metric(model, inputs, maps, TARGETS)
    assert signed.tolist() == pytest.approx(
        metric(model, inputs, maps.relu(), TARGETS).tolist(), abs=1e-9
    )


@pytest.mark.parametrize("name", ["average_drop", "average_gain", "insertion", "deletion", "road"])
def test_scale_and_size_of_values_do_not_matter(name, model, inputs):
    maps = random_maps(6, 2, 4, 3)
    metric = getattr(metrics, name)
    values = metric(model, inputs, maps, TARGETS)
    for factor in (1e-300, 1e300):  # sums over the channels would overflow
        assert metric(model, inputs, maps * factor, TARGETS).tolist() == pytest.approx(
            values.tolist()
        )


FAITHFULNESS = (
    "average_drop", "average_gain", "average_increase", "insertion", "deletion",
    "insertion_deletion", "road"
)  # fmt: skip


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
    for name in FAITHFULNESS:
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
    for name in FAITHFULNESS:
        with pytest.raises(TypeError, match="probability must be a module or a function; got 3"):
            getattr(metrics, name)(model, inputs, maps, TARGETS, probability=3)


@pytest.mark.parametrize(
    "name", ["average_drop", "insertion", "insertion_deletion", "infidelity", "road"]
)
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
