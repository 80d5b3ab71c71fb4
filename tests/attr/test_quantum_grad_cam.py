"""QuantumLayerGradCam against LayerGradCam, against the formula, and against its own identities."""

import threading

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel
from captum.attr import visualization as viz
from torch import nn

from captum_quantum import GradientPathError, GradientRuleError, QuantumLayerGradCam, VQCLayer
from captum_quantum.simulate.compiled import Evaluation


def hybrid(seed=0, activation=None, **kwargs):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        activation or nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
        VQCLayer(4, **kwargs),
        nn.Linear(4, 3),
    ).eval()


def images(n=4, channels=1, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator)


def close(a, b, tolerance=1e-5):
    scale = max(float(b.abs().max()), 1e-12)
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * scale


def slow_grad_cam(model, layer, x, targets):
    """Grad-CAM literally: one example, one channel, one pixel at a time."""
    maps = []
    for example, target in zip(x, targets, strict=True):
        kept = []
        handle = layer.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        score = model(example[None])[0, target]
        handle.remove()
        (activation,) = kept
        gradient = torch.autograd.grad(score, activation)[0][0]
        activation = activation.detach()[0]
        width, height = activation.shape[1:]
        result = torch.zeros(width, height)
        for k in range(activation.shape[0]):
            weight = 0.0
            for i in range(width):
                for j in range(height):
                    weight += float(gradient[k, i, j])
            result += weight / (width * height) * activation[k]
        maps.append(result)
    return torch.stack(maps)[:, None]


class Skip(nn.Module):
    """A quantum layer beside a classical path."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 5, 3)
        self.angles = nn.Linear(5, 3)
        self.vqc = VQCLayer(3, 1)
        self.head = nn.Linear(3 + 5, 2)

    def forward(self, x):
        features = torch.relu(self.conv(x)).mean((2, 3))
        return self.head(torch.cat([self.vqc(self.angles(features)), features], dim=1))


class Series(nn.Module):
    """A quantum layer called three times: twice in series and once beside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(1, 5, 3)
        self.angles = nn.Linear(5, 3)
        self.vqc = VQCLayer(3, 1, reupload=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        first = self.angles(torch.relu(self.conv(x)).mean((2, 3)))
        beside = self.vqc(2 * first)
        return self.head(torch.cat([self.vqc(self.vqc(first) + first), beside], dim=1))


class Pair(nn.Module):
    """A layer of two tensors."""

    def __init__(self, kind=tuple):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind([x * 2, x[:, :2] ** 2])


class TwoTensors(nn.Module):
    def __init__(self, kind=tuple):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.pair, self.head = nn.Conv2d(1, 4, 3), Pair(kind), nn.Linear(6, 3)

    def forward(self, x):
        a, b = self.pair(self.conv(x))
        return self.head(torch.cat([a.mean((2, 3)), b.mean((2, 3))], dim=1))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.spare = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        self.spare(x)
        return self.head(self.conv(x).mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x, y, scale=1.0, *, shift=0.0):
        return self.head(self.conv(x * scale + y).mean((2, 3)) + shift)


def classical(conv, act, head_in, pool):
    torch.manual_seed(6)
    return nn.Sequential(conv, act, pool, nn.Flatten(), nn.Linear(head_in, 3)).eval()


def frozen(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def embedding_model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 3))


