"""The table of attribution methods."""

import subprocess
import sys
import textwrap

import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from comparison import batches, energy
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, compare
from captum_quantum.evaluation import methods, named_methods, register_method
from captum_quantum.models import HybridClassifier, named_models


@pytest.fixture
def hybrid():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    return HybridClassifier(backbone, VQCLayer(2), n_features=4, n_classes=4)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """Methods that a test registers are gone afterwards."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))


def test_built_in_methods(hybrid):
    table = named_methods()
    models = [name for name in named_models() if name != "hybrid"]
    gradcams = [f"{name}-gradcam" for name in models]
    own = ["qgradcam", "qgradcam-path", "gradcam"]
    assert sorted(table) == sorted([*own, *gradcams, "random"])
    assert [table[name].model for name in gradcams] == models
    assert [table[name].model for name in own] == ["hybrid"] * 3
    assert [name for name, method in table.items() if not method.uses_model] == ["random"]
    assert all(name == method.name and method.description for name, method in table.items())
    made = {name: method.make(hybrid, hybrid.backbone) for name, method in table.items()}
    kinds = [type(made[name]) for name in (*own, *gradcams)]
    assert kinds == [QuantumLayerGradCam] * 2 + [LayerGradCam] * (1 + len(gradcams))
    assert made["qgradcam"].path_steps is None
    assert made["qgradcam-path"].path_steps == 16
    assert all(made[name].layer is hybrid.backbone for name in (*own, *gradcams))
    report = compare(made, batches(6), {"energy": energy}, progress=False)
    assert report.methods == tuple(table)
    noise, model = made["random"]
    assert model is hybrid
    images = torch.rand(3, 2, 5, 7)
    maps = noise(images, torch.zeros(3, dtype=torch.long))
    assert maps.shape == (3, 1, 5, 7)
    assert 0 <= maps.min() < maps.max() <= 1


def test_a_method_of_ones_own(hybrid):
    @register_method("activations", "the layer's activations", model="twin", uses_model=False)
    def activations(model, layer):
        return LayerActivation(model, layer)

    method = named_methods()["activations"]
    assert (method.model, method.uses_model, method.make) == ("twin", False, activations)
    assert isinstance(method.make(hybrid, hybrid.backbone), LayerActivation)
    with pytest.raises(ValueError, match="name must be a new name; got 'activations'"):
        register_method("activations", "again")
    with pytest.raises(TypeError, match="model must be the name of a model; got 3"):
        register_method("other", "another", model=3)
    for name in ("a,b", 'a"b', "a\nb", " "):
        with pytest.raises(ValueError, match="name must be a name without commas, quotes and line"):
            register_method(name, "no name")
    named_methods().clear()  # a copy
    assert "activations" in named_methods()


def test_the_table_is_read_without_pytorch():
    code = textwrap.dedent("""
        import sys
        from captum_quantum.evaluation import named_methods
        assert len(named_methods()) == 12
        print(sorted({"torch", "captum", "numpy", "scipy"} & set(sys.modules)))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
