"""Modules as users write them: the layer computes what TorchQuantum computes with them, and follows
what they become.

The truth is TorchQuantum's own run of copies of the modules, on a `tq.QuantumDevice`.
"""

import copy
import math
import pickle
import random

import numpy as np
import pytest
import reference as ref
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from captum.attr import LayerGradCam
from modules import Ansatz, Encoder
from torch import nn
from torch.nn.utils import parametrize, prune

from captum_quantum import (
    Angle,
    Circuit,
    CircuitError,
    Gate,
    Observable,
    QuantumLayerGradCam,
    VQCLayer,
    quantum_gradient,
)

BATCH = 5


def parameter(*shape, seed=0):
    return nn.Parameter(torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2)


def each(gate, angle):
    def run(self, qdev, x):
        for wire in range(3):
            gate(qdev, wires=wire, params=angle(self, x, wire))

    return run


def apply_all(ansatz, device):
    if isinstance(ansatz, (nn.Sequential, nn.ModuleList)):
        for part in ansatz:
            apply_all(part, device)
    elif ansatz is not None:
        ansatz(device)


def truth(encoder, ansatz, n_qubits, x):
    """<Z> of every qubit from TorchQuantum's own run of the modules themselves."""
    device = tq.QuantumDevice(n_wires=n_qubits, bsz=len(x))
    if encoder is not None:
        encoder(device, x)
    apply_all(ansatz, device)
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
    "batch norm": each(tqf.ry, lambda s, x, i: s.norm(x)[:, i]),
    "dropout": each(tqf.ry, lambda s, x, i: s.dropout(x)[:, i]),
}


def angles_encoder(name):
    torch.manual_seed(0)
    return Encoder(
        ANGLES[name],
        w=parameter(3) if name != "fused model" else parameter(2, 3, 3),
        b=parameter(2, 3, 3, seed=1),
        linear=nn.Linear(3, 3),
        gates=nn.ModuleList([tq.RX(), tq.RY(), tq.RZ()]),
        norm=nn.BatchNorm1d(3).eval(),
        dropout=nn.Dropout(0.5).eval(),
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
        name not in ("linear layer", "once for all wires", "rewritten in the graph", "batch norm")
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


# Gates


def by_functions(*calls):
    def body(self, qdev):
        for wire in range(3):
            tqf.ry(qdev, wires=wire, params=0.4 + wire)
        for call in calls:
            call(self, qdev)

    return body


UNITARY = torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex64,
                                      generator=torch.Generator().manual_seed(0)))[0]  # fmt: skip

GATES = {
    "a constant matrix": lambda s, q: tqf.qubitunitaryfast(q, wires=[2, 0], params=UNITARY),
    "a checked matrix": lambda s, q: tqf.qubitunitary(q, wires=[0, 1], params=UNITARY),
    "an inverse matrix": lambda s, q: tqf.qubitunitaryfast(
        q, wires=[0, 1], params=UNITARY, inverse=True
    ),
    "a matrix as rows": lambda s, q: tqf.qubitunitaryfast(q, wires=1, params=[[0, 1j], [1j, 0]]),
    "an operator with a matrix": lambda s, q: s.matrix(q, wires=[1, 2]),
    "a matrix in a buffer": lambda s, q: tqf.qubitunitaryfast(q, wires=[1, 2], params=s.buffer),
    "a matrix exponential": lambda s, q: tqf.matrix_exp(q, wires=0, params=1j * s.hermitian),
    "one Pauli string": lambda s, q: s.one(q, wires=[0, 2]),
    "one Pauli string twice": lambda s, q: s.twice(q, wires=[0, 2]),
    "Pauli strings that commute": lambda s, q: s.commuting(q, wires=[0, 1]),
    "Pauli strings that do not": lambda s, q: s.general(q, wires=[2, 0, 1]),
    "a Hamiltonian": lambda s, q: s.hamiltonian(q, wires=[1, 2]),
    "little-endian": lambda s, q: s.little(q, wires=[1, 2]),
    "methods of the device": lambda s, q: (
        q.h(wires=0),
        q.rx(wires=1, params=s.w[:1]),
        q.cx([1, 2]),
    ),
    "history of gates": lambda s, q: s.history(q),
    "wires of numpy": lambda s, q: tqf.rx(q, wires=list(np.arange(3)[1:2]), params=s.w[:1]),
    "angles that a gate ignores": lambda s, q: tqf.hadamard(q, wires=0, params=s.w[:1]),
    "inverted operators": lambda s, q: s.gate(q, wires=1),
}


