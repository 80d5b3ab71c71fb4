"""VQCLayer: values, gradients, life as a module, and what it refuses."""

import copy
import functools
import gc
import inspect
import io
import math
import pickle
import sys
import threading
import time
import weakref

import numpy as np
import pennylane as qml
import pytest
import reference as ref
import torch
import torchquantum as tq
import torchquantum.functional as tqf
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from qiskit import QuantumCircuit
from qiskit.circuit.library import RealAmplitudes
from qiskit.quantum_info import Statevector
from safetensors.torch import load_file, save_file
from torch import nn
from torchquantum.layer import ClassicalInOpAll, U3CU3Layer0, layer_name_dict

from captum_quantum import (
    Angle,
    CircuitError,
    Gate,
    GradientRuleError,
    Observable,
    VQCLayer,
)
from captum_quantum.circuit import PauliString
from captum_quantum.gradients import RULES
from captum_quantum.simulate import SIMULATORS
from captum_quantum.tq import ANSAETZE, ENCODERS

# Of the simulation in complex64, and of central differences with its step of 0.01.
TOLERANCE = dict.fromkeys(RULES, 1e-5) | {"finite-difference": 5e-4}
RUNS = [
    (simulator, rule)
    for simulator in SIMULATORS
    for rule in RULES
    if rule != "adjoint" or simulator == "fused"
]
each_run = pytest.mark.parametrize(("simulator", "gradient"), RUNS)


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    return request.param


def make(*args, seed=0, simulator="torchquantum", gradient="backprop", **kwargs):
    torch.manual_seed(seed)
    return VQCLayer(*args, simulator=simulator, gradient=gradient, **kwargs)


def random_inputs(layer, *shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, layer.n_inputs, generator=generator, dtype=dtype) * 8 - 4


def gradients(layer, x, cotangent):
    """Derivatives of the contracted output by inputs and by all weights."""
    x = x.detach().clone().requires_grad_()
    (layer(x) * cotangent).sum().backward()
    grads = [p.grad.flatten() for p in layer.parameters()]
    layer.zero_grad()
    return x.grad, torch.cat(grads) if grads else torch.zeros(0)


# Every encoder with every ansatz, written out from its description


def encoding(name, n, x):
    if name in ("ry", "rx"):
        return [(name, [i], [x[i]]) for i in range(n)]
    if name == "rz_after_h":
        return [("h", [i], []) for i in range(n)] + [("rz", [i], [x[i]]) for i in range(n)]
    return [("ry", [i], [x[i]]) for i in range(n)] + [("rz", [i], [x[n + i]]) for i in range(n)]


def ring(n, w):
    for layer in w:
        gates = [
            (g, [i], [layer[i][k]]) for i in range(n) for k, g in enumerate(("rx", "ry", "rz"))
        ]
        yield gates + [("cnot", [i, (i + 1) % n], []) for i in range(n) if n > 1]


def strongly_entangling(n, w):
    for index, layer in enumerate(w):
        gates = [("rot", [i], [layer[i][k] for k in range(3)]) for i in range(n)]
        r = 1 + index % (n - 1)
        yield gates + [("cnot", [i, (i + r) % n], []) for i in range(n)]


def real_amplitudes(n, w):
    for index in range(len(w) - 1):
        gates = [("ry", [i], [w[index][i]]) for i in range(n)]
        gates += [("cnot", [i, i + 1], []) for i in reversed(range(n - 1))]
        if index == len(w) - 2:
            gates += [("ry", [i], [w[index + 1][i]]) for i in range(n)]
        yield gates


def qcnn(n, w):
    active = list(range(n))
    for a in w:
        gates = []
        even = [(active[i], active[i + 1]) for i in range(0, len(active) - 1, 2)]
        odd = [(active[i], active[i + 1]) for i in range(1, len(active) - 1, 2)]
        for i, j in even + odd:
            gates += [("ry", [i], [a[0]]), ("ry", [j], [a[1]])]
            gates += [("rxx", [i, j], [a[2]]), ("ryy", [i, j], [a[3]]), ("rzz", [i, j], [a[4]])]
            gates += [("ry", [i], [a[5]]), ("ry", [j], [a[6]])]
        for dropped, kept in even:
            gates += [("crz", [dropped, kept], [a[7]]), ("x", [dropped], [])]
            gates += [("crx", [dropped, kept], [a[8]]), ("x", [dropped], [])]
        last = [active[-1]] if len(active) % 2 else []
        active = [kept for _, kept in even] + last
        yield gates


def basic_entangler(n, w):
    for layer in w:
        gates = [("rx", [i], [layer[i]]) for i in range(n)]
        yield gates + [("cnot", [i, (i + 1) % n], []) for i in range(n)]


def simplified_two_design(n, w):
    first, layers = w[:n], w[n:].reshape(-1, n - 1, 2)
    gates = [("ry", [i], [first[i]]) for i in range(n)]
    even, odd = range(0, n - 1, 2), range(1, n - 1, 2)
    for layer in layers:
        for k, i in enumerate([*even, *odd]):
            gates += [("cz", [i, i + 1], [])]
            gates += [("ry", [i], [layer[k][0]]), ("ry", [i + 1], [layer[k][1]])]
        yield gates
        gates = []


def efficient_su2(n, w):
    rotations = [
        [(gate, [i], [layer[k][i]]) for k, gate in enumerate(("ry", "rz")) for i in range(n)]
        for layer in w
    ]
    for index in range(len(w) - 1):
        gates = rotations[index] + [("cnot", [i, i + 1], []) for i in reversed(range(n - 1))]
        yield gates + (rotations[-1] if index == len(w) - 2 else [])


def two_local(n, w):
    rotations = [[("ry", [i], [layer[i]]) for i in range(n)] for layer in w.reshape(-1, n)]
    for index in range(len(rotations) - 1):
        gates = rotations[index] + [("cz", [i, j], []) for i in range(n) for j in range(i + 1, n)]
        yield gates + (rotations[-1] if index == len(rotations) - 2 else [])


def u3cu3(n, w):
    for on_one, on_two in w:
        gates = [("u3", [i], list(on_one[i])) for i in range(n)]
        yield gates + [("cu3", [i, (i + 1) % n], list(on_two[i])) for i in range(n)]


