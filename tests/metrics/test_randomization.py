"""Parameter randomization: what is randomized, what stays, and that the model comes back."""

import copy
import math

import pytest
import scipy.stats
import torch
from captum.attr import LayerGradCam, Saliency
from slow_metrics import random_maps, slow_resize
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from captum_quantum import HybridClassifier, QuantumLayerGradCam, VQCLayer
from captum_quantum.metrics import parameter_randomization, randomization_quantum
from captum_quantum.metrics.similarity import structural_similarity

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


@pytest.fixture
def model():
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh())
    backbone[1].running_mean.normal_()
    return HybridClassifier(backbone, VQCLayer(3), n_features=6, n_classes=4).eval()


@pytest.fixture
def inputs():
    return random_maps(5, 1, 16, 14, dtype=torch.float32)


class Watch:
    """A method that remembers the model's state at each call."""

    def __init__(self, model, attribute=None):
        self.model, self.states, self.maps = model, [], []
        self.attribute = attribute or LayerGradCam(model, model.backbone).attribute

    def __call__(self, inputs, target):
        self.states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        self.maps.append(self.attribute(inputs, target).detach())
        return self.maps[-1]

    def changed(self, call):
        """The names of the tensors that differ from the trained model's."""
        first = self.states[0]
        return {k for k, v in self.states[call].items() if not torch.equal(v, first[k])}


