"""Models by name."""

import pytest
import torch
from torch import nn

from captum_quantum import VQCLayer
from captum_quantum.datasets.digits import demo_model
from captum_quantum.models import (
    ClassicalLayer,
    HybridClassifier,
    classical_twin,
    digits_model,
    named_models,
    register_model,
    variants,
    without_circuit,
)


def small(seed=0, **config):
    given = {"n_qubits": 3, "n_layers": 1, "channels": (2, 3, 4), "n_classes": 5}
    return digits_model(**{**given, **config}, seed=seed)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(variants, "_MODELS", dict(variants._MODELS))


def test_all_have_as_many_parameters_and_the_same_weights_elsewhere():
    hybrid = demo_model(seed=3)
    for name, made in named_models().items():
        assert (made.name, bool(made.description)) == (name, True)
        model = made.make(demo_model, 3)
        n = sum(p.numel() for p in model.vqc.parameters())
        assert n == (0 if name == "linear" else 48), name
        outputs = 16 if name in ("entangled", "ring-zx", "twin-16", "twin-16-identity") else 8
        assert model.head.in_features == outputs, name
        again = made.make(demo_model, 3)
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other), name
        if name in ("twin", "twin-identity", "linear"):
            mine = {n: p for n, p in model.state_dict().items() if not n.startswith("vqc.")}
            theirs = hybrid.state_dict()
            assert all(torch.equal(value, theirs[key]) for key, value in mine.items()), name


def test_what_they_are():
    made = {name: model.make(demo_model, 0) for name, model in named_models().items()}
    kinds = {"ring": ["rx", "ry", "rz", "cnot"], "entangled": ["u3", "cu3"]}
    for name, kind in kinds.items():
        circuit = made[name].vqc.circuit
        assert list(dict.fromkeys(g.name for g in circuit.gates[8:])) == kind
    assert [str(o.label) for o in made["ring"].vqc.circuit.observables] == [
        f"Z{q}" for q in range(8)
    ]
    old = digits_model(seed=0)
    for key, value in made["ring"].state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, old.state_dict()[key])  # today's default circuit
    assert made["hybrid"].vqc.weights.abs().max() < 0.6  # near the identity
    assert made["entangled"].vqc.weights.abs().max() > 2
    x = torch.rand(2, 8)
    for name in ("twin-identity", "twin-16-identity"):
        expected = torch.tanh(torch.cat([x] * (made[name].head.in_features // 8), dim=1))
        torch.testing.assert_close(made[name].vqc(x), expected, atol=0.5, rtol=0)
    assert isinstance(made["twin-16"].vqc, ClassicalLayer)
    assert isinstance(made["linear"].vqc, nn.Identity)


@pytest.mark.parametrize("name", [*named_models()])
def test_seeds_make_different_weights_everywhere(name):
    one, other = (named_models()[name].make(digits_model, seed) for seed in (0, 1))
    for module in ("backbone", "reduction", "vqc", "head"):
        weights = [[*getattr(model, module).parameters()] for model in (one, other)]
        assert not any(torch.equal(a, b) for a, b in zip(*weights, strict=True) if a.std() > 0)


@pytest.mark.parametrize("observables", ["X", "ZX"])
def test_a_model_without_its_circuit(observables):
    model = small(observables=observables, seed=1).double().eval()
    found = without_circuit(model, seed=4)
    assert isinstance(model.vqc, VQCLayer)
    assert (found.config, found.trained, found.training) == (None, None, False)
    assert model.config is not None
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    expected = found.head(model.encode(images))
    torch.testing.assert_close(found(images), expected)
    assert found.head.weight.shape == (5, 3)
    same = observables == "X"
    assert (found.head.weight.shape == model.head.weight.shape) is same
    if same:
        assert torch.equal(found.head.weight, model.head.weight)
    else:
        assert torch.equal(found.head.weight, without_circuit(model, seed=4).head.weight)
        assert found.head.weight.std() > 0.5
    assert not any(module.training for module in found.modules())
    frozen = without_circuit(model.requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_wrong_arguments():
    with pytest.raises(TypeError, match="model must be a HybridClassifier; got a Linear"):
        without_circuit(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="seed must be an integer >= 0; got -1"):
        without_circuit(small(), seed=-1)
    with pytest.raises(ValueError, match="name must be a new name; got 'ring'"):
        register_model("ring", "again")(small)
    with pytest.raises(TypeError, match="description must be a few words; got 3"):
        register_model("new", 3)
    with pytest.raises(TypeError, match="make must be a function"):
        register_model("new", "no function")(3)
    assert "new" not in named_models()
    for name in ("a b", "../x", "", 3):
        with pytest.raises(ValueError, match="name must be a name of letters, digits, hyphens"):
            register_model(name, "no name")


def test_a_model_of_ones_own():
    @register_model("deep", "two layers")
    def deep(model, seed):
        return model(seed=seed, n_layers=2)

    made = named_models()["deep"]
    assert made.make is deep
    found = made.make(small, 3)
    assert isinstance(found, HybridClassifier)
    assert found.vqc.circuit.n_weights == 18
    named_models().clear()  # a copy
    assert "deep" in named_models()
    twin = named_models()["twin"].make(small, 3)
    fresh = classical_twin(small(seed=3), seed=3)
    assert all(map(torch.equal, twin.parameters(), fresh.parameters()))