LITERAL = {
    "rx_ry_rz_ring": ring,
    "strongly_entangling": strongly_entangling,
    "real_amplitudes": real_amplitudes,
    "qcnn": qcnn,
    "basic_entangler": basic_entangler,
    "simplified_two_design": simplified_two_design,
    "efficient_su2": efficient_su2,
    "two_local": two_local,
    "u3cu3": u3cu3,
}
SHAPES = {
    "rx_ry_rz_ring": lambda n, layers: (layers, n, 3),
    "strongly_entangling": lambda n, layers: (layers, n, 3),
    "real_amplitudes": lambda n, layers: (layers + 1, n),
    "qcnn": lambda n, layers: (layers, 9),
    "basic_entangler": lambda n, layers: (layers, n),
    "simplified_two_design": lambda n, layers: (n + layers * (n - 1) * 2,),
    "efficient_su2": lambda n, layers: (layers + 1, 2, n),
    "two_local": lambda n, layers: ((layers + 1) * n,),
    "u3cu3": lambda n, layers: (layers, 2, n, 3),
}
PENNYLANE = {
    "h": qml.Hadamard, "x": qml.PauliX, "cnot": qml.CNOT, "cz": qml.CZ,
    "rx": qml.RX, "ry": qml.RY, "rz": qml.RZ, "rot": qml.Rot, "crx": qml.CRX, "crz": qml.CRZ,
    "rxx": qml.IsingXX, "ryy": qml.IsingYY, "rzz": qml.IsingZZ, "u3": qml.U3,
    "cu3": lambda *angles, wires: qml.ctrl(qml.U3(*angles, wires=wires[1]), control=wires[0]),
}  # fmt: skip
READ = ["Z0", "X1 Y2", {"Z3": 0.5, "X0 Z1": -1.0}, "Z3"]
TERMS = [
    [(1.0, {0: "Z"})],
    [(1.0, {1: "X", 2: "Y"})],
    [(0.5, {3: "Z"}), (-1.0, {0: "X", 1: "Z"})],
    [(1.0, {3: "Z"})],
]
FEATURE_MAPS = ["z_feature_map", "zz_feature_map", "pauli_feature_map", "iqp"]
TEMPLATES = [
    (encoder, ansatz, reupload)
    for encoder in ENCODERS
    if encoder not in FEATURE_MAPS
    for ansatz in ANSAETZE
    for reupload in (False, True)
    if not (encoder == "amplitude" and reupload)
    # The matrices of the other ansaetze are compared in test_templates.py.
    if encoder == "ry"
    or ansatz in ("rx_ry_rz_ring", "strongly_entangling", "real_amplitudes", "qcnn")
]


def program(encoder, ansatz, reupload, n, x, w):
    gates = []
    for index, layer in enumerate(LITERAL[ansatz](n, w)):
        if encoder != "amplitude" and (reupload or index == 0):
            gates += encoding(encoder, n, x)
        gates += layer
    return gates


def pennylane(encoder, ansatz, reupload, n, x, w):
    """Values by PennyLane, differentiable; x and w are float64 tensors."""

    @qml.qnode(qml.device("default.qubit"), interface="torch", diff_method="backprop")
    def node():
        if encoder == "amplitude":
            qml.AmplitudeEmbedding(x, wires=range(n), normalize=True)
        if ansatz == "strongly_entangling" and not reupload:
            for name, wires, angles in encoding(encoder, n, x) if encoder != "amplitude" else []:
                PENNYLANE[name](*angles, wires=wires)
            qml.StronglyEntanglingLayers(w, wires=range(n))
        else:
            for name, wires, angles in program(encoder, ansatz, reupload, n, x, w):
                PENNYLANE[name](*angles, wires=wires)
        return [
            qml.expval(qml.Z(0)),
            qml.expval(qml.X(1) @ qml.Y(2)),
            qml.expval(0.5 * qml.Z(3) - qml.X(0) @ qml.Z(1)),
            qml.expval(qml.Z(3)),
        ]

    return torch.stack(node())


def test_all_templates_are_compared():
    assert set(LITERAL) == set(ANSAETZE)
    assert set(ENCODERS) == {"ry", "rx", "rz_after_h", "ry_rz", "amplitude", *FEATURE_MAPS}


N, N_LAYERS = 4, 2
COTANGENT = torch.randn(2, len(READ), generator=torch.Generator().manual_seed(1))


@functools.cache
def expected_of(encoder, ansatz, reupload):
    """Values by the reference, values and contracted derivatives by PennyLane."""
    layer = make(N, N_LAYERS, encoder=encoder, ansatz=ansatz, reupload=reupload)
    x, w = random_inputs(layer, 2).double(), layer.ansatz.weights.detach().double()
    literal = [
        ref.expectations(
            N,
            [(*g, False) for g in program(encoder, ansatz, reupload, N, row, w.numpy())],
            TERMS,
            row / np.linalg.norm(row) if encoder == "amplitude" else None,
        )
        for row in x.numpy()
    ]
    x, w = x.requires_grad_(), w.requires_grad_()
    values = torch.stack([pennylane(encoder, ansatz, reupload, N, row, w) for row in x])
    (values * COTANGENT).sum().backward()
    return literal, values.detach(), x.grad, w.grad.flatten()


@pytest.mark.parametrize(("encoder", "ansatz", "reupload"), TEMPLATES)
def test_templates(encoder, ansatz, reupload, simulator, truth):
    """Values and derivatives against PennyLane and the reference, from the description alone."""
    kwargs = {"encoder": encoder, "ansatz": ansatz, "reupload": reupload, "observables": READ}
    layer = make(N, N_LAYERS, simulator=simulator, **kwargs)
    assert layer.ansatz.weights.shape == SHAPES[ansatz](N, N_LAYERS)
    x = random_inputs(layer, 2)
    values = layer(x).detach()
    assert_allclose(values, truth.expectations(layer.circuit, x, layer.weights), atol=1e-5)
    literal, theirs, by_inputs, by_weights = expected_of(encoder, ansatz, reupload)
    assert_allclose(values, literal, atol=1e-5)
    assert_allclose(values, theirs, atol=1e-5)
    ours = gradients(layer, x, COTANGENT)
    assert_allclose(ours[0], by_inputs, atol=2e-5)
    assert_allclose(ours[1], by_weights, atol=2e-5)