def everything(model):
    """All that must come back: values, modes, hooks, gradients, random state."""
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        [(name, id(b)) for name, b in model.named_buffers()],
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [sorted(vars(m)) for m in model.modules()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    assert before[1:6] == after[1:6]
    assert torch.equal(before[6], after[6])


QUANTUM = {"vqc.ansatz.weights"}
BATCH_NORM = {"backbone.1.running_mean"}
CLASSICAL = {
    "backbone.0.weight",
    "backbone.0.bias",
    "reduction.weight",
    "reduction.bias",
    "head.weight",
    "head.bias",
    *BATCH_NORM,
}


def test_each_part_is_randomized_alone_and_the_cascade_layer_by_layer(model, inputs):
    assert {n for n, _ in model.named_parameters() if n.startswith("vqc")} == QUANTUM
    watch = Watch(model)
    similar = parameter_randomization(model, watch, inputs, 2)
    steps = ["head", "vqc", "reduction", "backbone.1", "backbone.0"]
    assert list(similar) == ["quantum", "classical", *(f"cascade: {s}" for s in steps)]
    assert watch.changed(1) == QUANTUM
    assert watch.changed(2) == CLASSICAL
    expected = set()
    for call, step in enumerate(steps, start=3):
        expected |= {n for n in QUANTUM | CLASSICAL if n.startswith(step)}
        assert watch.changed(call) == expected
    angles = watch.states[1]["vqc.ansatz.weights"]
    assert angles.abs().max() <= math.pi
    assert angles.abs().max() > 2  # of 18 uniform numbers; one in 3000 is smaller
    weight = watch.states[2]["head.weight"]
    assert weight.abs().max() <= 1 / math.sqrt(3)  # nn.Linear's own distribution
    assert len(weight.unique()) == weight.numel()


def test_similarities_equal_the_definition(model, inputs):
    watch = Watch(model)
    similar = parameter_randomization(model, watch, inputs, torch.tensor([0, 3, 1, 2, 2]))
    large = [
        torch.stack([torch.from_numpy(slow_resize(m[0].numpy(), (16, 14))) for m in maps])
        for maps in watch.maps
    ]
    original, *others = (m / m.abs().amax((1, 2), keepdim=True) for m in large)
    for pair, maps in zip(similar.values(), others, strict=True):
        expected = [
            scipy.stats.spearmanr(a.flatten(), b.flatten()).statistic
            for a, b in zip(original, maps, strict=True)
        ]
        assert pair.rank_correlation.tolist() == pytest.approx(expected, abs=1e-3)
        ssim = structural_similarity(original, maps)
        assert pair.ssim.tolist() == pytest.approx(ssim.tolist(), abs=1e-4)
        assert pair.ssim.max() < 0.999


def test_a_map_of_the_image_alone_stays_the_same(model, inputs):
    def edges(images, target):
        model(images)
        return images.diff(dim=3)

    for pair in parameter_randomization(model, edges, inputs, 0).values():
        assert pair.rank_correlation.tolist() == pytest.approx([1] * 5)
        assert pair.ssim.tolist() == pytest.approx([1] * 5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back(training, model, inputs):
    model.train(training)
    model.backbone[1].train(not training)
    model.head.weight.requires_grad_(False)
    for p in model.backbone.parameters():
        p.grad = torch.ones_like(p)
    before = everything(model)
    first = parameter_randomization(model, Watch(model), inputs, 1)
    assert_same(before, everything(model))
    again = parameter_randomization(model, Watch(model), inputs, 1)
    for a, b in zip(first.values(), again.values(), strict=True):
        assert torch.equal(a.ssim, b.ssim)


@pytest.mark.parametrize("call", range(6))
def test_the_model_comes_back_after_errors(call, model, inputs):
    watch = Watch(model)

    def broken(images, target):
        if len(watch.states) == call:
            torch.rand(2)
            model.head.weight.data.zero_()
            model.extra = 1
            raise KeyError("broken")
        return watch(images, target)

    model.train()
    before = everything(model)
    with pytest.raises(KeyError, match="broken"):
        parameter_randomization(model, broken, inputs, 1)
    assert_same(before, everything(model))


def test_it_explains_in_evaluation_mode(model, inputs):
    model.train()
    modes = []

    def attribute(images, target):
        modes.extend(m.training for m in model.modules())
        return Saliency(model).attribute(images, target)

    parameter_randomization(model, attribute, inputs, 0, parts="quantum")
    assert modes
    assert not any(modes)


def test_the_seed_fixes_the_parameters_and_parts_do_not_disturb_each_other(model, inputs):
    def run(**options):
        watch = Watch(model)
        parameter_randomization(model, watch, inputs, 1, **options)
        return watch.states

    whole, classical = run(), run(parts=["classical"])
    assert all(torch.equal(v, classical[1][k]) for k, v in whole[2].items())
    other = run(parts="classical", seed=1)
    assert not torch.equal(other[1]["head.weight"], classical[1]["head.weight"])
    # Layers do not get the same numbers.
    conv, head = (whole[-1][k].flatten()[:10] for k in ("backbone.0.weight", "head.weight"))
    assert abs(torch.corrcoef(torch.stack([conv, head]))[0, 1]) < 0.9


@pytest.mark.parametrize("parts", ["classical", "cascade", ["classical", "cascade"]])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_made_with_the_same_seed_does_not_get_its_first_weights_back(seed, parts):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
    watch = Watch(net, Saliency(net).attribute)
    parameter_randomization(net, watch, torch.rand(1, 1, 10, 10), 0, parts=parts, seed=seed)
    for state in watch.states[1:]:
        weights = torch.stack([s["1.weight"].flatten() for s in (watch.states[0], state)])
        assert abs(torch.corrcoef(weights)[0, 1]) < 0.2
        assert weights[1].abs().max() <= 0.1  # from nn.Linear's own distribution


def test_random_methods_get_the_same_noise_each_time(model, inputs):
    noise = []

    def attribute(images, target):
        model(images)
        noise.append(torch.rand(images.shape))
        return noise[-1]

    similar = parameter_randomization(model, attribute, inputs, 0)
    assert all(torch.equal(n, noise[0]) for n in noise)
    assert similar["quantum"].ssim.tolist() == pytest.approx([1] * 5)


def test_maps_without_structure_have_no_similarity(model, inputs):
    calls = []

    def attribute(images, target):
        maps = Saliency(model).attribute(images, target)
        calls.append(None)
        maps[0] = 0
        maps[1 if len(calls) > 1 else 2] = 3
        return maps

    for pair in parameter_randomization(model, attribute, inputs, 0).values():
        for values in pair:
            assert values.isnan().tolist() == [True, True, True, False, False]


class Foreign(nn.Module):
    """A quantum layer of another library, with weights of its own and others below."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2))
        self.inner = nn.Linear(6, 2)

    def forward(self, x):
        return torch.cos(self.inner(x) + self.weights)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.scale = nn.Parameter(torch.full((4,), 1e-6))
        self.last = nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.first = weight_norm(nn.Linear(1, 4))

    def forward(self, x):
        tokens = self.first(x.flatten(2).mT) + self.token
        return self.last(self.attention(tokens, tokens, tokens)[0].mean(1) + self.scale)


def test_quantum_layers_of_other_libraries_are_named(inputs):
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(Foreign())
    watch = Watch(net, Saliency(net).attribute)
    similar = parameter_randomization(net, watch, inputs, 1, quantum_layer=net[4])
    assert list(similar) == ["quantum", "classical", "cascade: 4", "cascade: 0"]
    assert watch.changed(1) == {"4.weights", "4.inner.weight", "4.inner.bias"}
    assert watch.changed(2) == {"0.weight", "0.bias"}
    watch = Watch(net, Saliency(net).attribute)
    similar = parameter_randomization(net, watch, inputs, 1)
    assert list(similar) == ["classical", "cascade: 4", "cascade: 4.inner", "cascade: 0"]
    with pytest.raises(ValueError, match="parts must be parts that the model has; it has no quan"):
        parameter_randomization(net, watch, inputs, 1, parts="quantum")


def test_half_a_quantum_layer_is_an_error(inputs):
    half = Foreign()
    half.circuit = VQCLayer(2).circuit
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), half)
    for metric in (parameter_randomization, randomization_quantum):
        with pytest.raises(TypeError, match="a Foreign module without gradient .* angle_table"):
            metric(net, Saliency(net).attribute, inputs, 1)


def test_parameters_without_a_reset_are_drawn_from_their_own_distribution(inputs):
    net = Attention().eval()
    with torch.no_grad():
        net.attention.in_proj_weight.mul_(3).add_(10)
    watch = Watch(net, Saliency(net).attribute)
    similar = parameter_randomization(net, watch, inputs, 1)
    assert list(similar) == [
        "classical",
        "cascade: Attention",  # its own parameters
        "cascade: last",
        "cascade: attention.out_proj",  # read by attention, never called
        "cascade: attention",
        "cascade: first",
        "cascade: first.parametrizations.weight",
    ]
    changed = watch.changed(1)
    assert "scale" not in changed  # constant: that is how it starts
    assert {"token", "attention.in_proj_weight"} <= changed
    assert {k for k in watch.states[0] if "parametrizations" in k} <= changed
    new, old = (s["attention.in_proj_weight"] for s in (watch.states[1], watch.states[0]))
    assert new.mean().item() == pytest.approx(old.mean().item(), abs=4 * old.std().item() / 6)
    assert new.std().item() == pytest.approx(old.std().item(), rel=0.5)


def test_every_part_starts_from_the_trained_model(inputs):
    net = Attention().eval()
    states = []
    for parts in (["classical", "cascade"], "cascade"):
        watch = Watch(net, Saliency(net).attribute)
        parameter_randomization(net, watch, inputs, 1, parts=parts)
        states.append(watch.states[-1])
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


class ResetsAll(nn.Sequential):
    """A module whose reset reaches into its children and makes new parameters."""

    def __init__(self, *modules):
        super().__init__(*modules)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return super().forward(x) + self.bias

    def reset_parameters(self):
        self.bias = nn.Parameter(torch.rand(3))
        for module in self:
            for p in module.parameters():
                p.data.fill_(0.5)


def test_a_reset_that_reaches_further_is_undone(inputs):
    net = ResetsAll(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    before = everything(net)
    watch = Watch(net, Saliency(net).attribute)
    similar = parameter_randomization(net, watch, inputs, 1, parts="cascade")
    assert list(similar) == ["cascade: ResetsAll", "cascade: 3", "cascade: 0"]
    assert watch.changed(1) == {"bias"}
    assert watch.changed(2) == {"bias", "3.weight", "3.bias"}
    assert_same(before, everything(net))


def test_works_with_qgrad_cam_and_keeps_the_gradient_rule(model, inputs):
    grad_cam = QuantumLayerGradCam(model, model.backbone, gradient="parameter-shift")
    exact = parameter_randomization(model, Watch(model), inputs, 3)
    shifted = parameter_randomization(model, grad_cam.attribute, inputs, 3)
    for a, b in zip(exact.values(), shifted.values(), strict=True):
        assert b.ssim.tolist() == pytest.approx(a.ssim.tolist(), abs=1e-3)


def test_predictions_after_it_are_those_before(model, inputs):
    with torch.no_grad():
        before = model(inputs)
        parameter_randomization(model, Watch(model), inputs, 3)
        assert torch.equal(model(inputs), before)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": torch.sin}, TypeError, "model must be a module"),
        ({"model": nn.Sequential(nn.Flatten())}, ValueError, "parameters to randomize"),
        ({"attribute": 3}, TypeError, "attribute must be a module or a function"),
        ({"attribute": lambda x, t: x}, ValueError, "attribute must be .* never calls it"),
        ({"parts": "layers"}, ValueError, "parts must be one of cascade, classical, quantum"),
        ({"parts": []}, TypeError, "parts must be some of"),
        ({"parts": 3}, TypeError, "parts must be some of"),
        ({"quantum_layer": nn.Linear(1, 1)}, ValueError, "quantum_layer must be one of the mod"),
        ({"quantum_layer": 3}, TypeError, "quantum_layer must be a module or a sequence"),
        ({"seed": 0.5}, TypeError, "seed must be"),
        ({"inputs": torch.rand(2, 1, 2, 9)}, ValueError, "at least 3 pixels"),
        ({"target": [1, 2]}, ValueError, "target must be a class, or one for each of 5"),
    ],
)
def test_wrong_arguments_are_named(change, error, says, model, inputs):
    arguments = {"model": model, "attribute": Watch(model), "inputs": inputs, "target": 0} | change
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=says):
        parameter_randomization(**arguments)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_part_that_cannot_be_randomized_says_so(inputs):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.factor * x.flatten(1)

    net = Scale()
    for parts in ("classical", "cascade"):
        with pytest.raises(ValueError, match=f"{parts}.* whose parameters stay the same"):
            parameter_randomization(net, Saliency(net).attribute, inputs, 0, parts=parts)


def test_maps_of_the_randomized_model_that_are_not_finite_say_when(model, inputs):
    maps = iter([inputs, inputs * math.nan])

    def attribute(images, target):
        model(images)
        return next(maps)

    with pytest.raises(ValueError, match="maps after randomizing 'quantum' must be finite"):
        parameter_randomization(model, attribute, inputs, 0)
