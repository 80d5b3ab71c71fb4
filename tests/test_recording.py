"""Modules as users write them: the layer computes what TorchQuantum computes with them, and follows
what they become.

The truth is TorchQuantum's own run of copies of the modules, on a `tq.QuantumDevice`.
"""

import math

import numpy as np
import pytest
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import nn

from captum_quantum import VQCLayer, quantum_gradient

BATCH = 5


class Encoder(tq.Encoder):
    """A user's encoder: a function of module, device and inputs; keywords become attributes."""

    def __init__(self, body, **attributes):
        super().__init__()
        self.body = body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, qdev, x):
        self.body(self, qdev, x)


class Ansatz(tq.QuantumModule):
    """A user's ansatz, likewise."""

    def __init__(self, body, **attributes):
        super().__init__()
        self.body = body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, qdev):
        self.body(self, qdev)


def parameter(*shape, seed=0):
    return nn.Parameter(torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2)


def each(gate, angle):
    def run(self, qdev, x):
        for wire in range(3):
            gate(qdev, wires=wire, params=angle(self, x, wire))

    return run


def truth(encoder, ansatz, n_qubits, x):
    """<Z> of every qubit from TorchQuantum's own run of the modules themselves."""
    device = tq.QuantumDevice(n_wires=n_qubits, bsz=len(x))
    if encoder is not None:
        encoder(device, x)
    parts = ansatz if isinstance(ansatz, (nn.Sequential, nn.ModuleList, list)) else [ansatz]
    for part in parts:
        if part is not None:
            part(device)
    chances = device.get_states_1d().abs().square()
    index = torch.arange(2**n_qubits)
    signs = [1 - 2 * (index >> (n_qubits - 1 - wire) & 1) for wire in range(n_qubits)]
    return chances @ torch.stack(signs, 1).to(chances.dtype)


def results(call, x, parameters):
    """Values, and derivatives of a score by inputs and parameters."""
    y = call(x)
    weights = torch.linspace(0.5, 2, y.shape[1])
    score = (y * weights).sum()
    wanted = [p for p in (x, *parameters) if p.requires_grad]
    if not wanted or not score.requires_grad:
        return [y.detach()]
    options = {"allow_unused": True, "materialize_grads": True}
    return [y.detach(), *torch.autograd.grad(score, wanted, **options)]


def inputs(*shape, seed=1):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2).requires_grad_()


def check(encoder, ansatz, n_qubits, x, atol=2e-5, **options):
    """The layer's values and gradients are TorchQuantum's, whatever the simulator."""
    layer = VQCLayer(n_qubits, encoder=encoder, ansatz=ansatz, **options)
    modules = [layer.encoder, layer.ansatz]
    parameters = [p for m in modules if m is not None for p in m.parameters()]
    expected = results(lambda x: truth(*modules, n_qubits, x), x, parameters)
    found = results(layer, x, parameters)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)
    return layer


# Angles

FLIP = torch.tensor([2, 0, 1])


def zz_feature_map(self, qdev, x):
    for i in range(3):
        tqf.hadamard(qdev, wires=i)
        tqf.rz(qdev, wires=i, params=2 * x[:, i])
    for i, j in ((0, 1), (1, 2), (0, 2)):
        tqf.rzz(qdev, wires=[i, j], params=2 * (math.pi - x[:, i]) * (math.pi - x[:, j]))
    for i in range(3):
        tqf.ry(qdev, wires=i, params=math.pi / 4 * torch.ones(len(x), 1))


def rewritten(self, qdev, x):
    angle = torch.zeros(len(x))
    for wire in range(3):
        angle = angle if wire else angle.clone()
        angle.copy_(x[:, wire].detach())
        tqf.ry(qdev, wires=wire, params=angle)


def rewritten_in_the_graph(self, qdev, x):
    angle = torch.zeros(len(x))
    for wire in range(3):
        angle += self.w[wire] * x[:, wire]
        tqf.ry(qdev, wires=wire, params=angle)


def under_no_grad(self, qdev, x):
    with torch.no_grad():
        first, weight = x[:, 0], self.w[0]
    tqf.ry(qdev, wires=0, params=first)
    tqf.ry(qdev, wires=1, params=x[:, 1])
    tqf.rx(qdev, wires=1, params=weight)
    tqf.ry(qdev, wires=2, params=x[:, 2].detach())


def fused_model(self, qdev, x):
    for layer in range(2):
        for wire in range(3):
            angles = self.w[layer, wire] * torch.stack([x[:, wire]] * 3, 1) + self.b[layer, wire]
            tqf.u3(qdev, wires=wire, params=angles)
        tqf.cnot(qdev, wires=[layer, layer + 1])


def operators_of_inputs(self, qdev, x):
    for wire, gate in enumerate(self.gates):
        gate(qdev, wires=wire, params=2 * x[:, wire : wire + 1])
    self.gates[0](qdev)  # TorchQuantum keeps wires and angles of the call before


