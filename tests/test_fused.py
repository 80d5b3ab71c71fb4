"""The fused simulator against the dense reference, gradcheck, and the promises of its plan."""

import gc
import math
import threading

import numpy as np
import pytest
import torch
import truth
from circuits import REAL_GATES, arguments, norms, random_circuit

from captum_quantum import Angle, Circuit, Gate, Observable, VQCLayer
from captum_quantum.circuit import GATE_TYPES
from captum_quantum.simulate import FusedSimulator, compiled, products, program
from captum_quantum.simulate.adjoint import AdjointRun
from captum_quantum.simulate.compiled import CompiledCircuit
from captum_quantum.simulate.layout import join_samples
from captum_quantum.simulate.phases import PhaseTable
from captum_quantum.simulate.plan import Dense, InputPhases, Monomial
from captum_quantum.simulate.planner import FRONT, MANY, NARROW, _cost, _Planner, make_plan
from captum_quantum.simulate.program import Program

N_RANDOM, N_RANDOM_ALL = 120, 10_000


def compiled_of(layer):
    """What the layer's simulator keeps of the circuit that it runs."""
    circuit = layer.recorded(torch.ones(2, layer.n_inputs)).circuit
    return layer._simulator._compiled(circuit)


def plan_of(circuit, batch=1):
    return FusedSimulator().plan(circuit, batch)


def fused_value_and_gradient(circuit, x, w, cotangent, dtype, adjoint):
    """Values, and the vector-Jacobian product of a cotangent ``(n_observables,)``, summed."""
    real = dtype.to_real()
    x, w = (leaf.detach().to(real).requires_grad_() for leaf in (x, w))
    inputs, weights = x[:, circuit.indices("input")], w[circuit.indices("weight")]
    simulator = FusedSimulator()
    rows = cotangent.to(real).expand(len(x), -1).contiguous()
    if adjoint:
        values, pullback = simulator.vjp(circuit, inputs, weights, dtype)
        derivatives = pullback(rows)[:2]
    else:
        values = simulator.expectations(circuit, inputs, weights, dtype)
        derivatives = (
            torch.autograd.grad(
                values, [inputs, weights], rows, allow_unused=True, materialize_grads=True
            )
            if values.requires_grad
            else (torch.zeros_like(inputs), torch.zeros_like(weights))
        )
    by = torch.autograd.grad(
        [inputs, weights], [x, w], derivatives, allow_unused=True, materialize_grads=True
    )
    return values.detach(), *by


def check_circuit(circuit, seed, batch=None):
    """In both precisions, by adjoint differentiation and by autograd, trained and frozen."""
    if batch is None:
        batch = 2 if circuit.n_qubits < 8 else 1  # the reference multiplies dense matrices
    x, w = arguments(circuit, batch, seed)
    generator = torch.Generator().manual_seed(seed)
    cotangent = 2 * torch.rand(len(circuit.observables), generator=generator).double() - 1
    expected = truth.expectations(circuit, x, w)
    double = fused_value_and_gradient(circuit, x, w, cotangent, torch.complex128, True)
    single = fused_value_and_gradient(circuit, x, w, cotangent, torch.complex64, True)
    by_autograd = fused_value_and_gradient(circuit, x, w, cotangent, torch.complex128, False)
    scale = max(1.0, sum(norms(circuit)))
    assert np.abs(double[0].numpy() - expected).max() <= 1e-12 * scale
    assert np.abs(single[0].numpy() - expected).max() <= 5e-6 * scale
    for k in range(3):
        assert torch.allclose(double[k], by_autograd[k].double(), atol=1e-12 * scale, rtol=0)
        # An input or weight of m gates has m terms in its derivative.
        bound = 5e-6 * scale * max(1, len(circuit.gates) / 4)
        assert torch.allclose(single[k].double(), double[k], atol=bound, rtol=0)
    frozen = frozen_value_and_gradient(circuit, x, w, cotangent, torch.complex128)
    for k in range(2):
        assert torch.allclose(frozen[k], double[k], atol=1e-12 * scale, rtol=0)
    return x, w, cotangent, double


@pytest.mark.parametrize("part", range(5))
def test_random_circuits_against_the_reference(part):
    for seed in range(part, N_RANDOM, 5):
        check_circuit(random_circuit(seed), seed)


LAYERED = {
    "layered": True,
    "n_qubits": (7, 10),
    "sources": ("input", "weight"),
    "letters": ("IZ", "IXYZ"),
}