MODELS = {
    "hybrid conv": lambda: (hybrid(), "0", images(), 1, {}),
    "hybrid relu": lambda: (hybrid(), "1", images(), 2, {}),
    "hybrid in-place relu": lambda: (
        hybrid(activation=nn.ReLU(inplace=True)),
        "0",
        images(),
        1,
        {},
    ),
    "hybrid parameter-shift": lambda: (hybrid(gradient="parameter-shift"), "0", images(), 0, {}),
    "hybrid real amplitudes": lambda: (hybrid(ansatz="real_amplitudes"), "0", images(), 0, {}),
    "hybrid frozen": lambda: (frozen(hybrid()), "0", images(), 1, {}),
    "hybrid linear layer": lambda: (hybrid(), "4", images(), 1, {}),
    "the quantum layer": lambda: (hybrid(), "5", images(), 1, {}),
    "input of the quantum layer": lambda: (
        hybrid(),
        "5",
        images(),
        1,
        {"attribute_to_layer_input": True},
    ),
    "layer behind the quantum layer": lambda: (hybrid(), "6", images(), 1, {}),
    "targets one each": lambda: (hybrid(), "0", images(), torch.tensor([0, 1, 2, 1]), {}),
    "targets as list": lambda: (hybrid(), "0", images(), [0, 1, 2, 1], {}),
    "target as tensor": lambda: (hybrid(), "0", images(), torch.tensor(2), {}),
    "negative target": lambda: (hybrid(), "0", images(), -1, {}),
    "relu": lambda: (hybrid(), "0", images(), 1, {"relu_attributions": True}),
    "no summation": lambda: (hybrid(), "0", images(), 1, {"attr_dim_summation": False}),
    "to layer input": lambda: (hybrid(), "1", images(), 1, {"attribute_to_layer_input": True}),
    "to in-place layer input": lambda: (
        hybrid(activation=nn.ReLU(inplace=True)),
        "1",
        images(),
        1,
        {"attribute_to_layer_input": True},
    ),
    "skip": lambda: (Skip(), "conv", images(), 1, {}),
    "series": lambda: (Series(), "conv", images(), 1, {}),
    "conv1d": lambda: (
        classical(nn.Conv1d(2, 4, 3), nn.Tanh(), 4, nn.AdaptiveAvgPool1d(1)),
        "0",
        torch.rand(3, 2, 9),
        1,
        {},
    ),
    "conv3d": lambda: (
        classical(nn.Conv3d(1, 4, 2), nn.ReLU(), 4, nn.AdaptiveMaxPool3d(1)),
        "1",
        torch.rand(3, 1, 4, 5, 3),
        1,
        {},
    ),
    "flattened features": lambda: (
        classical(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), 72, nn.Identity()),
        "0",
        images(),
        0,
        {},
    ),
    "embedding, integer inputs": lambda: (
        embedding_model(),
        "0",
        torch.randint(0, 11, (4, 5)),
        1,
        {},
    ),
    "two tensors": lambda: (TwoTensors(), "pair", images(), 1, {}),
    "two tensors in a list": lambda: (TwoTensors(list), "pair", images(), 1, {}),
    "two inputs": lambda: (
        TwoInputs(),
        "conv",
        (images(), images(seed=1)),
        1,
        {"additional_forward_args": 0.5},
    ),
    "unused layer": lambda: (
        Unused(),
        "spare",
        images(),
        1,
        {"grad_kwargs": {"allow_unused": True, "materialize_grads": True}},
    ),
    "data parallel": lambda: (nn.DataParallel(hybrid()), "module.0", images(), 1, {}),
    "double": lambda: (
        classical(nn.Conv2d(1, 4, 3), nn.ReLU(), 4, nn.AdaptiveAvgPool2d(1)).double(),
        "0",
        images().double(),
        1,
        {},
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_equals_captums_layer_grad_cam(case):
    model, name, x, target, kwargs = MODELS[case]()
    layer = model.get_submodule(name)
    expected = LayerGradCam(model, layer).attribute(x, target, **kwargs)
    got = QuantumLayerGradCam(model, layer).attribute(x, target, **kwargs)
    assert type(got) is type(expected)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for ours, captums in pairs:
        assert close(ours, captums.detach(), 1e-6)
        assert ours.dtype == captums.dtype
        assert ours.device == captums.device


def test_positional_order_is_captums():
    model, x = hybrid(), images()
    args = (x, 1, None, True, True, False, None)
    expected = LayerGradCam(model, model[1], None).attribute(*args)
    assert close(QuantumLayerGradCam(model, model[1], None).attribute(*args), expected.detach())


def test_equals_the_formula():
    model, x = hybrid(), images()
    targets = [0, 1, 2, 1]
    got = QuantumLayerGradCam(model, model[1]).attribute(x, targets)
    assert close(got, slow_grad_cam(model, model[1], x, targets))


@pytest.mark.parametrize("rule", ["backprop", "parameter-shift", "commutator"])
@pytest.mark.parametrize("build", [hybrid, Skip, Series])
def test_every_rule_gives_the_same_map(rule, build):
    model, x = build(), images()
    layer = model[0] if build is hybrid else model.conv
    expected = LayerGradCam(model, layer).attribute(x, 1).detach()
    got = QuantumLayerGradCam(model, layer, gradient=rule).attribute(x, 1)
    assert close(got, expected, 2e-5)


@pytest.mark.parametrize("rule", [None, "backprop", "parameter-shift", "commutator"])
@pytest.mark.parametrize("build", [hybrid, Skip, Series])
def test_shares_and_direct_part_add_up(rule, build):
    model, x = build(), images()
    layer = model[0] if build is hybrid else model.conv
    grad_cam = QuantumLayerGradCam(model, layer, gradient=rule)
    signed = LayerGradCam(model, layer).attribute(x, 1).detach()
    for method, count in [
        (grad_cam.attribute_qubits, model[5].n_qubits if build is hybrid else 3),
        (grad_cam.attribute_observables, model[5].n_observables if build is hybrid else 3),
    ]:
        shares, direct = method(x, 1, return_direct=True)
        assert shares.shape == (4, count, 6, 6)
        assert close(shares.sum(1, keepdim=True) + direct, signed, 3e-5)
        assert torch.equal(method(x, 1), shares)
        assert (direct.abs().max() > 0) == (build is Skip)
        assert all(shares[:, k].abs().max() > 0 for k in range(count))


def test_qubit_shares_against_the_formula():
    """For one call without skip: w_q = (dy/dphi_q) d phi_q / dA, written out."""
    model, x = hybrid(), images()
    activation = model[:2](x).detach().requires_grad_()
    phi = model[2:5](activation)
    score = model[5:](phi)[:, 1].sum()
    (by_angle,) = torch.autograd.grad(score, phi, retain_graph=True)
    got = QuantumLayerGradCam(model, model[1]).attribute_qubits(x, 1)
    for q in range(4):
        (grad,) = torch.autograd.grad(phi[:, q], activation, by_angle[:, q], retain_graph=True)
        expected = (grad.mean((2, 3), keepdim=True) * activation).sum(1).detach()
        assert close(got[:, q], expected)


def test_observable_shares_against_the_formula():
    model, x = hybrid(observables=["Z0", "X1 X2"]), images()
    model[6] = nn.Linear(2, 3)
    activation = model[:2](x).detach().requires_grad_()
    values = model[2:6](activation)
    (by_value,) = torch.autograd.grad(model[6](values)[:, 1].sum(), values, retain_graph=True)
    got = QuantumLayerGradCam(model, model[1]).attribute_observables(x, 1)
    for o in range(2):
        (grad,) = torch.autograd.grad(values[:, o], activation, by_value[:, o], retain_graph=True)
        expected = (grad.mean((2, 3), keepdim=True) * activation).sum(1).detach()
        assert close(got[:, o], expected)


def test_two_angles_on_a_qubit_belong_to_it():
    model, x = hybrid(encoder="ry_rz"), images()
    model[4] = nn.Linear(6, 8)
    shares = QuantumLayerGradCam(model, model[0]).attribute_qubits(x, 1)
    signed = QuantumLayerGradCam(model, model[0]).attribute(x, 1)
    assert shares.shape == (4, 4, 6, 6)
    assert close(shares.sum(1, keepdim=True), signed, 3e-5)
    with torch.no_grad():  # features 1 and 5 are the two angles of qubit 1: make them constant
        model[4].weight[[1, 5]] = 0
    assert QuantumLayerGradCam(model, model[0]).attribute_qubits(x, 1)[:, 1].abs().max() == 0


def test_an_angle_on_two_wires_is_split():
    import torchquantum as tq

    entries = [
        {"input_idx": [], "func": "hadamard", "wires": [0]},
        {"input_idx": [0], "func": "rxx", "wires": [0, 1]},
    ]
    torch.manual_seed(0)
    vqc = VQCLayer(2, encoder=tq.GeneralEncoder(entries))
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), vqc)
    shares = QuantumLayerGradCam(model, model[0]).attribute_qubits(images(), 0)
    assert torch.equal(shares[:, 0], shares[:, 1])
    assert close(
        shares.sum(1, keepdim=True), QuantumLayerGradCam(model, model[0]).attribute(images(), 0)
    )


