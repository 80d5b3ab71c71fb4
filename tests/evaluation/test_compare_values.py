"""Values of a comparison are those of the metrics on single samples; maps are computed once."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from comparison import batches, energy, inside, noisy, samples, score, small_model, two_methods
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, _files, compare
from captum_quantum.models import HybridClassifier


def test_values_are_those_of_a_loop_over_single_samples():
    model, (images, labels) = small_model().eval(), samples()
    report = compare(
        two_methods(model), batches(), {"energy": energy, "score": score}, progress=False
    )
    for name, method in two_methods(model).items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            found = method.attribute(image[None], target=int(label)).detach()
            assert report.values["energy"][name][i] == pytest.approx(
                float(found.abs().sum()), rel=1e-5
            )
            expected = float(model(image[None])[0, label].detach())
            assert report.values["score"][name][i] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert report.metrics == {"energy": False, "score": True}
    assert report.labels.tolist() == report.targets.tolist() == labels.tolist()
    assert report.index.tolist() == list(range(23))
    assert len(report) == 23


def test_maps_are_computed_once_for_each_method_and_batch():
    seen = []

    def method(inputs, target):
        seen.append(len(inputs))
        return inputs * target.reshape(-1, 1, 1, 1)

    model = small_model()
    metrics = {f"energy {k}": energy for k in range(4)}
    compare({"one": (method, model), "two": (method, model)}, batches(), metrics, progress=False)
    assert seen == [5, 5, 5, 5, 5, 5, 5, 5, 3, 3]


def test_metrics_get_the_arguments_that_they_name():
    model = small_model()
    seen = {}

    def greedy(model, inputs, attributions, target, masks, attribute, *, option=7):
        seen.update(locals())
        return torch.zeros(len(inputs))

    images, labels = samples(4)
    masks = torch.rand(4, 6, 6) > 0.5
    report = compare(
        {"saliency": Saliency(model)},
        [(images, labels, masks)],
        {"greedy": greedy, "option": functools.partial(greedy, option=8)},
        progress=False,
    )
    assert seen["model"] is model
    assert seen["option"] == 8
    torch.testing.assert_close(seen["inputs"], images)
    torch.testing.assert_close(seen["masks"], masks)
    torch.testing.assert_close(seen["target"], labels)
    again = seen["attribute"](images, labels)
    torch.testing.assert_close(again, seen["attributions"])
    assert not again.requires_grad
    assert report.metrics == {"greedy": None, "option": None}


def test_direction_of_partial_metrics_is_found():
    bound = functools.partial(functools.partial(score), model=small_model())
    model = small_model(1)
    report = compare({"s": Saliency(model)}, batches(4), {"bound": bound}, progress=False)
    assert report.metrics == {"bound": True}
    # The bound model is used, not the model of the method.
    images, labels = samples(4)
    expected = small_model()(images).gather(1, labels[:, None])[:, 0]
    np.testing.assert_allclose(report.values["bound"]["s"], expected.detach(), rtol=1e-5)


def test_named_metrics_are_those_of_the_package():
    from captum_quantum import metrics

    model = small_model()
    report = compare(two_methods(model), batches(), ["average_drop", "deletion"], progress=False)
    assert list(report.metrics.items()) == [("average_drop", False), ("deletion", False)]
    images, labels = samples()
    maps = LayerGradCam(model, model[1]).attribute(images, labels)
    expected = metrics.average_drop(model, images, maps, labels)
    np.testing.assert_allclose(report.values["average_drop"]["gradcam"], expected, rtol=1e-4)


def test_predicted_targets_are_those_of_the_first_method_for_all():
    first, second = small_model(0), small_model(3)
    images, labels = samples()
    report = compare(
        {"first": Saliency(first), "second": Saliency(second)},
        batches(),
        {"score": score},
        target="predicted",
        progress=False,
    )
    predicted = first(images).argmax(dim=1)
    assert (second(images).argmax(dim=1) != predicted).any()
    assert report.targets.tolist() == predicted.tolist()
    assert report.labels.tolist() == labels.tolist()
    expected = second(images).gather(1, predicted[:, None])[:, 0].detach()
    np.testing.assert_allclose(report.values["score"]["second"], expected, rtol=1e-5)


def test_a_map_that_is_not_finite_has_no_value():
    model = small_model()

    def broken(inputs, target):
        maps = inputs.clone()
        maps[1, 0, 0, 0] = torch.nan
        maps[3, 0, 2, 2] = torch.inf
        return maps

    images, labels = samples(5)
    report = compare(
        {"broken": (broken, model), "good": (lambda x, target: x, model)},
        [(images, labels, images > 0.5)],
        {"energy": energy, "score": score, "inside": inside},
        progress=False,
    )
    expected = energy(images)
    for metric in report.metrics:
        undefined = np.isnan(report.values[metric]["broken"])
        assert undefined.tolist() == [False, True, False, True, False]
        assert not np.isnan(report.values[metric]["good"]).any()
    np.testing.assert_allclose(report.values["energy"]["broken"][[0, 2, 4]], expected[[0, 2, 4]])
    scores = model(images).gather(1, labels[:, None])[:, 0].detach()
    np.testing.assert_allclose(
        report.values["score"]["broken"][[0, 2, 4]], scores[[0, 2, 4]], rtol=1e-5
    )
    kept = report.values["inside"]
    np.testing.assert_allclose(kept["broken"][[0, 2, 4]], kept["good"][[0, 2, 4]], rtol=1e-6)
    entry = next(s for s in report.scores if (s.metric, s.method) == ("energy", "broken"))
    assert (entry.n, entry.undefined) == (3, 2)
    assert entry.mean == pytest.approx(float(expected[[0, 2, 4]].mean()))
    pair = report.differences[0]
    assert (pair.n, pair.undefined, pair.ties, pair.p_value) == (3, 2, 3, 1.0)


def test_all_maps_undefined():
    model = small_model()
    report = compare(
        {"nan": (lambda x, target: x * torch.nan, model), "x": (lambda x, target: x, model)},
        batches(6),
        {"energy": energy},
        progress=False,
    )
    assert math.isnan(report.scores[0].mean)
    assert report.scores[0].n == 0
    assert math.isnan(report.differences[0].p_value)
    assert "(6 undefined)" in str(report)
    assert json.loads(_files.to_json(report.to_dict()))["scores"][0]["mean"] is None
    report.figure()


def test_seed_fixes_what_is_drawn_and_methods_share_it():
    model = small_model()
    metrics = {"noisy": noisy, "again": noisy}

    def run(seed):
        torch.rand(5)  # the global state does not matter
        report = compare(two_methods(model), batches(), metrics, seed=seed, progress=False)
        return report.values["noisy"]

    first = run(0)
    np.testing.assert_array_equal(first["gradcam"], first["saliency"])
    np.testing.assert_array_equal(first["gradcam"], run(0)["gradcam"])
    assert not np.isin(first["gradcam"], run(1)["gradcam"]).any()
    assert len(set(first["gradcam"])) == 23


def test_hybrid_and_its_twin_side_by_side():
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    hybrid = HybridClassifier(backbone, VQCLayer(3), n_features=4, n_classes=4)
    other = small_model()
    report = compare(
        {"hybrid": QuantumLayerGradCam(hybrid, backbone), "other": LayerGradCam(other, other[1])},
        batches(),
        {"score": score},
        progress=False,
    )
    images, labels = samples()
    for name, model in (("hybrid", hybrid), ("other", other)):
        expected = model(images).gather(1, labels[:, None])[:, 0].detach()
        np.testing.assert_allclose(report.values["score"][name], expected, rtol=1e-4, atol=1e-6)
