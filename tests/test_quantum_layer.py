"""What a quantum layer is: one answer wherever models are explained, judged and differentiated."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_quantum import (
    Angle,
    Circuit,
    Gate,
    GradientRuleError,
    Observable,
    QuantumLayerGradCam,
    VQCLayer,
    quantum_gradient,
    quantum_layer,
)
from captum_quantum.metrics import parameter_randomization
from captum_quantum.quantum_layer import (
    as_quantum_layer,
    find_quantum_layers,
    own_rule,
    register_adapter,
)

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CIRCUIT = Circuit(
    2,
    (Gate("ry", (0,), (Angle.of_input(1),)), Gate("ry", (1,), (Angle.of_input(0),))),
    (Observable.of("Z0"), Observable.of("Z1")),
    n_inputs=2,
)


class Values(VQCLayer):
    """Values only, as from hardware."""

    def forward(self, inputs):
        with torch.no_grad():
            return super().forward(inputs)


class Detaching(VQCLayer):
    """A graph to the weights, none to the inputs."""

    def forward(self, inputs):
        return super().forward(inputs.detach())


class Cosines(nn.Module):
    """A layer that shows no circuit, declares a rule and gives values only."""

    gradient = "parameter-shift"

    def forward(self, angles):
        return torch.cos(angles.detach())


def overwritten():
    layer = VQCLayer(3, gradient="parameter-shift")
    forward = layer.forward
    layer.forward = lambda inputs: forward(inputs).detach()
    return layer


class Skip(nn.Module):
    """A quantum layer beside a skip connection: autograd alone would miss its part in silence."""

    def __init__(self, layer):
        super().__init__()
        self.conv, self.pool, self.q = nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), layer

    def forward(self, images):
        angles = self.pool(self.conv(images)).flatten(1)
        return angles + 5 * self.q(angles)


LAYERS = {
    "values": lambda: Values(3, gradient="parameter-shift"),
    "values, adjoint": lambda: Values(3),
    "detaching": lambda: Detaching(3, gradient="finite-difference"),
    "forward of the instance": overwritten,
    "a true layer": lambda: VQCLayer(3, gradient="commutator"),
    "no circuit": Cosines,
}


@pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name in LAYERS for given in (False, True) if given or name != "no circuit"],
)
def test_a_layers_own_rule_holds(name, given):
    torch.manual_seed(1)
    model = Skip(LAYERS[name]())
    # The truth: autograd through the same function.
    twin = Skip(VQCLayer(3, gradient="backprop"))
    if name == "no circuit":
        twin.q.forward = torch.cos
    twin.load_state_dict(model.state_dict(), strict=name != "no circuit")
    activation = twin.conv(IMAGES).detach().requires_grad_()
    angles = activation.mean((2, 3))
    score = (angles + 5 * twin.q(angles))[:, 1].sum()
    (grad,) = torch.autograd.grad(score, activation)
    expected = (grad.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).detach()

    grad_cam = QuantumLayerGradCam(model, model.conv, quantum_layer=model.q if given else None)
    atol = 2e-3 if name == "detaching" else 1e-5
    found = grad_cam.attribute(IMAGES, 1)
    assert torch.allclose(found, expected, atol=atol)
    assert expected.abs().max() > 0.01
    for shares in (grad_cam.attribute_qubits, grad_cam.attribute_observables):
        parts, direct = shares(IMAGES, 1, return_direct=True)
        assert torch.allclose(parts.sum(1, keepdim=True) + direct, found, atol=1e-5)


class Squashed(VQCLayer):
    """More than its circuit, all of it differentiable."""

    def forward(self, inputs):
        return 2 * super().forward(torch.tanh(inputs) * 3)


def test_a_layer_that_computes_more_than_its_circuit_keeps_autograds_derivative():
    torch.manual_seed(0)
    model = Skip(Squashed(3))
    expected = LayerGradCam(model, model.conv).attribute(IMAGES, 1)
    for given in (None, model.q):
        grad_cam = QuantumLayerGradCam(model, model.conv, quantum_layer=given)
        assert torch.allclose(grad_cam.attribute(IMAGES, 1), expected, atol=1e-6)
        # Its circuit's rules and shares would be of another function.
        message = "does not apply to a Squashed module, whose outputs are not the expectation"
        with pytest.raises(GradientRuleError, match=message):
            grad_cam.attribute_qubits(IMAGES, 1)
    x = torch.rand(2, 3, requires_grad=True)
    for rule in ("adjoint", "parameter-shift", "finite-difference"):
        with quantum_gradient(model.q, rule), pytest.raises(GradientRuleError, match=message):
            model.q(x)


class Half(nn.Module):
    """A quantum layer in full, from which a test takes members."""

    circuit = CIRCUIT
    gradient = "backprop"

    def angle_table(self, inputs):
        return inputs[:, [1, 0]]

    def amplitudes(self, inputs):
        return None

    def run(self, angles, amplitudes=None, *, own_weights=False):
        return torch.cos(angles)

    def forward(self, inputs):
        return torch.cos(inputs[:, [1, 0]])


def without(member):
    return type("Half", (Half,), {member: None})()


def model_of(layer):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)


def test_a_layer_of_ones_own_is_a_quantum_layer():
    torch.manual_seed(0)
    model = model_of(Half())
    shares = QuantumLayerGradCam(model, model[0]).attribute_qubits(IMAGES, 0)
    size = shares.abs().sum((0, 2, 3))
    assert size[0] > 1e-4
    assert size[1] == 0


@pytest.mark.parametrize("member", ["circuit", "gradient", "angle_table", "amplitudes", "run"])
@pytest.mark.parametrize(
    "use",
    [
        lambda m: QuantumLayerGradCam(m, m[0]),
        lambda m: QuantumLayerGradCam(m, m[0], quantum_layer=m[3]),
        lambda m: parameter_randomization(m, lambda x, t: x, IMAGES, 0),
        lambda m: quantum_gradient(m[3]).__enter__(),
        lambda m: find_quantum_layers(m),
    ],
    ids=["attribution", "given", "metric", "quantum_gradient", "find"],
)
def test_a_part_of_a_quantum_layer_is_an_error_that_names_the_rest(use, member):
    with pytest.raises(TypeError, match=rf"got a Half module without {member}\b"):
        use(model_of(without(member)))


def test_modules_without_a_circuit_are_no_quantum_layers():
    model = model_of(nn.Linear(2, 2))
    assert find_quantum_layers(model) == []
    assert find_quantum_layers(None) == []
    assert as_quantum_layer(model[3]) is None


def test_a_layer_inside_another_one_is_not_found_twice():
    outer = Half()
    outer.inner = VQCLayer(2)
    assert find_quantum_layers(nn.Sequential(outer, VQCLayer(2)))[0] is outer
    assert len(find_quantum_layers(nn.Sequential(outer, VQCLayer(2)))) == 2


def test_given_layers_are_checked():
    model = model_of(VQCLayer(2))
    assert find_quantum_layers(model, model[3]) == [model[3]]
    assert find_quantum_layers(model, [model[2], model[3]]) == [model[2], model[3]]
    for wrong in ([], "vqc", [1]):
        with pytest.raises(TypeError, match="quantum_layer must be a module or a sequence"):
            find_quantum_layers(model, wrong)
    with pytest.raises(ValueError, match="quantum_layer must be one of the modules of Sequential"):
        find_quantum_layers(model, VQCLayer(2))


def test_rules_that_layers_declare():
    assert own_rule(VQCLayer(2)) == "adjoint"
    assert VQCLayer(2).applies_rule
    assert not Values(2).applies_rule
    assert not overwritten().applies_rule
    assert own_rule(nn.Linear(2, 2)) is None


class Foreign(nn.Module):
    """A module of another framework, which knows nothing of ours."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.3, 0.4]))

    def forward(self, inputs):
        return torch.cos(inputs[:, [1, 0]] + self.theta).detach()