class CosineNumPy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy()).cos()


def test_a_foreign_layer_that_autograd_cannot_pass():
    model, twin = hybrid(), hybrid()
    model[5] = CosineNumPy()

    class Cosine(nn.Module):
        def forward(self, x):
            return torch.cos(x)

    twin[5] = Cosine()
    x = images()
    expected = LayerGradCam(twin, twin[0]).attribute(x, 1).detach()
    grad_cam = QuantumLayerGradCam(
        model, model[0], quantum_layer=model[5], gradient="parameter-shift"
    )
    assert close(grad_cam.attribute(x, 1), expected)
    shares = grad_cam.attribute_qubits(x, 1)
    assert shares.shape == (4, 4, 6, 6)
    assert close(shares.sum(1, keepdim=True), expected)
    merged = grad_cam.attribute_qubits(x, 1, input_wires=[0, 0, 1, 1])
    assert close(merged, torch.stack([shares[:, :2].sum(1), shares[:, 2:].sum(1)], 1))


def test_several_classes_from_one_forward_pass():
    model, x = hybrid(), images()
    count = []
    handle = model[5].register_forward_hook(lambda *_: count.append(1))
    grad_cam = QuantumLayerGradCam(model, model[0])
    maps = grad_cam.attribute_classes(x, range(3))
    assert len(count) == 1
    handle.remove()
    for target in range(3):
        assert close(maps[:, target : target + 1], grad_cam.attribute(x, target))
    each = grad_cam.attribute_classes(x, [[0, 1, 2, 0], 1], relu_attributions=True)
    assert close(each[:, :1], grad_cam.attribute(x, [0, 1, 2, 0], relu_attributions=True))


def test_importance_is_the_mean_gradient():
    model, x = hybrid(), images()
    activation = model[:1](x).detach().requires_grad_()
    (grad,) = torch.autograd.grad(model[1:](activation)[:, 1].sum(), activation)
    got = QuantumLayerGradCam(model, model[0]).importance(x, 1)
    assert got.shape == (4, 6)
    assert close(got, grad.mean((2, 3)))


