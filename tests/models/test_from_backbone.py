"""Hybrid classifiers from whole classification networks."""

import copy
import math
import operator

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_quantum import (
    HybridClassifier,
    QuantumLayerGradCam,
    VQCLayer,
    classical_twin,
    tokens_to_grid,
)
from captum_quantum.models import load_weights, save_weights
from captum_quantum.training import fit

vision = pytest.importorskip("torchvision").models


def resnet():
    return vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)


def vgg():
    with torch.device("meta"):  # the classifier of 100 million weights
        net = vision.VGG(nn.Sequential())
    net.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2))
    net.classifier = nn.Sequential(nn.Linear(6 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 7))
    return net


def densenet():
    return vision.DenseNet(4, (2, 2), num_init_features=8, num_classes=7)


def mobilenet():
    return vision.mobilenet_v3_small(num_classes=7)


def efficientnet():
    return vision.efficientnet_b0(num_classes=7)


def convnext():
    blocks = [vision.convnext.CNBlockConfig(*sizes) for sizes in ((8, 12, 1), (12, None, 1))]
    return vision.ConvNeXt(blocks, num_classes=7)


def swin():
    return vision.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=7)


def vit():
    return vision.VisionTransformer(32, 8, 2, 2, 16, 16, num_classes=7)


class Network1d(nn.Module):
    """Speech: the same ReLU twice, functional pooling, a linear layer registered first."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(6, 7)
        self.conv1, self.conv2 = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 6, 3)
        self.norm, self.relu = nn.BatchNorm1d(4), nn.ReLU()
        self.drop, self.auxiliary = nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, sound):
        maps = self.relu(self.conv2(self.relu(self.norm(self.conv1(sound)))))
        return self.classify(self.drop(maps.mean(-1)))


NETWORKS = {  # the last linear layer, its inputs, the layer to explain
    resnet: ("fc", 512, "layer4"),
    vgg: ("classifier.3", 8, "features"),
    densenet: ("classifier", 16, "features"),
    mobilenet: ("classifier.3", 1024, "features"),
    efficientnet: ("classifier.1", 1280, "features"),
    convnext: ("classifier.2", 12, "features"),
    swin: ("head", 16, "permute"),
    vit: ("heads.head", 16, None),
    Network1d: ("classify", 6, "conv2"),
}


def an_example(make, n=2):
    generator = torch.Generator().manual_seed(3)
    shape = {Network1d: (2, 20), vit: (3, 32, 32)}.get(make, (3, 64, 64))
    return torch.rand(n, *shape, generator=generator)


def from_network(net, make=Network1d, n_classes=3, **options):
    return HybridClassifier.from_backbone(
        net, VQCLayer(4), n_classes, example=an_example(make), **options
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", NETWORKS, ids=operator.attrgetter("__name__"))
def test_the_last_linear_layer_is_replaced(make):
    name, n_features, layer = NETWORKS[make]
    net, inputs = make(), an_example(make)
    net.eval()
    before = state(net)
    model = from_network(net, make).eval()
    assert same(before, state(net))

    seen = []
    handle = net.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(inputs)
    handle.remove()
    assert seen[0].shape == (2, n_features)
    angles = math.pi / 2 * torch.tanh(seen[0] @ model.reduction.weight.T + model.reduction.bias)
    logits = model.vqc(angles) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(inputs), logits)
    assert logits.shape == (2, 3)
    assert not {*map(id, net.parameters())} & {*map(id, model.parameters())}

    if layer is None:
        with pytest.raises(ValueError, match=r"layer must be given to from_backbone.*tokens_to_g"):
            _ = model.cam_layer
        return
    assert model.cam_layer is model.backbone.get_submodule(layer)
    maps = QuantumLayerGradCam(model, model.cam_layer).attribute(inputs, 1)
    wanted = LayerGradCam(model, model.cam_layer).attribute(inputs, 1).detach()
    scale = float(wanted.abs().max())
    assert scale > 0
    assert max(maps.shape[2:]) > 1
    torch.testing.assert_close(maps, wanted, atol=1e-5 * scale, rtol=1e-4)


def test_transformers_are_explained_at_a_named_layer():
    model = from_network(vit(), vit, layer="encoder.layers.encoder_layer_1.ln_1").eval()
    inputs, kept = an_example(vit), []
    assert model.cam_layer is model.backbone.encoder.layers[1].ln_1
    explainer = QuantumLayerGradCam(model, model.cam_layer, activation_transform=tokens_to_grid())
    maps = explainer.attribute(inputs, 1)
    handle = model.cam_layer.register_forward_hook(lambda *call: kept.append(call[2]))
    score = model(inputs)[:, 1].sum()
    handle.remove()
    patches = kept[0][:, 1:]
    weights = torch.autograd.grad(score, kept[0])[0][:, 1:].mean(1, keepdim=True)
    wanted = (weights * patches).sum(2).reshape(2, 1, 4, 4).detach()
    torch.testing.assert_close(maps, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)
    assert float(wanted.abs().max()) > 0


def test_default_example_is_an_image_of_usual_size():
    net = nn.Sequential(
        nn.Conv2d(3, 2, 32, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5)
    )
    model = HybridClassifier.from_backbone(net.double(), VQCLayer(2), 3)
    assert model.cam_layer is model.backbone[1]
    assert model.reduction.in_features == 8
    assert model(torch.rand(1, 3, 96, 64).double()).dtype == torch.float64


def test_new_layers_are_of_the_networks_dtype_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = from_network(Network1d())
    assert model.reduction.weight.dtype == model.head.weight.dtype == torch.float32


def test_networks_that_end_in_features_or_maps_are_kept_whole():
    maps = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    model = from_network(maps, resnet)
    assert model.reduction.in_features == 5
    assert model.cam_layer is model.backbone
    features = nn.Sequential(nn.Flatten(), nn.Linear(40, 6), nn.ReLU(inplace=True))
    model = from_network(features)
    assert isinstance(model.backbone[1], nn.Linear)
    assert model.reduction.in_features == 6
    with pytest.raises(ValueError, match="without maps of more than one position"):
        _ = model.cam_layer
    constructed = HybridClassifier(maps, VQCLayer(2), 5, 2)
    assert constructed.cam_layer is constructed.backbone is maps


def test_maps_of_one_position_are_passed_over():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 8, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 2),
    )  # fmt: skip
    for size, layer in ((12, 0), (24, 1)):
        model = HybridClassifier.from_backbone(
            net, VQCLayer(2), 2, example=torch.rand(1, 3, size, size)
        )
        assert model.cam_layer is model.backbone[layer]


@pytest.mark.parametrize(
    ("tail", "mean"), [(nn.GELU(), True), (nn.LayerNorm(6), False), (nn.Linear(6, 9), False)]
)
def test_tokens_are_no_maps(tail, mean):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.tail, self.head = nn.Linear(2, 6), tail, nn.LazyLinear(3)

        def forward(self, sound):
            tokens = self.tail(self.mix(sound.mT).relu())
            return self.head(tokens.mean(1) if mean else tokens.flatten(1))

    model = from_network(Pooled())
    with pytest.raises(ValueError, match=r"activations of shape \(2, 20, [69]\) of 'tail'"):
        _ = model.cam_layer


def test_outputs_that_are_no_batch_are_no_maps():
    class Biased(nn.Sequential):
        def forward(self, sound):
            maps = self[0](sound)
            return (maps + self[1](maps[:1].mean((1, 2), keepdim=True).tile(6, 18))).mean(-1)

    model = from_network(Biased(nn.Conv1d(2, 6, 3), nn.Tanh()))
    assert model.cam_layer is model.backbone[0]


def test_a_layer_at_two_places_and_a_network_of_one_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = self.alias = nn.Linear(40, 3)

        def forward(self, sound):
            return self.alias(sound.flatten(1))

    model = from_network(Twice())
    assert isinstance(model.backbone.head, nn.Identity)
    assert model(an_example(Network1d)).shape == (2, 3)
    linear = nn.Linear(4, 3)
    model = HybridClassifier.from_backbone(linear, VQCLayer(2), 2, example=torch.rand(5, 4))
    assert model.reduction.in_features == 4
    assert linear.in_features == 4
    assert isinstance(model.backbone, nn.Identity)


def state(net):
    return {
        "weights": copy.deepcopy(net.state_dict()),
        "modes": [module.training for module in net.modules()],
        "grads": [parameter.requires_grad for parameter in net.parameters()],
        "hooks": [len(module._forward_hooks) for module in net.modules()],
        "types": [type(module) for module in net.modules()],
    }


def same(first, second):
    weights, others = first.pop("weights"), second.pop("weights")
    return first == second and all(torch.equal(weights[name], others[name]) for name in others)


class Failing(Network1d):
    def forward(self, sound):
        torch.rand(3)
        super().forward(sound)
        raise RuntimeError("out of order")


def test_the_network_is_unchanged():
    net = Network1d()  # in training mode, where BatchNorm would change its statistics
    net.drop.eval()
    before = state(net)
    modes = before["modes"]
    model = from_network(net, freeze=True)
    assert same(dict(before), state(net))
    assert not any(p.requires_grad for p in model.backbone.parameters())
    model = from_network(net)
    assert [m.training for m in model.backbone.modules()] == modes
    statistics, others = model.backbone.norm.state_dict(), net.norm.state_dict()
    assert all(torch.equal(statistics[name], others[name]) for name in others)
    assert not any(module._forward_hooks for module in model.modules())
    fit(model, an_example(Network1d, 6), torch.arange(6) % 3, epochs=1)
    assert same(before, state(net))


def test_the_run_on_the_example_leaves_nothing_behind():
    vqc, net = VQCLayer(2), nn.Sequential(nn.Conv1d(2, 6, 3), Draws())
    before = torch.random.get_rng_state()
    model = HybridClassifier.from_backbone(net, vqc, 2, example=an_example(Network1d))
    torch.random.set_rng_state(before)
    other = HybridClassifier(net, vqc, 6, 2)
    assert torch.equal(model.reduction.weight, other.reduction.weight)
    assert model.backbone[1].calls == net[1].calls == 0
    assert model.backbone[1].training


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, maps):
        assert not self.training
        self.calls += 1
        return maps + torch.rand(())


def test_the_network_is_unchanged_after_errors():
    net = Failing()
    before, vqc = state(net), VQCLayer(2)
    random = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="example must be a batch of inputs that") as info:
        HybridClassifier.from_backbone(net, vqc, 2, example=an_example(Network1d))
    assert str(info.value.__cause__) == "out of order"
    with pytest.raises(ValueError, match=r"got a torch.float32 tensor of shape \(2, 3, 224, 224"):
        HybridClassifier.from_backbone(net, vqc, 2)
    assert torch.equal(random, torch.random.get_rng_state())
    assert same(before, state(net))


def test_copies_weights_files_and_twins(tmp_path):
    model, other = (from_network(Network1d()).eval() for _ in range(2))
    inputs = an_example(Network1d)
    assert not torch.equal(model(inputs), other(inputs))
    save_weights(model, tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(model(inputs), other(inputs))
    duplicate = copy.deepcopy(model)
    assert torch.equal(model(inputs), duplicate(inputs))
    assert duplicate.cam_layer is duplicate.backbone.conv2
    twin = classical_twin(model)
    assert twin.cam_layer is twin.backbone.conv2
    assert twin(inputs).shape == (2, 3)
    assert not torch.equal(twin(inputs), model(inputs))


def test_frozen_backbones_stay_frozen():
    model = from_network(Network1d(), freeze=True)
    assert not any(module.training for module in model.backbone.modules())
    before = copy.deepcopy(model.state_dict())
    fit(model, an_example(Network1d, 12), torch.arange(12) % 3, epochs=2, lr=0.1)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert not any(name.startswith("backbone.") for name in changed)
    assert {"reduction.weight", "vqc.ansatz.weights", "head.weight"} <= changed


def test_regression():
    generator = torch.Generator().manual_seed(1)
    sounds = torch.randn(64, 2, 20, generator=generator)
    targets = sounds[:, 0].mean(1, keepdim=True)
    model = from_network(Network1d(), n_classes=1)
    model.backbone.drop.p = 0.0
    losses = fit(model, sounds, targets, loss=nn.functional.mse_loss, epochs=40, lr=0.02)
    assert losses[-1] < 0.25 * float(targets.var())
    assert model(sounds).shape == (64, 1)


class Returns(nn.Module):
    """A network whose output is given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, _):
        return self.output


class Repeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(20, 20)

    def forward(self, sound):
        return self.mix(self.mix(sound.mean(1)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "resnet18"}, TypeError, "backbone must be an nn.Module; got 'resnet18'"),
        ({"vqc": torch.sin}, TypeError, "vqc must be an nn.Module"),
        ({"vqc": nn.Identity()}, ValueError, "n_inputs must be given for a vqc that has no"),
        ({"n_classes": 0}, ValueError, "n_classes must be an integer >= 1; got 0"),
        ({"n_inputs": 2.0}, TypeError, "n_inputs must be an integer >= 1; got 2.0"),
        ({"n_observables": 0}, ValueError, "n_observables must be an integer >= 1; got 0"),
        ({"example": (2, 20)}, TypeError, "example must be a tensor, a batch of inputs"),
        ({"example": torch.tensor(1.0)}, TypeError, "example must be a tensor, a batch of inputs"),
        ({"freeze": 1}, TypeError, "freeze must be True or False; got 1"),
        ({"layer": 3}, TypeError, "layer must be the name of one of the backbone's modules; got 3"),
        ({"layer": "cnov2"}, ValueError, "got 'cnov2' .*did you mean 'conv2'"),
    ],
)
def test_wrong_arguments_before_any_work(options, error, message, monkeypatch):
    def refuse(*_):
        raise AssertionError("work has begun")

    given = {"backbone": Network1d(), "vqc": VQCLayer(2), "n_classes": 2}
    monkeypatch.setattr(copy, "deepcopy", refuse)
    with pytest.raises(error, match=message):
        HybridClassifier.from_backbone(**{**given, "example": an_example(Network1d), **options})


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            Returns((1, 2)),
            r"backbone's output must be of shape \(batch, n_features\).*got \(1, 2\)",
        ),
        (Returns(torch.rand(2)), r"backbone's output must be of shape.*of shape \(2,\)"),
        (Returns(torch.rand(3, 4)), r"backbone's output must be of shape.*of shape \(3, 4\)"),
        (Returns(torch.rand(2, 0)), r"backbone's output must be of shape.*not empty"),
        (
            Returns(torch.ones(2, 3).long()),
            "backbone's output must be a real floating-point tensor",
        ),
        (nn.Linear(20, 3), r"of shape \(batch, n_classes\) where the last module is nn.Linear"),
        (nn.Sequential(Network1d(), nn.LogSoftmax(1)), "without the softmax at the end"),
        (nn.Sequential(Network1d(), nn.Softmax(1)), "without the softmax at the end"),
        (Repeats(), "a module that calls its last layer, 'mix', once; got several calls"),
    ],
)
def test_unfit_backbones(net, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_network(net)


@pytest.mark.parametrize("layer", ["relu", "classify", "auxiliary"])
def test_unfit_layers(layer):
    with pytest.raises(ValueError, match=f"layer must be a module that runs once.*{layer}"):
        from_network(Network1d(), layer=layer)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_backbones_are_refused():
    scripted = torch.jit.trace(Network1d().eval(), an_example(Network1d))
    with pytest.raises(TypeError, match="backbone must be without scripted modules"):
        from_network(nn.Sequential(scripted))


@pytest.mark.filterwarnings("ignore")
def test_compiled_backbones_are_refused():
    compiled = torch.compile(Network1d(), backend="aot_eager")
    with pytest.raises(ValueError, match="backbone must be without compiled modules"):
        from_network(nn.Sequential(compiled))