@pytest.mark.parametrize("encoder", FEATURE_MAPS)
@pytest.mark.parametrize("reupload", [False, True])
def test_feature_maps(encoder, reupload, simulator):
    """Values and derivatives against autograd through TorchQuantum's own run of the modules."""
    n = 3
    layer = make(n, encoder=encoder, reupload=reupload, observables=READ[:2], simulator=simulator)
    x = random_inputs(layer, 2).requires_grad_()
    device = tq.QuantumDevice(n_wires=n, bsz=2)
    for index in range(layer.ansatz.n_layers):
        if reupload or index == 0:
            layer.encoder(device, x)
        layer.ansatz.layer(device, index)
    states = device.get_states_1d()
    matrices = [ref.pauli_matrix(factors, n) for ((_, factors),) in TERMS[:2]]
    acted = torch.stack([states @ torch.tensor(m.T).to(states) for m in matrices])
    expected = (states.conj() * acted).sum(2).real.T
    assert_allclose(layer(x).detach(), expected.detach(), atol=1e-5)
    cotangent = COTANGENT[:, :2]
    theirs = torch.autograd.grad((expected * cotangent).sum(), (x, layer.ansatz.weights))
    ours = gradients(layer, x, cotangent)
    assert_allclose(ours[0], theirs[0], atol=2e-5)
    assert_allclose(ours[1], theirs[1].flatten(), atol=2e-5)


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 2), (2, 1), (4, 2)])
def test_u3cu3_is_torchquantums(n_qubits, n_layers):
    layer = make(n_qubits, n_layers, ansatz="u3cu3", observables=["X0", f"Z{n_qubits - 1}"])
    arch = {"n_wires": n_qubits, "n_blocks": n_layers}
    theirs = U3CU3Layer0(arch) if n_qubits > 1 else None
    if theirs is None:  # theirs applies CU3 on the wires [0, 0]
        assert layer.ansatz.weights.shape == (2, 1, 1, 3)
        assert [gate.name for gate in layer.circuit.gates] == ["ry", "u3", "u3"]
        return
    with torch.no_grad():
        rows = layer.ansatz.weights.reshape(-1, 3)
        for row, parameter in zip(rows, theirs.parameters(), strict=True):
            parameter.copy_(row[None])
    other = make(n_qubits, encoder="ry", ansatz=theirs, observables=["X0", f"Z{n_qubits - 1}"])
    x = random_inputs(layer, 3)
    assert_allclose(layer(x).detach(), other(x).detach(), atol=1e-5)


@pytest.mark.parametrize("n_qubits", [2, 3, 5])
def test_strongly_entangling_has_pennylanes_ranges(n_qubits):
    layer = make(n_qubits, 5, ansatz="strongly_entangling", observables=["X0"])
    ours = [g.wires for g in layer.circuit.gates if g.name == "cnot"]
    shape = qml.StronglyEntanglingLayers.shape(n_layers=5, n_wires=n_qubits)
    template = qml.StronglyEntanglingLayers(np.zeros(shape), wires=range(n_qubits))
    theirs = [tuple(op.wires) for op in template.decomposition() if op.name == "CNOT"]
    assert ours == theirs


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (2, 3), (4, 2)])
def test_real_amplitudes_is_qiskits(n_qubits, n_layers, simulator):
    observables = ["X0", f"Z{n_qubits - 1}"]
    layer = make(
        n_qubits, n_layers, ansatz="real_amplitudes", observables=observables, simulator=simulator
    )
    x = random_inputs(layer, 1)
    circuit = QuantumCircuit(n_qubits)
    for wire in range(n_qubits):
        circuit.ry(float(x[0, wire]), wire)
    theirs = RealAmplitudes(n_qubits, entanglement="reverse_linear", reps=n_layers)
    weights = layer.ansatz.weights.detach().flatten().tolist()
    circuit.compose(theirs.assign_parameters(weights), inplace=True)
    state = Statevector(circuit).reverse_qargs().data
    terms = [[(1.0, {0: "X"})], [(1.0, {n_qubits - 1: "Z"})]]
    expected = [[ref.expectation(state, observable, n_qubits) for observable in terms]]
    assert_allclose(layer(x).detach(), expected, atol=1e-5)


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(2, 1), (3, 1), (5, 2), (6, 2), (8, 3)])
def test_qcnn_of_any_size(n_qubits, n_layers, simulator):
    read = [f"Z{n_qubits - 1}", "X0"]
    layer = make(n_qubits, n_layers, ansatz="qcnn", observables=read, simulator=simulator)
    x = random_inputs(layer, 1)
    w = layer.ansatz.weights.detach().double().numpy()
    gates = program("ry", "qcnn", False, n_qubits, x[0].double().numpy(), w)
    terms = [[(1.0, {n_qubits - 1: "Z"})], [(1.0, {0: "X"})]]
    expected = ref.expectations(n_qubits, [(*g, False) for g in gates], terms)
    assert_allclose(layer(x)[0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("ansatz", [name for name in ANSAETZE if name != "qcnn"])
def test_templates_of_one_qubit(ansatz, simulator, truth):
    kwargs = {"encoder": "ry_rz", "ansatz": ansatz, "observables": ["X", "Y", "Z"]}
    layer = make(1, 2, simulator=simulator, **kwargs)
    assert not [g for g in layer.circuit.gates if len(g.wires) > 1]
    x = random_inputs(layer, 3)
    assert_allclose(
        layer(x).detach(), truth.expectations(layer.circuit, x, layer.weights), atol=5e-6
    )


# Closed forms


def without_weights(*args, **kwargs):
    layer = make(*args, **kwargs)
    nn.init.zeros_(layer.ansatz.weights)
    return layer


T = torch.linspace(-5, 5, 11)[:, None]


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("ry", lambda t: (t.sin(), 0 * t, t.cos())),
        ("rx", lambda t: (0 * t, -t.sin(), t.cos())),
        ("rz_after_h", lambda t: (t.cos(), t.sin(), 0 * t)),
    ],
)
@each_run
def test_one_encoded_angle(encoder, expected, simulator, gradient):
    """<X>, <Y>, <Z> after the encoding alone, their values and derivatives."""
    run = {"simulator": simulator, "gradient": gradient}
    layer = without_weights(1, encoder=encoder, observables=["X", "Y", "Z"], **run)
    t = T.clone().requires_grad_()
    values = layer(t)
    assert_allclose(values.detach(), torch.cat(expected(T), dim=1), atol=1e-6)
    slopes = torch.cat(expected(T + torch.pi / 2), dim=1)
    for k in range(3):
        (slope,) = torch.autograd.grad(values[:, k].sum(), t, retain_graph=True)
        assert_allclose(slope[:, 0], slopes[:, k], atol=TOLERANCE[gradient])