def path_weights(tail, activation, target, m):
    """The importance averaged over the path, one example and one point at a time."""
    weights = []
    for own in activation:
        total = torch.zeros(len(own))
        for j in range(m):
            point = ((j + 0.5) / m * own).requires_grad_()
            (grad,) = torch.autograd.grad(tail(point[None])[0, target], point)
            total += grad.mean((1, 2))
        weights.append(total / m)
    return torch.stack(weights)


@pytest.mark.parametrize("m", [1, 5])
def test_path_steps_average_the_importance_over_the_path(m):
    model, x = hybrid(), 20 * images()  # large angles, so that the score is far from linear
    activation = model[:2](x).detach()
    weights = path_weights(model[2:], activation, 1, m)
    grad_cam = QuantumLayerGradCam(model, model[1], path_steps=m)
    expected = torch.einsum("bk,bkij->bij", weights, activation)[:, None]
    assert close(grad_cam.importance(x, 1), weights)
    maps = grad_cam.attribute(x, 1)
    assert close(maps, expected)
    assert not close(maps, QuantumLayerGradCam(model, model[1]).attribute(x, 1), 0.05)
    assert close(grad_cam.attribute(x, 1, relu_attributions=True), expected.relu())
    for share in (grad_cam.attribute_qubits, grad_cam.attribute_observables):
        assert close(share(x, 1).sum(1, keepdim=True), expected)
    assert close(grad_cam.attribute_classes(x, [0, 1])[:, 1:], expected)
    each = grad_cam.attribute(x, 1, attr_dim_summation=False)
    assert close(each, weights[..., None, None] * activation)


def test_path_steps_of_a_skip_connection():
    model, x = Skip(), images()
    grad_cam = QuantumLayerGradCam(model, model.conv, path_steps=3)
    shares, direct = grad_cam.attribute_qubits(x, 1, return_direct=True)
    assert close(shares.sum(1, keepdim=True) + direct, grad_cam.attribute(x, 1))


def test_path_steps_change_nothing_where_the_score_is_linear():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 3))
    expected = LayerGradCam(model, model[0]).attribute(images(), 2)
    got = QuantumLayerGradCam(model, model[0], path_steps=4).attribute(images(), 2)
    assert close(got, expected.detach())


def test_path_steps_keep_the_graph_when_asked():
    model, x = hybrid(gradient="backprop").double(), 20 * images().double()
    grad_cam = QuantumLayerGradCam(model, model[0], path_steps=2)
    maps = grad_cam.attribute(x, 1, grad_kwargs={"create_graph": True})
    assert close(maps.detach(), grad_cam.attribute(x, 1))
    (by_bias,) = torch.autograd.grad(maps.square().sum(), model[0].bias)
    sums = []
    for step in (1e-5, -2e-5):
        model[0].bias.data[2] += step
        sums.append(float(grad_cam.attribute(x, 1).square().sum()))
    assert (sums[0] - sums[1]) / 2e-5 == pytest.approx(float(by_bias[2]), rel=1e-4)


class Twice(nn.Module):
    """A shared layer called twice; the second call sees other features."""

    def __init__(self, grow=False):
        super().__init__()
        torch.manual_seed(8)
        self.conv, self.head, self.grow = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 2), grow

    def forward(self, x):
        first = torch.relu(self.conv(x))
        second = self.conv(first[..., 1:] if self.grow else first)
        return self.head(second.mean((2, 3)))


def test_a_layer_called_twice_gives_the_sum_over_its_calls():
    model, x = Twice(), images(channels=2)
    first = model.conv(x).detach().requires_grad_()
    second = model.conv(torch.relu(first))
    score = model.head(second.mean((2, 3)))[:, 0].sum()
    grads = torch.autograd.grad(score, [first, second])
    expected = sum(
        (grad.mean((2, 3), keepdim=True) * act).sum(1, keepdim=True)
        for grad, act in zip(grads, [first, second], strict=True)
    )
    grad_cam = QuantumLayerGradCam(model, model.conv)
    got = grad_cam.attribute(x, 0)
    last = (grads[1].mean((2, 3), keepdim=True) * second).sum(1, keepdim=True)
    assert close(got, expected.detach())
    assert not close(got, last.detach())


def test_nothing_before_the_layer_is_recorded():
    model, x = hybrid(), images().requires_grad_()
    recorded = {}

    def note(name):
        def hook(module, args, out):
            recorded[name] = out.requires_grad

        return hook

    handles = [model[k].register_forward_hook(note(k)) for k in range(7)]
    maps = QuantumLayerGradCam(model, model[4]).attribute(x, 1)
    assert [recorded[k] for k in range(7)] == [False] * 5 + [True] * 2
    assert not maps.requires_grad
    for handle in handles:
        handle.remove()


def test_weights_get_no_gradient_on_the_way(monkeypatch):
    """Nobody asks for it, and it costs as much as the map."""
    model, x = hybrid(), images()
    asked = []
    original = Evaluation.pullback
    monkeypatch.setattr(
        Evaluation,
        "pullback",
        lambda self, cotangent: asked.append(self._needs) or original(self, cotangent),
    )
    QuantumLayerGradCam(model, model[0]).attribute(x, 1)
    model(x).sum().backward()
    assert asked == [(True, False), (True, True)]


