"""Simulation and explanations on a GPU against the CPU, without waiting, in CUDA graphs."""

import pytest
import torch
from circuits import arguments, norms, random_circuit
from torch import nn

from captum_quantum import QuantumLayerGradCam, VQCLayer, quantum_gradient
from captum_quantum.simulate import FusedSimulator

pytestmark = pytest.mark.gpu


def values_and_gradients(circuit, x, w, dtype, device, adjoint=True):
    """Values, and the gradients of a weighted sum of them, on the CPU in double precision."""
    real = dtype.to_real()
    x, w = (leaf.detach().to(device, real).requires_grad_() for leaf in (x, w))
    layer = VQCLayer.from_circuit(
        circuit, nn.Parameter(w), gradient="adjoint" if adjoint else "backprop", dtype=dtype
    )
    values = layer(x)
    cotangent = torch.linspace(0.3, 1, values.numel(), dtype=torch.float64).reshape(values.shape)
    wanted = [x, *layer.parameters()]
    found = [None]
    if values.requires_grad:
        cotangent = cotangent.to(device, real)
        found = torch.autograd.grad(values, wanted, cotangent, allow_unused=True)
    return [tensor.detach().cpu().double() for tensor in (values, *found) if tensor is not None]


@pytest.mark.parametrize("seed", range(60))
def test_random_circuits(seed):
    encoding = ("anywhere", "first", "amplitudes")[seed % 3]
    circuit = random_circuit(seed, encoding=encoding, layered=seed % 2 == 1)
    batch = (1, 5, 1027)[seed // 3 % 3]
    x, w = arguments(circuit, batch, seed)
    expected = values_and_gradients(circuit, x, w, torch.complex128, "cpu")
    # Derivatives by weights are sums over the batch.
    scale = max(1.0, sum(norms(circuit))) * max(1, len(circuit.gates) / 4)
    bounds = scale, scale, scale * max(1, batch / 10)
    for dtype, rounding in ((torch.complex128, 1e-12), (torch.complex64, 1e-5)):
        for adjoint in (True, False):
            found = values_and_gradients(circuit, x, w, dtype, "cuda", adjoint)
            for one, other, bound in zip(found, expected, bounds, strict=False):
                assert torch.allclose(one, other, rtol=0, atol=rounding * bound)


@pytest.mark.parametrize("batch", [1024, 4099, 2**17])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_weight_gradients_of_large_batches(n, batch):
    layer = VQCLayer(n, dtype=torch.complex128)
    x = torch.rand(batch, n)
    expected = torch.autograd.grad(layer(x).square().mean(), list(layer.parameters()))
    layer.to("cuda")
    found = torch.autograd.grad(layer(x.cuda()).square().mean(), list(layer.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.cpu(), other, rtol=0, atol=1e-7)


def hybrid(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        VQCLayer(4, **options), nn.Linear(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "rule", [None, "adjoint", "backprop", "parameter-shift", "commutator", "finite-difference"]
)
def test_explanations(rule):
    model, images, target = hybrid(dtype=torch.complex128).double(), torch.rand(9, 1, 8, 8), 1
    images = images.double()

    def explain(images):
        explainer = QuantumLayerGradCam(model, model[1], gradient=rule)
        maps = [explainer.attribute(images, target), explainer.attribute_qubits(images, target)]
        maps.append(explainer.attribute_observables(images, target))
        maps.append(explainer.attribute_classes(images, [0, 2]))
        leaf = images.clone().requires_grad_()
        with quantum_gradient(model[5], rule or "adjoint"):
            maps.append(torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0])
        return [one.detach().cpu() for one in maps]

    expected = explain(images)
    model.to("cuda")
    found = explain(images.cuda())
    for one, other in zip(found, expected, strict=True):
        atol = 1e-8 if rule == "finite-difference" else 1e-12
        assert torch.allclose(one, other, rtol=0, atol=atol * float(other.abs().max() + 1))


@pytest.mark.parametrize("options", [{}, {"reupload": True}, {"encoder": "amplitude"}])
def test_a_training_step_does_not_wait_for_the_gpu(options):
    layer = VQCLayer(5, **options).cuda()
    x = torch.rand(64, layer.n_inputs, device="cuda", requires_grad=True)

    def step():
        return torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{}, {"reupload": True}, {"ansatz": "real_amplitudes"}])
def test_cuda_graphs(options):
    layer = VQCLayer(6, **options).cuda()
    start, x = layer.weights.detach().clone(), torch.rand(256, 6, device="cuda")

    def results(call, shift):
        with torch.no_grad():
            layer.ansatz.weights.copy_((start + shift).reshape(layer.ansatz.weights.shape))
        given = (x + shift).requires_grad_()
        values = call(given)
        found = torch.autograd.grad(values.sum(), [given, *layer.parameters()])
        return [tensor.detach().clone() for tensor in (values, *found)]

    expected = [results(layer, shift) for shift in (0.0, 0.5)]
    graphed = torch.cuda.make_graphed_callables(layer, (x.clone().requires_grad_(),))
    for shift, right in zip((0.0, 0.5, 0.0), [*expected, expected[0]], strict=True):
        for one, other in zip(results(graphed, shift), right, strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_programs_are_kept_by_device():
    circuit = random_circuit(1)
    simulator = FusedSimulator()
    x, w = (leaf.float() for leaf in arguments(circuit, 3, 1))
    for device in ("cpu", "cuda", "cpu"):
        inputs = x.to(device)[:, circuit.indices("input")]
        weights = w.to(device)[circuit.indices("weight")]
        values = simulator.expectations(circuit, inputs, weights, torch.complex64)
        assert values.device.type == device
