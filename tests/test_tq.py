"""TorchQuantum modules: tracing them, refusing what cannot be traced, leaving them as they were."""

import copy
import itertools
import math
import random
import re

import numpy as np
import pytest
import reference as ref
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from modules import Ansatz, Encoder
from numpy.testing import assert_allclose
from torch import nn
from torchquantum import layer as tql
from torchquantum.encoding import encoder_op_list_name_dict
from torchquantum.layer import layer_name_dict

from captum_quantum import CircuitError, VQCLayer
from captum_quantum.tq import LayeredAnsatz
from captum_quantum.tq.installed import name_and_version

INSTALLED = re.escape(name_and_version())


def run_by_torchquantum(*args, **kwargs):
    """A layer whose values are TorchQuantum's own run of the modules, not of what was traced."""
    return VQCLayer(*args, simulator="torchquantum", **kwargs)


def trained(*shape):
    return nn.Parameter(torch.rand(*shape) * 6 - 3)


def entries(*gates):
    return [{"input_idx": list(i), "func": name, "wires": list(w)} for name, i, w in gates]


def general(*gates):
    return tq.GeneralEncoder(entries(*gates))


def random_inputs(layer, batch=3, seed=0):
    return torch.rand(batch, layer.n_inputs, generator=torch.Generator().manual_seed(seed)) * 8 - 4


def numbers(layer):
    """All real parameters and buffers of the layer as it stands."""
    return [t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()]


def lines(circuit):
    return [line.strip() for line in str(circuit).splitlines()[1:-1]]


# What can be traced: name -> (encoder, ansatz, gates expected or None)


def looped(self, qdev, x):
    for wire, feature in itertools.product(range(qdev.n_wires), range(2)):
        (tqf.rx if feature else tqf.rz)(qdev, wires=wire, params=x[:, 2 * wire + feature])


def viewed(self, qdev, x):
    x = x.view(x.shape[0], qdev.n_wires, -1)
    for wire in range(qdev.n_wires):
        tqf.ry(qdev, wires=wire, params=x[:, wire, 0])
        tqf.rz(qdev, wires=wire, params=x[:, wire, 1])


def everything_it_gets(self, qdev, x):
    for wire in range(x.shape[1]):
        tqf.ry(qdev, wires=wire, params=x[:, wire])


def careful(self, qdev, x):
    qdev.reset_states(x.shape[0])
    x = x.to(qdev.device)
    tqf.ry(qdev, wires=0, params=torch.zeros(x.shape[0], device=qdev.device))
    for wire in range(qdev.n_wires):
        tqf.ry(qdev, wires=wire, params=x[:, wire])


class Frozen(tq.QuantumModule):
    """TorchQuantum's own idiom: operators as children, static mode, the device kept."""

    def __init__(self):
        super().__init__()
        self.first = tq.RX(has_params=True, trainable=True)
        self.fixed = tq.RY(has_params=True, trainable=False, init_params=0.4)
        self.third = tq.U3(has_params=True, trainable=True)
        self.link = tq.CNOT()

    @tq.static_support
    def forward(self, qdev):
        self.q_device = qdev
        self.first(qdev, wires=1)
        self.fixed(qdev, wires=0)
        self.link(qdev, wires=[1, 0])
        self.third(qdev, wires=0)
        tqf.x(qdev, wires=1, static=self.static_mode, parent_graph=self.graph)


FROZEN = [
    "rx(w[0]) on 1",
    "ry(w[1]) on 0",
    "cnot on 1, 0",
    "u3(w[2], w[3], w[4]) on 0",
    "paulix on 1",
]


class InABuffer(tq.QuantumModule):
    def __init__(self):
        super().__init__()
        self.register_buffer("angle", torch.tensor([0.3, -0.8]))
        self.register_buffer("count", torch.tensor(3))
        self.weight = trained(2)

    def forward(self, qdev):
        tqf.ry(qdev, wires=0, params=self.angle[1])
        tqf.ry(qdev, wires=1, params=self.weight[0])
        tqf.rzz(qdev, wires=[0, 1], params=self.angle[:1])