def test_ry_rz_points_anywhere(simulator):
    kwargs = {"encoder": "ry_rz", "observables": ["X", "Y", "Z"], "simulator": simulator}
    layer = without_weights(1, **kwargs)
    a, b = torch.rand(2, 7) * 6 - 3
    expected = torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()], dim=1)
    assert_allclose(layer(torch.stack([a, b], dim=1)).detach(), expected, atol=1e-6)


def test_the_ring_of_two_qubits(simulator):
    """CNOT(0, 1), CNOT(1, 0) send bits (a, b) to (b, a + b)."""
    layer = without_weights(2, 1, simulator=simulator)
    a, b = torch.rand(2, 7) * 6 - 3
    expected = torch.stack([b.cos(), a.cos() * b.cos()], dim=1)
    assert_allclose(layer(torch.stack([a, b], dim=1)).detach(), expected, atol=1e-6)


def test_amplitudes_are_normalised(simulator):
    kwargs = {"encoder": "amplitude", "ansatz": "real_amplitudes", "observables": ["Z0", "X0"]}
    layer = without_weights(2, 1, simulator=simulator, **kwargs)
    values = layer(torch.tensor([[3.0, 0, 0, 4.0], [0, -2.0, 0, 0], [1.0, 1.0, 1.0, 1.0]]))
    assert_allclose(values.detach(), [[9 / 25 - 16 / 25, 24 / 25], [1, 0], [0, 1]], atol=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "finite-difference"])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e-30, torch.float32),
        (1e30, torch.float32),
        (1e-200, torch.float64),
        (1e200, torch.float64),
    ],
)
def test_amplitudes_of_any_size(scale, dtype, gradient, simulator):
    layer = make(2, encoder="amplitude", gradient=gradient, simulator=simulator)
    x = torch.tensor([[0.3, -1.0, 0.5, 0.2]], dtype=dtype)
    assert_allclose(layer(x * scale).detach(), layer(x).detach(), atol=1e-6)
    normalised = layer.amplitudes(x * scale)
    assert_allclose(normalised.detach(), layer.amplitudes(x), rtol=1e-6)
    if gradient == "backprop":
        ones = torch.ones(1, 2, dtype=dtype)
        small, large = (gradients(layer, y, ones)[0] for y in (x * scale, x))
        assert_allclose(small * scale, large, atol=1e-6)


def test_defaults_are_the_published_circuit():
    layer = make(3)
    assert len(layer.circuit.gates) == 3 + 2 * (3 * 3 + 3)
    assert layer.circuit.gates[0] == Gate("ry", (0,), (Angle.of_input(0),))
    assert layer.circuit.observables == tuple(map(Observable.of, ("Z0", "Z1", "Z2")))
    assert (layer.n_qubits, layer.n_inputs, layer.n_observables) == (3, 3, 3)
    assert layer.ansatz.weights.shape == (2, 3, 3)
    assert inspect.signature(VQCLayer).parameters["dtype"].default == torch.complex64


def test_weights_start_anywhere_on_the_circle():
    weights = make(5, 30).weights
    assert -math.pi <= weights.min() < -3
    assert 3 < weights.max() < math.pi
    assert torch.equal(weights, make(5, 30).weights)
    assert not torch.equal(weights, make(5, 30, seed=1).weights)


# Shapes and dtypes


@each_run
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0), (0, 3, 2)])
def test_leading_dimensions_of_any_number(shape, simulator, gradient):
    run = {"simulator": simulator, "gradient": gradient}
    layer = make(2, 1, observables=["Z0", "X1", "Z0 Z1"], **run)
    x = random_inputs(layer, *shape).requires_grad_()
    values = layer(x)
    assert values.shape == (*shape, 3)
    values.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.ansatz.weights.grad.shape == layer.ansatz.weights.shape
    rows = [layer(row) for row in x.detach().reshape(-1, 2)]
    if rows:
        assert_allclose(values.detach().reshape(-1, 3), torch.stack(rows).detach(), atol=1e-6)
    else:
        assert not layer.ansatz.weights.grad.any()