def check_circuits_in_lanes(seeds):
    kinds = set()
    for seed in seeds:
        # Two lanes: a large batch would take the reference too long.
        circuit = random_circuit(seed, **LAYERED)
        check_circuit(circuit, seed, batch=4)
        in_lanes = CompiledCircuit(circuit).program(torch.device("cpu"), torch.complex64, 4)
        assert in_lanes.lanes == 2
        plan = in_lanes.plan
        kinds |= {type(step) for step in plan.steps}
        readout = plan.readout
        kinds |= {"signs"} if readout.signs is not None else set()
        kinds |= {"parities"} if readout.parities is not None else set()
        kinds |= {"pairs"} if readout.pairs else set()
        kinds |= {
            "multi"
            for step in plan.steps
            if isinstance(step, InputPhases) and step.multiplications > 2
        }
        kinds |= {"phases" for step in plan.steps if isinstance(step, Monomial) and step.phases}
        kinds |= {"real" for step in plan.steps if isinstance(step, Dense) and step.real}
    seen = {"signs", "parities", "pairs", "multi", "phases", "real"}
    assert kinds == {Dense, Monomial, InputPhases} | seen


@pytest.fixture
def two_lanes(monkeypatch):
    monkeypatch.setattr(compiled, "LANES", 2)
    monkeypatch.setattr(compiled, "LANE", 2)


def test_circuits_in_lanes_against_the_reference(two_lanes):
    check_circuits_in_lanes(range(40))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_circuits_in_lanes(part, two_lanes):
    check_circuits_in_lanes(range(part, 1000, 4))


@pytest.mark.parametrize("part", range(5))
def test_circuits_of_real_numbers_against_the_reference(part):
    assert {"ry", "cry", "cnot", "cz", "hadamard", "toffoli", "swap"} <= set(REAL_GATES)
    for seed in range(part, 150, 5):
        circuit = random_circuit(
            seed, encoding="ry", names=[*REAL_GATES, "ry", "ry"], letters=("IZ", "IXYZ")
        )
        check_circuit(circuit, seed)
        for dtype, real in ((torch.complex64, torch.float32), (torch.complex128, torch.float64)):
            assert CompiledCircuit(circuit).program(torch.device("cpu"), dtype).dtype == real


def test_a_state_of_real_numbers_takes_half_of_the_memory():
    real, other = (
        CompiledCircuit(VQCLayer(8, 2, ansatz=a).circuit).program(
            torch.device("cpu"), torch.complex64
        )
        for a in ("real_amplitudes", "rx_ry_rz_ring")
    )
    assert [real.row_bytes, other.row_bytes] == [2**8 * 4, 2**8 * 8]
    assert "the state has 256 rows of real numbers" in str(real.plan)
    assert "real numbers" not in str(other.plan)


def test_values_of_a_circuit_without_steps_carry_no_graph():
    gates = (Gate("ry", (0,), (Angle.of_weight(0),)), Gate("rz", (0,), (Angle.of_input(0),)))
    circuit = Circuit(1, gates, (Observable.of("Z0"),), 1, 1)
    values, _ = FusedSimulator().vjp(circuit, torch.rand(2, 1), torch.rand(1), torch.complex64)
    assert not values.requires_grad
    seeds = [seed for seed in range(60) if not plan_of(random_circuit(seed)).steps]
    assert len(seeds) > 3
    for seed in seeds:
        check_circuit(random_circuit(seed), seed)


def frozen_value_and_gradient(circuit, x, w, cotangent, dtype):
    """The same by inputs alone, and whether values were polynomials of them."""
    real = dtype.to_real()
    x = x.detach().to(real).requires_grad_()
    inputs, weights = x[:, circuit.indices("input")], w.to(real)[circuit.indices("weight")]
    simulator = FusedSimulator()
    values, pullback = simulator.vjp(circuit, inputs, weights, dtype, needs=(True, False, False))
    derivatives = pullback(cotangent.to(real).expand(len(x), -1))[0]
    by = torch.autograd.grad(inputs, x, derivatives, allow_unused=True)
    running = simulator._compiled(circuit).program(inputs.device, dtype)
    return values, *by, running._polynomial is not None


