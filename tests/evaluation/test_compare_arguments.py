"""Wrong arguments, maps and values."""

import pytest
import torch
from captum.attr import Saliency
from comparison import batches, energy, inside, samples, small_model

from captum_quantum import compare
from captum_quantum.metrics import randomization_quantum


def good():
    model = small_model()
    return {"methods": {"s": Saliency(model)}, "loader": batches(), "metrics": {"energy": energy}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": {}}, ValueError, "methods must be at least one method; got {} (dict)"),
        ({"methods": [1]}, TypeError, "methods must be a mapping from names"),
        ({"methods": {1: None}}, TypeError, "names without commas, quotes and line breaks; got 1"),
        ({"methods": {"a,b": None}}, ValueError, "names without commas"),
        ({"methods": {" ": None}}, ValueError, "names without commas"),
        ({"methods": {"s": 3}}, TypeError, "methods['s'] must be an attribution object with"),
        ({"methods": {"s": len}}, TypeError, "(inputs, target) -> attributions and its model; got"),
        ({"metrics": {}}, ValueError, "metrics must be at least one metric"),
        ({"metrics": []}, ValueError, "metrics must be at least one metric"),
        ({"metrics": "energy"}, TypeError, "metrics must be names of metrics, or a mapping"),
        ({"metrics": ["averagedrop"]}, ValueError, "did you mean 'average_drop'?"),
        ({"metrics": {"e": 3}}, TypeError, "metrics['e'] must be a function; got 3 (int)"),
        (
            {"metrics": {"e": lambda maps, labels: maps}},
            TypeError,
            "whose parameters without default are among attribute, attributions, inputs, masks, "
            "model, target; got",
        ),
        ({"metrics": {"i": inside}}, ValueError, "(inputs, labels, masks), for i; got 'no masks'"),
        ({"loader": 3}, TypeError, "loader must be an iterable of batches; got 3 (int)"),
        ({"loader": []}, ValueError, "loader must be at least one batch; got 'none'"),
        ({"loader": [torch.ones(3)]}, TypeError, "each batch of the loader must be (inputs, lab"),
        (
            {"loader": [(torch.ones(3, 1), torch.ones(3))]},
            TypeError,
            "the loader's labels must be a tensor of integers; got a torch.float32 tensor",
        ),
        (
            {"loader": [(torch.ones(3, 1), torch.ones(2).long())]},
            ValueError,
            "the loader's labels must be of shape (3,); got",
        ),
        (
            {"loader": [(torch.ones(3, 1), torch.tensor([0, -2, 1]))]},
            ValueError,
            "the loader's labels must be classes, none negative; got -2 (int)",
        ),
        (
            {"loader": [(torch.ones(3, 1).long(), torch.ones(3).long())]},
            TypeError,
            "the loader's inputs must be a real floating-point tensor; got",
        ),
        (
            {"loader": [(torch.ones(0, 1), torch.ones(0).long())]},
            ValueError,
            "the loader's inputs must be at least one sample; got",
        ),
        (
            {"loader": [(torch.ones(2, 1), torch.ones(2).long(), torch.ones(3))]},
            ValueError,
            "the loader's masks must be 2, one a sample; got",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"target": "labels"}, ValueError, "target must be one of label, predicted"),
        ({"confidence": 95.0}, ValueError, "confidence must be a number in (0, 1); got 95.0"),
        ({"confidence": 1}, TypeError, "confidence must be a number in (0, 1); got 1"),
        ({"device": "gpu"}, ValueError, "device must be a device that torch knows"),
        ({"device": 0}, TypeError, "device must be a device that torch knows"),
    ],
)
def test_wrong_arguments(change, error, message, tmp_path):
    with pytest.raises(error) as caught:
        compare(**{**good(), **change}, output=tmp_path / "new", progress=False)
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (lambda x, target: x[:2], "what method 's' returns must be a tensor of 5 maps; got a"),
        (lambda x, target: (x, x), "what method 's' returns must be a tensor of 5 maps; got ("),
        (lambda x, target: x.long(), "what method 's' returns must be a real floating-point"),
    ],
)
def test_wrong_maps(maps, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        compare({**good(), "methods": {"s": (maps, small_model())}}["methods"], **rest())
    assert message in str(caught.value)


def rest():
    return {"loader": batches(), "metrics": {"energy": energy}, "progress": False}


@pytest.mark.parametrize(
    "values",
    [
        lambda attributions: attributions,
        lambda attributions: attributions.sum(),
        lambda attributions: 3.0,
        lambda attributions: attributions.flatten(1)[:, 0] * 1j,
    ],
)
def test_wrong_values_of_a_metric(values):
    with pytest.raises(ValueError, match=r"what metric 'm' returns must be 5 numbers, of shape"):
        compare(good()["methods"], batches(), {"m": values}, progress=False)


def test_randomization_of_what_is_no_module():
    images, labels = samples(3)
    with pytest.raises(TypeError, match="model must be an nn.Module, for randomization_quantum"):
        randomization_quantum(lambda x: x, lambda x, target: x, images, labels)