def test_weights_that_depend_on_the_layer_stay_in_the_graph():
    class Computed(nn.Module):
        """The circuit's weights are an output of the classical part."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.angles, self.weights = (
                nn.Conv2d(1, 3, 3),
                nn.Linear(3, 2),
                nn.Linear(3, 6),
            )
            self.vqc = VQCLayer(2, 1)

        def forward(self, x):
            (row,) = self.conv(x).mean((2, 3))
            weights = {"ansatz.weights": self.weights(row).reshape(1, 2, 3)}
            return torch.func.functional_call(self.vqc, weights, self.angles(row)[None])

    model, x = Computed(), images(1)
    expected = LayerGradCam(model, model.conv).attribute(x, 1)
    assert close(QuantumLayerGradCam(model, model.conv).attribute(x, 1), expected.detach())


def test_create_graph_keeps_the_whole_graph():
    model, x = hybrid(), images()
    kwargs = {"grad_kwargs": {"create_graph": True}}
    ours = QuantumLayerGradCam(model, model[0]).attribute(x, 1, **kwargs)
    captums = LayerGradCam(model, model[0]).attribute(x, 1, **kwargs)
    weight = model[0].weight
    got, expected = (torch.autograd.grad(m.square().sum(), weight)[0] for m in (ours, captums))
    assert close(got, expected, 1e-4)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_grad_mode_outside_does_not_matter_and_is_restored(context):
    model, x = hybrid(), images()
    expected = QuantumLayerGradCam(model, model[0]).attribute(x, 1)
    with context():
        before = torch.is_grad_enabled()
        assert torch.equal(QuantumLayerGradCam(model, model[0]).attribute(x, 1), expected)
        assert torch.is_grad_enabled() == before


def snapshot(model, x):
    return (
        [m.training for m in model.modules()],
        [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [sorted(m.__dict__) for m in model.modules()],
        x.requires_grad,
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    )


METHODS = {
    "attribute": lambda g, x: g.attribute(x, 1),
    "importance": lambda g, x: g.importance(x, 1),
    "attribute_qubits": lambda g, x: g.attribute_qubits(x, 1),
    "attribute_observables": lambda g, x: g.attribute_observables(x, 1),
    "attribute_classes": lambda g, x: g.attribute_classes(x, [0, 1]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fails", [None, "forward", "target", "rule"])
def test_the_model_comes_back_as_it_was(method, fails):
    model, x = hybrid().train(), images()
    model[1].eval()
    user_hook = model[0].register_forward_hook(lambda *_: None)
    gradient = None
    if fails == "forward":
        model[6] = nn.Linear(5, 3)
    elif fails == "target":
        model[6] = nn.Linear(4, 1)
    elif fails == "rule":
        model[5] = VQCLayer(4, encoder="amplitude", ansatz="rx_ry_rz_ring")
        model[4] = nn.Linear(6, 16)
        gradient = "parameter-shift"
    weights = [p.clone() for p in model.parameters()]
    before = snapshot(model, x)
    grad_cam = QuantumLayerGradCam(model, model[0], gradient=gradient)
    if fails is None:
        METHODS[method](grad_cam, x)
    else:
        with pytest.raises((RuntimeError, ValueError)):
            METHODS[method](grad_cam, x)
    assert snapshot(model, x) == before
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    user_hook.remove()


def test_two_threads_explaining_one_model_get_the_results_of_one():
    model = hybrid()
    batches = [images(seed=k) for k in range(2)]
    grad_cams = [
        QuantumLayerGradCam(model, model[0]),
        QuantumLayerGradCam(model, model[0], gradient="parameter-shift"),
    ]
    expected = [g.attribute_qubits(x, 1) for g, x in zip(grad_cams, batches, strict=True)]
    maps = [g.attribute(x, 1) for g, x in zip(grad_cams, batches, strict=True)]
    got = [[], []]

    def work(k):
        for _ in range(6):
            got[k].append(
                (
                    grad_cams[k].attribute_qubits(batches[k], 1),
                    grad_cams[k].attribute(batches[k], 1),
                )
            )

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(2):
        assert len(got[k]) == 6
        for shares, signed in got[k]:
            assert torch.equal(shares, expected[k])
            assert torch.equal(signed, maps[k])


def test_inside_noise_tunnel_with_interpolation_and_every_view():
    model, x = hybrid(), images()
    torch.manual_seed(0)
    ours = NoiseTunnel(QuantumLayerGradCam(model, model[0])).attribute(
        x, target=1, nt_samples=3, stdevs=0.1
    )
    torch.manual_seed(0)
    captums = NoiseTunnel(LayerGradCam(model, model[0])).attribute(
        x, target=1, nt_samples=3, stdevs=0.1
    )
    assert close(ours, captums.detach())
    large = LayerAttribution.interpolate(ours, (8, 8))
    attribution = large[0].permute(1, 2, 0).numpy()
    original = x[0].permute(1, 2, 0).expand(-1, -1, 3).numpy()
    assert attribution.min() < 0 < attribution.max()
    from matplotlib.figure import Figure

    for method in viz.ImageVisualizationMethod.__members__:
        for sign in viz.VisualizeSign.__members__:
            if method in ("masked_image", "alpha_scaling") and sign == "all":
                continue  # Captum refuses these
            figure = Figure()
            viz.visualize_image_attr(
                attribution,
                original,
                method,
                sign,
                plt_fig_axis=(figure, figure.add_subplot()),
                use_pyplot=False,
            )
            assert figure.axes[0].images


def test_forward_func_may_be_any_function():
    model, x = hybrid(), images()
    expected = QuantumLayerGradCam(model, model[0]).attribute(x, 1)
    for function in (lambda x: model(x), model.forward):
        assert torch.equal(QuantumLayerGradCam(function, model[0]).attribute(x, 1), expected)
    scalar = QuantumLayerGradCam(lambda x: model(x)[:, 1], model[0])
    assert torch.equal(scalar.attribute(x), expected)
    shares = QuantumLayerGradCam(lambda x: model(x), model[0], quantum_layer=model[5])
    assert close(shares.attribute_qubits(x, 1).sum(1, keepdim=True), expected, 3e-5)


def test_outputs_of_several_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (2, 3))
    )
    x = images()
    for target in [(1, 2), [(0, 0), (1, 1), (0, 2), (1, 0)]]:
        expected = LayerGradCam(model, model[0]).attribute(x, target).detach()
        assert close(QuantumLayerGradCam(model, model[0]).attribute(x, target), expected)


class Breaks(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "detach":
            return x.detach() * 2
        if self.how == "no_grad":
            with torch.no_grad():
                return x * 2
        if self.how == "integer":
            return (x * 10).long()
        if self.how == "numpy":
            return torch.from_numpy(x.detach().numpy() * 2)
        if self.how == "bare numpy":
            return torch.from_numpy(x.numpy() * 2)
        raise AssertionError(self.how)


class Nested(nn.Module):
    """The break sits two modules deep, beside a module that is not at fault."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.block = nn.Sequential(nn.Tanh(), nn.Sequential(Breaks(how), nn.Identity()))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.block(self.conv(x).mean((2, 3))).float())


