"""Shares of qubits and observables: shapes behind patches, and what stays in memory."""

import gc
import weakref

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, quantum_gradient
from captum_quantum.gradients import RULES

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Patches(nn.Module):
    """A quantum layer called on (batch, patches, n_qubits)."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(2)
        self.q, self.head = VQCLayer(3, observables=["Z0", "X1"]), nn.Linear(2, 2)

    def forward(self, images):
        patches = self.pool(self.conv(images)).flatten(2).mT  # (batch, 4, 3)
        return self.head(self.q(patches).mean(1))


def test_shares_of_a_layer_on_patches():
    torch.manual_seed(0)
    model = Patches()
    grad_cam = QuantumLayerGradCam(model, model.conv)
    whole = grad_cam.attribute(IMAGES, 1)
    assert whole.abs().max() > 1e-3
    for shares, n in ((grad_cam.attribute_qubits, 3), (grad_cam.attribute_observables, 2)):
        maps, direct = shares(IMAGES, 1, return_direct=True)
        assert maps.shape == (2, n, 6, 6)
        assert torch.allclose(maps.sum(1, keepdim=True) + direct, whole, atol=1e-6)
    # The share of an observable is the map of the head without the other one.
    with torch.no_grad():
        model.head.weight[:, 0] = 0
    expected = grad_cam.attribute(IMAGES, 1)
    assert torch.allclose(maps[:, 1:], expected, atol=1e-6)


def saliency(model):
    with quantum_gradient(model[3], "parameter-shift"):
        return Saliency(model).attribute(IMAGES.clone().requires_grad_(), 1)


CALLS = {
    "attribute": lambda m: QuantumLayerGradCam(m, m[0]).attribute(IMAGES, 1),
    "qubits": lambda m: QuantumLayerGradCam(m, m[0]).attribute_qubits(IMAGES, 1),
    "observables": lambda m: QuantumLayerGradCam(m, m[0]).attribute_observables(IMAGES, 1),
    "quantum_gradient": saliency,
    **{
        rule: lambda m, rule=rule: QuantumLayerGradCam(m, m[0], gradient=rule).attribute(IMAGES, 1)
        for rule in RULES
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_no_graph_outlives_a_call(name):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4))
    alive = []
    model[1].register_forward_hook(lambda module, args, out: alive.append(weakref.ref(out)))
    CALLS[name](model)
    gc.collect()
    assert alive
    assert [reference() for reference in alive] == [None] * len(alive)
