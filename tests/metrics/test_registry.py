"""The registry of metrics."""

import functools

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_quantum import compare, metrics
from captum_quantum.metrics import average_drop, named_metrics, register_metric, registry


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))


def energy(attributions):
    return attributions.abs().flatten(1).sum(1)


def report_of(*names):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    batch = (torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
    return compare({"saliency": Saliency(model)}, [batch], names, progress=False), model, batch


def test_a_metric_of_ones_own_by_its_name():
    @register_metric(higher_is_better=True, rounding_scale=3)
    def mine(attributions, factor=2):
        return factor * energy(attributions)

    assert mine(torch.ones(2, 1, 2, 2)).tolist() == [8, 8]  # the function itself comes back
    assert (mine.higher_is_better, mine.rounding_scale) == (True, 3)
    assert named_metrics()["mine"] is mine
    report, model, (images, labels) = report_of("mine", "average_drop")
    assert report.metrics == {"mine": True, "average_drop": False}
    maps = Saliency(model).attribute(images, labels)
    assert report.values["mine"]["saliency"].tolist() == pytest.approx(mine(maps).tolist())
    assert "mine" not in metrics.__all__


def test_a_metric_under_a_name_of_its_own_and_with_bound_options():
    few = functools.partial(metrics.insertion, steps=2)
    register_metric(higher_is_better=True, name="coarse_insertion")(few)
    assert named_metrics()["coarse_insertion"] is few
    report, model, (images, labels) = report_of("coarse_insertion")
    maps = Saliency(model).attribute(images, labels)
    expected = metrics.insertion(model, images, maps, labels, steps=2)
    assert report.values["coarse_insertion"]["saliency"].tolist() == pytest.approx(
        expected.tolist()
    )


def test_named_metrics_are_those_with_one_number_for_each_example():
    several = {"agreement", "parameter_randomization"}
    functions = {n for n in metrics.__all__ if hasattr(getattr(metrics, n), "higher_is_better")}
    assert set(named_metrics()) & {*metrics.__all__} == functions - several
    assert list(named_metrics()) == sorted(named_metrics())
    for name in functions - several:
        assert named_metrics()[name] is getattr(metrics, name)


def test_data_of_partials_and_of_classes():
    bound = functools.partial(functools.partial(average_drop, baseline=0.5), target=1)
    read = registry.read_metric("drop", bound, argument="metric")
    assert read.arguments == {"model", "inputs", "attributions"}
    assert (read.higher_is_better, read.rounding_scale) == (False, 100)

    class Energy:
        higher_is_better = True

        def __call__(self, attributions, masks=None):
            return energy(attributions)

    read = registry.read_metric("energy", Energy(), argument="metric")
    assert read.arguments == {"attributions", "masks"}
    assert (read.higher_is_better, read.rounding_scale) == (True, 0)


def test_which_metrics_need_masks():
    needing = {name for name in named_metrics() if registry.needs_masks(named_metrics()[name])}
    assert needing == {"energy_pointing_game", "grid_pointing_game", "pointing_game"}


def test_registering_again_replaces_ones_own_but_no_other():
    def make():
        @register_metric(higher_is_better=None)
        def mine(attributions):
            return energy(attributions)

        return mine

    first, second = make(), make()
    assert named_metrics()["mine"] is second is not first
    with pytest.raises(ValueError, match="name must be a name that no other metric has; got 'ave"):
        register_metric(higher_is_better=True, name="average_drop")(energy)
    assert named_metrics()["average_drop"] is average_drop


@pytest.mark.parametrize(
    ("metric", "name", "error", "says"),
    [
        (3, "three", TypeError, r"metric 'three' must be a function; got 3 \(int\)"),
        (energy, "a,b", ValueError, "name must be an identifier such as 'my_metric'; got 'a,b'"),
        (lambda attributions: 0, None, ValueError, "name must be an identifier .* got '<lambda>'"),
        (
            lambda maps, target: 0,
            "maps",
            TypeError,
            "metric 'maps' must be a function whose parameters without default are among "
            "attribute, attributions, inputs, masks, model, target; got one with maps",
        ),
    ],
)
def test_wrong_metrics_are_refused(metric, name, error, says):
    before = named_metrics()
    with pytest.raises(error, match=says):
        register_metric(higher_is_better=True, name=name)(metric)
    assert named_metrics() == before
    assert not hasattr(metric, "higher_is_better")