def test_circuits_with_frozen_weights_against_the_reference():
    check_encoded_circuits(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_circuits_with_frozen_weights(part):
    check_encoded_circuits(range(part, 1000, 4))


def check_encoded_circuits(seeds):
    seen = []
    for seed in seeds:
        circuit = random_circuit(
            seed, encoding="first", n_qubits=(1, 8), sources=("weight",), letters=("IZ",)
        )
        x, w = arguments(circuit, 2, seed)
        cotangent = arguments(circuit, len(circuit.observables), seed)[0][:, 0] / 3
        expected = truth.expectations(circuit, x, w)
        by_x = np.einsum("bok,o->bk", truth.jacobian(circuit, x, w, "input"), cotangent)
        for dtype, bound in ((torch.complex128, 1e-12), (torch.complex64, 5e-6)):
            values, by_inputs, by_polynomial = frozen_value_and_gradient(
                circuit, x, w, cotangent, dtype
            )
            scale = max(1.0, sum(norms(circuit)))
            assert np.abs(values.numpy() - expected).max() <= bound * scale
            assert np.abs(by_inputs.numpy() - by_x).max() <= bound * scale * circuit.n_qubits
            seen += [circuit.n_qubits] * by_polynomial
    assert set(seen) == set(range(1, 9))
    # Of two each: where no encoded wire reaches an observable, none is needed.
    assert len(seen) > 1.6 * len(seeds)


@pytest.mark.parametrize(
    ("name", "options", "is_polynomial"),
    [
        ("default", {}, True),
        ("default", {"n_qubits": 9, "observables": ["Z0"]}, False),  # a large matrix to begin with
        ("default", {"n_qubits": 8, "observables": ["Z0"] * 19}, True),
        ("default", {"n_qubits": 8, "observables": ["Z0"] * 20}, False),  # many coefficients
        ("reupload", {}, False),
        ("ry_rz", {"reupload": False}, False),  # two angles on a wire
        ("amplitude", {}, False),
        ("barren", {"observables": ["X0", "Z1"]}, False),
    ],
)
def test_which_circuits_are_polynomials_while_weights_are_frozen(name, options, is_polynomial):
    layer = layer_of(name, **options)
    x = torch.rand(3, layer.n_inputs, requires_grad=True)
    trained = layer(x)
    layer.requires_grad_(False)
    frozen = layer(x)
    running = compiled_of(layer).program(x.device, torch.complex64)
    assert running.has_polynomial == is_polynomial
    assert (running._polynomial is not None) == is_polynomial
    scale = torch.linspace(-1, 1, frozen.shape[1])
    by = [torch.autograd.grad((values * scale).sum(), x)[0] for values in (trained, frozen)]
    torch.testing.assert_close(frozen, trained, rtol=0, atol=2e-6)
    torch.testing.assert_close(*by, rtol=0, atol=5e-6)


def test_a_polynomial_is_kept_while_weights_do_not_change(monkeypatch):
    layer = layer_of("default").requires_grad_(False)
    made = []
    original = program.Polynomial.__init__
    monkeypatch.setattr(
        program.Polynomial, "__init__", lambda *args: made.append(1) or original(*args)
    )
    x = torch.rand(3, 7, requires_grad=True)
    with torch.inference_mode():
        layer(x.detach())
    for _ in range(3):
        before = layer(x)
        torch.autograd.grad(before.sum(), x)
    assert len(made) == 1
    layer.ansatz.weights[0, 0, 0] += 1
    assert not torch.allclose(layer(x), before, atol=1e-3)
    assert len(made) == 2


# The reference differentiates by whole runs: small circuits only.
SMALL = [seed for seed in range(60) if random_circuit(seed).n_qubits <= 6][:20]


@pytest.mark.parametrize("seed", SMALL)
def test_gradients_of_random_circuits_against_the_reference(seed):
    circuit = random_circuit(seed)
    x, w, cotangent, (_, by_x, by_w) = check_circuit(circuit, seed)
    for source, derivative, which in (("input", by_x, "bk"), ("weight", by_w, "k")):
        jacobian = truth.jacobian(circuit, x, w, source)
        expected = np.einsum(f"bok,o->{which}", jacobian, cotangent)
        assert np.abs(derivative.numpy() - expected).max(initial=0) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_ten_thousand_random_circuits(part):
    for seed in range(part, N_RANDOM_ALL, 20):
        check_circuit(random_circuit(seed), seed)


def one_gate(name, n_qubits):
    """A gate with inputs, then weights, as angles between rotations, on scattered wires."""
    kind = GATE_TYPES[name]
    n_wires = kind.n_wires or 3
    wires = tuple(reversed(range(n_qubits)))[:n_wires]
    gates, k = [], 0
    for wire in range(n_qubits):
        gates.append(Gate("ry", (wire,), (Angle.of_input(k),)))
        k += 1
    for make in (Angle.of_input, Angle.of_weight):
        start = k if make == Angle.of_input else 0
        angles = tuple(make(start + j) for j in range(kind.n_angles))
        gates += [Gate(name, wires, angles), Gate("rx", (wires[0],), (Angle.constant(0.3),))]
    letters = "XYZXYZXYZ"
    observables = tuple(Observable.of(f"{letters[w]}{w}") for w in range(n_qubits))
    return Circuit(n_qubits, tuple(gates), observables, n_qubits + kind.n_angles, kind.n_angles)


@pytest.mark.parametrize("name", GATE_TYPES)
def test_gradcheck_and_gradgradcheck_of_every_gate(name):
    kind = GATE_TYPES[name]
    circuit = one_gate(name, max(2, kind.n_wires or 3))
    simulator = FusedSimulator()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, circuit.n_inputs, dtype=torch.float64, generator=generator).requires_grad_()
    w = torch.rand(circuit.n_weights, dtype=torch.float64, generator=generator).requires_grad_()

    def run(x, w):
        inputs, weights = x[:, circuit.indices("input")], w[circuit.indices("weight")]
        return simulator.expectations(circuit, inputs, weights, torch.complex128)

    wanted = (x, w) if kind.n_angles else (x,)
    call = run if kind.n_angles else lambda x: run(x, w.detach())
    assert torch.autograd.gradcheck(call, wanted)
    assert torch.autograd.gradgradcheck(call, wanted)