def static(module):
    module.static_on()
    return module


def without_gradient(module):
    return module.requires_grad_(False)


def in_a_list():
    gates = nn.ModuleList(
        [tq.RX(has_params=True, trainable=True), tq.RZ(has_params=True, trainable=True)]
    )

    def body(self, qdev):
        for wire, gate in self.order:
            gate(qdev, wires=wire)

    return Ansatz(body, gates=gates, order=[(1, gates[1]), (0, gates[0]), (1, gates[0])])


def from_history():
    history = [
        {"name": "rx", "wires": 0, "params": 0.3, "inverse": False, "trainable": True},
        {"name": "cnot", "wires": [0, 1], "params": None, "inverse": False, "trainable": False},
        {"name": "u3", "wires": 1, "params": [0.5, 0.1, 0.2], "inverse": True, "trainable": True},
    ]
    return tq.QuantumModule.from_op_history(history)


def functional(self, qdev):
    tqf.ry(qdev, wires=0, params=self.w[1])
    tqf.rot(qdev, wires=1, params=self.w[2:5][None])
    tqf.cu3(qdev, wires=[1, 0], params=self.w[3:6][None])
    tqf.crx(qdev, wires=[0, 1], params=self.w[0:1], inverse=True)
    tqf.s(qdev, wires=0, inverse=True)
    tqf.rz(qdev, wires=0, params=0.25)
    tqf.ry(qdev, wires=1, params=[math.pi])
    tqf.rz(qdev, wires=1, params=torch.tensor([[-1.5]]))


FUNCTIONAL = [
    *("ry(w[1]) on 0", "rot(w[2], w[3], w[4]) on 1", "cu3(w[3], w[4], w[5]) on 1, 0"),
    *("crx^-1(w[0]) on 0, 1", "s^-1 on 0", "rz(0.25) on 0", "ry(3.142) on 1", "rz(-1.5) on 1"),
]


def shared():
    gate = tq.RY(has_params=True, trainable=True)
    return Ansatz(lambda self, qdev: [self.one(qdev, wires=w) for w in (0, 1)], one=gate, same=gate)


def own_weights(self, qdev, x):
    for wire in range(qdev.n_wires):
        tqf.rx(qdev, wires=wire, params=x[:, wire])
        tqf.rz(qdev, wires=wire, params=self.w[wire])