def gates_ansatz(name):
    buffers = torch.diag(torch.exp(1j * torch.arange(4)))
    ansatz = Ansatz(
        by_functions(GATES[name]),
        w=parameter(2),
        matrix=tq.QubitUnitaryFast(has_params=True, trainable=False, init_params=UNITARY),
        hermitian=torch.tensor([[0.3, 0.1 - 0.2j], [0.1 + 0.2j, -0.5]]),
        one=tq.OpPauliExp([0.7], ["XY"], theta=0.6),
        twice=tq.OpPauliExp([0.7, 0.4], ["XY", "XY"], theta=0.6),
        commuting=tq.OpPauliExp([0.7, -0.4, 1.0], ["XX", "ZZ", "YY"], theta=0.6),
        general=tq.OpPauliExp([0.7, -0.4, 0.2], ["XXI", "ZIZ", "IYI"], theta=-0.8),
        hamiltonian=tq.OpHamilExp(tq.Hamiltonian([1.0, 0.5], ["XZ", "IY"]), theta=0.5),
        little=tq.OpPauliExp([0.7, 0.3], ["XY", "IZ"], endianness="little", theta=0.6),
        history=tq.QuantumModule.from_op_history(
            [
                {"name": "rx", "wires": 0, "params": 0.3, "inverse": False, "trainable": True},
                {"name": "cnot", "wires": [0, 1], "params": None},
            ]
        ),
        gate=tq.RX(has_params=True, trainable=True, init_params=0.3, inverse=True),
    )
    ansatz.register_buffer("buffer", buffers)
    return ansatz


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[4:5], ids=str)
@pytest.mark.parametrize("name", GATES)
def test_gates_are_torchquantums(name, options):
    torch.manual_seed(0)
    check("ry", gates_ansatz(name), 3, inputs(BATCH, 3), **options)


@pytest.mark.parametrize("rule", ["parameter-shift", "commutator"])
@pytest.mark.parametrize("name", ["one Pauli string", "Pauli strings that do not"])
def test_rules_on_exponentials(name, rule):
    ansatz = gates_ansatz(name)
    if name == "one Pauli string" or rule == "commutator":
        check("ry", ansatz, 3, inputs(BATCH, 3), gradient=rule)
        return
    layer = VQCLayer(3, ansatz=ansatz, gradient=rule)
    with pytest.raises(ValueError, match="neither two nor three equidistant eigenvalues"):
        layer(inputs(BATCH, 3))