LAYERS = {
    "default": {},
    "whole": {"n_qubits": 4},
    "strongly_entangling": {"ansatz": "strongly_entangling"},
    "real_amplitudes": {"ansatz": "real_amplitudes"},
    "qcnn": {"ansatz": "qcnn"},
    "reupload": {"reupload": True},
    "ry_rz": {"encoder": "ry_rz", "reupload": True},
    "amplitude": {"encoder": "amplitude", "n_qubits": 3},
    "real_amplitude": {"encoder": "amplitude", "n_qubits": 7, "ansatz": "real_amplitudes"},
    "real_xyz": {"ansatz": "real_amplitudes", "observables": ["X0 Z3", "Y1 Y2", "Z6", "Y0"]},
    "rzz": {"ansatz": "rzz_0"},
    "barren": {"ansatz": "barren_0", "observables": ["X0 Y6", "ZZIIIII"]},
}


def layer_of(name, **kwargs):
    torch.manual_seed(0)
    options = {"n_qubits": 7, "n_layers": 2, **LAYERS[name], **kwargs}
    return VQCLayer(**options)


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck_of_every_template(name):
    for gradient in ("adjoint", "backprop"):
        layer = layer_of(name, gradient=gradient).double()
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(2, layer.n_inputs, dtype=torch.float64, generator=generator)
        assert torch.autograd.gradcheck(layer, x.requires_grad_(), fast_mode=True)
        names = [name for name, _ in layer.named_parameters()]

        def of_weights(*weights, layer=layer, x=x, names=names):
            values = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(layer, values, (x.detach(),))

        assert torch.autograd.gradcheck(of_weights, tuple(layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("name", LAYERS)
def test_equals_torchquantum(name):
    layer = layer_of(name)
    reference = layer_of(name, simulator="torchquantum")
    x = (torch.rand(5, layer.n_inputs) * 4 - 2).requires_grad_()
    results = []
    for model in (layer, reference):
        out = model(x)
        scale = torch.linspace(-1, 1, out.shape[1])
        results.append((out, *torch.autograd.grad((out * scale).sum(), [x, *model.parameters()])))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


def test_vmap_and_jacrev():
    layer = layer_of("default", gradient="backprop").double()
    x = torch.rand(3, 7, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(layer))(x)
    for k in range(3):
        expected = torch.autograd.functional.jacobian(layer, x[k])
        assert torch.allclose(jacobian[k], expected, atol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
@pytest.mark.parametrize("name", ["default", "reupload", "real_amplitudes"])
def test_vmap_without_gradients(name, gradient):
    layer, x = layer_of(name, gradient=gradient), torch.rand(3, 7)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["in place", "by data", "new tensor", "by optimizer"])
def test_weights_are_read_live(change):
    layer = layer_of("default")
    x = torch.rand(3, 7, requires_grad=True)
    before = layer(x)
    assert torch.equal(layer(x), before)
    weights = layer.ansatz.weights
    if change == "in place":
        with torch.no_grad():
            weights.add_(0.1)
    elif change == "by data":
        weights.data += 0.1
    elif change == "new tensor":
        weights.data = weights.data + 0.1
    else:
        layer(x).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.3).step()
    after = layer(x)
    fresh = layer_of("default")
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(after, fresh(x))
    assert not torch.allclose(after, before, atol=1e-3)


def test_matrices_are_kept_while_weights_do_not_change(monkeypatch):
    layer = layer_of("default")
    made = []
    original = program.make_matrices
    monkeypatch.setattr(program, "make_matrices", lambda *args: made.append(1) or original(*args))
    x = torch.rand(3, 7, requires_grad=True)
    for _ in range(3):
        torch.autograd.grad(layer(x).sum(), x)
    assert len(made) == 1
    with torch.no_grad():
        layer.ansatz.weights[0, 0, 0] += 1
        layer(x)
    assert len(made) == 2


@pytest.mark.parametrize("name", LAYERS)
def test_large_batches_run_in_lanes_and_give_the_same(name, monkeypatch):
    n_qubits = max(7, LAYERS[name].get("n_qubits", 7))
    layer = layer_of(name, n_qubits=n_qubits).double()
    x = torch.rand(compiled.LANES * compiled.LANE, layer.n_inputs, dtype=torch.float64)
    x.requires_grad_()
    lanes = compiled_of(layer).lanes
    assert lanes(len(x), x.device) == compiled.LANES
    for batch in (len(x) - 1, len(x) + 1, compiled.LANES * (compiled.LANE - 1)):
        assert lanes(batch, x.device) == 1  # too small, or no multiple
    assert lanes(len(x), torch.device("cuda")) == 1
    assert (
        CompiledCircuit(VQCLayer(6, 1).circuit).lanes(len(x), x.device) == 1
    )  # one product does it all

    def everything():
        out = layer(x)
        return (out, *torch.autograd.grad((out**2).sum(), [x, *layer.parameters()]))

    in_lanes = everything()
    assert [key[2] for key in compiled_of(layer).programs] == [1, compiled.LANES]
    monkeypatch.setattr(compiled, "BUDGET", 5 * 2**n_qubits * 16)  # parts of 4 samples
    cut = everything()
    monkeypatch.setattr(compiled, "LANE", len(x))
    for result, part, expected in zip(in_lanes, cut, everything(), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("lanes", [1, 2])
def test_phases_of_inputs_on_single_wires(n, lanes):
    """Their product over the wires, from two vectors: row r turns by the sum of +-x/2."""
    gates = [Gate("hadamard", (k,)) for k in range(n)]
    gates += [Gate("cnot", (k, k + 1)) for k in range(n - 1)] * 2  # else all were prepared
    gates += [Gate("rz", (k,), (Angle.of_input(k),)) for k in range(n)]
    circuit = Circuit(n, gates, (Observable.of("X" * n),), n)
    plan = plan_of(circuit)
    table = PhaseTable(plan, torch.device("cpu"), torch.complex128, lanes)
    x, _ = arguments(circuit, 6)
    halves = table.halves(x.T)
    numbers = [k for k, step in enumerate(plan.steps) if isinstance(step, InputPhases)]
    if n == 1:  # all is prepared
        assert numbers == halves == []
        return
    (number,) = numbers
    phases = torch.ones(lanes, 2 ** (n - n // 2), 2 ** (n // 2), 6 // lanes)
    for factor in table.factors(number, halves, x.T):
        phases = phases * factor
    signs = 1 - 2 * (torch.arange(2**n) >> torch.arange(n - 1, -1, -1)[:, None] & 1).double()
    expected = torch.exp(-0.5j * (x @ signs)).T
    torch.testing.assert_close(join_samples(phases.flatten(1, 2)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["default", "reupload", "amplitude", "rzz"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_batch_cut_into_parts_gives_the_same(name, frozen, monkeypatch):
    layer = layer_of(name).requires_grad_(not frozen)
    x = torch.rand(7, layer.n_inputs, requires_grad=True)

    def everything():
        out = layer(x)
        wanted = [x] if frozen else [x, *layer.parameters()]
        return (out, *torch.autograd.grad((out**2).sum(), wanted))

    whole = everything()
    monkeypatch.setattr(compiled, "BUDGET", 3 * 2**layer.n_qubits * 8)
    for part, expected in zip(everything(), whole, strict=True):
        assert torch.allclose(part, expected, atol=1e-6)


def test_one_vjp_serves_inputs_and_weights(monkeypatch):
    layer = layer_of("default")
    count = []
    original = AdjointRun.vjp
    monkeypatch.setattr(AdjointRun, "vjp", lambda *args: count.append(1) or original(*args))
    x = torch.rand(3, 7, requires_grad=True)
    layer(x).sum().backward()
    assert len(count) == 1


def test_depth_does_not_cost_memory():
    """Adjoint differentiation keeps one state, whatever the depth; backprop one for each step."""

    def kept(gradient, n_layers):
        layer = VQCLayer(8, n_layers, gradient=gradient)
        x = torch.rand(64, 8, requires_grad=True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel() if t.numel() >= 64 * 2**8 else 0) or t, lambda t: t
        ):
            layer(x)
        return sum(sizes)

    assert kept("adjoint", 12) == kept("adjoint", 2)
    assert kept("backprop", 12) > 3 * kept("backprop", 2)


@pytest.mark.parametrize("name", ["default", "reupload", "amplitude"])
def test_a_step_is_freed_without_the_cycle_collector(name):
    """Else the states of many steps pile up in memory."""
    layer = layer_of(name)
    x = torch.rand(3, layer.n_inputs, requires_grad=True)
    layer(x).sum().backward()
    gc.collect()
    gc.disable()
    try:
        layer(x).sum().backward()
        assert not any(torch.is_tensor(thing) for thing in _unreachable())
    finally:
        gc.enable()


def _unreachable():
    """What only the cycle collector would free."""
    before = gc.get_debug()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(before)
        gc.garbage.clear()


def test_two_threads_and_two_runs_give_the_same_bits():
    layer = layer_of("default")
    batches = [torch.rand(4, 7), torch.rand(4, 7)]
    expected = [layer(x) for x in batches]
    results = [[], []]

    def work(k):
        for _ in range(20):
            results[k].append(layer(batches[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(2):
        assert all(torch.equal(r, expected[k]) for r in results[k])


def reorderings(plan):
    """How often all rows are moved."""
    return sum(isinstance(step, Monomial) and step.rows is not None for step in plan.steps)


def test_the_plan_of_the_default_circuit():
    plan = plan_of(VQCLayer(8, 2).circuit)
    text = str(plan)
    assert text.startswith("8 qubits, 72 gates, of which 64 factors matter; the state has 256 rows")
    assert "wire 3: ry rx ry rz" in text
    assert "reorder the rows (cnot, cnot, " in text
    assert "squared moduli of the rows, weighted: 8 values" in text
    assert f"{plan.multiply_adds} multiply-adds for each sample" in text
    assert text.endswith("8 polynomials of the inputs with 6561 coefficients")
    assert "polynomials" not in str(plan_of(VQCLayer(9, 2).circuit))
    # The second layer is three matrices; its ring is folded into the observables.
    assert plan.multiply_adds <= 2**8 * (4 + 8 + 8)
    assert reorderings(plan) <= 2


@pytest.mark.parametrize("n_qubits", [5, 6])
def test_a_few_qubits_take_one_matrix_whatever_the_depth(n_qubits):
    for n_layers in (2, 9):
        plan = plan_of(VQCLayer(n_qubits, n_layers).circuit)
        assert plan.multiply_adds <= 4**n_qubits
        assert reorderings(plan) == 0


@pytest.mark.parametrize("encoder", ["ry", "rx", "rz_after_h"])
def test_gates_that_take_inputs_are_phases_between_shared_matrices(encoder):
    """Then the inputs of a layer cost two multiplications a row, not matrices of each sample."""
    circuit = VQCLayer(7, 3, encoder=encoder, reupload=True).circuit
    plan = plan_of(circuit)
    phases = [step for step in plan.steps if isinstance(step, InputPhases)]
    assert sum(len(step.factors) for step in phases) == 2 * 7  # those of the first are prepared
    assert all(step.multiplications == 2 for step in phases)
    # Gates on all wires, four times, as matrices of 4, 4 and 8 rows; RY's bases make them complex.
    assert plan.multiply_adds <= 2**7 * (2 * 2 + 4 * (4 + 4 + 8))
    assert reorderings(plan) <= 4 + 2
    assert "multiply the rows by phases, one for each sample (r" in str(plan)
    check_circuit(circuit, 0, batch=2)


@pytest.mark.parametrize("front", [FRONT, FRONT - 2])
def test_rings_between_two_layers_of_gates_vanish_in_staircases(front):
    """Then either layer needs no matrices of its own: 4 of 8 x 8 instead of 6."""
    circuit = VQCLayer(8, 4, reupload=True).circuit
    plan = make_plan(circuit, front)
    assert not any("cnot" in step.names for step in plan.steps if isinstance(step, Monomial))
    assert plan.multiply_adds <= 2**8 * (3 * 4 * 8 + (4 + 8 + 8) + 3 * 2)
    # With fewer wires to keep in front, more blocks follow each other without reordering.
    assert reorderings(plan) <= (13 if front == FRONT else 7)
    without = _Planner(circuit, front).plan()
    assert _cost(plan) < _cost(without)
    x, w = arguments(circuit, 3)
    inputs, weights = x[:, circuit.indices("input")], w[circuit.indices("weight")]
    values = [
        Program(either, x.device, torch.complex128, 1).run(inputs, weights)
        for either in (plan, without)
    ]
    torch.testing.assert_close(*values, rtol=0, atol=1e-13)


def test_a_ring_after_one_layer_of_gates_stays_a_reordering():
    """RZ by an input needs no change of basis, so no gates but those before the ring."""
    gates = []
    for layer in range(3):
        gates += [Gate("rx", (k,), (Angle.of_weight(8 * layer + k),)) for k in range(8)]
        gates += [Gate("cnot", (k, (k + 1) % 8), ()) for k in range(8)]
        gates += [Gate("rz", (k,), (Angle.of_input(k),)) for k in range(8)]
    circuit = Circuit(8, tuple(gates), (Observable.of("X0"),), 8, 24)
    plan = make_plan(circuit)
    assert any("cnot" in step.names for step in plan.steps if isinstance(step, Monomial))
    costs = [_cost(_Planner(circuit, FRONT, staircases).plan()) for staircases in (False, True)]
    assert _cost(plan) == min(costs) == costs[0] < costs[1]


@pytest.mark.parametrize("n", [10, 11, 12, 13, 14, 16, 20])
@pytest.mark.parametrize("reupload", [False, True])
def test_dense_steps_are_many_products_of_many_rows(n, reupload):
    """With few products a library shares each among threads; with few rows calls cost the most."""
    steps = plan_of(VQCLayer(n, 2, reupload=reupload).circuit).steps
    for step in steps:
        if isinstance(step, Dense):
            assert step.left >= 2**FRONT
            rows = 2**n // (step.left * 2 ** len(step.wires))
            assert step.left < 2**MANY or rows > 2**NARROW


def test_layers_share_their_reorderings():
    """Else tables of deep circuits would take much memory."""
    distinct = []
    for n_layers in (3, 30):
        running = CompiledCircuit(VQCLayer(9, n_layers).circuit).program(
            torch.device("cpu"), torch.complex64
        )
        distinct.append({id(rows) for rows, _ in running.tables.rows.values()})
    assert len(distinct[0]) == len(distinct[1])


def test_gates_that_no_observable_sees_are_dropped():
    gates = (
        Gate("ry", (0,), (Angle.of_input(0),)),
        Gate("ry", (2,), (Angle.of_input(1),)),
        Gate("cnot", (2, 1)),
        Gate("rz", (0,), (Angle.of_weight(0),)),
    )
    plan = plan_of(Circuit(3, gates, (Observable.of("Z0"),), 2, 1))
    assert [factor.name for factor in plan.factors] == ["ry"]
    plan = plan_of(Circuit(3, gates, (Observable.of("X0"),), 2, 1))
    assert [factor.name for factor in plan.factors] == ["ry", "rz"]


def test_float64_inputs_are_simulated_in_complex128():
    layer = layer_of("default")
    x = torch.rand(2, 7, dtype=torch.float64)
    got = layer(x)
    assert got.dtype == torch.float64
    expected = truth.expectations(layer.circuit, x, layer.weights)
    assert np.abs(got.detach().numpy() - expected).max() < 1e-12
    assert layer_of("default", dtype=torch.complex128)(x.float()).dtype == torch.float32


def test_products_of_z_of_many_qubits_are_read_by_parities():
    """12 qubits: a layer of RY, CNOTs and X, then products of Z; X beside them takes the table."""
    n = 12
    gates = (
        *(Gate("ry", (k,), (Angle.of_input(k),)) for k in range(n)),
        *(Gate("cnot", (k, (k + 1) % n)) for k in range(n)),
        *(Gate("ry", (k,), (Angle.of_weight(k),)) for k in range(n)),
        Gate("paulix", (5,)),
        *(Gate("cnot", (k, (k + 5) % n)) for k in range(n)),
        Gate("swap", (2, 9)),
    )
    words = ("Z3", {"Z0 Z11": 0.5, "I" * n: -0.3}, {"Z5": 1.5}, "Z1 Z2 Z3 Z8", "Z" * n)
    circuit = Circuit(n, gates, tuple(Observable.of(w) for w in words), n, n)
    plan = plan_of(circuit)
    assert plan.readout.parities is not None
    assert plan.readout.signs is None
    with_x = Circuit(n, gates, (*circuit.observables, Observable.of("X0")), n, n)
    table = plan_of(with_x)
    assert table.readout.marginals is not None
    rng = np.random.default_rng(0)
    x, w = arguments(circuit, 3)
    weights = torch.tensor(rng.uniform(-1, 1, len(words)))
    got = fused_value_and_gradient(circuit, x, w, weights, torch.complex128, True)
    padded = torch.cat([weights, torch.zeros(1)])
    expected = fused_value_and_gradient(with_x, x, w, padded, torch.complex128, True)
    assert torch.allclose(got[0], expected[0][:, :-1], atol=1e-13)
    for by, other in zip(got[1:], expected[1:], strict=True):
        assert torch.allclose(by, other, atol=1e-13)
    by_autograd = fused_value_and_gradient(circuit, x, w, weights, torch.complex128, False)
    for by, other in zip(got, by_autograd, strict=True):
        assert torch.allclose(by, other, atol=1e-13)


def test_a_toffoli_before_the_readout_is_no_parity():
    gates = (
        *(Gate("ry", (k,), (Angle.of_input(k),)) for k in range(12)),
        Gate("cnot", (3, 4)),
        Gate("ry", (4,), (Angle.of_weight(0),)),
        Gate("toffoli", (0, 4, 11)),
    )
    circuit = Circuit(12, gates, (Observable.of("Z11"), Observable.of("Z4")), 12, 1)
    assert plan_of(circuit).readout.parities is None
    x = torch.linspace(0.1, 2, 12, dtype=torch.float64)[None]
    w = torch.tensor([0.7], dtype=torch.float64)
    got = FusedSimulator().expectations(circuit, x, w, torch.complex128)[0]
    # P(3) = sin^2(x/2) flips qubit 4, which RY then turns; Toffoli flips 11 where 0 and 4 are 1.
    p = torch.sin(x[0] / 2) ** 2
    z4 = torch.cos(x[0, 4] + w[0]) * (1 - p[3]) + torch.cos(math.pi - x[0, 4] + w[0]) * p[3]
    z11 = torch.cos(x[0, 11]) * (1 - 2 * p[0] * (1 - z4) / 2)
    assert torch.allclose(got, torch.stack([z11, z4]), atol=1e-12)


def test_closed_form_of_many_qubits():
    """GHZ state on 12 qubits: <Z> = 0, <Z0 Z11> = 1, <X...X> = 1."""
    n = 12
    gates = (
        Gate("ry", (0,), (Angle.of_input(0),)),
        *(Gate("cnot", (k, k + 1)) for k in range(n - 1)),
    )
    observables = tuple(Observable.of(o) for o in ("Z3", "Z0 Z11", "X" * n))
    circuit, weights = Circuit(n, gates, observables, 1), torch.zeros(0, dtype=torch.float64)
    x = torch.tensor([[math.pi / 2], [0.0]], dtype=torch.float64)
    values = FusedSimulator().expectations(circuit, x, weights, torch.complex128)
    expected = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 7, 128, 700, 4099])
@pytest.mark.parametrize("m", [1, 3, 600])
def test_outer_products_in_parts(m, columns, monkeypatch):
    first, second = (torch.randn(m, d, columns, dtype=torch.complex128) for d in (2, 3))
    whole = products.outer_products(first, second)
    monkeypatch.setattr(
        products, "_parts", lambda m, k, device: min(products.PARTS // m, k // products.COLUMNS)
    )
    in_parts = products.outer_products(first, second)
    assert torch.allclose(in_parts, whole, rtol=0, atol=1e-10)
    assert torch.allclose(whole, torch.einsum("mdk,mek->mde", first, second), rtol=0, atol=1e-10)


@pytest.mark.parametrize("gate", ["rx", "ry", "crx", "cry", "crz", "rxx", "ryy", "rzz"])
def test_single_precision_keeps_the_norm_of_deep_circuits(gate):
    n, depth = 4, 128
    wires = (lambda k: (k,)) if len(gate) == 2 else (lambda k: (k, (k + 1) % n))
    gates = [
        Gate(gate, wires(k), (Angle.of_input(n * layer + k),))
        for layer in range(depth)
        for k in range(n)
    ]
    circuit = Circuit(n, gates, [Observable.of(f"Z{k}") for k in range(n)], n_inputs=n * depth)
    layer = VQCLayer.from_circuit(circuit)
    assert float((1 - layer(torch.zeros(1, n * depth))).abs().max()) <= 2e-6
    x = 6 * torch.rand(3, n * depth, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    values, expected = layer(x), layer(exact)
    assert float((values.double() - expected).abs().max()) <= 1e-5
    (found,) = torch.autograd.grad(values.sum(), x)
    (right,) = torch.autograd.grad(expected.sum(), exact)
    assert float((found.double() - right).abs().max()) <= 1e-5


def test_fixed_matrices_are_made_in_double_precision_and_rounded_once():
    names = ("hadamard", "s", "t", "sx", "sdg", "hadamard")
    gates = [Gate("ry", (0,), (Angle.of_input(0),)), Gate("cnot", (0, 1))]
    gates += [Gate(name, (k,)) for _ in range(40) for name in names for k in range(2)]
    circuit = Circuit(2, gates, [Observable.of("Z0 X1")], n_inputs=1)
    layer, x = VQCLayer.from_circuit(circuit), torch.rand(5, 1)
    assert torch.allclose(layer(x).double(), layer(x.double()), rtol=0, atol=2e-7)