RY2 = ["ry(x[0]) on 0", "ry(x[1]) on 1"]
TRACED = {
    "general": (
        lambda: general(
            ("u3", (3, 0, 1), [1]), ("h", (), [0]), ("rzz", (2,), [1, 0]), ("p", (0,), [0])
        ),
        Ansatz,
        [
            "u3(x[3], x[0], x[1]) on 1",
            "hadamard on 0",
            "rzz(x[2]) on 1, 0",
            "phaseshift(x[0]) on 0",
        ],
    ),
    "phase encoder": (lambda: tq.PhaseEncoder(tqf.rx), Ansatz, ["rx(x[0]) on 0", "rx(x[1]) on 1"]),
    "multi-phase encoder": (
        lambda: tq.MultiPhaseEncoder(["rx", "u3", "ry", "phaseshift"]),
        Ansatz,
        ["rx(x[0]) on 0", "u3(x[1], x[2], x[3]) on 1", "ry(x[4]) on 0", "phaseshift(x[5]) on 1"],
    ),
    "operators as encoder": (lambda: tql.ClassicalInOpAll(2, tq.RY), Ansatz, RY2),
    "loops": (
        lambda: Encoder(looped),
        Ansatz,
        ["rz(x[0]) on 0", "rx(x[1]) on 0", "rz(x[2]) on 1", "rx(x[3]) on 1"],
    ),
    "a view of the inputs": (
        lambda: Encoder(viewed),
        Ansatz,
        ["ry(x[0]) on 0", "rz(x[1]) on 0", "ry(x[2]) on 1", "rz(x[3]) on 1"],
    ),
    "all it gets": (lambda: Encoder(everything_it_gets), Ansatz, RY2),
    "resets and moves first": (lambda: Encoder(careful), Ansatz, ["ry(0) on 0", *RY2]),
    "weights in the encoder": (
        lambda: Encoder(own_weights, w=trained(2)),
        Ansatz,
        ["rx(x[0]) on 0", "rz(w[0]) on 0", "rx(x[1]) on 1", "rz(w[1]) on 1"],
    ),
    "static encoder": (lambda: static(general(("ry", (0,), [0]), ("ry", (1,), [1]))), Ansatz, RY2),
    "functional calls": ("ry", lambda: Ansatz(functional, w=trained(7)), RY2 + FUNCTIONAL),
    "frozen weights": (
        "ry",
        lambda: without_gradient(Ansatz(functional, w=trained(7))),
        RY2 + FUNCTIONAL,
    ),
    "operators": ("ry", Frozen, RY2 + FROZEN),
    "static operators": ("ry", lambda: static(Frozen()), RY2 + FROZEN),
    "buffers": (
        "ry",
        InABuffer,
        [*RY2, "ry(w[3]) on 0", "ry(w[0]) on 1", "rzz(w[2]) on 0, 1"],
    ),
    "shared operators": ("ry", shared, [*RY2, "ry(w[0]) on 0", "ry(w[0]) on 1"]),
    "operators in a list": (
        "ry",
        in_a_list,
        [*RY2, "rz(w[1]) on 1", "rx(w[0]) on 0", "rx(w[0]) on 1"],
    ),
    "operation history": (
        "ry",
        from_history,
        [*RY2, "rx(w[0]) on 0", "cnot on 0, 1", "u3^-1(w[1], w[2], w[3]) on 1"],
    ),
    "nothing": ("ry", Ansatz, RY2),
    "no inputs": (lambda: tq.GeneralEncoder([]), Frozen, FROZEN),
    "random layer": ("ry", lambda: tq.RandomLayer(wires=[0, 1], n_ops=15, seed=3), None),
    "EfficientSU2": ("ry", lambda: tql.EfficientSU2(2), None),
    "ExcitationPreserving": ("ry", lambda: tql.ExcitationPreserving(2), None),
    "PauliTwoDesign": ("ry", lambda: tql.PauliTwoDesign(2), None),
    "RealAmplitudes": ("ry", lambda: tql.RealAmplitudes(2), None),
    "TrainableOpAll": ("ry", lambda: tql.TrainableOpAll(2, tq.RX), None),
    "U3CU3Layer0": (
        "ry",
        lambda: tql.U3CU3Layer0({"n_wires": 2, "n_blocks": 1, "n_layers_per_block": 2}),
        None,
    ),
    "SethLayer1": ("ry", lambda: tql.SethLayer1({"n_wires": 2, "n_blocks": 2}), None),
}


@pytest.fixture(params=TRACED)
def traced(request):
    torch.manual_seed(0)
    encoder, ansatz, expected = TRACED[request.param]
    encoder = encoder if isinstance(encoder, str) else encoder()
    return run_by_torchquantum(
        2, encoder=encoder, ansatz=ansatz(), observables=["Z0", "X1", "Y0 Z1"]
    ), expected


def test_tracing_gives_the_gates_and_their_sources(traced):
    layer, expected = traced
    if expected is not None:
        assert lines(layer.circuit) == expected
    assert layer.circuit.n_weights == sum(t.numel() for t in numbers(layer))


def test_a_traced_circuit_gives_the_modules_values(traced, truth):
    layer, _ = traced
    x = random_inputs(layer)
    values = layer(x)
    assert_allclose(values.detach(), truth.expectations(layer.circuit, x, layer.weights), atol=5e-6)
    assert_allclose(values.detach(), layer.run(layer.angle_table(x)).detach(), atol=2e-6)


