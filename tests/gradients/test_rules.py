"""Gradient rules as objects in one table: users add their own; none stands in for another."""

import pytest
import torch
from torch import nn

from captum_quantum import GradientRuleError, QuantumLayerGradCam, VQCLayer, quantum_gradient
from captum_quantum.gradients import RULES, JacobianRule, register_rule, shifted_jacobian
from captum_quantum.gradients.function import function_of_inputs
from captum_quantum.gradients.nodes import attach
from captum_quantum.gradients.table import vjp_of


class Tripled(JacobianRule):
    """Three times the derivative by parameter-shift: a rule that nothing else could give."""

    name = "tripled"

    def jacobian(self, function):
        return 3 * RULES["parameter-shift"].jacobian(function)


class Refusing:
    name = "refusing"

    def why_not(self, function):
        return f"needs the moon; got {function.variables.shape[1]} variables"

    def vjp(self, function):
        raise AssertionError("a rule that does not apply was run")


@pytest.fixture
def rules():
    """Registers the two rules for the duration of a test."""
    for rule in (Tripled(), Refusing()):
        assert register_rule(rule) is rule
    yield
    for name in ("tripled", "refusing"):
        del RULES[name]


@pytest.mark.usefixtures("rules")
def test_a_users_rule_works_wherever_rules_are_chosen():
    torch.manual_seed(0)
    layer = VQCLayer(2, gradient="tripled", observables=["Z0", "X1"])
    twin = VQCLayer(2, observables=["Z0", "X1"])
    twin.load_state_dict(layer.state_dict())
    x = torch.rand(3, 2, requires_grad=True)
    weights = list(layer.parameters()), list(twin.parameters())
    grads = torch.autograd.grad(layer(x).sum(), [x, *weights[0]])
    expected = torch.autograd.grad(twin(x).sum(), [x, *weights[1]])
    for grad, truth in zip(grads, expected, strict=True):
        assert torch.allclose(grad, 3 * truth, atol=1e-5)
    with quantum_gradient(twin, "tripled"):
        assert torch.allclose(torch.autograd.grad(twin(x).sum(), x)[0], grads[0], atol=1e-5)

    def maps(layer, **kwargs):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)
        return QuantumLayerGradCam(model, model[0], **kwargs).attribute(torch.ones(1, 1, 5, 5), 0)

    assert maps(twin).abs().max() > 1e-3
    assert torch.allclose(maps(twin, gradient="tripled"), 3 * maps(twin), atol=1e-5)
    assert torch.allclose(maps(layer), 3 * maps(twin), atol=1e-5)


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("module", [VQCLayer(2), nn.Tanh()])
def test_a_rule_that_does_not_apply_says_why(module):
    x = torch.rand(3, 2, requires_grad=True)
    with (
        quantum_gradient(module, "refusing"),
        pytest.raises(GradientRuleError, match="rule 'refusing' needs the moon; got 2 variables"),
    ):
        module(x)


def test_an_unknown_rule_never_runs_another():
    function = function_of_inputs(nn.Tanh(), None, torch.rand(2, 2))
    for unknown in ("commutators", "tripled", "", None):
        with pytest.raises((TypeError, ValueError), match="gradient rule must be one of adjoint"):
            vjp_of(unknown, function)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ("parameter-shift", TypeError, "rule must be an object with name, why_not and vjp"),
        (type("NoVjp", (), {"name": "mine"})(), TypeError, "rule must be an object with name"),
        (Tripled, TypeError, "rule must be an object .* got the class Tripled"),
        (type("Again", (Refusing,), {"name": "adjoint"})(), ValueError, "of another name than"),
    ],
)
def test_what_is_no_rule_is_refused(rule, error, message):
    before = dict(RULES)
    with pytest.raises(error, match=message):
        register_rule(rule)
    assert before == RULES


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 1, 2), (3, 2, 1)])
def test_a_jacobian_of_a_wrong_shape_is_refused(shape):
    rule = type("Wrong", (JacobianRule,), {"jacobian": lambda self, function: torch.ones(shape)})()
    pullback = rule.vjp(function_of_inputs(nn.Tanh(), None, torch.rand(3, 2)))
    with pytest.raises(ValueError, match=r"Jacobian of Wrong must be of shape \(3, 2, 2\); got"):
        pullback(torch.ones(3, 2))


def test_a_vjp_of_a_wrong_shape_is_refused():
    x = torch.rand(3, 2, requires_grad=True)
    for result in (torch.ones(3, 1), None):
        out = attach(torch.zeros(3, 2), x, lambda cotangent, result=result: result)
        with pytest.raises(ValueError, match=r"rule's vjp must be of shape \(3, 2\); got"):
            out.sum().backward()


@pytest.mark.parametrize("rule", ["parameter-shift", "finite-difference", "backprop"])
def test_weights_must_not_change_before_the_rule_has_run(rule):
    layer, x = VQCLayer(2), torch.rand(3, 2, requires_grad=True)
    with quantum_gradient(layer, rule):
        out = layer(x)
    with torch.no_grad():
        layer.ansatz.weights.add_(0.7)
    with pytest.raises(RuntimeError, match="weights of VQCLayer have been modified in place"):
        out.sum().backward()


def test_an_empty_batch_under_a_rule():
    layer, x = VQCLayer(2), torch.rand(0, 2, requires_grad=True)
    with quantum_gradient(layer, "parameter-shift"):
        layer(x).sum().backward()
    assert x.grad.shape == (0, 2)


def test_derivatives_of_shifts_are_weighted_sums():
    function = function_of_inputs(nn.Module(), None, torch.tensor([[1.0, 2.0]]), lambda x: x**2)
    terms = [((1.0, 2.0), (0.0, -2.0)), ((-1.0, 1.0),)]
    # f = (x^2, y^2): 2 (4, 4) - 2 (1, 4) by the first, (1, 1) by the second
    expected = torch.tensor([[[6.0, 1.0], [0.0, 1.0]]])
    assert torch.equal(shifted_jacobian(function, terms), expected)