def test_exponentials_of_inputs():
    """A Hamiltonian's time is an input: every sample evolves for its own time."""
    for coefficients, paulis in (([0.7], ["XY"]), ([0.7, -0.4, 0.2], ["XX", "ZI", "IY"])):

        def body(self, qdev, x, coefficients=coefficients, paulis=paulis):
            for wire in range(2):
                tqf.ry(qdev, wires=wire, params=x[:, wire])
            hamiltonian = tq.Hamiltonian(coefficients, paulis).matrix
            matrices = torch.matrix_exp(-0.5j * x[:, 2, None, None] * hamiltonian)
            tqf.qubitunitaryfast(qdev, wires=[0, 1], params=matrices)

        operator = Observable.of(dict(zip(paulis, coefficients, strict=True)))
        gates = [Gate("ry", (wire,), (Angle.of_input(wire),)) for wire in range(2)]
        gates.append(Gate("exp", (0, 1), (Angle.of_input(2),), operator=operator))
        circuit = Circuit(2, gates, [Observable.of("Z0"), Observable.of("Z1")], 3)
        layer, x = VQCLayer.from_circuit(circuit), inputs(BATCH, 3)
        encoder = Encoder(body)
        expected = results(lambda x, encoder=encoder: truth(encoder, None, 2, x), x, [])
        for one, other in zip(results(layer, x, []), expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


# Structure


class Sampled(tq.QuantumModule):
    """A super-circuit: how many gates run is chosen between steps."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList(tq.RX(has_params=True, trainable=True) for _ in range(3))
        self.used = 1

    def forward(self, qdev):
        for wire in range(self.used):
            self.gates[wire](qdev, wires=wire)


class Moded(tq.QuantumModule):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, qdev):
        if self.training:
            tqf.rx(qdev, wires=0, params=torch.tensor([[1.0]]))
        else:
            tqf.cnot(qdev, wires=[0, 1])


class Layers(tq.QuantumModule):
    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList(
            tq.RY(has_params=True, trainable=True, init_params=0.7 + k) for k in range(3)
        )
        self.plain = [tq.RX(has_params=True, trainable=True, init_params=0.2)]
        self.settings = {"angle": 0.3, "on": np.array([True, False])}

    def forward(self, qdev):
        for wire, gate in enumerate(self.gates):
            gate(qdev, wires=wire)
        for gate in self.plain:
            gate(qdev, wires=2)
        if self.settings["on"][0]:
            tqf.rx(qdev, wires=0, params=self.settings["angle"])


class Scaled(nn.Module):
    def forward(self, angle):
        return 2 * angle


def pruned(ansatz):
    for gate in ansatz.gates:
        prune.l1_unstructured(gate, "params", amount=1)
    with torch.no_grad():
        for weight in ansatz.parameters():
            weight.add_(0.5)


def set_value(ansatz):
    ansatz.gates[0].params.data[:] = 1.3


CHANGES = {
    "super-circuit": (Sampled, lambda a: setattr(a, "used", 3)),
    "evaluation": (Moded, lambda a: a.eval()),
    "pruned": (Layers, pruned),
    "gate replaced": (
        Layers,
        lambda a: a.gates.__setitem__(1, tq.RX(has_params=True, trainable=True, init_params=0.2)),
    ),
    "gate added": (Layers, lambda a: a.plain.append(tq.RY(has_params=True, init_params=1.0))),
    "data written": (Layers, set_value),
    "number changed": (Layers, lambda a: a.settings.update(angle=1.1)),
    "array changed": (Layers, lambda a: a.settings["on"].__setitem__(0, False)),
    "parametrized": (
        lambda: Ansatz(lambda s, q: tqf.rx(q, wires=0, params=s.w), w=parameter(1, seed=2)),
        lambda a: parametrize.register_parametrization(a, "w", Scaled()),
    ),
    "hooked": (
        Layers,
        lambda a: a.gates[0].register_forward_pre_hook(
            lambda module, args: tqf.rz(args[0], wires=0, params=0.4)
        ),
    ),
    "forward replaced": (
        Layers,
        lambda a: setattr(a, "forward", lambda qdev: tqf.hadamard(qdev, wires=1)),
    ),
}


@pytest.mark.parametrize("options", OPTIONS[:3] + OPTIONS[4:5], ids=str)
@pytest.mark.parametrize("case", CHANGES)
def test_changes_after_construction_are_followed(case, options):
    make, change = CHANGES[case]
    torch.manual_seed(0)
    ansatz = make()
    layer = VQCLayer(3, ansatz=ansatz, **options)
    x = inputs(BATCH, 3)
    before = layer(x).detach()
    for _ in range(2):
        change(ansatz) if _ == 0 else None
        parameters = list(ansatz.parameters())
        expected = results(lambda x: truth(layer.encoder, ansatz, 3, x), x, parameters)
        for one, other in zip(results(layer, x, parameters), expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(before, expected[0], atol=1e-3)
    assert torch.allclose(layer.run(layer.angle_table(x)), expected[0], atol=2e-5)


@pytest.mark.parametrize("change", ["prune", "parametrize", "hook", "forward", "list", "layers"])
def test_named_circuits_are_followed_too(change):
    layer = VQCLayer(3, ansatz="real_amplitudes")
    x = inputs(BATCH, 3)
    layer(x)
    if change == "prune":
        prune.random_unstructured(layer.ansatz, "weights", amount=4)
    elif change == "parametrize":
        parametrize.register_parametrization(layer.ansatz, "weights", Scaled())
    elif change == "hook":
        layer.encoder.register_forward_hook(
            lambda module, args, output: tqf.rx(args[0], wires=0, params=0.7)
        )
    elif change == "forward":
        layer.ansatz.forward = lambda qdev: tqf.rx(qdev, wires=0, params=0.7)
    elif change == "list":
        layer.encoder.func_list[0]["wires"][0] = 2
    else:
        layer.ansatz.n_layers = 1
    found = results(layer, x, list(layer.parameters()))
    expected = results(
        lambda x: truth(layer.encoder, layer.ansatz, 3, x), x, list(layer.parameters())
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_gates_may_depend_on_inputs_and_on_chance():
    def branching(self, qdev, x):
        for wire in range(3):
            (tqf.ry if x[0, wire] > 1 else tqf.rx)(qdev, wires=wire, params=x[:, wire])

    for seed in range(4):
        check(Encoder(branching), None, 3, inputs(BATCH, 3, seed=seed))

    def drawn(self, qdev, x):
        for wire in range(3):
            gate = random.choice([tqf.ry, tqf.rx])
            gate(qdev, wires=wire, params=x[:, wire] + torch.randn(1) + random.random())

    encoder = Encoder(drawn)
    layer, x = VQCLayer(3, encoder=encoder, ansatz=None), inputs(BATCH, 3)
    for seed in range(3):
        values = []
        for call in (layer, lambda x: truth(encoder, None, 3, x)):
            torch.manual_seed(seed)
            random.seed(seed)
            values.append(results(call, x, []))
        for one, other in zip(*values, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    layer = VQCLayer(3, encoder=encoder, ansatz=None, gradient="parameter-shift")
    torch.manual_seed(5), random.seed(5)
    found = results(layer, x, [])
    torch.manual_seed(5), random.seed(5)
    for one, other in zip(found, results(lambda x: truth(encoder, None, 3, x), x, []), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_modules_may_count_their_calls():
    def body(self, qdev):
        self.calls += 1
        (tqf.rx if self.calls % 2 else tqf.ry)(qdev, wires=0, params=0.5)

    ansatz = Ansatz(body, calls=0)
    layer = VQCLayer(2, ansatz=ansatz)
    assert ansatz.calls == 0  # trying them out is no call
    x = inputs(BATCH, 2)
    for calls in range(1, 4):
        torch.testing.assert_close(
            layer(x), truth(layer.encoder, Ansatz(body, calls=calls - 1), 2, x), atol=2e-5, rtol=0
        )
        assert ansatz.calls == calls
        assert len(layer.circuit.gates) == 3
        assert ansatz.calls == calls


class Outer(tq.QuantumModule):
    def __init__(self):
        super().__init__()
        self.inner = Sampled()

    def forward(self, qdev):
        self.inner(qdev)


@pytest.mark.parametrize(
    "replace",
    [
        lambda layer: setattr(layer, "ansatz", Sampled()),
        lambda layer: setattr(layer, "ansatz", None),
        lambda layer: setattr(layer.ansatz, "inner", Layers()),
        lambda layer: setattr(layer, "encoder", angles_encoder("w x + b")),
    ],
)
def test_whole_modules_may_be_replaced(replace):
    for ansatz in (Outer(), "rx_ry_rz_ring"):
        layer, x = VQCLayer(3, ansatz=ansatz), inputs(BATCH, 3)
        layer(x)
        if isinstance(ansatz, str) and replace.__code__.co_names[:2] == ("ansatz", "inner"):
            continue
        replace(layer)
        parameters = list(layer.parameters())
        expected = results(
            lambda x, layer=layer: truth(layer.encoder, layer.ansatz, 3, x), x, parameters
        )
        for one, other in zip(results(layer, x, parameters), expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        maps = QuantumLayerGradCam(nn.Sequential(nn.Identity(), layer), layer)
        assert maps.attribute(x, 1, attribute_to_layer_input=True).shape == (BATCH, 1)


def test_gates_where_gradients_are_off_cut_the_state():
    def body(self, qdev):
        tqf.rx(qdev, wires=0, params=self.w[0:1])
        with torch.no_grad():
            tqf.ry(qdev, wires=1, params=self.w[1:2])
        tqf.ry(qdev, wires=0, params=self.w[2:3])
        tqf.cnot(qdev, wires=[0, 1])

    for encoder in ("ry", angles_encoder("2 x"), Encoder(written)):
        n_inputs = 6 if isinstance(encoder, Encoder) and encoder.body is written else None
        x = inputs(BATCH, n_inputs or (2 if encoder == "ry" else 3))
        n_qubits = 3 if n_inputs is None and encoder != "ry" else 2
        ansatz = Ansatz(body, w=parameter(3, seed=5))
        layer = VQCLayer(n_qubits, encoder=encoder, ansatz=ansatz, n_inputs=n_inputs)
        expected = results(
            lambda x, layer=layer, n=n_qubits: truth(layer.encoder, layer.ansatz, n, x),
            x,
            [ansatz.w],
        )
        for one, other in zip(results(layer, x, [ansatz.w]), expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_mixed_precision_around_a_network_in_the_encoder():
    layer = VQCLayer(3, encoder=angles_encoder("linear layer"))
    model = nn.Sequential(nn.Linear(4, 3), layer)
    x = inputs(BATCH, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x)
    torch.testing.assert_close(found.float(), model(x), atol=0.05, rtol=0.05)
    half = copy.deepcopy(layer).bfloat16()
    assert half(inputs(BATCH, 3).bfloat16()).dtype == torch.bfloat16


def test_inputs_that_the_encoder_changes_in_place():
    def doubling(self, qdev, x):
        x.mul_(2)
        for wire in range(3):
            tqf.ry(qdev, wires=wire, params=x[:, wire])

    def between(self, qdev, x):
        for wire in range(3):
            tqf.ry(qdev, wires=wire, params=x[:, wire])
            x.add_(1)

    layer, x = VQCLayer(3, encoder=Encoder(doubling), ansatz=None), inputs(BATCH, 3).detach()
    torch.testing.assert_close(layer(x.clone()), torch.cos(2 * x), atol=2e-5, rtol=0)
    with pytest.raises(CircuitError, match="changes its inputs in place while gates use them"):
        VQCLayer(3, encoder=Encoder(between), ansatz=None)


def test_trying_modules_out_changes_no_statistics():
    encoder = angles_encoder("batch norm").train()
    before = encoder.norm.running_mean.clone()
    layer = VQCLayer(3, encoder=encoder)
    assert len(layer.circuit.gates) > 3  # which tries the modules anew
    assert torch.equal(encoder.norm.running_mean, before)
    layer(inputs(BATCH, 3))
    assert not torch.equal(encoder.norm.running_mean, before)


def test_random_numbers_do_not_fill_the_memory():
    ansatz = Ansatz(lambda self, qdev: tqf.rx(qdev, wires=0, params=random.random()))
    layer, x = VQCLayer(2, ansatz=ansatz), inputs(2, 2)
    for _ in range(150):
        layer(x)
    structures = layer._tracer.structures
    assert len(structures._known) <= 64
    before = len(structures._known)
    layer(x)
    assert len(structures._known) == before


# Inputs


def test_inputs_of_several_dimensions():
    def by_layer(self, qdev, x):
        for layer in range(2):
            for wire in range(3):
                tqf.ry(qdev, wires=wire, params=x[:, layer, wire])
            tqf.cnot(qdev, wires=[layer, 2])

    encoder, x = Encoder(by_layer), inputs(BATCH, 2, 3)
    layer = check(encoder, None, 3, x)
    assert layer.input_shape == (2, 3)
    assert layer.n_inputs == 6
    check(encoder, None, 3, x, n_inputs=(2, 3), gradient="parameter-shift")
    more = inputs(4, BATCH, 2, 3)
    expected = torch.stack([truth(encoder, None, 3, one) for one in more])
    torch.testing.assert_close(layer(more), expected, atol=2e-5, rtol=0)
    assert layer(more[:, :0]).shape == (4, 0, 3)
    with pytest.raises(ValueError, match=r"inputs must be of shape \(\.\.\., 2, 3\); got"):
        layer(inputs(BATCH, 6))
    with quantum_gradient(layer, "parameter-shift"):
        found = results(layer, x, [])
    for one, other in zip(found, results(layer, x, []), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def four_a_qubit(self, qdev, x):
    x = x.view(x.shape[0], qdev.n_wires, 4)
    for wire in range(qdev.n_wires):
        for k, gate in enumerate((tqf.ry, tqf.rz, tqf.rx, tqf.rz)):
            gate(qdev, wires=wire, params=x[:, wire, k])


def padded(self, qdev, x):
    x = nn.functional.pad(x, (0, 4 - x.shape[1]))
    for wire in range(4):
        tqf.ry(qdev, wires=wire, params=x[:, wire])


@pytest.mark.filterwarnings("error")
def test_how_many_inputs_there_are():
    assert check(Encoder(four_a_qubit), None, 2, inputs(BATCH, 8)).n_inputs == 8
    assert VQCLayer(4, encoder=Encoder(padded), n_inputs=3).n_inputs == 3
    check(Encoder(padded), None, 4, inputs(BATCH, 3), n_inputs=3)
    linear = Encoder(lambda s, q, x: s.run(q, s.reduce(x)), reduce=nn.Linear(9, 2))
    linear.run = lambda qdev, x: [tqf.ry(qdev, wires=i, params=x[:, i]) for i in range(2)]
    assert check(linear, None, 2, inputs(BATCH, 9)).n_inputs == 9
    gates = [{"input_idx": [0], "func": "ry", "wires": [0]}]
    with pytest.warns(UserWarning, match=r"no angle depends on the input features \[1, 2\] of 3"):
        layer = VQCLayer(2, encoder=gates, n_inputs=3)
    x = inputs(BATCH, 3)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert (gradient[:, 1:] == 0).all()
    assert (gradient[:, 0] != 0).all()
    skipping = Encoder(lambda s, q, x: [tqf.ry(q, wires=i, params=x[:, 2 * i]) for i in range(2)])
    with pytest.warns(UserWarning, match=r"no angle depends on the input features \[1\] of 3"):
        check(skipping, None, 2, inputs(BATCH, 3))
    with pytest.raises(CircuitError, match="takes feature 5 of 3"):
        VQCLayer(2, encoder=[{"input_idx": [5], "func": "ry", "wires": [0]}], n_inputs=3)
    reads_all = Encoder(
        lambda s, q, x: [tqf.ry(q, wires=0, params=x[:, t, 1]) for t in range(x.shape[1])]
    )
    with pytest.raises(CircuitError, match=r"n_inputs must say .* sample, \(n, 2\) with numbers"):
        VQCLayer(2, encoder=reads_all)
    for wrong, error in (
        (-1, ValueError),
        ("3", TypeError),
        ((), ValueError),
        ((0, 2), ValueError),
    ):
        with pytest.raises(error, match="n_inputs must be"):
            VQCLayer(2, n_inputs=wrong)


def test_circuits_without_inputs_and_without_an_ansatz():
    layer = check(None, entangling(), 3, torch.zeros(BATCH, 0))
    assert layer.n_inputs == 0
    assert layer(torch.zeros(2, BATCH, 0)).shape == (2, BATCH, 3)
    for rule in ("adjoint", "backprop", "parameter-shift"):
        layer = VQCLayer(3, encoder=None, gradient=rule)
        layer(torch.zeros(1, 0)).sum().backward()
        assert layer.ansatz.weights.grad.any()
    assert VQCLayer(3, ansatz=None).weights.shape == (0,)
    check("ry", None, 3, inputs(BATCH, 3))


def operators():
    return [
        tq.RX(has_params=True, trainable=True, init_params=0.3, wires=0),
        tq.CNOT(wires=[0, 1]),
        tq.RY(has_params=True, trainable=True, init_params=0.9, wires=1),
    ]


def test_lists_of_operators():
    x = inputs(BATCH, 2)
    layer = check("ry", operators(), 2, x)
    assert {name for name, _ in layer.named_parameters()} == {"ansatz.0.params", "ansatz.2.params"}
    check("ry", nn.Sequential(*operators()), 2, x)
    check("ry", nn.ModuleList(operators()), 2, x)
    twice = operators()[0]
    check("ry", nn.Sequential(twice, nn.Sequential(*operators()), twice), 2, x)
    history = [{"name": "rx", "wires": 0, "params": 0.3, "trainable": True}]
    assert VQCLayer(2, ansatz=history).weights.shape == (1,)


# Amplitudes


class Flipped(tq.StateEncoder):
    def forward(self, qdev, x):
        super().forward(qdev, x.flip(1))


def written(self, qdev, x):
    norm = torch.linalg.vector_norm(x[:, :4], dim=1, keepdim=True)
    qdev.set_states(torch.complex(x[:, :4], 0.5 * x[:, 1:5]) / norm)
    tqf.rx(qdev, wires=0, params=x[:, 4])
    tqf.rzz(qdev, wires=[0, 1], params=x[:, 5])


@pytest.mark.parametrize("batch", [1, BATCH, 128])
@pytest.mark.parametrize("gradient", ["adjoint", "backprop"])
def test_amplitudes(gradient, batch):
    mixed = Ansatz(lambda s, q: (s.gate(q, wires=0), tqf.cnot(q, [0, 1])),
                   gate=tq.U3(has_params=True, trainable=True))  # fmt: skip
    for ansatz in (mixed, Ansatz(lambda s, q: tqf.ry(q, wires=1, params=s.w), w=parameter(1))):
        for encoder, x in (
            (tq.StateEncoder(), inputs(batch, 4)),
            (Flipped(), inputs(batch, 4)),
            (tq.StateEncoder(), inputs(batch, 3)),
            (Encoder(written), inputs(batch, 6)),
        ):
            options = {"n_inputs": x.shape[1], "gradient": gradient}
            check(encoder, ansatz, 2, x, **options)
            check(encoder, ansatz, 2, x, simulator="torchquantum", n_inputs=x.shape[1])
        values = torch.complex(inputs(batch, 4).detach() - 1, inputs(batch, 4, seed=2).detach())
        check(tq.StateEncoder(), ansatz, 2, values.requires_grad_(), gradient=gradient)
        check("amplitude", ansatz, 2, values[:, :3].detach().requires_grad_(), n_inputs=3)
    check(tq.StateEncoder(), "real_amplitudes", 2, values.detach().requires_grad_(), n_layers=1)


def test_amplitudes_of_seven_qubits_run_in_lanes():
    def body(self, qdev):
        for wire in range(7):
            tqf.rx(qdev, wires=wire, params=self.w[wire : wire + 1])
            tqf.cnot(qdev, wires=[wire, (wire + 1) % 7])

    x = torch.complex(inputs(128, 100).detach() - 1, inputs(128, 100, seed=2).detach())
    check("amplitude", Ansatz(body, w=parameter(7)), 7, x.requires_grad_(), n_inputs=100)


def test_amplitudes_that_are_wrong():
    layer = VQCLayer(2, encoder="amplitude")
    with pytest.raises(ValueError, match="not all zero"):
        layer(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="real floating-point"):
        VQCLayer(2)(torch.zeros(2, 2, dtype=torch.complex64))
    with pytest.raises(CircuitError, match="at most 4 amplitudes"):
        VQCLayer(2, encoder="amplitude", n_inputs=5)
    with pytest.raises(
        CircuitError,
        match="raised RuntimeError before the first gate.*is invalid for input of size 6",
    ):
        VQCLayer(2, encoder=Encoder(lambda s, q, x: q.set_states(x)), n_inputs=3)
    for encoder in ("amplitude", Encoder(written)):
        layer = VQCLayer(2, encoder=encoder, gradient="parameter-shift")
        with pytest.raises(ValueError, match="does not apply to .*amplitude"):
            layer(inputs(3, layer.n_inputs))


# Copies and files


class Keeping(tq.QuantumModule):
    """Keeps a device of 256 samples, as many examples do."""

    def __init__(self):
        super().__init__()
        self.q_device = tq.QuantumDevice(n_wires=2, bsz=256)
        self.gate = tq.RX(has_params=True, trainable=True)

    def forward(self, qdev):
        self.gate(qdev, wires=0)


def test_modules_that_keep_a_device():
    ansatz = Keeping()
    layer = VQCLayer(2, ansatz=ansatz)
    assert layer.weights.shape == (1,)
    assert set(layer.state_dict()) == {"_extra_state", "ansatz.gate.params"}
    x = inputs(BATCH, 2)
    ansatz.q_device.reset_states(3)
    ansatz.gate(ansatz.q_device, wires=0)  # now its states hang in a graph
    expected = layer(x)
    assert type(ansatz.q_device) is tq.QuantumDevice
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), expected)
    fresh = VQCLayer(2, ansatz=Keeping())
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(x), expected)


def test_recorders_leave_the_modules():
    class Remembering(tq.QuantumModule):
        def __init__(self):
            super().__init__()
            self.gate = tq.RX(has_params=True, trainable=True)

        def forward(self, qdev):
            self.q_device = self.own_name = qdev
            self.listed = [qdev]
            self.gate(qdev, wires=0)
            if self.fail:
                raise RuntimeError("broken")

    ansatz = Remembering()
    ansatz.fail = False
    layer = VQCLayer(2, ansatz=ansatz)
    for _ in range(2):
        layer(inputs(BATCH, 2))
        assert ansatz.q_device is ansatz.own_name is None
        assert not ansatz.listed[0].entries
        copy.deepcopy(layer)
    ansatz.fail = True
    with pytest.raises(CircuitError, match="the modules raised RuntimeError .*broken"):
        layer(inputs(BATCH, 2))
    assert ansatz.q_device is None
    assert ansatz.gate.wires is None


# Modules that make their own device


class Whole(tq.QuantumModule):
    """The usual way to write a model: device, encoder, gates and measurement in one forward."""

    def __init__(self, measure=None, before=None):
        super().__init__()
        self.encoder = tq.GeneralEncoder(
            [{"input_idx": [i], "func": "ry", "wires": [i]} for i in range(3)]
        )
        self.gates = nn.ModuleList(tq.RX(has_params=True, trainable=True) for _ in range(3))
        self.measure = tq.MeasureAll(tq.PauliZ) if measure is None else measure
        self.before = before

    def forward(self, x):
        qdev = tq.QuantumDevice(n_wires=3, bsz=x.shape[0], device=x.device, record_op=True)
        x = x if self.before is None else self.before(x)
        self.encoder(qdev, x)
        for wire, gate in enumerate(self.gates):
            gate(qdev, wires=wire)
        qdev.cnot(wires=[0, 1])
        tqf.crx(qdev, wires=[1, 2], params=0.4)
        return self.measure(qdev)


class Held(Whole):
    """Keeps its device."""

    def __init__(self):
        super().__init__()
        self.q_device = tq.QuantumDevice(n_wires=3)

    def forward(self, x):
        self.q_device.reset_states(x.shape[0])
        self.encoder(self.q_device, x)
        self.gates[0](self.q_device, wires=1)
        return self.measure(self.q_device)


MEASURED = {
    "Z": (lambda: Whole(), 3),
    "X": (lambda: Whole(tq.MeasureAll(tq.PauliX)), 3),
    "Y": (lambda: Whole(tq.MeasureAll(tq.PauliY)), 3),
    "one joint observable": (
        lambda: Whole(lambda q: tq.measurement.expval_joint_analytical(q, "XZY")[:, None]),
        3,
    ),
    "two observables": (
        lambda: Whole(
            lambda q: torch.stack(
                [tq.measurement.expval_joint_analytical(q, word) for word in ("ZZI", "IXX")], 1
            )
        ),
        3,
    ),
    "probabilities": (lambda: Whole(lambda q: q.get_states_1d().abs() ** 2), 3),
    "some probabilities": (lambda: Whole(lambda q: (q.states.abs() ** 2).sum(2).flatten(1)), 3),
    "sums of expectation values": (
        lambda: Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q)[:, :2].sum(1, keepdim=True) / 2 + 1),
        3,
    ),
    "a squeezed output": (lambda: Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q).squeeze()), 3),
    "a network before": (lambda: Whole(before=nn.Sequential(nn.Linear(5, 3), nn.Tanh())), 5),
    "its own device": (Held, 3),
}


@pytest.mark.parametrize("options", OPTIONS[:3] + OPTIONS[4:5], ids=str)
@pytest.mark.parametrize("case", MEASURED)
def test_a_circuit_is_taken_out_of_a_whole_module(case, options):
    make, n_inputs = MEASURED[case]
    torch.manual_seed(0)
    module = make()
    reference = copy.deepcopy(module)
    layer = VQCLayer.from_module(module, **options)
    assert layer.input_shape == (n_inputs,)
    x = inputs(BATCH, n_inputs)

    def run(x):
        y = reference(x)
        return y if y.dim() == 2 else y[:, None]

    expected = results(run, x, list(reference.parameters()))
    found = results(layer, x, list(module.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(layer(x[:1]), expected[0][:1], atol=2e-5, rtol=1e-4)


def test_transforms_of_a_whole_module():
    layer, x = VQCLayer.from_module(Whole()), inputs(BATCH, 3).detach()
    exact = VQCLayer.from_module(layer.encoder, gradient="backprop")
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), atol=1e-6, rtol=0)
    for transform in (torch.func.jacfwd, torch.func.jacrev):
        expected = torch.autograd.functional.jacobian(exact, x[0])
        torch.testing.assert_close(transform(layer)(x[0]), expected, atol=1e-5, rtol=0)


def test_images_before_a_circuit():
    """As TorchQuantum's own example for digits, up to the measurement."""

    class Pooled(Whole):
        def forward(self, x):
            return super().forward(nn.functional.avg_pool2d(x, 2).reshape(x.shape[0], -1)[:, :3])

    module = Pooled()
    with pytest.raises(CircuitError, match=r"say which: n_inputs=\(1, 28, 28\)"):
        VQCLayer.from_module(module)
    x = inputs(BATCH, 1, 4, 4)
    with pytest.warns(UserWarning, match=r"no angle depends on the input features \[10, 11, 14"):
        layer = VQCLayer.from_module(module, (1, 4, 4))
    expected = results(copy.deepcopy(module), x, [])
    for one, other in zip(results(layer, x, []), expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


class Negative(nn.Module):
    def forward(self, qdev):
        return -tq.MeasureAll(tq.PauliZ)(qdev)


def changed_measurement():
    module = Whole()
    layer = VQCLayer.from_module(module)
    x = inputs(2, 3)
    module.measure = tq.MeasureAll(tq.PauliX)  # as gates, then <Z>
    torch.testing.assert_close(layer(x), copy.deepcopy(module)(x), atol=2e-5, rtol=0)
    module.measure = Negative()
    layer(x)


NOT_MEASURED = {
    "a softmax": (
        lambda: VQCLayer.from_module(Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q).log_softmax(1))),
        "is no expectation value; a layer ends at the measurement",
    ),
    "a trained head": (
        lambda: VQCLayer.from_module(
            Whole(nn.Sequential(tq.MeasureAll(tq.PauliZ), nn.Linear(3, 2)))
        ),
        "depends on weights or inputs past its measurement",
    ),
    "another output": (
        lambda: VQCLayer.from_module(Whole(lambda q: "done")),
        r"what Whole returns must be a real tensor of shape \(batch, n_values\); got 'done'",
    ),
    "one number a sample": (
        lambda: VQCLayer.from_module(Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q)[:, 0])),
        r"what Whole returns must be a real tensor of shape \(batch, n_values\); got a .* \(8,\)",
    ),
    "a detached output": (
        lambda: VQCLayer.from_module(Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q).detach())),
        "autograd does not follow from the states to the output of a Whole module",
    ),
    "the size of the batch": (
        lambda: VQCLayer.from_module(Whole(lambda q: tq.MeasureAll(tq.PauliZ)(q) / q.bsz)),
        "measures something else from call to call",
    ),
    "no device": (
        lambda: VQCLayer.from_module(nn.Linear(4, 2)),
        "no device was made by a Linear module",
    ),
    "another measurement later": (
        changed_measurement,
        "measures something else than when the layer was made; make the layer again",
    ),
}