def test_an_adapter_shows_a_foreign_module_as_a_quantum_layer(monkeypatch):
    monkeypatch.setattr(quantum_layer, "ADAPTERS", [])
    gates = (
        *CIRCUIT.gates,
        Gate("ry", (0,), (Angle.of_weight(0),)),
        Gate("ry", (1,), (Angle.of_weight(1),)),
    )
    circuit = Circuit(2, gates, CIRCUIT.observables, n_inputs=2, n_weights=2)
    torch.manual_seed(0)
    model = model_of(Foreign())
    assert find_quantum_layers(model) == []

    @register_adapter
    def adapter(module):
        if not isinstance(module, Foreign):
            return None
        return VQCLayer.from_circuit(circuit, module.theta, gradient="parameter-shift")

    assert find_quantum_layers(model) == [model[3]]
    grad_cam = QuantumLayerGradCam(model, model[0])
    shares = grad_cam.attribute_qubits(IMAGES, 0)
    assert torch.allclose(shares.sum(1, keepdim=True), grad_cam.attribute(IMAGES, 0), atol=1e-6)
    assert shares[:, 0].abs().max() > 1e-4
    assert shares[:, 1].abs().max() == 0
    with pytest.raises(TypeError, match="adapter must be a function"):
        register_adapter("pennylane")
