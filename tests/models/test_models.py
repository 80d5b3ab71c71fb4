"""Hybrid classifiers and their weights files."""

import json
import math

import pytest
import torch
from captum.attr import LayerGradCam
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from captum_quantum import HybridClassifier, QuantumLayerGradCam, VQCLayer
from captum_quantum.models import SmallCNN, classical_twin, digits_model, load_model, save_model


class Foreign(nn.Module):
    """A quantum layer of another library: tensor in, tensor out, nothing known of it."""

    def forward(self, x):
        return torch.stack([x[:, 0].cos(), x[:, 1].cos() * x[:, 2].sin()], dim=1)


@pytest.fixture(scope="module")
def model():
    return digits_model(n_qubits=3, n_layers=1, channels=(2, 3, 4), seed=5).eval()


@pytest.fixture
def weights(model, tmp_path):
    save_model(model, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def rewrite(path, change=None, **metadata):
    """Writes a weights file anew with changed tensors or metadata."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    if change:
        change(tensors)
    save_file(tensors, path, metadata={**kept, **metadata})


def describe(path, **config):
    """Writes a weights file anew with a changed configuration."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["captum_quantum"])
    description["config"].update(config)
    rewrite(path, captum_quantum=json.dumps(description))


def test_forward_is_the_formula(model):
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    averages = model.backbone(images).mean(dim=(2, 3))
    angles = math.pi / 2 * torch.tanh(averages @ model.reduction.weight.T + model.reduction.bias)
    logits = model.vqc(angles) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), logits)
    assert logits.shape == (3, 10)
    assert model.n_classes == 10


def test_angles_stay_within_half_a_turn(model):
    assert model.angles(torch.tensor([-1e9, 0.0, 1e9])).tolist() == pytest.approx(
        [-math.pi / 2, 0, math.pi / 2]
    )


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [
        (nn.Conv1d(2, 6, 3), (2, 9)),
        (nn.Conv2d(2, 6, 3), (2, 9, 8)),
        (nn.Conv3d(2, 6, 3), (2, 5, 4, 3)),
        (nn.Linear(7, 6), (7,)),
    ],
)
def test_backbones_of_any_spatial_dimension(backbone, shape):
    classifier = HybridClassifier(backbone, VQCLayer(2), n_features=6, n_classes=3)
    assert classifier(torch.rand(4, *shape)).shape == (4, 3)
    assert classifier(torch.rand(0, *shape)).shape == (0, 3)


