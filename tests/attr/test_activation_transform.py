"""Maps of transformers: activations of another layout, seen as feature maps."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from captum_quantum import QuantumLayerGradCam, VQCLayer, tokens_to_grid

TO_GRID = tokens_to_grid()
IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Exposed(nn.Module):
    """Shows tokens as an image to the module inside, and hands them on as tokens."""

    def __init__(self):
        super().__init__()
        self.grid = nn.Identity()

    def forward(self, tokens):
        first, patches = tokens[:, :1], tokens[:, 1:]
        grid = self.grid(patches.mT.unflatten(2, (4, 4)))
        return torch.cat([first, grid.flatten(2).mT], dim=1)


class VisionTransformer(nn.Module):
    """A class token and a token for each pixel, two blocks, a quantum layer, a head."""

    def __init__(self, reads="class"):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.reads = nn.Conv2d(1, 6, 1), reads
        self.start, self.position = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(17, 6))
        self.first, self.last = (
            nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.exposed = Exposed()
        self.angles, self.vqc, self.head = nn.Linear(6, 3), VQCLayer(3), nn.Linear(3, 3)

    def forward(self, images):
        patches = self.embed(images).flatten(2).mT
        start = self.start.expand(len(images), 1, -1)
        tokens = self.exposed(self.first(torch.cat([start, patches], dim=1) + self.position))
        tokens = self.last(tokens)
        read = tokens[:, 0] if self.reads == "class" else tokens.mean(1)
        return self.head(self.vqc(self.angles(read)))


def model_and_pair(reads="class", **kwargs):
    """A model, our explainer of its tokens, and Captum's of the same entries as an image."""
    model = VisionTransformer(reads).eval()
    ours = QuantumLayerGradCam(model, model.exposed, activation_transform=TO_GRID, **kwargs)
    return model, ours, LayerGradCam(model, model.exposed.grid)


def assert_same(found, expected):
    expected = expected.detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)
    assert scale > 1e-4


@pytest.mark.parametrize("reads", ["class", "mean"])
@pytest.mark.parametrize("rule", [None, "parameter-shift"])
def test_equals_grad_cam_of_the_exposed_image(rule, reads):
    _, ours, captums = model_and_pair(reads, gradient=rule)
    for options in ({}, {"attr_dim_summation": False}, {"relu_attributions": True}):
        expected = captums.attribute(IMAGES, 1, **options)
        assert_same(ours.attribute(IMAGES, 1, **options), expected)
    assert ours.attribute(IMAGES, 1).shape == (3, 1, 4, 4)


def test_the_layers_input_is_transformed_alike():
    model, _, captums = model_and_pair()
    cam = QuantumLayerGradCam(model, model.last, activation_transform=TO_GRID)
    found = cam.attribute(IMAGES, 1, attribute_to_layer_input=True)
    assert_same(found, captums.attribute(IMAGES, 1))


def test_every_view_of_the_map():
    model, ours, captums = model_and_pair()
    plain = QuantumLayerGradCam(model, model.exposed.grid)
    maps = ours.attribute_classes(IMAGES, [0, 2, lambda output: output[:, 0] - output[:, 2]])
    columns = [captums.attribute(IMAGES, c) for c in (0, 2)]
    assert_same(maps, torch.cat([*columns, columns[0] - columns[1]], dim=1))
    importance = ours.importance(IMAGES, 1)
    assert importance.shape == (3, 6)
    assert_same(importance, plain.importance(IMAGES, 1))
    for name in ("attribute_qubits", "attribute_observables"):
        shares, direct = getattr(ours, name)(IMAGES, 1, return_direct=True)
        expected = getattr(plain, name)(IMAGES, 1)
        assert shares.shape == (3, 3, 4, 4)
        assert_same(shares, expected)
        assert_same(shares.sum(1, keepdim=True) + direct, captums.attribute(IMAGES, 1))


