"""What a model recognizes without its circuit's entangling gates."""

import copy

import pytest
import torch
import torchquantum as tq
from sklearn.linear_model import LogisticRegression
from torch import nn

from captum_quantum import VQCLayer
from captum_quantum.models import HybridClassifier, classical_twin, digits_model
from captum_quantum.training import (
    accuracy,
    entanglement,
    entanglement_test,
    fit,
    without_entangling_gates,
)


def test_gates_on_one_wire_stay():
    torch.manual_seed(0)
    layer = VQCLayer(3, n_layers=2, observables=["Z0", "X1 Z2"])
    found = without_entangling_gates(layer)
    x, w = torch.rand(5, 3).double(), layer.weights.detach().double().reshape(2, 3, 3)
    # Each qubit by itself: products of 2 x 2 matrices.
    paulis = {
        "x": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128),
        "y": torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128),
        "z": torch.diag(torch.tensor([1, -1], dtype=torch.complex128)),
    }

    def rotate(axis, angle):
        return torch.matrix_exp(-0.5j * angle * paulis[axis])

    def value(sample, qubit, axis):
        state = torch.tensor([1, 0], dtype=torch.complex128)
        state = rotate("y", x[sample, qubit]) @ state
        for layer_weights in w:
            for name, angle in zip("xyz", layer_weights[qubit], strict=True):
                state = rotate(name, angle) @ state
        return (state.conj() @ paulis[axis] @ state).real

    expected = torch.stack(
        [torch.stack([value(s, 0, "z"), value(s, 1, "x") * value(s, 2, "z")]) for s in range(5)]
    )
    torch.testing.assert_close(found(x), expected)
    assert not torch.allclose(layer(x), expected, atol=1e-2)


def test_gates_that_take_inputs_stay():
    encoder = [
        {"input_idx": [0], "func": "ry", "wires": [0]},
        {"input_idx": [1], "func": "crx", "wires": [0, 1]},
    ]
    layer = VQCLayer(2, 1, encoder=encoder)
    names = [gate.name for gate in without_entangling_gates(layer).circuit.gates]
    assert names == ["ry", "crx", *["rx", "ry", "rz"] * 2]


def test_computed_angles_are_refused():
    layer = VQCLayer(2, 1, encoder="zz_feature_map")
    with pytest.raises(ValueError, match="the circuit of layer must be one without angles that"):
        without_entangling_gates(layer)


def test_layer_is_not_changed_and_follows_its_options():
    layer = VQCLayer(2, simulator="torchquantum", gradient="parameter-shift")
    before = copy.deepcopy(layer.state_dict())
    found = without_entangling_gates(layer)
    assert (found.simulator, found.gradient) == ("torchquantum", "parameter-shift")
    with torch.no_grad():
        next(found.parameters()).zero_()
    assert all(
        torch.equal(value, before[name])
        for name, value in layer.state_dict().items()
        if isinstance(value, torch.Tensor)
    )


@pytest.fixture(scope="module")
def task():
    """Classes that a linear layer on the angles can tell."""
    torch.manual_seed(1)
    labels = torch.arange(120) % 3
    inputs = torch.randn(120, 4) / 3
    inputs[torch.arange(120), labels] += 1.5
    return (inputs[:80], labels[:80]), (inputs[80:], labels[80:])


def make(ansatz):
    torch.manual_seed(3)
    return HybridClassifier(nn.Identity(), VQCLayer(4, 1, ansatz=ansatz), 4, 3)


def test_shares_by_hand(task):
    train, test = task
    model = make("rx_ry_rz_ring")
    fit(model, *train, epochs=15, batch_size=16, lr=0.05)
    before = copy.deepcopy(model.state_dict())
    found = entanglement_test(model, train, test)
    product = copy.deepcopy(model)
    product.vqc = without_entangling_gates(model.vqc)
    assert found.accuracy == accuracy(model, *test)
    assert found.removed == accuracy(product, *test)
    assert found.removed < found.accuracy  # the ring's gates matter to what was trained with them
    with torch.no_grad():
        values = product.vqc(product.encode(train[0]))
    refit = LogisticRegression(C=1e6, tol=1e-8, max_iter=5000).fit(values.double(), train[1])
    with torch.no_grad():
        share = refit.score(product.vqc(product.encode(test[0])).double(), test[1])
    assert found.refitted == pytest.approx(share, abs=0.026)  # one example of 40
    assert found.refitted > found.removed
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if isinstance(v, torch.Tensor))
    assert model.training


def test_a_circuit_without_entangling_gates_loses_nothing(task):
    train, test = task
    model = make([tq.RX(has_params=True, trainable=True, wires=0)])
    fit(model, *train, epochs=3)
    found = entanglement_test(model, train, test)
    assert found.removed == found.accuracy


def test_wrong_arguments(task):
    with pytest.raises(TypeError, match="layer must be a VQCLayer; got a Linear"):
        without_entangling_gates(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="model must be a HybridClassifier; got a VQCLayer"):
        entanglement_test(VQCLayer(2), *task)
    with pytest.raises(TypeError, match="model.vqc must be a VQCLayer; got a ClassicalLayer"):
        entanglement_test(classical_twin(digits_model(2)), *task)


def test_the_linear_layer_is_trained_to_convergence():
    """At the minimum of the loss its gradient vanishes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 0.01, 0.0])
    targets = (
        (values[:, 0] + 100 * values[:, 1]) + torch.randn(200, generator=generator) > 0
    ).long()
    head = nn.Linear(3, 2).double()
    entanglement._fit_linear(head, values.double(), targets)
    loss = nn.functional.cross_entropy(head(values.double()), targets)
    loss.backward()
    # Less than the penalty's own gradient, 2e-6 times the standardized weight.
    assert head.weight.grad[:, 0].abs().max() < 1e-4
    assert head.bias.grad.abs().max() < 1e-6
    theirs = LogisticRegression(C=1e6, tol=1e-10, max_iter=5000).fit(values.double(), targets)
    ours = (head.weight[1] - head.weight[0]).detach().numpy()
    assert ours[:2] == pytest.approx(theirs.coef_[0][:2], rel=1e-2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda pair: pair[0], TypeError, "{} must be a pair of inputs and classes; got a"),
        (lambda pair: pair[:1], TypeError, "{} must be a pair of inputs and classes; got"),
        (lambda pair: (pair[0], pair[1] + 1), ValueError, "targets must be classes in"),
        (lambda pair: (pair[0][:5], pair[1]), ValueError, "targets must be of shape"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_wrong_data_before_any_work(which, change, error, message, task, monkeypatch):
    monkeypatch.setattr("captum_quantum.training.entanglement.accuracy", None)
    data = [change(pair) if i == which else pair for i, pair in enumerate(task)]
    with pytest.raises(error, match=message.format(("train", "test")[which])):
        entanglement_test(make("rx_ry_rz_ring"), *data)