@pytest.mark.parametrize("how", ["detach", "no_grad", "integer", "numpy", "bare numpy"])
def test_preflight_names_the_module_that_breaks_the_path(how):
    model, x = Nested(how), images()
    before = snapshot(model, x)
    with pytest.raises(GradientPathError, match=r"breaks in module 'block\.1\.0' \(Breaks\)"):
        QuantumLayerGradCam(model, model.conv).attribute(x, 1)
    assert snapshot(model, x) == before
    grad_cam = QuantumLayerGradCam(
        model, model.conv, quantum_layer=model.block[1][0], gradient="finite-difference"
    )
    if how == "integer":
        return
    assert grad_cam.attribute(x, 1).abs().max() > 0


def test_preflight_names_the_model_itself():
    class Detaches(Nested):
        def forward(self, x):
            return self.head(self.block[0](self.conv(x).mean((2, 3))).detach())

    model = Detaches("detach")
    with pytest.raises(GradientPathError, match="breaks in module Detaches"):
        QuantumLayerGradCam(model, model.conv).attribute(images(), 1)


def test_preflight_when_the_function_breaks_the_path():
    model = hybrid()
    grad_cam = QuantumLayerGradCam(lambda x: model(x).detach(), model[0])
    with pytest.raises(GradientPathError, match="no module behind it breaks the path"):
        grad_cam.attribute(images(), 1)


def test_train_mode_consumes_randomness_as_the_model_does_and_no_more():
    model, x = hybrid().train(), images()
    model[1] = nn.Dropout(0.5)
    torch.manual_seed(0)
    expected = LayerGradCam(model, model[0]).attribute(x, 1).detach()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    assert close(QuantumLayerGradCam(model, model[0]).attribute(x, 1), expected)
    assert torch.equal(torch.get_rng_state(), after)


def grad_cam(**kwargs):
    model = hybrid()
    return QuantumLayerGradCam(model, model[0], **kwargs)


def two_quantum_layers():
    model = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), VQCLayer(2, 1), VQCLayer(2, 1))
    return QuantumLayerGradCam(model, model[0])


def integer_layer():
    class ToInteger(nn.Module):
        def forward(self, x):
            return x.long()

    layer = ToInteger()
    model = nn.Sequential(nn.Flatten(), layer)
    return QuantumLayerGradCam(model, layer)


def never_called():
    model = hybrid()
    return QuantumLayerGradCam(lambda x: model[:3](x).flatten(1), model[6])


def on_meta():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).to("meta")
    return QuantumLayerGradCam(model, model[0])