@pytest.mark.parametrize("encoder", ["ry", "amplitude"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_output_has_the_inputs_dtype(dtype, encoder, simulator):
    layer = make(2, encoder=encoder, simulator=simulator)
    x = random_inputs(layer, 3).to(dtype).requires_grad_()
    values = layer(x)
    values.sum().backward()
    assert (values.dtype, x.grad.dtype) == (dtype, dtype)
    assert layer.ansatz.weights.grad.dtype == torch.float32
    assert layer(x[:0]).dtype == dtype
    loose = dict.fromkeys((torch.float16, torch.bfloat16), 1e-2)
    assert_allclose(
        values.detach().double(), layer(x.detach().float()).detach(), atol=loose.get(dtype, 1e-6)
    )


def test_a_layer_in_double_takes_doubles(simulator):
    single, double = (make(2, simulator=simulator) for _ in range(2))
    double.double()
    x = random_inputs(single, 3, dtype=torch.float64)
    assert_allclose(double(x).detach(), single(x).detach(), atol=1e-6)
    _, by_weights = gradients(double, x, torch.ones(3, 2))
    assert by_weights.dtype == torch.float64


def test_inputs_need_not_be_contiguous(simulator):
    layer = make(3, simulator=simulator)
    x = random_inputs(layer, 2, 4)
    turned = layer(x.transpose(0, 1)).transpose(0, 1)
    assert_allclose(turned.detach(), layer(x).detach(), atol=1e-6)
    x = x[0]
    assert_allclose(layer(x[:1].expand(4, 3)).detach(), layer(x[[0, 0, 0, 0]]).detach(), atol=1e-6)


def test_a_circuit_without_inputs(simulator):
    layer = make(2, encoder=tq.GeneralEncoder([]), simulator=simulator)
    values = layer(torch.zeros(3, 0))
    assert values.shape == (3, 2)
    assert_allclose(values[1:].detach(), values[:2].detach(), atol=1e-7)


def test_observables_in_any_order_and_repeated(simulator):
    every = ["Z2", "Z0", "X1", "Z2", "YIX", {"Z0": 1.0, "Z2": -2.0}, PauliString(())]
    layer = make(3, observables=every, simulator=simulator)
    x = random_inputs(layer, 2)
    values = layer(x).detach()
    for column, one in enumerate(every):
        alone = make(3, observables=[one], simulator=simulator)
        alone.ansatz.load_state_dict(layer.ansatz.state_dict())
        assert_allclose(values[:, column], alone(x).detach()[:, 0], atol=1e-6)
    assert_allclose(values[:, 5], values[:, 1] - 2 * values[:, 0], atol=1e-6)
    assert_allclose(values[:, 6], [1, 1], atol=1e-6)


# Gradient rules


RULE_LAYERS = {
    "ring": lambda **k: make(3, 1, **k),
    "four-term": lambda **k: make(3, 1, ansatz="qcnn", **k),
    "reuploading": lambda **k: make(2, 2, encoder="ry_rz", reupload=True, **k),
    "strongly entangling": lambda **k: make(2, 2, encoder="rx", ansatz="strongly_entangling", **k),
    "torchquantum": lambda **k: make(3, 1, ansatz="farhi_0", **k),
    "encoder list": lambda **k: make(4, 1, encoder="4x4_u3_h_rx", **k),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_run
@pytest.mark.parametrize("name", RULE_LAYERS)
def test_all_rules_agree_for_inputs_and_weights(name, simulator, gradient, dtype, truth):
    run = {"simulator": simulator, "gradient": gradient}
    layer = RULE_LAYERS[name](observables=["Z0", {"X1": 1.0, "Y0": 0.5}], **run)
    x = random_inputs(layer, 1, dtype=dtype)
    cotangent = torch.tensor([[1.0, -0.7]], dtype=dtype)
    by_inputs, by_weights = gradients(layer, x, cotangent)
    for got, source in ((by_inputs[0], "input"), (by_weights, "weight")):
        exact = truth.jacobian(layer.circuit, x, layer.weights, source)[0]
        assert_allclose(got, cotangent[0].double().numpy() @ exact, atol=TOLERANCE[gradient])


@each_run
def test_rules_give_the_values_of_the_run(simulator, gradient):
    plain, ruled = make(2), make(2, simulator=simulator, gradient=gradient)
    x = random_inputs(plain, 3)
    assert_allclose(ruled(x).detach(), plain(x).detach(), atol=1e-6)
    with torch.no_grad():
        assert not ruled(x.requires_grad_()).requires_grad
        assert_allclose(ruled(x), plain(x), atol=1e-6)


@pytest.mark.parametrize(
    ("simulator", "gradient"),
    [run for run in RUNS if run[1] in ("adjoint", "backprop", "finite-difference")],
)
def test_amplitudes_have_gradients(simulator, gradient):
    layer = make(2, 1, encoder="amplitude", simulator=simulator, gradient=gradient)
    x = torch.tensor([[0.3, -1.0, 0.5, 0.2], [1.0, 2.0, -1.0, 0.1]])
    cotangent = torch.tensor([[1.0, -0.7], [0.2, 1.0]])
    by_inputs, _ = gradients(layer, x, cotangent)
    w = layer.ansatz.weights.detach().double()
    x = x.double().requires_grad_()

    @qml.qnode(qml.device("default.qubit"), interface="torch", diff_method="backprop")
    def node(row):
        qml.AmplitudeEmbedding(row, wires=[0, 1], normalize=True)
        for name, wires, angles in program("amplitude", "rx_ry_rz_ring", False, 2, row, w):
            PENNYLANE[name](*angles, wires=wires)
        return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))

    theirs = torch.stack([torch.stack(node(row)) for row in x])
    (theirs * cotangent).sum().backward()
    assert_allclose(by_inputs, x.grad, atol=10 * TOLERANCE[gradient])


@pytest.mark.parametrize("gradient", ["parameter-shift", "commutator"])
def test_amplitudes_are_no_angles(gradient, simulator, truth):
    """The rules of angles say so for inputs; for weights they hold."""
    layer = make(2, 1, encoder="amplitude", simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 1)
    layer(x)[0, 0].backward()
    exact = truth.jacobian(layer.circuit, x, layer.weights, "weight")[0, 0]
    assert_allclose(layer.ansatz.weights.grad.flatten(), exact, atol=1e-5)
    with pytest.raises(
        GradientRuleError, match="inputs of amplitude encoding, which are no angles"
    ):
        layer(x.requires_grad_())


def test_parameter_shift_refuses_an_angle_without_a_rule():
    class Axis(tq.QuantumModule):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.3, 0.4]]))

        def forward(self, qdev):
            tqf.xxplusyy(qdev, wires=[0, 1], params=self.w)

    layer = VQCLayer(2, ansatz=Axis(), gradient="parameter-shift")
    with pytest.raises(
        GradientRuleError, match=r"'parameter-shift' does not apply to angle 1 \(w\[1\]\)"
    ):
        layer(torch.zeros(1, 2))


@each_run
def test_gradients_accumulate_like_any_other(simulator, gradient):
    layer = make(2, 1, simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 2).requires_grad_()
    layer(x).sum().backward()
    once = x.grad.clone(), layer.ansatz.weights.grad.clone()
    layer(x).sum().backward()
    assert torch.equal(x.grad, 2 * once[0])
    assert torch.equal(layer.ansatz.weights.grad, 2 * once[1])
    values = layer(x)
    for _ in range(2):
        again = torch.autograd.grad(values.sum(), x, retain_graph=True)
        assert_allclose(again[0], once[0], atol=1e-6)


@each_run
def test_frozen_weights_get_no_gradient(simulator, gradient):
    layer = make(2, 1, simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 2)
    by_inputs, _ = gradients(layer, x, torch.ones(2, 2))
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    x.requires_grad_()
    layer(x).sum().backward()
    assert_allclose(x.grad, by_inputs, atol=1e-6)
    assert layer.ansatz.weights.grad is None


def test_backprop_is_differentiable_twice(simulator):
    layer = without_weights(1, simulator=simulator)
    t = T.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(t).sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t)
    assert_allclose(second, -T.cos(), atol=1e-6)


@pytest.mark.parametrize(
    ("simulator", "gradient"), [run for run in RUNS if run[1] not in ("adjoint", "backprop")]
)
def test_the_other_rules_are_not_and_say_so(simulator, gradient):
    layer = make(1, simulator=simulator, gradient=gradient)
    t = T.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(t).sum(), t, create_graph=True)
    with pytest.raises(GradientRuleError, match="gives first derivatives only"):
        first.sum().backward()


# Life as a module


class Slow(tq.Encoder):
    """Keeps its inputs on itself, as TorchQuantum's operators do, and takes its time."""

    def forward(self, qdev, x):
        self.x = x
        for wire in range(3):
            time.sleep(0.002)
            tqf.ry(qdev, wires=wire, params=self.x[:, wire])


