"""Second derivatives: right where a rule can be differentiated, an error on every other route."""

import pytest
import torch
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, quantum_gradient
from captum_quantum.gradients import GradientRuleError

FIRST_ONLY = ("parameter-shift", "finite-difference", "commutator")
REFUSED = "first derivatives only; for higher ones use VQCLayer with gradient='backprop'"


def layers(rule, **options):
    """A layer of a rule, and the same one of ``backprop``."""
    made = []
    for gradient in (rule, "backprop"):
        torch.manual_seed(0)
        made.append(VQCLayer(2, n_layers=1, gradient=gradient, **options).double())
    return made


@pytest.fixture
def x():
    return torch.tensor([[0.3, 0.8], [-1.1, 0.5]], dtype=torch.float64, requires_grad=True)


def first(layer, x, by="x", head=torch.square):
    """The gradient of a score by inputs or weights, itself recorded."""
    wanted = x if by == "x" else next(layer.parameters())
    return torch.autograd.grad(head(layer(torch.tanh(x))).sum(), wanted, create_graph=True)[0]


ROUTES = {
    "inputs twice": lambda layer, x: torch.autograd.grad(first(layer, x).sum(), x)[0],
    "inputs, then weights": lambda layer, x: torch.autograd.grad(
        first(layer, x).sum(), list(layer.parameters())
    )[0],
    "weights, then inputs": lambda layer, x: torch.autograd.grad(first(layer, x, "w").sum(), x)[0],
    "weights twice": lambda layer, x: torch.autograd.grad(
        first(layer, x, "w").sum(), list(layer.parameters())
    )[0],
    "linear head": lambda layer, x: torch.autograd.grad(
        first(layer, x, head=lambda y: 3 * y).sum(), x
    )[0],
    "hessian": lambda layer, x: torch.autograd.functional.hessian(
        lambda z: layer(torch.tanh(z)).sum(), x.detach()
    ),
    "hvp": lambda layer, x: torch.autograd.functional.hvp(
        lambda z: layer(torch.tanh(z)).sum(), x.detach(), torch.ones_like(x)
    )[1],
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "options", [{}, {"reupload": True}, {"observables": ["X0 Y1"]}, {"ansatz": "real_amplitudes"}]
)
def test_adjoint_differentiation_can_be_differentiated(route, options, x):
    layer, exact = layers("adjoint", **options)
    found, expected = ROUTES[route](layer, x), ROUTES[route](exact, x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert float(expected.abs().max()) > 1e-3


def test_of_amplitudes_and_third_derivatives(x):
    layer, exact = layers("adjoint", encoder="amplitude")
    x = torch.tensor([[0.3, 0.8, -0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    for one in (layer, exact):
        assert torch.autograd.gradgradcheck(one, x)
    third = []
    for one in (layer, exact):
        second = torch.autograd.grad(first(one, x).sum(), x, create_graph=True)[0]
        third.append(torch.autograd.grad(second.sum(), x)[0])
    assert torch.allclose(*third, rtol=0, atol=1e-12)


def test_finite_differences_of_gradients():
    layer, _ = layers("adjoint")
    x = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    weights = next(layer.parameters())

    def call(x, weights):
        return torch.func.functional_call(layer, {"ansatz.weights": weights}, (x,))

    given = (x, weights.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@pytest.mark.parametrize("rule", FIRST_ONLY)
@pytest.mark.parametrize("route", ROUTES)
def test_other_rules_refuse_on_every_route(route, rule, x):
    layer, _ = layers(rule)
    with pytest.raises(GradientRuleError, match=REFUSED):
        ROUTES[route](layer, x)


@pytest.mark.parametrize("rule", FIRST_ONLY)
def test_backward_to_some_inputs_refuses_too(rule, x):
    layer, _ = layers(rule)
    gradient = first(layer, x)
    for wanted in ([x], list(layer.parameters())):
        with pytest.raises(GradientRuleError, match=REFUSED):
            gradient.sum().backward(inputs=wanted, retain_graph=True)


class Foreign(nn.Module):
    """A layer with weights that shows no circuit."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x):
        return torch.cos(x + self.w)


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference", "backprop"])
@pytest.mark.parametrize("by", ["inputs", "weights"])
def test_swapped_rules_refuse(rule, by, x):
    layer = Foreign()
    with quantum_gradient(layer, rule):
        gradient = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(GradientRuleError, match=REFUSED):
        torch.autograd.grad(gradient.sum(), x if by == "inputs" else layer.w)


def test_first_derivatives_of_what_follows_the_layer_are_not_refused(x):
    # Of a linear head the gradient by inputs depends on no value of the circuit's second order.
    layer, exact = layers("adjoint")
    head = nn.Linear(2, 1).double()
    found = []
    for one in (layer, exact):
        gradient = torch.autograd.grad(head(one(x)).sum(), x, create_graph=True)[0]
        found.append(torch.autograd.grad(gradient.square().sum(), list(head.parameters())[:1])[0])
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def hybrid(rule):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
        VQCLayer(2, gradient=rule), nn.Linear(2, 2),
    ).double()  # fmt: skip


def test_maps_with_a_graph():
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    found = []
    for rule in ("adjoint", "backprop"):
        model = hybrid(rule)
        maps = QuantumLayerGradCam(model, model[1]).attribute(
            images, 1, grad_kwargs={"create_graph": True}
        )
        found.append(torch.autograd.grad(maps.square().sum(), model[0].weight)[0])
    assert torch.allclose(*found, rtol=0, atol=1e-12)
    assert float(found[0].abs().max()) > 1e-6
    model = hybrid("parameter-shift")
    maps = QuantumLayerGradCam(model, model[1]).attribute(
        images, 1, grad_kwargs={"create_graph": True}
    )
    with pytest.raises(GradientRuleError, match=REFUSED):
        torch.autograd.grad(maps.square().sum(), model[0].weight)