def amplitude():
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), VQCLayer(2, encoder="amplitude"))
    return QuantumLayerGradCam(model, model[0])


def infinite_weight():
    model = hybrid()
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    return QuantumLayerGradCam(model, model[0])


def foreign():
    model = hybrid()
    model[5] = CosineNumPy()
    return QuantumLayerGradCam(model, model[0], quantum_layer=model[5], gradient="parameter-shift")


def tuple_output():
    class Tuple(nn.Module):
        def forward(self, x):
            return (x, x)

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Tuple())
    return QuantumLayerGradCam(model, model[0])


BAD = {
    "forward_func": (
        lambda: QuantumLayerGradCam("model", nn.ReLU()),
        TypeError,
        "forward_func must be a module or a function; got 'model'",
    ),
    "layer of wrong type": (
        lambda: QuantumLayerGradCam(hybrid(), "0"),
        TypeError,
        "layer must be a module; got '0'",
    ),
    "layer not in the model": (
        lambda: QuantumLayerGradCam(hybrid(), nn.Conv2d(1, 6, 3)),
        ValueError,
        "layer must be one of the modules of Sequential; got a Conv2d module",
    ),
    "layer never called": (
        lambda: never_called().attribute(images()[:, :, :3, :3]),
        ValueError,
        "layer must be called by forward_func; it never was",
    ),
    "layer of integers": (
        lambda: integer_layer().attribute(images()),
        TypeError,
        "output of layer ToInteger must be a real floating-point tensor",
    ),
    "quantum layer not in the model": (
        lambda: grad_cam(quantum_layer=VQCLayer(4)),
        ValueError,
        "quantum_layer must be one of the modules of Sequential",
    ),
    "quantum layer of wrong type": (
        lambda: grad_cam(quantum_layer="vqc"),
        TypeError,
        "quantum_layer must be a module or a sequence of modules; got 'v'",
    ),
    "quantum layer a number": (
        lambda: grad_cam(quantum_layer=5),
        TypeError,
        "quantum_layer must be a module or a sequence of modules; got 5",
    ),
    "no quantum layers": (
        lambda: grad_cam(quantum_layer=[]),
        TypeError,
        "quantum_layer must be a module or a sequence of modules",
    ),
    "unknown gradient": (
        lambda: grad_cam(gradient="parametershift"),
        ValueError,
        "gradient must be one of .*did you mean 'parameter-shift'",
    ),
    "gradient without a quantum layer": (
        lambda: QuantumLayerGradCam(m := nn.Sequential(nn.ReLU()), m[0], gradient="backprop"),
        ValueError,
        "quantum_layer must be given for gradient='backprop'",
    ),
    "target too large": (
        lambda: grad_cam().attribute(images(), 3),
        ValueError,
        r"target must be an index in \[0, 2\] for an output of shape \(4, 3\); got 3",
    ),
    "target too small": (
        lambda: grad_cam().attribute(images(), -4),
        ValueError,
        "target must be an index in .*got -4",
    ),
    "target missing": (
        lambda: grad_cam().attribute(images()),
        ValueError,
        r"target must be given for an output of shape \(4, 3\); got None",
    ),
    "target a float": (
        lambda: grad_cam().attribute(images(), 1.0),
        TypeError,
        r"target must be an integer, a tuple, a tensor, a list or a function of the output; "
        r"got 1.0 \(float\)",
    ),
    "target a float tensor": (
        lambda: grad_cam().attribute(images(), torch.tensor([1.0] * 4)),
        TypeError,
        "target must be integers; got a torch.float32 tensor",
    ),
    "targets too few": (
        lambda: grad_cam().attribute(images(), [0, 1]),
        ValueError,
        "target must be a list of 4 indices, one for each example",
    ),
    "target tensor too short": (
        lambda: grad_cam().attribute(images(), torch.tensor([0, 1])),
        ValueError,
        "target must be one integer, or 4, one for each example",
    ),
    "one target of many too large": (
        lambda: grad_cam().attribute(images(), [0, 1, 7, 0]),
        ValueError,
        "target must be an index in .*got 7",
    ),
    "target of too many indices": (
        lambda: grad_cam().attribute(images(), (1, 1)),
        ValueError,
        "target must be 1 indices for an output",
    ),
    "targets of attribute_classes": (
        lambda: grad_cam().attribute_classes(images(), 3),
        TypeError,
        "targets must be a sequence of targets; got 3",
    ),
    "no targets": (
        lambda: grad_cam().attribute_classes(images(), []),
        ValueError,
        "targets must be a sequence of at least one target",
    ),
    "one of the classes too large": (
        lambda: grad_cam().attribute_classes(images(), [0, 5]),
        ValueError,
        "target must be an index in .*got 5",
    ),
    "empty batch": (
        lambda: grad_cam().attribute(images(0), 1),
        ValueError,
        r"inputs must be at least one example along dimension 0; got a torch.float32 tensor of "
        r"shape \(0, 1, 8, 8\)",
    ),
    "inputs a list": (
        lambda: grad_cam().attribute([images()], 1),
        TypeError,
        "inputs must be a tensor or a tuple of tensors",
    ),
    "inputs of numbers": (
        lambda: grad_cam().attribute((images(), 3.0), 1),
        TypeError,
        "inputs must be a tensor or a tuple of tensors; got 3.0",
    ),
    "inputs on another device": (
        lambda: on_meta().attribute(images(), 1),
        ValueError,
        "inputs must be on the model's device, meta; got .* on cpu",
    ),
    "inference mode": (
        lambda: torch.inference_mode()(grad_cam().attribute)(images(), 1),
        RuntimeError,
        "attribution needs autograd, which torch.inference_mode",
    ),
    "output a tuple": (
        lambda: tuple_output().attribute(images(), 1),
        TypeError,
        "forward_func's output must be a tensor",
    ),
    "NaN in the image": (
        lambda: grad_cam().attribute(images() * float("nan"), 1),
        ValueError,
        "inputs must be finite everywhere; got 16 of 16 values NaN or infinite",
    ),
    "infinite angles": (
        lambda: infinite_weight().attribute(images(), 1),
        ValueError,
        "inputs must be finite everywhere; got 4 of 16 values",
    ),
    "calls of different shapes": (
        lambda: QuantumLayerGradCam(m := Twice(grow=True), m.conv).attribute(images(channels=2), 0),
        ValueError,
        r"layer must be one whose calls all give tensors of the same shape",
    ),
    "unused layer": (
        lambda: QuantumLayerGradCam(m := Unused(), m.spare).attribute(images(), 1),
        GradientPathError,
        "breaks in module Unused: .* or because it does not use the layer's output",
    ),
    "shares of two quantum layers": (
        lambda: two_quantum_layers().attribute_qubits(images(), 1),
        ValueError,
        "quantum_layer must be given, or the only one of forward_func; got 2 quantum layers",
    ),
    "observables of two quantum layers": (
        lambda: two_quantum_layers().attribute_observables(images(), 1),
        ValueError,
        "quantum_layer must be given, or the only one",
    ),
    "shares without a quantum layer": (
        lambda: QuantumLayerGradCam(m := TwoInputs(), m.conv).attribute_qubits(images(), 1),
        ValueError,
        "quantum_layer must be given.*got 0 quantum layers",
    ),
    "shares of amplitudes": (
        lambda: amplitude().attribute_qubits(images(), 1),
        ValueError,
        "amplitude encoding has no qubit shares",
    ),
    "shares of a layer behind the quantum layer": (
        lambda: QuantumLayerGradCam(m := hybrid(), m[6]).attribute_qubits(images(), 1),
        ValueError,
        "quantum_layer must be behind the layer",
    ),
    "shares of a layer of two tensors": (
        lambda: QuantumLayerGradCam(m := TwoTensors(), m.pair).importance(images(), 1),
        ValueError,
        "layer must be one of a single tensor",
    ),
    "no path steps": (
        lambda: grad_cam(path_steps=0),
        ValueError,
        "path_steps must be an integer >= 1",
    ),
    "half a path step": (
        lambda: grad_cam(path_steps=1.5),
        TypeError,
        "path_steps must be an integer",
    ),
    "path of a layer called twice": (
        lambda: QuantumLayerGradCam(m := Twice(), m.conv, path_steps=2).attribute(
            images(channels=2), 0
        ),
        ValueError,
        "path_steps must be None for a layer that is called several times; got 2",
    ),
    "too few wires": (
        lambda: foreign().attribute_qubits(images(), 1, input_wires=[0, 1]),
        ValueError,
        "input_wires must be 4 qubits, one for each input",
    ),
    "negative wire": (
        lambda: foreign().attribute_qubits(images(), 1, input_wires=[0, 1, 2, -1]),
        ValueError,
        "input_wires must be an integer >= 0",
    ),
    "wires of a circuit": (
        lambda: grad_cam().attribute_qubits(images(), 1, input_wires=[0, 1, 2, 3]),
        ValueError,
        "input_wires must be None for a quantum layer that shows its circuit",
    ),
    "rule that does not apply": (
        lambda: QuantumLayerGradCam(
            m := hybrid(), m[0], quantum_layer=m[4], gradient="parameter-shift"
        ).attribute(images(), 1),
        GradientRuleError,
        "rule 'parameter-shift' does not apply to a Linear module",
    ),
    "commutator of a foreign layer": (
        lambda: QuantumLayerGradCam(
            m := hybrid(), m[0], quantum_layer=m[4], gradient="commutator"
        ).attribute(images(), 1),
        GradientRuleError,
        "needs the gates of a circuit",
    ),
}


def test_output_without_dimensions():
    model = hybrid()
    with pytest.raises(ValueError, match="forward_func's output must be a tensor with one row"):
        QuantumLayerGradCam(lambda x: model(x).sum(), model[0]).attribute(images())


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()