def slow_layer(**kwargs):
    torch.manual_seed(3)
    return VQCLayer(3, 1, encoder=Slow(), **kwargs)


def users_layer(**kwargs):
    """TorchQuantum's own operators, which keep their last angles, wires and device."""
    torch.manual_seed(3)
    return VQCLayer(3, 1, encoder=ClassicalInOpAll(3, tq.RY), ansatz="barren_0", **kwargs)


LAYERS = {"ours": lambda **kwargs: make(3, 1, **kwargs), "torchquantum": users_layer}


@pytest.fixture(params=LAYERS)
def layer(request, simulator):
    return LAYERS[request.param](simulator=simulator)


def test_the_state_dict_holds_the_weights_and_what_tells_their_circuit(layer):
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(random_inputs(layer, 5)).sum().backward()
    after = layer.state_dict()
    names = {name for name, _ in layer.named_parameters()}
    assert set(after) == set(before) == {*names, "_extra_state"}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert sum(after[name].numel() for name in names) == layer.circuit.n_weights
    assert not list(layer.buffers())


SAME_CIRCUIT = ({}, {"gradient": "backprop"}, {"simulator": "fused"})
SAME_CIRCUIT += ({"dtype": torch.complex128, "simulator": "fused"},)
OTHER_CIRCUITS = {
    "encoder": {"encoder": "rx"},
    "ansatz": {"ansatz": "strongly_entangling"},
    "re-uploading": {"reupload": True},
    "observables": {"observables": ["X0", "X1", "X2"]},
    "order of observables": {"observables": ["Z0", "Z2", "Z1"]},
    "coefficients": {"observables": [{"Z0": 1 + 1e-9}, "Z1", "Z2"]},
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", OTHER_CIRCUITS)
def test_weights_of_another_circuit_do_not_load(other, strict, nested):
    own, layer = make(3), make(3, **OTHER_CIRCUITS[other])
    before = layer.weights.clone()
    state = own.state_dict()
    if nested:
        layer, state = nn.Sequential(layer), nn.Sequential(own).state_dict()
    with pytest.raises(RuntimeError, match="state_dict must be of the circuit of this VQCLayer"):
        layer.load_state_dict(state, strict=strict)
    assert torch.equal((layer[0] if nested else layer).weights, before)


@pytest.mark.parametrize("options", SAME_CIRCUIT)
def test_weights_load_into_the_same_circuit_run_otherwise(options, tmp_path):
    own, layer = make(3), make(3, **options)
    save_file(own.double().state_dict(), tmp_path / "weights.safetensors")
    layer.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert_allclose(layer.weights.detach(), own.weights.detach(), atol=1e-6)


def test_weights_files_of_the_first_version_load_with_a_warning():
    own, layer = make(3), make(3)
    old = {name: value for name, value in own.state_dict().items() if "_extra" not in name}
    assert list(old) == ["ansatz.weights"]
    with pytest.warns(UserWarning, match="does not tell the circuit of its weights"):
        layer.load_state_dict(old)
    assert torch.equal(layer.weights, own.weights)


def test_what_tells_a_circuit_never_changes():
    # Files that hold it must load in later versions: a change here is a change of the format.
    assert make(2, 1).circuit.digest == "5e3c2cef8958b78311497ffca33f6cae"


def test_a_state_dict_loads_into_another_layer(layer):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.uniform_(-3, 3)
    x = random_inputs(layer, 4)
    assert not torch.allclose(other(x), layer(x))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("name", ["barren_0", "rxyzcx_0", *ANSAETZE])
def test_a_state_dict_of_the_bare_modules_loads_and_back(name):
    layer = make(4, 2, ansatz=name)
    if name in ANSAETZE:
        bare = ANSAETZE[name](4, 2)
    else:
        bare = layer_name_dict[name]({"n_wires": 4, "n_blocks": 2, "n_layers_per_block": 1})
    layer.ansatz.load_state_dict(bare.state_dict())
    theirs = [p.detach().flatten() for p in bare.parameters()]
    assert torch.equal(layer.weights, torch.cat(theirs))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 1
    bare.load_state_dict(layer.ansatz.state_dict())
    assert torch.equal(torch.cat([p.detach().flatten() for p in bare.parameters()]), layer.weights)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
@pytest.mark.parametrize("called", [False, True])
def test_copies_are_the_same_and_independent(layer, duplicate, called):
    x = random_inputs(layer, 3)
    if called:
        layer(x.requires_grad_()).sum().backward()
    twin = duplicate(layer)
    assert twin.circuit == layer.circuit
    assert torch.equal(twin(x), layer(x))
    before = layer(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.5
    assert not torch.allclose(twin(x), before)
    assert torch.equal(layer(x), before)


def test_a_whole_layer_survives_torch_save(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = random_inputs(layer, 2)
    assert torch.equal(torch.load(file, weights_only=False)(x), layer(x))


def test_weights_are_read_live(layer, truth):
    """A step of an optimiser, a change in place and a new parameter all change the values."""
    x = random_inputs(layer, 2)

    def check():
        expected = truth.expectations(layer.circuit, x, layer.weights)
        assert_allclose(layer(x).detach(), expected, atol=5e-6)

    before = layer(x).detach()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.2)
    layer(x).sum().backward()
    optimiser.step()
    assert (layer(x) - before).abs().max() > 1e-3
    check()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5)
    check()
    for module in layer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach() + 0.3))
    check()


@each_run
def test_a_layer_learns(simulator, gradient):
    layer = make(2, 1, simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 4)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = (layer(x)[:, 0] - 0.2).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_functional_call_uses_the_weights_it_is_given(simulator, truth):
    layer = make(3, 1, simulator=simulator)
    x = random_inputs(layer, 2)
    before = layer(x)
    ones = torch.ones(layer.circuit.n_weights)
    weights = {"ansatz.weights": ones.reshape(1, 3, 3)}
    values = torch.func.functional_call(layer, weights, (x,))
    assert_allclose(values, truth.expectations(layer.circuit, x, ones), atol=5e-6)
    assert torch.equal(layer(x), before)


@each_run
@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_of_the_batch_stays_on_the_modules(kind, simulator, gradient):
    layer = LAYERS[kind](simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 7).requires_grad_()
    values = layer(x)
    values.sum().backward()
    for module in layer.modules():
        held = [value for value in vars(module).values() if torch.is_tensor(value)]
        assert not held
        assert getattr(module, "q_device", None) is None
        assert not isinstance(module, tq.QuantumDevice)
    gone = weakref.ref(x), weakref.ref(values)
    del x, values
    if any(reference() is not None for reference in gone):
        gc.collect()
    assert [reference() for reference in gone] == [None, None]