def test_every_weight_and_input_acts_where_the_circuit_says(traced):
    """Each number alone is changed in the modules; the circuit, traced before, must follow."""
    layer, _ = traced
    x = random_inputs(layer, 2)
    before = layer.angle_table(x).detach()
    index = 0
    with torch.no_grad():
        for tensor in numbers(layer):
            for position in np.ndindex(tuple(tensor.shape)):
                value = tensor[position].clone()
                tensor[position] = value + 0.7
                table = layer.angle_table(x)
                acts = {
                    column
                    for column, (_, _, a) in enumerate(layer.circuit.angles)
                    if a.source == "weight" and a.index == index
                }
                assert set((table != before).any(0).nonzero().flatten().tolist()) == acts
                assert_allclose(layer(x), layer.run(table), atol=2e-6)
                tensor[position] = value
                index += 1
        for feature in range(layer.n_inputs):
            moved = x.clone()
            moved[:, feature] += 0.7
            assert_allclose(layer(moved), layer.run(layer.angle_table(moved)), atol=2e-6)


def test_gradients_reach_every_weight_in_the_circuit(traced):
    layer, _ = traced
    weights = [p for p in layer.parameters() if p.requires_grad]
    used = {a.index for _, _, a in layer.circuit.angles if a.source == "weight"}
    layer(random_inputs(layer)).square().sum().backward() if weights else None
    owner = list(itertools.chain(*([id(t)] * t.numel() for t in numbers(layer))))
    for weight in weights:
        assert (weight.grad is not None) == (id(weight) in {owner[j] for j in used})


