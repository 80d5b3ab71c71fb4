"""Classical twins: of the demo's model, and of hybrid models as users write them."""

import copy
import functools
import math

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_quantum import (
    Angle,
    Circuit,
    Gate,
    HybridClassifier,
    Observable,
    QuantumLayerGradCam,
    VQCLayer,
)
from captum_quantum.models import (
    ClassicalLayer,
    classical_twin,
    digits_model,
    load_model,
    save_model,
)
from captum_quantum.quantum_layer import find_quantum_layers
from captum_quantum.training import fit


class Foreign(nn.Module):
    """A quantum layer of another library: tensor in, tensor out, nothing known of it."""

    def forward(self, x):
        return torch.stack([x[:, 0].cos(), x[:, 1].cos() * x[:, 2].sin()], dim=1)


class Shown(nn.Module):
    """A module that is no VQCLayer, but shows a circuit as the protocol asks."""

    gradient = "parameter-shift"

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.circuit = layer.circuit
        self.angle_table, self.amplitudes, self.run = layer.angle_table, layer.amplitudes, layer.run

    def forward(self, x):
        return self.layer(x)


class Several(nn.Module):
    """Four uses of three quantum layers, one of them twice, by attributes, a list, a partial."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.first = VQCLayer(3, 1)
        self.wide = VQCLayer(3, 2, encoder="amplitude", observables=["Z0", "X1 Z2", "Y0"])
        self.again = self.first
        self.last = nn.Sequential(VQCLayer(3, 1), nn.Linear(3, 2))
        self.steps = [self.first, self.wide]
        self.readout = functools.partial(self.last[0])
        self.tail = nn.ModuleDict({"q": self.wide})

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)  # (batch, 4, 3)
        tokens = self.again(self.first(tokens))
        amplitudes = torch.cat([tokens, tokens**2 + 1, tokens[..., :2]], dim=-1)
        return self.last(self.tail["q"](amplitudes)).mean(1)


IMAGES = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return digits_model(n_qubits=3, n_layers=1, channels=(2, 3, 4), seed=5).eval()


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("n_qubits", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 6])
def test_a_twin_has_as_many_parameters(n_qubits, n_layers):
    model = digits_model(n_qubits, n_layers, channels=(2, 3, 4))
    twin = classical_twin(model)
    assert n_parameters(model.vqc) == 3 * n_qubits * n_layers
    # With two qubits a chain cannot have just any number.
    assert abs(n_parameters(twin) - n_parameters(model)) <= (1 if n_qubits == 2 else 0)
    assert (twin.vqc.n_inputs, twin.vqc.n_observables) == (n_qubits, n_qubits)


@pytest.mark.parametrize("n_inputs", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("n_outputs", [1, 2, 3, 4, 7])
def test_nearest_number_of_parameters(n_inputs, n_outputs):
    least, largest = n_outputs + max(n_inputs, n_outputs), n_outputs * (n_inputs + 1)
    # All numbers that a chain of up to ten blocks can have.
    possible = {
        n
        for k in range(10)
        for n in range(least + 2 * k * n_outputs, largest + k * n_outputs * (n_outputs + 1) + 1)
    }
    for wanted in range(60):
        layer = ClassicalLayer(n_inputs, n_outputs, wanted)
        number = n_parameters(layer)
        if number <= max(possible):
            assert abs(number - wanted) == min(abs(n - wanted) for n in possible)
        if n_inputs >= 3 and n_outputs >= 3 and wanted >= least:
            assert number == wanted


def test_a_classical_layer_is_its_formula():
    layer = ClassicalLayer(3, 4, 4 + 7 + 6 + 4, seed=1)
    assert len(layer.blocks) == 2
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = x.double().tolist()
    for block, n_inputs in zip(layer.blocks, (3, 4), strict=True):
        matrix = [[0.0] * n_inputs for _ in range(4)]
        # Diagonal after diagonal: every pair once, in steps of one row and one column.
        row = column = 0
        for value in block.weight.tolist():
            while matrix[row][column]:
                column = (column + 1) % n_inputs
            matrix[row][column] = value
            row, column = (row + 1) % 4, (column + 1) % n_inputs
        expected = [
            [
                math.tanh(sum(w * v for w, v in zip(line, sample, strict=True)) + b)
                for line, b in zip(matrix, block.bias.tolist(), strict=True)
            ]
            for sample in expected
        ]
    torch.testing.assert_close(layer(x), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(("n_inputs", "n_outputs", "n"), [(8, 8, 48), (5, 3, 9), (3, 7, 40)])
def test_a_classical_layer_connects_everything_and_stays_within_bounds(n_inputs, n_outputs, n):
    layer = ClassicalLayer(n_inputs, n_outputs, n).double()
    assert layer(1e3 * torch.randn(50, n_inputs).double()).abs().max() <= 1
    at = torch.rand(n_inputs, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], at)
    assert (jacobian != 0).any(dim=0).all()
    assert (jacobian != 0).any(dim=1).all()
    assert torch.autograd.gradcheck(layer, at[None].requires_grad_())


def test_a_twin_copies_all_but_the_circuit(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    twin = classical_twin(model, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(model.vqc, VQCLayer)
    assert isinstance(twin.vqc, ClassicalLayer)
    for name, value in twin.state_dict().items():
        if not name.startswith("vqc."):
            assert torch.equal(value, before[name])
            assert value.data_ptr() != model.state_dict()[name].data_ptr()
    images = torch.rand(4, 1, 32, 32)
    assert twin.training == model.training
    logits = twin.head(twin.vqc(twin.angles(twin.reduction(twin.pool(twin.backbone(images))))))
    torch.testing.assert_close(twin(images), logits)
    again, other = classical_twin(model, seed=3), classical_twin(model, seed=4)
    torch.testing.assert_close(twin(images), again(images), rtol=0, atol=0)
    assert not torch.equal(twin(images), other(images))
    fit(twin.train(), images, torch.arange(4), epochs=1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_twin_of_a_foreign_circuit_and_of_another_dtype():
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    model = HybridClassifier(backbone, Foreign(), 4, 3, n_inputs=3, n_observables=2).double()
    twin = classical_twin(model)
    assert twin(torch.rand(2, 1, 8, 8).double()).dtype == torch.float64
    assert n_parameters(twin.vqc) == 2 + 3  # the least that connects everything


@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(8, 8), (8, 16), (6, 3), (5, 3)])
def test_a_block_near_the_identity(n_inputs, n_outputs):
    size = n_outputs + 2 * max(n_inputs, n_outputs)
    layer = ClassicalLayer(n_inputs, n_outputs, size, near_identity=True, seed=3)
    (block,) = layer.blocks
    bias = torch.atanh(block(torch.zeros(1, n_inputs)))
    matrix = torch.atanh(block(torch.eye(n_inputs) / 4)) - bias
    smaller = min(n_inputs, n_outputs)
    expected = torch.tensor(
        [
            [column % smaller == row % smaller for row in range(n_outputs)]
            for column in range(n_inputs)
        ]
    )
    noise = torch.cat([4 * matrix - expected.float(), bias]).detach()
    entries = noise[noise.abs() > 1e-6]
    assert len(entries) == size
    assert 0.05 < float(entries.std()) < 0.15
    assert abs(float(entries.mean())) < 0.06


def test_a_twin_near_the_identity(model):
    twin = classical_twin(model, near_identity=True, seed=2)
    x = torch.rand(4, 3)
    torch.testing.assert_close(twin.vqc(x), torch.tanh(x), atol=0.4, rtol=0)
    other = classical_twin(model, near_identity=True, seed=2)
    assert all(map(torch.equal, twin.parameters(), other.parameters()))
    with pytest.raises(TypeError, match="near_identity must be True or False; got 1"):
        classical_twin(model, near_identity=1)


def test_a_twin_survives_a_file(model, tmp_path):
    twin = classical_twin(model, seed=9).eval()
    save_model(twin, tmp_path / "twin.safetensors")
    loaded = load_model(tmp_path / "twin.safetensors")
    assert isinstance(loaded.vqc, ClassicalLayer)
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(loaded(images), twin(images), rtol=0, atol=0)


def test_a_twin_of_something_else():
    with pytest.raises(TypeError, match="model must be an nn.Module; got "):
        classical_twin(torch.sin)
    for arguments, message in (
        ((0, 2, 3), "n_inputs must be an integer >= 1"),
        ((2, 0, 3), "n_observables must be an integer >= 1"),
        ((2, 2, -1), "n_parameters must be an integer >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassicalLayer(*arguments)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_gives_the_weights_that_it_always_gave(model, seed):
    uniform = torch.rand(9, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    (block,) = classical_twin(model, seed=seed).vqc.blocks
    expected = math.sqrt(3 / 6) * uniform  # 3 biases, 6 entries of a 3 x 3 matrix
    torch.testing.assert_close(torch.cat([block.weight, block.bias]), expected, rtol=0, atol=0)
    chain = nn.Sequential(nn.Linear(2, 3), model.vqc)
    torch.testing.assert_close(classical_twin(chain, seed=seed)[1].blocks[0].bias, block.bias)


def test_a_twin_of_several_quantum_layers():
    model = Several()
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())
    twin = classical_twin(model, seed=2)
    assert type(twin) is Several
    assert find_quantum_layers(twin) == []
    layers = [twin.first, twin.wide, twin.last[0]]
    assert [(layer.n_inputs, layer.n_observables) for layer in layers] == [(3, 3), (8, 3), (3, 3)]
    assert n_parameters(twin) == n_parameters(model)
    assert twin.again is twin.first
    assert twin.steps == [twin.first, twin.wide]
    assert twin.readout.func is twin.last[0]
    assert twin.tail["q"] is twin.wide
    assert not torch.equal(twin.first.blocks[0].weight, twin.last[0].blocks[0].weight)
    assert twin(IMAGES).shape == model(IMAGES).shape == (2, 2)
    assert dict(model.named_modules()) == modules
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    same, other = classical_twin(model, seed=2), classical_twin(model, seed=3)
    assert torch.equal(same.last[0].blocks[0].bias, twin.last[0].blocks[0].bias)
    assert not torch.equal(other.last[0].blocks[0].bias, twin.last[0].blocks[0].bias)


def test_gradients_reach_everything_in_a_twin():
    twin = classical_twin(Several()).double()
    images = IMAGES.double().requires_grad_()
    parameters = dict(twin.named_parameters())
    grads = torch.autograd.grad(twin(images).sum(), [images, *parameters.values()])
    assert all(bool((grad != 0).any()) for grad in grads)
    assert torch.autograd.gradcheck(twin, images)


@pytest.mark.parametrize("layer", ["conv", "first"])
def test_a_twin_is_explained_as_any_classical_model(layer):
    class Single(Several):
        def forward(self, x):
            return self.last[1](self.first(self.conv(x).mean((2, 3))))

    twin = classical_twin(Single())
    place = twin.get_submodule(layer)
    captums = LayerGradCam(twin, place).attribute(IMAGES, 1)
    torch.testing.assert_close(QuantumLayerGradCam(twin, place).attribute(IMAGES, 1), captums)
    assert captums.abs().max() > 0
    with torch.no_grad():
        activation = twin.conv(IMAGES)
    if layer == "conv":  # Grad-CAM by its definition, with gradients by finite differences
        wide = copy.deepcopy(twin).double()

        def score(maps):
            return wide.last[1](wide.first(maps.mean((2, 3))))[:, 1]

        expected = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
        for channel in range(3):
            step = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
            step[:, channel] = 1e-5 / 4  # all positions at once: four times the mean gradient
            change = score(activation.double() + step) - score(activation.double() - step)
            weight = change / (2 * 1e-5)
            expected[:, 0] += weight[:, None, None] * activation[:, channel].double()
        torch.testing.assert_close(captums.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3), (0, 3), (2, 0, 3)])
def test_a_classical_layer_takes_the_shapes_of_a_quantum_layer(shape):
    quantum = VQCLayer(3, 1, observables=["Z0", "Z1 Z2"])
    twin = classical_twin(quantum)
    x = torch.rand(shape)
    assert type(twin) is ClassicalLayer
    assert twin(x).shape == quantum(x).shape
    rows = torch.stack([twin(row) for row in x.reshape(-1, 3)]) if x.numel() else x.new_zeros(0, 2)
    torch.testing.assert_close(twin(x).reshape(-1, 2), rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_a_classical_layer_answers_in_the_dtype_of_its_inputs(dtype, weights):
    twin = ClassicalLayer(3, 2, 9, seed=1).to(weights)
    x = torch.tensor([[0.25, -1.5, 0.75]], dtype=dtype)  # exact in all of these
    assert twin(x).dtype == dtype == VQCLayer(3, observables=["Z0", "Z1"])(x).dtype
    exact = copy.deepcopy(twin).double()(x.double())
    torch.testing.assert_close(twin(x), exact.to(dtype))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"inputs must be of shape \(..., 3\); got a torch.float32"),
        (torch.tensor(1.0), ValueError, r"inputs must be of shape \(..., 3\)"),
        (torch.zeros(2, 3).long(), TypeError, "inputs must be a real floating-point tensor"),
        ([0.0, 0.0, 0.0], TypeError, "inputs must be a real floating-point tensor"),
    ],
)
def test_wrong_inputs_of_a_classical_layer(inputs, error, message):
    with pytest.raises(error, match=message):
        ClassicalLayer(3, 2, 9)(inputs)


def test_a_twin_follows_device_dtype_mode_and_freezing_of_each_layer():
    model = nn.Sequential(nn.Linear(2, 2), VQCLayer(2), VQCLayer(2).double().eval())
    model[2].requires_grad_(False)
    model.append(VQCLayer(2).to("meta"))
    _, first, second, third = classical_twin(model)
    assert [m.training for m in (first, second, third)] == [True, False, True]
    assert {p.dtype for p in first.parameters()} == {torch.float32}
    assert {p.dtype for p in second.parameters()} == {torch.float64}
    assert {(p.device.type, p.requires_grad) for p in third.parameters()} == {("meta", True)}
    assert {(p.device.type, p.requires_grad) for p in second.parameters()} == {("cpu", False)}
    assert model[1].training
    assert next(model[2].parameters()).requires_grad is False


def test_a_twin_of_a_circuit_without_weights_follows_the_model():
    circuit = Circuit(
        1, [Gate("rx", (0,), (Angle.of_input(0),))], [Observable.of("Z0")], n_inputs=1
    )
    model = nn.Sequential(nn.LazyLinear(1), VQCLayer.from_circuit(circuit)).double()
    twin = classical_twin(model)
    assert {p.dtype for p in twin[1].parameters()} == {torch.float64}
    assert all(p.requires_grad for p in twin[1].parameters())
    assert twin(torch.rand(2, 5).double()).shape == (2, 1)


def test_modules_that_show_a_circuit_in_another_way():
    model = nn.Sequential(nn.Linear(4, 3), Shown(VQCLayer(3, 1, observables=["Z0", "Z1"])))
    twin = classical_twin(model)
    assert (twin[1].n_inputs, twin[1].n_observables) == (3, 2)
    assert n_parameters(twin[1]) == n_parameters(model[1]) == 9


def test_quantum_layers_named_by_hand():
    hidden = Foreign()
    model = nn.Sequential(VQCLayer(3, 1), hidden)
    twin = classical_twin(model, quantum_layer=model[0])
    assert type(twin[0]) is ClassicalLayer
    assert type(twin[1]) is Foreign
    with pytest.raises(
        ValueError,
        match="quantum_layer must be a module that shows a circuit, or has attributes n_inputs and "
        "n_observables; got a Foreign module",
    ):
        classical_twin(model, quantum_layer=hidden)
    hidden.n_inputs, hidden.n_observables = 3, 2
    twin = classical_twin(model, quantum_layer=[hidden, hidden])
    assert twin[0].circuit == model[0].circuit
    assert twin(torch.rand(4, 3)).shape == model(torch.rand(4, 3)).shape


def test_all_quantum_layers_of_a_hybrid_classifier_are_replaced():
    chain = nn.Sequential(nn.Linear(3, 3), VQCLayer(3, 1))
    chain.n_inputs = chain.n_observables = 3
    backbone = nn.Sequential(nn.Linear(3, 3), VQCLayer(3, 1))
    model = HybridClassifier(backbone, chain, n_features=3, n_classes=2)
    twin = classical_twin(model)
    assert find_quantum_layers(twin) == []
    assert type(twin.backbone[1]) is type(twin.vqc) is ClassicalLayer
    assert n_parameters(twin.vqc) == n_parameters(chain) == 12 + 9
    assert twin(torch.rand(2, 3)).shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": nn.Linear(2, 2)},
            ValueError,
            "model must be a module with a quantum layer, found in it or given as quantum_layer; "
            "got a Linear module",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"seed": "0"}, TypeError, "seed must be an integer >= 0; got '0'"),
        ({"quantum_layer": "0"}, TypeError, "quantum_layer must be a module or a sequence of mod"),
        ({"quantum_layer": []}, TypeError, "quantum_layer must be a module or a sequence of mod"),
        ({"quantum_layer": nn.Tanh()}, ValueError, "quantum_layer must be one of the modules of S"),
    ],
)
def test_wrong_arguments_of_a_twin(arguments, error, message):
    model = nn.Sequential(nn.Linear(2, 2), VQCLayer(2))
    with pytest.raises(error, match=message):
        classical_twin(**{"model": model, **arguments})