def test_path_steps():
    """With the class token scaled too, which the exposed image leaves as it is: by the formula."""
    model, _, _ = model_and_pair()
    ours = QuantumLayerGradCam(
        model, model.exposed, activation_transform=TO_GRID, path_steps=3
    ).attribute(IMAGES, 1)
    with torch.no_grad():
        tokens = model.first(
            torch.cat([model.start.expand(3, 1, -1), model.embed(IMAGES).flatten(2).mT], 1)
            + model.position
        )
    weights = torch.zeros(3, 6)
    for j in range(3):
        scaled = ((j + 0.5) / 3 * tokens).requires_grad_()
        score = model.head(model.vqc(model.angles(model.last(scaled)[:, 0])))[:, 1].sum()
        weights += torch.autograd.grad(score, scaled)[0][:, 1:].mean(1) / 3
    assert_same(ours, torch.einsum("bk,bkij->bij", weights, TO_GRID(tokens))[:, None])


def test_second_derivatives_pass_the_transform():
    model, ours, captums = model_and_pair()

    def second(cam):
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            maps = cam.attribute(IMAGES, 1, grad_kwargs={"create_graph": True})
            return torch.autograd.grad((1000 * maps).square().sum(), model.embed.weight)[0]

    assert_same(second(ours), second(captums))


def test_tuples_of_tensors_and_layers_called_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.mix, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, tokens):
            for _ in range(2):
                tokens, _ = self.mix(tokens, tokens, tokens, need_weights=False)
            return self.head(tokens.mean(1))

    model, tokens = Attention().eval(), torch.randn(2, 9, 4)
    bare = tokens_to_grid(class_tokens=0)
    found = QuantumLayerGradCam(model, model.mix, activation_transform=bare).attribute(tokens, 1)
    calls = []
    handle = model.mix.register_forward_hook(lambda m, a, out: calls.append(out[0]))
    score = model(tokens)[:, 1].sum()
    handle.remove()
    expected = sum(
        torch.einsum("bk,bnk->bn", grad.mean(1), call).reshape(2, 1, 3, 3)
        for grad, call in zip(torch.autograd.grad(score, calls), calls, strict=True)
    )
    assert_same(found, expected)