ANGLES = {
    "2 x": each(tqf.ry, lambda s, x, i: 2 * x[:, i]),
    "pi x": each(tqf.rx, lambda s, x, i: math.pi * x[:, i]),
    "-x": each(tqf.ry, lambda s, x, i: -x[:, i]),
    "w x + b": each(tqf.ry, lambda s, x, i: s.w[i] * x[:, i] + s.b[0, i, 0]),
    "x_i x_j": each(tqf.rx, lambda s, x, i: x[:, i] * x[:, (i + 1) % 3]),
    "arctan": each(tqf.ry, lambda s, x, i: torch.arctan(x[:, i])),
    "arcsin": each(tqf.ry, lambda s, x, i: torch.arcsin(x[:, i] / 3)),
    "clamp": each(tqf.ry, lambda s, x, i: (20 * x[:, i]).clamp(-15, 15)),
    "modulo": each(tqf.ry, lambda s, x, i: x[:, i] % 1.0),
    "rectified": each(tqf.ry, lambda s, x, i: torch.relu(x[:, i] - 1)),
    "linear layer": each(tqf.ry, lambda s, x, i: s.linear(x)[:, i]),
    "once for all wires": lambda s, q, x: [
        tqf.ry(q, wires=i, params=angle) for i, angle in enumerate(s.linear(x).unbind(1))
    ],
    "U3(x, 0, w)": each(
        tqf.u3,
        lambda s, x, i: torch.stack([x[:, i], 0 * x[:, i], s.w[i].expand(len(x))], 1),
    ),
    "ZZ feature map": zz_feature_map,
    "flipped": each(tqf.ry, lambda s, x, i: x.flip(1)[:, i]),
    "picked by a list": each(tqf.ry, lambda s, x, i: x[:, [i]]),
    "picked by a tensor": each(tqf.ry, lambda s, x, i: x[:, FLIP][:, i]),
    "strided": lambda s, q, x: tqf.u3(q, wires=1, params=x[:, ::1].flip(0).flip(0)),
    "all columns": lambda s, q, x: tqf.u3(q, wires=1, params=x),
    "transposed": each(tqf.ry, lambda s, x, i: x.t()[i]),
    "sum over the batch": each(tqf.ry, lambda s, x, i: x.mean(0)[i]),
    "the first sample's": each(tqf.ry, lambda s, x, i: x[0, i]),
    "rolled samples": each(tqf.ry, lambda s, x, i: x.roll(1, 0)[:, i]),
    "expanded weights": each(tqf.ry, lambda s, x, i: s.w[i].expand(len(x), 1)),
    "repeated weights": each(tqf.ry, lambda s, x, i: s.w[i].repeat(len(x), 1)),
    "weights of every sample": each(tqf.ry, lambda s, x, i: s.w[i] + 0 * x[:, i]),
    "tied": each(tqf.ry, lambda s, x, i: s.w[0] * x[:, i]),
    "scaled weights": each(tqf.ry, lambda s, x, i: 2 * s.w[i : i + 1]),
    "integers": each(tqf.ry, lambda s, x, i: torch.tensor([[i + 1]])),
    "numbers of numpy": each(tqf.ry, lambda s, x, i: np.float64(0.3 * i)),
    "rewritten in place": rewritten,
    "rewritten in the graph": rewritten_in_the_graph,
    "under no_grad": under_no_grad,
    "fused model": fused_model,
    "operators": operators_of_inputs,
}


def angles_encoder(name):
    torch.manual_seed(0)
    return Encoder(
        ANGLES[name],
        w=parameter(3) if name != "fused model" else parameter(2, 3, 3),
        b=parameter(2, 3, 3, seed=1),
        linear=nn.Linear(3, 3),
        gates=nn.ModuleList([tq.RX(), tq.RY(), tq.RZ()]),
    )


def entangling():
    def body(self, qdev):
        tqf.cnot(qdev, wires=[0, 1])
        tqf.ry(qdev, wires=1, params=self.w[3:4])
        tqf.cnot(qdev, wires=[1, 2])

    return Ansatz(body, w=parameter(4, seed=3))


OPTIONS = [
    {},
    {"gradient": "backprop"},
    {"gradient": "parameter-shift"},
    {"gradient": "finite-difference", "dtype": torch.complex128},
    {"simulator": "torchquantum"},
    {"simulator": "torchquantum", "gradient": "parameter-shift"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ANGLES)
@pytest.mark.filterwarnings("ignore:no angle depends")
def test_angles_are_what_the_modules_compute(name, options):
    atol = 2e-4 if options.get("gradient") == "finite-difference" else 2e-5
    check(angles_encoder(name), entangling(), 3, inputs(BATCH, 3), atol, n_inputs=3, **options)
    check(angles_encoder(name), entangling(), 3, inputs(1, 3), atol, n_inputs=3, **options)


@pytest.mark.parametrize("name", ANGLES)
@pytest.mark.filterwarnings("ignore:no angle depends")
def test_angles_where_nothing_is_differentiated(name):
    layer = VQCLayer(3, encoder=angles_encoder(name), ansatz=entangling(), n_inputs=3)
    x = inputs(BATCH, 3).detach()
    expected = truth(layer.encoder, layer.ansatz, 3, x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(layer(x[:1]), truth(layer.encoder, layer.ansatz, 3, x[:1]),
                                   atol=2e-5, rtol=0)  # fmt: skip
    with torch.inference_mode():
        torch.testing.assert_close(layer(x).clone(), expected, atol=2e-5, rtol=0)
        assert layer(x[:0]).shape == (0, 3)
    torch.testing.assert_close(layer(x.double()), expected.double(), atol=2e-5, rtol=0) if (
        name not in ("linear layer", "once for all wires", "rewritten in the graph")
    ) else None


@pytest.mark.parametrize("rule", ["adjoint", "parameter-shift", "backprop"])
@pytest.mark.parametrize("name", ["2 x", "w x + b", "linear layer", "ZZ feature map", "flipped"])
def test_rules_swapped_in_give_the_gradients(name, rule):
    """Derivatives by inputs are the rule's; those by weights keep their own path, once."""
    layer = VQCLayer(3, encoder=angles_encoder(name), ansatz=entangling())
    x = inputs(BATCH, 3)
    expected = results(layer, x, list(layer.parameters()))
    with quantum_gradient(layer, rule):
        found = results(layer, x, list(layer.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
