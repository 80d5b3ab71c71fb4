"""What works with the rest of PyTorch: the table in tests/docs/pytorch.md."""

import copy
import io
import pickle
import threading
from pathlib import Path

import pytest
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from captum_quantum import VQCLayer
from captum_quantum.gradients import GradientRuleError

LAYERS = {
    "4 qubits": (4, {}),
    "8 qubits": (8, {}),
    "amplitudes": (3, {"encoder": "amplitude"}),
    "re-uploading": (4, {"reupload": True}),
    "X and Y": (3, {"observables": ["X0 Y1", "Z2"]}),
    "real": (4, {"ansatz": "real_amplitudes"}),
    "a user's modules": (3, {"encoder": lambda: Doubling(), "ansatz": lambda: Own()}),
}


class Doubling(tq.Encoder):
    """Angles that are computed from inputs."""

    def forward(self, qdev, x):
        for wire in range(3):
            tqf.ry(qdev, wires=wire, params=2 * x[:, wire])


class Own(tq.QuantumModule):
    """Weights as angles, and angles that are computed from them."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.rand(4) * 3)

    def forward(self, qdev):
        for wire in range(3):
            tqf.rx(qdev, wires=wire, params=self.weights[wire : wire + 1])
            tqf.cnot(qdev, wires=[wire, (wire + 1) % 3])
        tqf.ry(qdev, wires=0, params=self.weights[2] * self.weights[3])


OTHER_RULES = ("parameter-shift", "finite-difference", "commutator")
every_layer = pytest.mark.parametrize("name", LAYERS)
RULES = ("adjoint", "backprop", "parameter-shift", "finite-difference")
layers_and_rules = pytest.mark.parametrize(  # amplitudes are no angles that could be shifted
    ("name", "rule"),
    [(n, r) for n in LAYERS for r in RULES if (n, r) != ("amplitudes", "parameter-shift")],
)


def make(name="4 qubits", **options):
    torch.manual_seed(0)
    n_qubits, own = LAYERS[name]
    made = {key: value() if callable(value) else value for key, value in own.items()}
    return VQCLayer(n_qubits, **{**made, **options})


def inputs(layer, *batch, seed=1):
    return torch.rand(*batch, layer.n_inputs, generator=torch.Generator().manual_seed(seed)) + 0.1


def gradients(call, layer, x):
    """Values, and gradients by inputs and weights."""
    x = x.detach().clone().requires_grad_()
    values = call(x)
    found = torch.autograd.grad(values.float().square().sum(), [x, *layer.parameters()])
    return [values.detach(), *found]


def same(found, expected, atol=1e-6):
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(other.float().abs().max()))
        assert torch.allclose(one.float(), other.float(), rtol=0, atol=atol * scale)


def test_the_table_names_what_is_tested():
    text = (Path(__file__).parent / "docs" / "pytorch.md").read_text(encoding="utf-8")
    assert text.count("\n| ") == 18 + 1  # the features below and those of the files it names


@layers_and_rules
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype, rule):
    layer = make(name, gradient=rule)
    x = inputs(layer, 5)
    expected = gradients(layer, layer, x)
    cold = make(name, gradient=rule)
    with torch.autocast("cpu", dtype=dtype):
        if rule == "backprop":  # PyTorch computes its own backward pass as it finds it
            inside = [cold(x).detach(), *expected[1:]]
        else:
            inside = gradients(cold, cold, x)
    same(inside, expected)
    same(gradients(cold, cold, x), expected)  # nothing that was made inside is kept


@every_layer
def test_autocast_leaves_recorded_gradients_alone(name):
    layer = make(name)
    x = inputs(layer, 5).requires_grad_()
    of = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x).sum(), of, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in expected), of)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(layer(x).sum(), of, create_graph=True)
    same(found, expected)
    same(torch.autograd.grad(sum(g.square().sum() for g in found), of), second, 1e-5)


def test_gradient_scaling():
    model = nn.Sequential(nn.Linear(5, 4), make(), nn.Linear(4, 2))
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")
    before = model[1].weights.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.rand(6, 5)).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model[1].weights)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    layer = make(name)
    half = copy.deepcopy(layer).to(dtype)
    rounded = copy.deepcopy(half).float()
    x = inputs(layer, 5).to(dtype)
    found, expected = gradients(half, half, x), gradients(rounded, rounded, x.float())
    assert all(one.dtype == dtype for one in found)
    scale = 4 * torch.finfo(dtype).eps
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.float(), other, rtol=scale, atol=scale * float(other.abs().max()))


@every_layer
def test_functional_transforms(name):
    layer, exact = make(name), make(name, gradient="backprop")
    x, weights = inputs(layer, 4), dict(layer.named_parameters())

    def of_sample(weights, one):
        return functional_call(layer, weights, (one,)).square().sum()

    per_sample = vmap(torch.func.grad(of_sample), (None, 0))(weights, x)
    for k in range(4):
        expected = gradients(exact, exact, x[k])[2]
        same([per_sample["ansatz.weights"][k]], [expected])
    for one in (layer, exact):
        same([torch.func.jacrev(one)(x[0])], [torch.autograd.functional.jacobian(exact, x[0])])
    tangent = torch.ones_like(x)
    same([torch.func.jvp(layer, (x,), (tangent,))[1]], [torch.func.jvp(exact, (x,), (tangent,))[1]])
    for vectorize in (True, False):
        found = torch.autograd.functional.jacobian(layer, x[0], vectorize=vectorize)
        same([found], [torch.autograd.functional.jacobian(exact, x[0])])
    plain = layer(x)
    same([vmap(layer)(x)], [plain])
    same([layer(x)], [plain])  # nothing that was made inside is kept


def test_ensembles():
    layers = [VQCLayer(3) for _ in range(3)]
    x = inputs(layers[0], 2)
    weights, _ = stack_module_state(layers)
    found = vmap(lambda own: functional_call(layers[0], own, (x,)))(weights)
    same([found], [torch.stack([layer(x) for layer in layers])])


@pytest.mark.parametrize("rule", OTHER_RULES)
def test_other_rules_say_what_to_do_in_transforms(rule):
    layer = make(gradient=rule)
    x = inputs(layer, 2)
    calls = [
        lambda: torch.func.grad(lambda one: layer(one).sum())(x[0]),
        lambda: torch.func.jvp(layer, (x,), (x,)),
        lambda: torch.jit.trace(layer.requires_grad_(), x.requires_grad_()),
    ]
    for call in calls:
        with pytest.raises(GradientRuleError, match="use gradient='backprop'"):
            call()


@pytest.mark.parametrize("rule", ["adjoint", *OTHER_RULES])
def test_forward_mode(rule):
    layer, exact = make(gradient=rule), make(gradient="backprop")
    x, tangent = inputs(layer, 2), torch.ones(2, 4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        found = forward_ad.unpack_dual(exact(dual)).tangent
        with pytest.raises(NotImplementedError, match="jvp"):
            layer(dual)
    same([found], [torch.autograd.functional.jvp(exact, x, tangent)[1]])


@every_layer
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(name, backend):
    torch._dynamo.reset()
    layer = make(name)
    model = nn.Sequential(
        nn.Linear(3, layer.n_inputs), nn.Sigmoid(), layer, nn.Linear(layer.n_observables, 2)
    )
    plain, x = copy.deepcopy(model), torch.rand(6, 3)
    same(gradients(torch.compile(model, backend=backend), model, x), gradients(plain, plain, x))
    same(gradients(model, model, x), gradients(plain, plain, x))
    cold = make(name)
    x = inputs(cold, 3)
    same([torch.compile(cold, backend=backend)(x)], [make(name)(x)])
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compiled already"):
        torch.compile(model, backend=backend, fullgraph=True)(torch.rand(6, 3))


@every_layer
@pytest.mark.parametrize("warm", [False, True])
def test_trace(name, warm):
    layer = make(name)
    x = inputs(layer, 3)
    if warm:
        layer(x)
    traced = torch.jit.trace(layer, x)
    same([layer(x)], [make(name)(x)])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3
    for batch in (3, 1, 128, 130):
        x = inputs(layer, batch)
        same(gradients(traced, layer, x), gradients(layer, layer, x), atol=1e-5)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    same([torch.jit.load(file)(x)], [layer(x)])


@every_layer
def test_export(name):
    layer = make(name)
    x, other = inputs(layer, 3), inputs(layer, 9)
    fixed = torch.export.export(layer, (x,), strict=False)
    same([layer(x)], [make(name)(x)])
    same([fixed.module()(x)], [layer(x)])
    shapes = {"inputs": {0: torch.export.Dim.AUTO}}
    any_batch = torch.export.export(layer, (x,), dynamic_shapes=shapes, strict=False)
    same([any_batch.module()(other)], [layer(other)])


def test_fx():
    with pytest.raises(TypeError, match="inputs must be a real floating-point tensor; got Proxy"):
        torch.fx.symbolic_trace(nn.Sequential(make()))

    class Leaving(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, VQCLayer) or super().is_leaf_module(module, name)

    model = nn.Sequential(nn.Linear(2, 4), make())
    traced = torch.fx.GraphModule(model, Leaving().trace(model))
    x = torch.rand(3, 2)
    same([traced(x)], [model(x)])


@every_layer
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(name, reentrant):
    layer = make(name)
    x = inputs(layer, 4)
    x, again = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    found = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    plain = make(name)
    plain(again).square().sum().backward()
    same(found, [again.grad, *(parameter.grad for parameter in plain.parameters())])


def test_parametrizations():
    found = []
    for rule in ("adjoint", "backprop"):
        layer = make(gradient=rule)
        nn.utils.parametrizations.weight_norm(layer.ansatz, "weights")
        found.append(gradients(layer, layer, inputs(layer, 3)))
        assert len(found[-1]) == 4
    same(*found)


def test_shared_weights():
    first, second = make(), make()
    second.ansatz.weights = first.ansatz.weights
    x = inputs(first, 3)
    first(second(x)).sum().backward()
    assert float(first.ansatz.weights.grad.abs().max()) > 0


def test_distributed(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        layer, plain = make(), make()
        x = inputs(layer, 4)
        parallel = nn.parallel.DistributedDataParallel(layer)
        same(gradients(parallel, layer, x), gradients(plain, plain, x))
    finally:
        torch.distributed.destroy_process_group()


@every_layer
def test_threads(name):
    layer = make(name)
    batches = [inputs(layer, batch, seed=batch) for batch in range(1, 9)]
    expected = [gradients(layer, layer, x) for x in batches]
    cold, found = make(name), [None] * len(batches)

    def work(k):
        for _ in range(5):
            found[k] = gradients(cold, cold, batches[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        same(one, other, atol=1e-5)


class Encoded(Dataset):
    """Values of a layer, computed where the data are loaded."""

    def __init__(self, layer):
        self.layer, self.x = layer, inputs(layer, 6)

    def __len__(self):
        return 6

    def __getitem__(self, k):
        with torch.no_grad():
            return self.layer(self.x[k])


def test_workers_of_a_data_loader():
    data = Encoded(make())
    loader = DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    same([torch.cat(list(loader))], [data.layer(data.x).detach()])


@every_layer
def test_copies(name):
    layer = make(name)
    x = inputs(layer, 3)
    expected = gradients(layer, layer, x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ):
        same(gradients(other, other, x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make(name)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(gradients(other, other, x), expected)


@every_layer
@pytest.mark.parametrize("batch", [(5,), (2, 9), (128,), (1,)])
@pytest.mark.parametrize("rule", ["adjoint", "backprop", "finite-difference"])
@pytest.mark.parametrize("frozen", [False, True])
def test_outputs_and_gradients_are_contiguous(name, batch, rule, frozen):
    layer = make(name, gradient=rule).requires_grad_(not frozen)
    x = inputs(layer, *batch).requires_grad_()
    values = layer(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values.is_contiguous()
    assert gradient.is_contiguous()


@layers_and_rules
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
def test_in_place_changes(name, rule, frozen, in_parts, monkeypatch):
    if in_parts:
        monkeypatch.setattr("captum_quantum.simulate.compiled.BUDGET", 2**9)
    found = []
    for in_place in (False, True):
        layer = make(name, gradient=rule).requires_grad_(not frozen)
        leaf = inputs(layer, 7).requires_grad_()
        x = leaf * 1.0
        values = layer(x)
        if in_place:
            x *= 3
            values += 1
            values *= x.detach().sum(dim=1, keepdim=True) / 3
        else:
            values = (values + 1) * x.detach().sum(dim=1, keepdim=True)
        wanted = [leaf, *layer.parameters()] if not frozen else [leaf]
        found.append(torch.autograd.grad(values.square().sum(), wanted))
    same(*reversed(found), atol=1e-4)