@pytest.mark.parametrize("case", NOT_MEASURED)
def test_whole_modules_that_are_no_circuit(case):
    make, message = NOT_MEASURED[case]
    with pytest.raises(CircuitError, match=message):
        make()


def test_a_whole_module_is_a_module():
    with pytest.raises(TypeError, match="module must be an nn.Module that makes"):
        VQCLayer.from_module(lambda x: x)


# Explanations


@pytest.mark.parametrize("options", OPTIONS[:3] + OPTIONS[4:5], ids=str)
@pytest.mark.parametrize("name", ["2 x", "w x + b", "x_i x_j", "linear layer", "ZZ feature map"])
def test_shares_of_qubits_add_up_to_the_map(name, options):
    torch.manual_seed(0)
    quantum = VQCLayer(3, encoder=angles_encoder(name), ansatz=entangling(), **options)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), quantum
    )
    images = inputs(BATCH, 1, 6, 6).detach()
    expected = LayerGradCam(model, model[1]).attribute(images, target=1)
    for rule in (None, "parameter-shift"):
        explainer = QuantumLayerGradCam(model, model[1], gradient=rule)
        torch.testing.assert_close(explainer.attribute(images, 1), expected, atol=1e-5, rtol=1e-3)
        shares, direct = explainer.attribute_qubits(images, 1, return_direct=True)
        assert shares.shape == (BATCH, 3, 4, 4)
        assert not direct.any()
        torch.testing.assert_close(shares.sum(1, keepdim=True), expected, atol=1e-5, rtol=1e-3)
        shares = explainer.attribute_observables(images, 1)
        torch.testing.assert_close(shares.sum(1, keepdim=True), expected, atol=1e-5, rtol=1e-3)