def snapshot(module):
    """Everything on a module tree: attributes by identity, containers and tensors by content."""

    def content(value):
        if torch.is_tensor(value):
            return id(value), value.requires_grad, value.is_leaf, value.detach().clone().tolist()
        if isinstance(value, dict):
            return {key: content(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [content(item) for item in value]
        return id(value)

    graphs = [child.__dict__.get("graph") for child in module.modules()]
    return [(id(child), content(child.__dict__)) for child in module.modules()] + [
        len(graph.module_list) for graph in graphs if graph is not None
    ]


def test_tracing_and_running_leave_the_modules_as_they_were():
    for name, (make_encoder, make_ansatz, _) in TRACED.items():
        ansatz = make_ansatz()
        encoder = general(("ry", (0,), [0])) if isinstance(make_encoder, str) else make_encoder()
        before = snapshot(encoder), snapshot(ansatz)
        states = torch.get_rng_state(), random.getstate()
        layer = run_by_torchquantum(2, encoder=encoder, ansatz=ansatz)
        assert (snapshot(encoder), snapshot(ansatz)) == before, name
        layer(torch.rand(3, layer.n_inputs, generator=torch.Generator()))
        layer(torch.rand(0, layer.n_inputs, generator=torch.Generator()))
        assert (snapshot(encoder), snapshot(ansatz)) == before, name
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]


def test_a_failed_trace_leaves_the_modules_as_they_were():
    def body(self, qdev):
        self.q_device = qdev
        self.gate(qdev, wires=0)
        self.seen.append(1)
        raise RuntimeError("broken")

    ansatz = Ansatz(body, gate=tq.RX(has_params=True, trainable=True), seen=[])
    before = snapshot(ansatz)
    with pytest.raises(CircuitError, match="broken"):
        VQCLayer(2, ansatz=ansatz)
    assert snapshot(ansatz) == before


def test_tracing_reads_frozen_and_trainable_angles_alike():
    weights = nn.Parameter(torch.rand(7), requires_grad=False)
    layer = VQCLayer(2, ansatz=Ansatz(functional, w=weights))
    assert not layer.weights.requires_grad
    with torch.no_grad():
        expected = VQCLayer(2, ansatz=Ansatz(functional, w=trained(7))).circuit
    assert layer.circuit == expected


def test_reuploading_encodes_before_every_layer():
    layer = VQCLayer(2, 2, encoder="rx", ansatz="real_amplitudes", reupload=True)
    encoding = ["rx(x[0]) on 0", "rx(x[1]) on 1"]
    assert lines(layer.circuit) == [
        *(*encoding, "ry(w[0]) on 0", "ry(w[1]) on 1", "cnot on 0, 1"),
        *(*encoding, "ry(w[2]) on 0", "ry(w[3]) on 1", "cnot on 0, 1"),
        *("ry(w[4]) on 0", "ry(w[5]) on 1"),
    ]


def test_reuploading_takes_a_users_layers():
    class Own(LayeredAnsatz):
        def layer(self, qdev, index):
            tqf.crx(qdev, wires=[index, 1 - index], params=self.weights[index : index + 1])

    layer = run_by_torchquantum(2, ansatz=Own(2, 2, (2,)), reupload=True)
    assert lines(layer.circuit) == [*RY2, "crx(w[0]) on 0, 1", *RY2, "crx(w[1]) on 1, 0"]
    x = random_inputs(layer)
    assert_allclose(layer(x).detach(), layer.run(layer.angle_table(x)).detach(), atol=2e-6)


# Names taken from TorchQuantum


def run_directly(layer, x):
    """TorchQuantum's own run of the layer's modules, on copies, and the states as the truth."""
    encoder, ansatz = copy.deepcopy(layer.encoder), copy.deepcopy(layer.ansatz)
    qdev = tq.QuantumDevice(n_wires=layer.n_qubits, bsz=len(x))
    encoder(qdev, x)
    ansatz(qdev)
    states = qdev.get_states_1d().detach().numpy()
    return [
        [ref.expectation(s, [(1.0, {wire: "Z"})], layer.n_qubits) for wire in range(layer.n_qubits)]
        for s in states
    ]


BROKEN = {"ryrycx", "ryryrycxcxcx", "ryryry", "ryryryswapswap", "maxwell_0"}


@pytest.mark.parametrize("n_qubits", [3, 4])
@pytest.mark.parametrize("name", sorted(layer_name_dict.keys() - BROKEN))
def test_torchquantum_layers_by_name(name, n_qubits, truth):
    torch.manual_seed(1)
    layer = run_by_torchquantum(n_qubits, 2, ansatz=name)
    assert type(layer.ansatz) is layer_name_dict[name]
    x = random_inputs(layer)
    values = layer(x).detach()
    assert_allclose(values, run_directly(layer, x), atol=5e-6)
    assert_allclose(values, truth.expectations(layer.circuit, x, layer.weights), atol=5e-6)
    more = VQCLayer(n_qubits, 3, ansatz=name).circuit
    assert len(more.gates) > len(layer.circuit.gates)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_torchquantum_layers_that_do_not_run_are_refused(name):
    with pytest.raises(CircuitError, match=f"{INSTALLED}'s own code for it ends in NameErr"):
        VQCLayer(4, ansatz=name)


@pytest.mark.parametrize("name", encoder_op_list_name_dict)
def test_torchquantum_encoder_lists_by_name(name):
    """The lists hold gates of one qubit only, so that each qubit is a circuit of its own."""
    gates = encoder_op_list_name_dict[name]
    n_qubits = 1 + max(max(gate["wires"]) for gate in gates)
    if n_qubits > 24:
        with pytest.raises(ValueError, match=r"n_qubits must be an integer in \[1, 24\]; got 25"):
            VQCLayer(n_qubits, encoder=name)
        return
    layer = run_by_torchquantum(n_qubits, encoder=name, ansatz=Ansatz())
    assert layer.n_inputs == 1 + max(max(gate.get("input_idx") or [-1]) for gate in gates)
    assert len(layer.circuit.gates) == len(gates)
    if n_qubits > 16:
        return
    x = random_inputs(layer, 2)
    expected = np.empty((2, n_qubits))
    for row, wire in np.ndindex(2, n_qubits):
        own = [
            (g["func"], [0], [float(x[row, i]) for i in g.get("input_idx") or ()], False)
            for g in gates
            if g["wires"] == [wire]
        ]
        (expected[row, wire],) = ref.expectations(1, own, [[(1.0, {0: "Z"})]])
    # Readout in single precision adds up 2**n probabilities.
    assert_allclose(layer(x).detach(), expected, atol=5e-6 if n_qubits <= 10 else 5e-5)


def test_an_encoder_list_needs_its_wires():
    with pytest.raises(CircuitError, match=r"gate 2: wires of ry must be in \[0, 1\]; got \[2\]"):
        VQCLayer(2, encoder="4_ry")


# What cannot be traced, and why


def by_ansatz(body, **attributes):
    return lambda: VQCLayer(2, ansatz=Ansatz(body, **attributes))


def by_encoder(body):
    return lambda: VQCLayer(2, encoder=Encoder(body))


def by_list(*gates):
    return lambda: VQCLayer(2, encoder=general(*gates))


def scaled(factor):
    def body(self, qdev, x):
        for wire in range(2):
            tqf.ry(qdev, wires=wire, params=factor(x[:, wire]))

    return body


def feedback(self, qdev):
    tqf.ry(qdev, wires=0, params=tq.MeasureAll(tq.PauliZ)(qdev)[:, 0])


class Whole(tq.QuantumModule):
    """A module that makes its own device: a function of module and inputs."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def reads_twice(self, x):
    qdev = tq.QuantumDevice(n_wires=2, bsz=len(x))
    tqf.ry(qdev, wires=0, params=x[:, 0])
    first = tq.expval(qdev, 0, tq.PauliX())
    return torch.cat([first, tq.expval(qdev, 1, tq.PauliX())], 1)


def broken(self, qdev, x):
    tqf.ry(qdev, wires=0, params=x[:, 0])
    raise RuntimeError("no such feature")


def missing_column(self, qdev, x):
    for wire in range(2):
        tqf.ry(qdev, wires=wire, params=x[:, 5000])


NO_DERIVATIVE = (
    "encoder must use its inputs as angles; got .* whose gates show no derivative by them"
)
MATRIX = "qubitunitary on wires 0 is refused: its matrix is trained"
LINE = ".*, in '"
WRITTEN = r"after 2 gates the state is written directly \(by reset, set_states"
READS = r"the modules read the quantum state after gate 1, ry on wires \[1\], in '.*"
UNRUNNABLE = f"cannot run.*: {INSTALLED}'s own code for it ends in NameError"
FAILS_IN_BATCHES = f"is refused with an input as angle: {INSTALLED} fails for a batch of them"

REFUSED = {
    "sign": (by_encoder(scaled(torch.sign)), NO_DERIVATIVE),
    "rounded": (by_encoder(scaled(torch.round)), NO_DERIVATIVE),
    "reset": (by_ansatz(lambda s, q: tqf.reset(q, wires=0)), READS + "reset"),
    "set_states": (by_ansatz(lambda s, q: q.set_states(torch.ones(1, 4))), WRITTEN),
    "clone_states": (by_ansatz(lambda s, q: q.clone_states(torch.ones(1, 2, 2))), WRITTEN),
    "equal superposition": (by_ansatz(lambda s, q: q.reset_all_eq_states(1)), WRITTEN),
    "amplitudes in the middle": (
        by_ansatz(lambda s, q: tq.StateEncoder()(q, torch.ones(1, 4))),
        WRITTEN,
    ),
    "a trained matrix": (
        by_ansatz(
            lambda s, q: tqf.qubitunitary(q, wires=0, params=s.u),
            u=nn.Parameter(torch.eye(2, dtype=torch.complex64)),
        ),
        f"gate 2: {MATRIX}{LINE}",
    ),
    "a matrix for every sample": (
        by_ansatz(
            lambda s, q: tqf.qubitunitaryfast(q, wires=0, params=torch.eye(2).repeat(2, 1, 1))
        ),
        f"one a sample; build it from named gates{LINE}",
    ),
    "no unitary matrix": (
        by_ansatz(lambda s, q: tqf.qubitunitary(q, wires=0, params=torch.ones(2, 2))),
        f"gate 2: operator of qubitunitary must be unitary; got a matrix that is off by .*{LINE}",
    ),
    "trained coefficients": (
        by_ansatz(
            lambda s, q: s.exp(q, wires=[0, 1]),
            exp=tq.OpPauliExp(coeffs=[torch.ones(1, requires_grad=True)], paulis=["ZX"]),
        ),
        f"exp on wires .* refused: the coefficients of its Hamiltonian are trained{LINE}",
    ),
    "no wires": (
        by_ansatz(lambda s, q: s.gate(q), gate=tq.CNOT()),
        f"gate 2: cnot has no wires; give them when it is made or called{LINE}",
    ),
    "no angle": (
        by_ansatz(lambda s, q: s.gate(q, wires=0), gate=tq.RX()),
        f"gate 2: rx has no angle; pass params=, .* has_params=True{LINE}",
    ),
    "read and gone on": (
        lambda: VQCLayer.from_module(Whole(reads_twice)),
        "the state is read, changed by gates and read again",
    ),
    "cu2": (
        by_ansatz(lambda s, q: tqf.cu2(q, wires=[0, 1], params=[[0.1, 0.2]])),
        f"gate 2, cu2, {UNRUNNABLE}",
    ),
    "globalphase": (
        by_ansatz(lambda s, q: tqf.globalphase(q, wires=[0], params=0.1)),
        "gate 2: globalphase is refused: it changes no expectation value",
    ),
    "toffoli": (
        lambda: VQCLayer(3, ansatz=Ansatz(lambda s, q: tqf.toffoli(q, wires=[0, 1, 2]))),
        f"gate 3, toffoli, {UNRUNNABLE}",
    ),
    "toffoli in a list": (
        lambda: VQCLayer(3, encoder=general(("toffoli", (), [0, 1, 2]))),
        f"gate 0, toffoli, {UNRUNNABLE}",
    ),
    "u1 operator": (
        by_ansatz(lambda s, q: s.u(q, wires=0), u=tq.U1(has_params=True, trainable=True)),
        f"gate 2, u1, {UNRUNNABLE}",
    ),
    "qft": (by_ansatz(lambda s, q: s.layer(q), layer=tql.QFTLayer(2)), UNRUNNABLE),
    "cu3 of inputs": (
        by_list(("cu3", (0, 1, 2), [0, 1])),
        f"gate 0: cu3 on wires \\(0, 1\\) {FAILS_IN_BATCHES}",
    ),
    "measurement": (by_ansatz(lambda s, q: tq.measure(q, n_shots=8)), READS + "measure"),
    "feedback": (
        by_ansatz(feedback),
        f"gate 2: ry on wires 0 has an angle that is computed from the quantum state{LINE}tqf.ry",
    ),
    "wire out of range": (
        by_ansatz(lambda s, q: tqf.cnot(q, wires=[0, 5])),
        r"gate 2: wires of cnot must be in \[0, 1\]; got \[0, 5\], in '",
    ),
    "wire out of range in a list": (
        by_list(("ry", (0,), [2])),
        r"gate 0: wires of ry must be in \[0, 1\]; got \[2\]",
    ),
    "negative wire": (
        by_ansatz(lambda s, q: tqf.x(q, wires=-1)),
        r"gate 2: wires of paulix must be in \[0, 1\]; got \[-1\], in '",
    ),
    "repeated wires": (
        by_ansatz(lambda s, q: tqf.cnot(q, wires=[0, 0])),
        r"gate 2: wires of cnot must be different from each other; got \(0, 0\), in '",
    ),
    "too many angles": (
        by_ansatz(lambda s, q: tqf.rx(q, wires=0, params=torch.ones(1, 3))),
        r"gate 2: angles of rx must be 1 angle\(s\); got 3, in '",
    ),
    "another batch size": (
        by_ansatz(lambda s, q: tqf.rx(q, wires=0, params=torch.ones(3))),
        r"gate 2: rx on wires 0 has angles of shape \(3,\), for a batch of 2 samples, in '",
    ),
    "unknown name": (
        by_list(("paulixx", (0,), [0])),
        "gate 0 has a name that TorchQuantum does not know: 'paulixx'; did you mean 'paulix'",
    ),
    "another unknown name": (
        by_list(("ry", (0,), [0]), ("hadamar", (), [0])),
        "gate 1 has a name .*'hadamar'; did you mean 'hadamard'",
    ),
    "an entry without wires": (
        lambda: VQCLayer(2, encoder=tq.GeneralEncoder([{"func": "h"}])),
        "the modules raised KeyError before the first gate: 'wires'",
    ),
    "no input used": (
        lambda: VQCLayer(2, encoder=tq.PhaseEncoder(tqf.hadamard)),
        NO_DERIVATIVE,
    ),
    "an encoder that raises": (
        by_encoder(broken),
        "raised RuntimeError after gate 0, ry on wires 0, in 'raise Run.*: no such feature",
    ),
    "a column that is not there": (
        by_encoder(missing_column),
        "the modules raised IndexError before the first gate, in 'tqf.ry.*5000.*out of bounds",
    ),
    "no quantum module": (
        lambda: VQCLayer(2, ansatz=nn.Linear(2, 2)),
        r"the modules raised TypeError after gate 1, ry on wires \[1\]",
    ),
    "no encoder": (
        lambda: VQCLayer(2, encoder=nn.Linear(2, 2)),
        "the modules raised TypeError before the first gate",
    ),
    "an encoder as ansatz": (
        lambda: VQCLayer(2, ansatz=tq.PhaseEncoder(tqf.rx)),
        "the modules raised TypeError after gate 1, .*missing 1 required",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_says_which_call_and_why(case):
    make, message = REFUSED[case]
    with pytest.raises(CircuitError, match=message):
        make()


def test_weights_may_be_angles_that_inputs_may_not(truth):
    """cu3 fails in TorchQuantum for a batch of angles, and weights are no batch."""
    ansatz = Ansatz(lambda s, q: tqf.cu3(q, wires=[0, 1], params=s.w[None]), w=trained(3))
    layer = run_by_torchquantum(2, ansatz=ansatz)
    x = random_inputs(layer)
    assert_allclose(
        layer(x).detach(), truth.expectations(layer.circuit, x, layer.weights), atol=5e-6
    )


def test_weights_are_live_and_differentiable():
    encoder, ansatz = Encoder(own_weights, w=trained(2)), Frozen()
    layer = VQCLayer(2, encoder=encoder, ansatz=ansatz)
    weights = layer.weights
    assert weights.shape == (7,)
    assert torch.equal(weights[:2], encoder.w)
    gradient = torch.autograd.grad(weights.sum(), [encoder.w, ansatz.third.params])
    assert [g.tolist() for g in gradient] == [[1, 1], [[1, 1, 1]]]
    with torch.no_grad():
        encoder.w[0] = 5
    assert layer.weights[0] == 5
    assert VQCLayer(2, ansatz=Ansatz()).weights.shape == (0,)


def test_weights_need_not_be_contiguous():
    def body(self, qdev):
        for wire in range(2):
            tqf.rx(qdev, wires=wire, params=self.w[wire, :1])

    turned = nn.Parameter(torch.tensor([[0.1, 0.2], [0.3, 0.4]]).T)
    layer = run_by_torchquantum(2, ansatz=Ansatz(body, w=turned))
    assert_allclose(layer.weights.detach(), [0.1, 0.3, 0.2, 0.4])
    assert lines(layer.circuit) == [*RY2, "rx(w[0]) on 0", "rx(w[2]) on 1"]
    x = random_inputs(layer)
    assert_allclose(layer(x).detach(), layer.run(layer.angle_table(x)).detach(), atol=2e-6)