@each_run
@pytest.mark.parametrize("make_layer", [*LAYERS.values(), slow_layer])
def test_two_threads_get_the_results_of_one(make_layer, simulator, gradient):
    layer = make_layer(simulator=simulator, gradient=gradient)
    batches = [random_inputs(layer, 2 + k % 3, seed=k) for k in range(8)]

    def run(x):
        x = x.clone().requires_grad_()
        values = layer(x)
        return values.detach(), torch.autograd.grad(values.sum(), x)[0]

    alone = [run(x) for x in batches]
    results = [None] * len(batches)
    start = threading.Barrier(2)

    def work(which):
        start.wait()
        for k in range(which, len(batches), 2):
            results[k] = run(batches[k])

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they meet
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for expected, got in zip(alone, results, strict=True):
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


@each_run
def test_results_are_the_same_to_the_last_bit(simulator, gradient):
    layer = make(3, simulator=simulator, gradient=gradient)
    x = random_inputs(layer, 4)
    first, second = (gradients(layer, x, torch.ones(4, 3)) for _ in range(2))
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_run_leaves_the_random_state_and_the_input_alone(layer):
    x = random_inputs(layer, 4)
    before = x.clone()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    layer(x.requires_grad_()).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert x.is_leaf


@pytest.mark.parametrize("frozen", [False, True])
@each_run
def test_a_layer_trains_after_inference_mode(simulator, gradient, frozen):
    """Whatever is kept from the first call must not be an inference tensor."""
    observables = [{"Z0": 1.0, "X1": 0.123 + len(gradient) + frozen}]  # of no other test
    layer = make(3, observables=observables, simulator=simulator, gradient=gradient)
    layer.requires_grad_(not frozen)
    x = random_inputs(layer, 2)
    with torch.inference_mode():
        before = layer(x)
    x.requires_grad_()
    values = layer(x)
    values.sum().backward()
    assert_allclose(values.detach(), before.numpy(), atol=1e-6)
    assert x.grad.abs().max() > 1e-3


def test_training_and_evaluation_mode_are_the_same(layer):
    x = random_inputs(layer, 2)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    assert not layer.ansatz.training


def test_a_layer_says_what_it_is():
    layer = make(
        3, encoder="ry_rz", ansatz="real_amplitudes", observables=["Z0"], gradient="commutator"
    )
    assert repr(layer) == (
        "VQCLayer(n_qubits=3, n_inputs=6, n_weights=9, n_observables=1, "
        f"simulator={layer.simulator!r}, gradient='commutator')"
    )
    assert repr(layer) in repr(nn.Sequential(layer))


def test_a_layer_draws_itself(layer):
    open_figures = plt.get_fignums()
    figure = layer.draw()
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == open_figures
    (axes,) = figure.axes
    assert axes.get_title() == "reads ⟨Z0⟩, ⟨Z1⟩, ⟨Z2⟩"
    texts = [text.get_text() for text in axes.texts]
    assert "RY(x[0])" in texts
    assert "RX(w[0])" in texts
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=30)
    assert file.getvalue().startswith(b"\x89PNG")