def test_foreign_quantum_layer():
    classifier = HybridClassifier(
        nn.Conv2d(1, 4, 3), Foreign(), n_features=4, n_classes=2, n_inputs=3, n_observables=2
    )
    assert classifier(torch.rand(5, 1, 6, 6)).shape == (5, 2)
    assert classifier.config is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backbone": "resnet18"}, TypeError, "backbone must be an nn.Module; got 'resnet18'"),
        ({"vqc": torch.sin}, TypeError, "vqc must be an nn.Module"),
        ({"n_features": 0}, ValueError, "n_features must be an integer >= 1; got 0"),
        ({"n_classes": 2.0}, TypeError, "n_classes must be an integer >= 1; got 2.0"),
        ({"vqc": Foreign()}, ValueError, "n_inputs must be given for a vqc that has no attribute"),
        ({"vqc": Foreign(), "n_inputs": 3}, ValueError, "n_observables must be given for a vqc"),
        ({"n_inputs": -1}, ValueError, "n_inputs must be an integer >= 1; got -1"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    given = {"backbone": nn.Conv2d(1, 4, 3), "vqc": VQCLayer(2), "n_features": 4, "n_classes": 2}
    with pytest.raises(error, match=message):
        HybridClassifier(**{**given, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_qubits": 99}, ValueError, "n_qubits must be an integer in"),
        ({"n_layers": 0}, ValueError, r"n_layers must be an integer in \[1, 100\]; got 0"),
        ({"channels": (1, 2)}, TypeError, "channels must be three integers"),
        ({"channels": "123"}, TypeError, "channels must be three integers"),
        ({"channels": (1, 2, 10**9)}, ValueError, "channels must be an integer in"),
        ({"encoder": nn.Identity()}, TypeError, "encoder must be a name; got a Identity module"),
        ({"encoder": "ryy"}, ValueError, "did you mean 'ry'"),
        ({"ansatz": "ring"}, ValueError, "ansatz must be one of"),
        ({"observables": "ZZ"}, ValueError, "observables must be different letters among X, Y, Z"),
        ({"observables": "I"}, ValueError, "observables must be different letters among X, Y, Z"),
        ({"observables": ""}, ValueError, "observables must be different letters among X, Y, Z"),
        ({"observables": ["Z0"]}, TypeError, "observables must be letters X, Y, Z"),
        ({"weight_std": -0.1}, ValueError, "weight_std must be a number of radians >= 0, or None"),
        ({"weight_std": "0.1"}, TypeError, "weight_std must be a number of radians >= 0, or None"),
        ({"n_classes": 0}, ValueError, "n_classes must be an integer in"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
    ],
)
def test_wrong_arguments_of_digits_model(arguments, error, message):
    with pytest.raises(error, match=message):
        digits_model(**arguments)


def test_observables_and_start_of_the_digits_model():
    model = digits_model(2, 1, ansatz="u3cu3", observables="ZX", weight_std=0.1, seed=1)
    read = [observable.label for observable in model.vqc.circuit.observables]
    assert read == ["Z0", "Z1", "X0", "X1"]
    assert (model.config["observables"], model.config["weight_std"]) == ("ZX", 0.1)
    large = digits_model(8, 4, ansatz="u3cu3", weight_std=0.1).vqc.weights.detach()
    assert len(large) == 192
    assert float(large.mean()) == pytest.approx(0, abs=0.03)
    assert float(large.std()) == pytest.approx(0.1, abs=0.02)
    assert digits_model(2, weight_std=0).vqc.weights.abs().max() == 0


def test_weights_files_of_0_1_0_say_nothing_of_observables(weights):
    with safe_open(weights, framework="pt") as file:
        description = json.loads(file.metadata()["captum_quantum"])
    for key in ("observables", "weight_std"):
        del description["config"][key]
    rewrite(weights, captum_quantum=json.dumps(description))
    old = load_model(weights)
    assert (old.config["observables"], old.config["weight_std"]) == ("Z", None)


def test_angles_are_what_the_circuit_encodes(model):
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(model.head(model.vqc(model.encode(images))), model(images))


def test_small_cnn_sees_most_of_a_digit():
    seen = torch.zeros(64, 64, dtype=torch.bool)
    for _ in range(30):  # some, as a ReLU or a pooling window may hide pixels
        cnn = SmallCNN(channels=(2, 2, 2)).eval()
        images = torch.rand(1, 1, 64, 64, requires_grad=True)
        maps = cnn(images)
        (grad,) = torch.autograd.grad(maps[..., 8, 8].sum(), images)
        seen |= grad[0, 0] != 0
    assert maps.shape == (1, 2, 16, 16)
    assert (maps >= 0).all()
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 21
    assert columns[-1] - columns[0] + 1 == 21


def test_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, again, other = (digits_model(2, 1, channels=(1, 1, 1), seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.vqc.weights, other.vqc.weights)
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)


@pytest.mark.parametrize("layer", ["backbone", "backbone.conv3", "backbone.norm2"])
def test_maps_equal_captums(model, layer):
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    target = [0, 3, 9, 3]
    maps = QuantumLayerGradCam(model, model.get_submodule(layer)).attribute(images, target)
    captums = LayerGradCam(model, model.get_submodule(layer)).attribute(images, target)
    torch.testing.assert_close(maps, captums)
    assert maps.abs().max() > 0


def test_weights_file_round_trips_bit_for_bit(model, weights):
    loaded = load_model(weights)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        same = loaded.state_dict()[name]
        assert same.dtype == value.dtype
        assert same.numpy().tobytes() == value.numpy().tobytes(), name
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(images), model(images))


def test_weights_file_tells_how_the_model_was_trained(weights):
    assert load_model(weights).trained is None  # as do files that were written before
    model = digits_model(n_qubits=2)
    model.trained = {"seed": 2, "epochs": 5}
    save_model(model, weights)
    assert load_model(weights).trained == {"seed": 2, "epochs": 5}
    assert classical_twin(model).trained is None
    save_model(classical_twin(model), weights)
    assert load_model(weights).trained is None


@pytest.mark.parametrize("trained", [[1], {"seed": "0"}, {"seed": True}])
def test_weights_file_with_a_wrong_training(weights, trained):
    with safe_open(weights, framework="pt") as file:
        description = json.loads(file.metadata()["captum_quantum"])
    rewrite(weights, captum_quantum=json.dumps({**description, "trained": trained}))
    with pytest.raises(ValueError, match="description of its training that is not made of integ"):
        load_model(weights)


def test_weights_file_is_plain_data(weights):
    with safe_open(weights, framework="pt") as file:
        description = json.loads(file.metadata()["captum_quantum"])
    assert description["model"] == "digits"
    assert description["config"]["n_qubits"] == 3


def test_model_without_configuration_is_not_saved(tmp_path):
    classifier = HybridClassifier(nn.Conv2d(1, 4, 3), VQCLayer(2), n_features=4, n_classes=2)
    with pytest.raises(ValueError, match="model must be one made by digits_model, for save_model"):
        save_model(classifier, tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_weights_file(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        save_model(model, tmp_path / "missing" / "weights.safetensors")


def test_missing_weights_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="path must be a weights file; got .*does not exist"
    ):
        load_model(tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match="path must be a weights file"):
        load_model(tmp_path)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_weights_file(weights, share):
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="save_model has written; .*not a whole safetensors file"):
        load_model(weights)


def test_other_files_are_not_weights(model, weights):
    weights.write_bytes(b"GIF89a" + bytes(range(256)) * 40)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(weights)
    torch.save(model.state_dict(), weights)  # a pickle: never opened as one
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(weights)


def test_weights_without_description(model, weights):
    save_file({"weight": torch.zeros(3)}, weights)
    with pytest.raises(ValueError, match="without a model's description"):
        load_model(weights)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "with a description that is not JSON"),
        ("[1]", "with the description of something else than a model"),
        ('{"model": "resnet", "config": {}}', "something else than a digits model"),
        ('{"model": "digits"}', "with a configuration that does not name ansatz, channels"),
        ('{"model": "digits", "config": {"n_qubits": 3}}', "does not name ansatz, channels"),
    ],
)
def test_weights_with_a_wrong_description(weights, description, message):
    rewrite(weights, captum_quantum=description)
    with pytest.raises(ValueError, match=message):
        load_model(weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_qubits": 10**9}, "but n_qubits must be an integer in"),
        ({"n_qubits": "3"}, "but n_qubits must be an integer in"),
        ({"n_layers": 10**9}, "but n_layers must be an integer in"),
        ({"channels": [1, 2, 10**9]}, "but channels must be an integer in"),
        ({"ansatz": "os.system"}, "but ansatz must be one of"),
        ({"extra": 1}, "with a configuration that does not name"),
    ],
)
def test_weights_with_a_wrong_configuration(weights, config, message):
    describe(weights, **config)
    with pytest.raises(ValueError, match=message):
        load_model(weights)


def test_weights_of_another_shape(weights):
    describe(weights, n_classes=7)
    with pytest.raises(
        ValueError,
        match=r"'head.weight' is a torch.float32 tensor of shape \(10, 3\) on cpu, the model needs "
        r"a torch.float32 tensor of shape \(7, 3\)",
    ):
        load_model(weights)


def drop(tensors):
    del tensors["vqc.ansatz.weights"]


def add(tensors):
    tensors["surplus"] = torch.zeros(1)


def narrow(tensors):
    tensors["head.weight"] = tensors["head.weight"].half()


def spoil(tensors):
    tensors["reduction.weight"][1, 2] = math.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"weights missing: \['vqc.ansatz.weights'\], unknown: none"),
        (add, r"weights missing: none, unknown: \['surplus'\]"),
        (narrow, "'head.weight' is a torch.float16 tensor"),
        (spoil, r"'reduction.weight' in .* must be finite everywhere; got 1 of 12 .*\(1, 2\)"),
    ],
)
def test_weights_that_do_not_fit(weights, change, message):
    rewrite(weights, change)
    with pytest.raises(ValueError, match=message):
        load_model(weights)