def test_maps_of_pytorch_grad_cam():
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    model, ours, _ = model_and_pair()
    theirs = grad_cam.GradCAM(model, [model.exposed], reshape_transform=TO_GRID)
    found = ours.attribute(IMAGES, 1, relu_attributions=True)[:, 0]
    for _ in range(2):  # it scales the map of each layer, and their mean again
        found = found - found.amin((1, 2), keepdim=True)
        found = found / (1e-7 + found.amax((1, 2), keepdim=True))
    expected = theirs(IMAGES, [lambda output: output[1]] * 3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert expected.std() > 0.1


def test_torchvisions_layouts():
    vision = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    vit = vision.VisionTransformer(16, 4, **sizes).eval()
    vit.heads = nn.Sequential(nn.Linear(8, 3), VQCLayer(3))
    swin = vision.SwinTransformer([2, 2], 4, [1, 1], [2, 2], [2, 2], num_classes=3).eval()
    cases = [
        (vit, vit.encoder.layers[1].ln_1, TO_GRID, (4, 4)),
        (swin, swin.features, lambda t: t.permute(0, 3, 1, 2), (4, 4)),
    ]
    images = torch.rand(2, 3, 16, 16)
    for model, layer, transform, size in cases:
        cam = QuantumLayerGradCam(model, layer, activation_transform=transform)
        maps = cam.attribute(images, 1)
        kept = []
        handle = layer.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        score = model(images)[:, 1].sum()
        handle.remove()
        grad = transform(torch.autograd.grad(score, kept[0])[0])
        assert maps.shape == (2, 1, *size)
        expected = (grad.mean((2, 3), keepdim=True) * transform(kept[0])).sum(1, keepdim=True)
        assert_same(maps, expected)


@pytest.mark.parametrize("layout", ["tokens first", "in place", "three dimensions"])
def test_other_layouts(layout):
    torch.manual_seed(0)
    tokens, weight = torch.randn(2, 8, 3), torch.randn(8, 3)
    to_volume = tokens_to_grid(0, (2, 4))
    if layout == "tokens first":
        layer = type("First", (nn.Module,), {"forward": lambda self, t: t.transpose(0, 1)})()

        def transform(t):
            return t.permute(1, 2, 0)
    elif layout == "in place":
        layer = nn.Identity()

        def transform(t):
            return t.transpose_(1, 2)
    else:
        layer = nn.Identity()

        def transform(t):
            return to_volume(t).unflatten(3, (2, 2))

    def function(t):
        seen = layer(t)
        seen = seen.transpose(0, 1) if layout == "tokens first" else seen
        return (seen * weight).sum((1, 2))

    maps = QuantumLayerGradCam(function, layer, activation_transform=transform).attribute(tokens)
    expected = torch.einsum("k,bnk->bn", weight.mean(0), tokens)
    assert_same(maps.flatten(1), expected)


def attribute(transform, layer="exposed"):
    model = VisionTransformer().eval()
    cam = QuantumLayerGradCam(model, getattr(model, layer), activation_transform=transform)
    return cam.attribute(IMAGES, 1)


COMPUTES = "activation_transform must be a function that selects and reorders entries.*changes"


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (3, TypeError, r"activation_transform must be a function; got 3 \(int\)"),
        (lambda t: [t], TypeError, "activation_transform's result must be a real floating-point"),
        (lambda t: t.argmax(1), TypeError, "activation_transform's result must be a real float"),
        (lambda t: t[..., 0], ValueError, r"at least 3 dimensions, none empty; got .*\(3, 17\)"),
        (lambda t: t[:, :0], ValueError, r"none empty; got a .* tensor of shape \(3, 0, 6\)"),
        (lambda t: t[:2], ValueError, "result must be 3 rows, one for each example; got 2 rows"),
        (lambda t: t.transpose(0, 1), ValueError, "result must be 3 rows.*got 17 rows"),
        (lambda t: t.flip(0), ValueError, "must be one row for each example, of its own entries"),
        (lambda t: t.relu(), ValueError, COMPUTES),
        (lambda t: 2 * t, ValueError, COMPUTES),
        (lambda t: t * t, ValueError, COMPUTES),
        (lambda t: t - t.mean(), ValueError, COMPUTES),
        (lambda t: t.softmax(2), ValueError, COMPUTES),
        (lambda t: nn.functional.pad(t, (0, 1)), ValueError, COMPUTES),
        (lambda t: t[:, 1:] if t.dtype == torch.float64 else t, ValueError, COMPUTES),
        (tokens_to_grid(0), ValueError, "be 0 class tokens and a square number of patches; got 17"),
        (tokens_to_grid(17), ValueError, "be 17 class tokens and a square number.*; got 17 tokens"),
        (tokens_to_grid(grid=(2, 4)), ValueError, "be 1 class tokens and 2 x 4 patches; got 17 to"),
    ],
)
def test_transforms_that_do_something_else(transform, error, message):
    with pytest.raises(error, match=message):
        attribute(transform)


def test_means_of_equal_values_are_computed_too():
    layer = nn.Identity()
    cam = QuantumLayerGradCam(
        lambda t: layer(t).sum((1, 2)), layer, activation_transform=nn.AvgPool1d(2)
    )
    with pytest.raises(ValueError, match=COMPUTES):
        cam.attribute(torch.ones(2, 4, 6))


def test_tokens_of_an_image():
    with pytest.raises(ValueError, match=r"activations must be of shape \(batch, tokens, dim\)"):
        attribute(TO_GRID, "embed")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "class_tokens must be an integer >= 0; got -1"),
        ((True,), TypeError, "class_tokens must be an integer >= 0; got True"),
        ((1, 4), TypeError, "grid must be two integers, height and width in patches; got 4"),
        ((1, (4, 4, 1)), ValueError, "grid must be two integers"),
        ((1, (4, 0)), ValueError, "grid must be an integer >= 1; got 0"),
    ],
)
def test_arguments_of_tokens_to_grid(arguments, error, message):
    with pytest.raises(error, match=message):
        tokens_to_grid(*arguments)