def test_amplitudes_are_drawn():
    figure = VQCLayer(3, encoder="amplitude", ansatz="qcnn", n_layers=1).draw()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "amplitudes x / |x|" in texts


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_qubits": 0}, ValueError, r"n_qubits must be an integer in \[1, 24\]; got 0 \(int\)"),
        ({"n_qubits": -3}, ValueError, r"n_qubits must be an integer in \[1, 24\]; got -3"),
        ({"n_qubits": 99}, ValueError, r"n_qubits must be an integer in \[1, 24\]; got 99"),
        (
            {"n_qubits": "4"},
            TypeError,
            r"n_qubits must be an integer in \[1, 24\]; got '4' \(str\)",
        ),
        ({"n_qubits": 4.0}, TypeError, r"n_qubits must be an integer in \[1, 24\]; got 4\.0"),
        ({"n_qubits": True}, TypeError, r"n_qubits must be an integer in .* got True \(bool\)"),
        ({"n_qubits": None}, TypeError, r"n_qubits must be an integer in .* got None"),
        ({"n_layers": 0}, ValueError, "n_layers must be an integer >= 1; got 0"),
        ({"n_layers": "2"}, TypeError, "n_layers must be an integer >= 1; got '2'"),
        ({"n_layers": 1.5}, TypeError, "n_layers must be an integer >= 1; got 1.5"),
        (
            {"encoder": "amplitudes"},
            ValueError,
            "encoder must be one of .*rz_after_h.* got 'amplitudes'.*did you mean 'amplitude'",
        ),
        ({"encoder": "RY_RZ"}, ValueError, "encoder must be one of .*did you mean 'ry_rz'"),
        ({"encoder": "angle"}, ValueError, "encoder must be one of .* got 'angle'"),
        (
            {"encoder": 3},
            TypeError,
            "encoder must be a name, a TorchQuantum encoder, a list .* got 3",
        ),
        (
            {"encoder": tq.GeneralEncoder},
            TypeError,
            "encoder must be .* got the class GeneralEncoder",
        ),
        (
            {"encoder": [{"input_idx": [0]}]},
            TypeError,
            "encoder must be .* gates with func and wires",
        ),
        (
            {"ansatz": "strongly-entangling"},
            ValueError,
            "ansatz must be one of .*did you mean 'strongly_entangling'",
        ),
        (
            {"ansatz": "QCNN"},
            ValueError,
            "ansatz must be one of .* got 'QCNN'.*did you mean 'qcnn'",
        ),
        (
            {"ansatz": 3},
            TypeError,
            r"ansatz must be a name, a TorchQuantum module, a list of .* got 3 \(int\)",
        ),
        (
            {"ansatz": layer_name_dict["barren_0"]},
            TypeError,
            "ansatz must be .* got the class BarrenLayer0",
        ),
        (
            {"ansatz": "qcnn", "n_layers": 3},
            ValueError,
            r"n_layers must be at most log2\(n_qubits\) = 2 for ansatz 'qcnn'.*got 3",
        ),
        (
            {"ansatz": "qcnn", "n_qubits": 1, "n_layers": 1},
            ValueError,
            r"n_layers must be at most .* = 0",
        ),
        (
            {"ansatz": "rzz_0", "n_qubits": 1},
            CircuitError,
            r"wires of rzz must be different from each other; got \(0, 0\)",
        ),
        (
            {"simulator": "torch-quantum"},
            ValueError,
            "simulator must be one of .* got 'torch-quantum'.*did you mean 'torchquantum'",
        ),
        ({"simulator": None}, TypeError, "simulator must be one of .* got None"),
        (
            {"gradient": "parameter_shift"},
            ValueError,
            "gradient must be one of .*did you mean 'parameter-shift'",
        ),
        (
            {"gradient": "Commutator"},
            ValueError,
            "gradient must be one of .*did you mean 'commutator'",
        ),
        ({"gradient": True}, TypeError, "gradient must be one of .* got True"),
        ({"dtype": torch.float32}, ValueError, "dtype must be .* got torch.float32"),
        ({"dtype": "complex64"}, ValueError, "dtype must be torch.complex64"),
        ({"reupload": 1}, TypeError, r"reupload must be True or False; got 1 \(int\)"),
        (
            {"reupload": True, "ansatz": "barren_0"},
            TypeError,
            r"ansatz must be one with n_layers and layer\(qdev, index\).*got a BarrenLayer0",
        ),
        (
            {"reupload": True, "ansatz": tq.QuantumModule()},
            TypeError,
            "ansatz must be .* got a QuantumModule module",
        ),
        (
            {"reupload": True, "encoder": "amplitude"},
            CircuitError,
            "reupload must be False for amplitude encoding",
        ),
        ({"observables": []}, ValueError, "observables must be a list of at least one observable"),
        (
            {"observables": "Z0"},
            TypeError,
            "observables must be a list of observables, or 'probabilities'; got 'Z0'",
        ),
        ({"observables": {"Z0": 1.0}}, TypeError, "observables must be a list of observables"),
        (
            {"observables": 4},
            TypeError,
            r"observables must be a list of observables, or 'probabilities'; got 4 \(int\)",
        ),
        ({"observables": [0, 1]}, TypeError, r"observable must be a Pauli string .* got 0 \(int\)"),
        (
            {"observables": ["Z4"]},
            CircuitError,
            r"wires of observable Z4 must be in \[0, 3\]; got \(4,\)",
        ),
        (
            {"observables": ["Z0", "ZZZZZ"]},
            CircuitError,
            r"wires of observable Z0 Z1 Z2 Z3 Z4 must be in",
        ),
        (
            {"observables": ["W0"]},
            ValueError,
            "observable must be a Pauli string such as 'Z0'.*got 'W0'",
        ),
        (
            {"observables": ["Z0 Z0"]},
            ValueError,
            "Pauli string must be given at most one letter for a wire",
        ),
        (
            {"observables": [{"Z0": math.nan}]},
            ValueError,
            "coefficient of a Pauli string must be finite",
        ),
        (
            {"observables": [{}]},
            ValueError,
            "observable must be a sum of at least one term",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VQCLayer(**{"n_qubits": 4, **arguments})


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("gradient", ["backprop", "parameter-shift"])
@pytest.mark.parametrize(
    ("encoder", "inputs", "error", "message"),
    [
        (
            "ry",
            torch.zeros(3, 3),
            ValueError,
            r"inputs must be of shape \(\.\.\., 2\); got a torch.float32 tensor of shape \(3, 3\)",
        ),
        (
            "ry",
            torch.zeros(3),
            ValueError,
            r"inputs must be of shape \(\.\.\., 2\); got .* shape \(3,\)",
        ),
        (
            "ry",
            torch.zeros(2, 0),
            ValueError,
            r"inputs must be of shape \(\.\.\., 2\); got .* shape \(2, 0\)",
        ),
        (
            "ry",
            torch.tensor(1.0),
            ValueError,
            r"inputs must be of shape \(\.\.\., 2\); got .* shape \(\)",
        ),
        (
            "ry",
            torch.zeros(3, 2, dtype=torch.int64),
            TypeError,
            "inputs must be a real floating-point tensor; got a torch.int64",
        ),
        (
            "ry",
            torch.zeros(3, 2, dtype=torch.bool),
            TypeError,
            "inputs must be a real floating-point tensor; got a torch.bool",
        ),
        (
            "ry",
            torch.zeros(3, 2, dtype=torch.complex64),
            TypeError,
            "inputs must be a real floating-point tensor; got a torch.complex64",
        ),
        (
            "ry",
            [[0.0, 0.0]],
            TypeError,
            r"inputs must be a real floating-point tensor; got \[\[0\.0, 0\.0\]\]",
        ),
        (
            "ry",
            np.zeros((1, 2)),
            TypeError,
            "inputs must be a real floating-point tensor; got array",
        ),
        ("ry", None, TypeError, "inputs must be a real floating-point tensor; got None"),
        (
            "ry",
            torch.tensor([[0.0, 1.0], [NAN, 1.0]]),
            ValueError,
            r"inputs must be finite everywhere; got 1 of 4 values .*first, nan, at index \(1, 0\)",
        ),
        (
            "ry",
            torch.tensor([INF, -INF]),
            ValueError,
            r"inputs must be finite everywhere; got 2 of 2 .*first, inf, at index \(0,\)",
        ),
        (
            "ry",
            torch.zeros(1, 2, device="meta"),
            ValueError,
            "inputs must be on the layer's device, cpu; got .* on meta",
        ),
        ("amplitude", torch.zeros(3, 2), ValueError, r"inputs must be of shape \(\.\.\., 4\)"),
        (
            "amplitude",
            torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]),
            ValueError,
            "inputs must be not all zero, to be normalized to amplitudes; got a row of zeros",
        ),
        ("amplitude", torch.zeros(4), ValueError, "inputs must be not all zero"),
        (
            "amplitude",
            torch.tensor([1.0, NAN, 0, 0]),
            ValueError,
            "inputs must be finite everywhere",
        ),
    ],
)
def test_wrong_inputs_are_refused(encoder, inputs, error, message, gradient):
    layer = make(2, encoder=encoder, gradient=gradient)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(error, match=message):
        layer(inputs)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    assert layer.ansatz.weights.grad is None


def test_a_layer_elsewhere_refuses_inputs_from_here(layer):
    layer.to("meta")
    with pytest.raises(
        ValueError, match="inputs must be on the layer's device, meta; got .* on cpu"
    ):
        layer(torch.zeros(1, 3))


def test_an_empty_batch_is_not_a_row_of_zeros():
    assert make(2, encoder="amplitude")(torch.zeros(0, 4)).shape == (0, 2)
