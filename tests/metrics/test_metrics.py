"""What all metrics have in common."""

import inspect
import math

import pytest
import torch
from slow_metrics import random_maps
from torch import nn

from captum_quantum import VQCLayer, metrics

DIRECTIONS = {
    "average_drop": False,
    "average_gain": True,
    "average_increase": True,
    "insertion": True,
    "deletion": False,
    "insertion_deletion": True,
    "road": True,
    "infidelity": False,
    "sensitivity_max": False,
    "grid_pointing_game": True,
    "energy_pointing_game": True,
    "pointing_game": True,
    "parameter_randomization": False,
    "randomization_classical": False,
    "randomization_quantum": False,
    "sparseness": None,
    "agreement": None,
}

ROUNDING_SCALES = {"average_drop": 100, "average_gain": 100, "insertion_deletion": 1, "road": 1}


def test_names_directions_and_parameters():
    functions = [n for n in metrics.__all__ if n[0].islower()]
    assert sorted(functions) == sorted({*DIRECTIONS, "named_metrics", "register_metric"})
    given = {"model", "inputs", "attributions", "target", "masks", "attribute", "other"}
    for name, higher_is_better in DIRECTIONS.items():
        metric = getattr(metrics, name)
        assert metric.higher_is_better is higher_is_better
        assert metric.rounding_scale == ROUNDING_SCALES.get(name, 0)
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
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), VQCLayer(3)).to(device, dtype)
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    attributions = attributions.to(device)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :4, :4] = True

    def attribute(x, target):
        model(x)
        return attributions.repeat_interleave(len(x) // 3, dim=0)

    given = {
        "model": model,
        "inputs": inputs,
        "attributions": attributions,
        "target": torch.tensor([0, 2, 1]),  # on the CPU: moved where they are needed
        "masks": masks,
        "attribute": attribute,
        "other": inputs,
    }
    metric = getattr(metrics, name)
    return metric(**{n: given[n] for n in inspect.signature(metric).parameters if n in given})


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


NAN_MODEL = {
    "average_drop", "average_gain", "average_increase", "deletion", "insertion",
    "insertion_deletion", "road"
}  # fmt: skip


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
        (
            lambda: metrics.insertion_deletion(score, X, X, 0, steps=0.5),
            TypeError,
            "steps must be",
        ),
        (
            lambda: metrics.insertion_deletion(score, X, X, 0, baseline=X[:2]),
            ValueError,
            "baseline must be .* broadcasts to",
        ),
        (lambda: metrics.road(score, X, X, 0, removed=0.5), TypeError, "removed must be a sequ"),
        (lambda: metrics.road(score, X, X, 0, removed="0.5"), TypeError, "removed must be a seq"),
        (lambda: metrics.road(score, X, X, 0, removed=["1"]), TypeError, "removed must be a seq"),
        (
            lambda: metrics.road(score, X, X, 0, removed=()),
            ValueError,
            "removed must be a sequence",
        ),
        (lambda: metrics.road(score, X, X, 0, removed=(0.5, 1)), ValueError, r"\(0, 1\); got 1 "),
        (lambda: metrics.road(score, X, X, 0, removed=[0.0]), ValueError, r"\(0, 1\); got 0.0 "),
        (lambda: metrics.road(score, X, X, 0, noise=-1), ValueError, "noise must be a finite num"),
        (lambda: metrics.road(score, X, X, 0, noise=math.inf), ValueError, "noise must be a fini"),
        (lambda: metrics.road(score, X, X, 0, noise=None), TypeError, "noise must be a finite num"),
        (lambda: metrics.road(score, X, X, 0, seed=-1), ValueError, "seed must be"),
        (lambda: metrics.road(score, X, X, 0, tolerance=0), ValueError, "tolerance must be a rel"),
        (lambda: metrics.road(score, X, X, 0, tolerance=1), ValueError, "tolerance must be a rel"),
        (lambda: metrics.road(score, X, X, 0, tolerance="1"), TypeError, "tolerance must be a rel"),
        (lambda: metrics.road(score, X, X, 0, max_batch=0), ValueError, "max_batch must be"),
        (lambda: metrics.road(score, X / 0, X, 0), ValueError, "inputs must be finite everywhere"),
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
        if "randomization" not in name:  # the generators of the devices differ
            assert b.cpu().tolist() == pytest.approx(a.tolist())
