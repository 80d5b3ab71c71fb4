"""Layers with several outputs, calls by keyword, integer targets, functions as models."""

import functools
import types
import warnings

import pytest
import torch
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer
from captum_quantum.gradients import GradientPathError


class Several(nn.Module):
    """A layer that returns its maps among other things."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.kind = nn.Conv2d(1, 4, 3), kind

    def forward(self, x):
        maps = self.conv(x)
        return {
            "tuple": (maps, maps.sum((2, 3))),
            "list": [maps, maps.sum((2, 3))],
            "nested": (maps, (maps.sum((2, 3)), [None, 3])),
            "dict": {"maps": maps, "sums": maps.sum((2, 3)), "shape": torch.tensor(maps.shape)},
        }[self.kind]


class Net(nn.Module):
    def __init__(self, kind, used="maps"):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.q, self.head, self.used = Several(kind), VQCLayer(4), nn.Linear(4, 3), used

    def forward(self, x):
        out = self.layer(x)
        maps = out["maps"] if isinstance(out, dict) else out[0]
        if self.used == "none":
            maps = self.layer.conv(x)
        return self.head(self.q(maps.mean((2, 3))))


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["tuple", "list", "nested", "dict"])
def test_unused_tensors_get_a_zero_map(kind, images):
    model = Net(kind)
    maps, sums = QuantumLayerGradCam(model, model.layer).attribute(images, 1)
    expected = QuantumLayerGradCam(model, model.layer.conv).attribute(images, 1)
    assert torch.allclose(maps, expected, atol=1e-7)
    assert float(expected.abs().max()) > 1e-5
    assert not sums.any()


def test_all_unused_is_an_error(images):
    model = Net("tuple", used="none")
    with pytest.raises(GradientPathError, match="no gradient reaches layer 'layer'"):
        QuantumLayerGradCam(model, model.layer).attribute(images, 1)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "attention"])
def test_torchs_own_layers_of_several_outputs(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q = VQCLayer(4)
            if kind == "attention":
                self.layer = nn.MultiheadAttention(4, 2, batch_first=True)
            else:
                self.layer = getattr(nn, kind)(4, 4, batch_first=True)

        def forward(self, x):
            out = self.layer(x, x, x) if kind == "attention" else self.layer(x)
            return self.q(out[0].mean(1))

    model, x = Recurrent(), torch.rand(3, 7, 4)
    first, *others = QuantumLayerGradCam(model, model.layer).attribute(x, 1)
    assert first.shape[0] == 3
    assert float(first.abs().max()) > 1e-5
    assert all(not other.any() for other in others)


def test_a_layer_without_floating_point_tensors_is_refused(images):
    class Counting(nn.Module):
        def forward(self, x):
            return torch.arange(3), None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.q = Counting(), VQCLayer(4)

        def forward(self, x):
            self.layer(x)
            return self.q(x.mean((2, 3)).repeat(1, 4))

    model = Model()
    with pytest.raises(TypeError, match="output of layer Counting must be a real floating-point"):
        QuantumLayerGradCam(model, model.layer).attribute(images, 1)


class Keyword(nn.Module):
    def __init__(self, keyword):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.q, self.keyword = nn.Conv2d(1, 4, 3), VQCLayer(4), keyword

    def forward(self, x):
        h = (self.conv(input=x) if self.keyword else self.conv(x)).mean((2, 3))
        return self.q(inputs=h) if self.keyword else self.q(h)


@pytest.mark.parametrize("rule", [None, "adjoint", "backprop", "parameter-shift", "commutator"])
@pytest.mark.parametrize("to_input", [False, True])
def test_calls_by_keyword(rule, to_input, images):
    found = []
    for keyword in (False, True):
        model = Keyword(keyword)
        cam = QuantumLayerGradCam(model, model.conv, gradient=rule)
        options = {"attribute_to_layer_input": to_input}
        found.append(
            [
                cam.attribute(images, 1, **options),
                cam.attribute_qubits(images, 1, **options),
                cam.attribute_observables(images, 1, **options),
                cam.attribute_classes(images, [0, 2], **options),
            ]
        )
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integer_targets_of_every_width(dtype, images):
    model = sequential()
    cam, target = QuantumLayerGradCam(model, model[0]), torch.tensor([1, 3])
    assert torch.equal(cam.attribute(images, target.to(dtype)), cam.attribute(images, target))
    shares = cam.attribute_qubits(images, target)
    assert torch.equal(cam.attribute_qubits(images, target.to(dtype)), shares)


MODEL = sequential()


class Wrapper:
    def __init__(self, model):
        self.model = model

    def predict(self, x):
        return self.model(x)

    def __call__(self, x):
        return self.model(x)


def functions(model):
    backbone, circuit = model[:4], model[4]
    return {
        "lambda": lambda x: model(x),
        "parts": lambda x: circuit(backbone(x)),
        "partial": functools.partial(lambda own, x: own(x), model),
        "partial by keyword": functools.partial(lambda x, own: own(x), own=model),
        "method of the module": model.forward,
        "method of another object": Wrapper(model).predict,
        "callable object": Wrapper(model),
        "partial of a method": functools.partial(Wrapper(model).predict),
        "global": lambda x: MODEL(x),
    }


@pytest.mark.parametrize("kind", functions(MODEL))
def test_functions_show_their_model(kind, images):
    forward = functions(MODEL)[kind]
    cam = QuantumLayerGradCam(forward, MODEL[0])
    assert cam.quantum_layers == [MODEL[4]]
    plain = QuantumLayerGradCam(MODEL, MODEL[0])
    assert torch.equal(cam.attribute(images, 1), plain.attribute(images, 1))
    assert torch.equal(cam.attribute_qubits(images, 1), plain.attribute_qubits(images, 1))
    by_shifts = QuantumLayerGradCam(forward, MODEL[0], gradient="parameter-shift")
    assert torch.allclose(by_shifts.attribute(images, 1), plain.attribute(images, 1), atol=1e-6)


def test_modules_that_a_function_only_names_are_not_its_model(images):
    other, hidden = sequential(), types.SimpleNamespace(models=[MODEL])

    def forward(x):
        return hidden.models[0](x) if x.numel() else other(x)

    cam = QuantumLayerGradCam(forward, MODEL[0])
    assert cam.quantum_layers == []
    plain = QuantumLayerGradCam(MODEL, MODEL[0])
    assert torch.equal(cam.attribute(images, 1), plain.attribute(images, 1))


def test_batch_norm_in_training_mode_warns_once(images):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
    )
    cam = QuantumLayerGradCam(model, model[0], path_steps=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cam.attribute(images, 1)
        cam.attribute_qubits(images, 1)
    (warning,) = caught
    assert "call model.eval()" in str(warning.message)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QuantumLayerGradCam(model.eval(), model[0]).attribute(images, 1)
        frozen = model.train()
        frozen[1].eval()
        QuantumLayerGradCam(frozen, model[0]).attribute(images, 1)