def test_a_qubits_share_is_that_of_its_gates():
    """Of angles that are computed from the inputs, each belongs to the wire of its gate."""

    def body(self, qdev, x):
        for wire in range(3):
            tqf.ry(qdev, wires=wire, params=2 * x[:, 0] + x[:, wire])

    layer = VQCLayer(3, encoder=Encoder(body), ansatz=None, observables=["Z0", "Z1", "Z2"])
    x = inputs(BATCH, 3, 2).detach()
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), layer)
    shares = QuantumLayerGradCam(model, model[0]).attribute_qubits(x, 1)
    angles = 2 * x.mean(2)[:, 0] + x.mean(2)[:, 1]
    slope = -torch.sin(angles) / 2  # d cos(2 x_0 + x_1), averaged over two places
    expected = slope[:, None] * (2 * x[:, 0] + x[:, 1])
    torch.testing.assert_close(shares[:, 1], expected, atol=1e-5, rtol=1e-4)
    assert not shares[:, [0, 2]].any()


@pytest.mark.parametrize("name", ANGLES)
@pytest.mark.filterwarnings("ignore:no angle depends")
def test_the_angles_recorded_give_the_values(name):
    """The circuit of a call with its angle table, by the dense simulator in complex128."""
    layer = VQCLayer(3, encoder=angles_encoder(name), ansatz=entangling(), n_inputs=3)
    x = inputs(BATCH, 3).detach()
    call = layer.recorded(x)
    tables = call.circuit.split(call.angle_table().detach())
    readout = [[(1.0, {wire: "Z"})] for wire in range(3)]
    for row in range(BATCH):
        gates = [
            (gate.name, gate.wires, angles[row].tolist(), gate.inverse)
            for gate, angles in zip(call.circuit.gates, tables, strict=True)
        ]
        expected = torch.tensor(ref.expectations(3, gates, readout), dtype=torch.float32)
        torch.testing.assert_close(layer(x)[row].detach(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(call.run(call.angle_table()), layer(x), atol=1e-6, rtol=0)
