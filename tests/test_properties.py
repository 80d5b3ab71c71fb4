"""Laws of quantum mechanics and of averages, on circuits, images and maps that Hypothesis draws."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from captum.attr import InputXGradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_quantum import Angle, Circuit, Gate, Observable, QuantumLayerGradCam, VQCLayer, metrics
from captum_quantum.circuit import GATE_TYPES, PauliString

SEEDS = st.integers(0, 2**16)
TOLERANCE = {"fused": 1e-10, "torchquantum": 1e-4}  # complex128 and complex64

simulators = pytest.mark.parametrize("simulator", TOLERANCE)


def words(n_qubits):
    return st.text("IXYZ", min_size=n_qubits, max_size=n_qubits)


def observables(n_qubits):
    coefficients = st.sampled_from([1.0, -0.5, 2.0])
    sums = st.dictionaries(words(n_qubits), coefficients, min_size=1, max_size=3)
    return st.lists(sums.map(Observable.of), min_size=1, max_size=3)


@st.composite
def circuits(draw, most_qubits=4, most_gates=8):
    """Circuits of any gates, of up to three inputs and weights, all of them used."""
    n_qubits = draw(st.integers(1, most_qubits))
    n_inputs, n_weights = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inputs = [Angle.of_input(i) for i in range(n_inputs)]
    weights = [Angle.of_weight(j) for j in range(n_weights)]
    sources = st.sampled_from([*inputs, *weights, Angle.constant(0.7)])
    fitting = [kind for kind in GATE_TYPES.values() if (kind.n_wires or 1) <= n_qubits]
    gates = [Gate("rx", (k % n_qubits,), (a,)) for k, a in enumerate([*inputs, *weights])]
    for _ in range(draw(st.integers(1, most_gates))):
        kind = draw(st.sampled_from(fitting))
        wires = draw(st.permutations(range(n_qubits)))[: kind.n_wires]
        angles = [draw(sources) for _ in range(kind.n_angles)]
        gates.append(Gate(kind.name, wires, angles, draw(st.booleans())))
    return Circuit(n_qubits, gates, draw(observables(n_qubits)), n_inputs, n_weights)


def values(circuit, seed, simulator, shift=0.0):
    """Expectation values of two samples at random angles, all of them shifted."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(circuit.n_weights, generator=generator, dtype=torch.float64) * 6 - 3
    inputs = torch.rand(2, circuit.n_inputs, generator=generator, dtype=torch.float64) * 6 - 3
    layer = VQCLayer.from_circuit(circuit, weights + shift, simulator=simulator)
    with torch.no_grad():
        return layer(inputs + shift)


def assert_same(one, other, simulator):
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE[simulator])


@simulators
@settings(max_examples=40)
@given(circuit=circuits(), seed=SEEDS)
def test_a_circuit_and_its_inverse_are_the_identity(simulator, circuit, seed):
    inverse = [replace(gate, inverse=not gate.inverse) for gate in reversed(circuit.gates)]
    there_and_back = replace(circuit, gates=(*circuit.gates, *inverse, *circuit.gates))
    assert_same(
        values(there_and_back, seed, simulator), values(circuit, seed, simulator), simulator
    )


@simulators
@settings(max_examples=40)
@given(circuit=circuits(), seed=SEEDS, data=st.data())
def test_relabelling_wires_relabels_results(simulator, circuit, seed, data):
    new = data.draw(st.permutations(range(circuit.n_qubits)))

    def moved(observable):
        return Observable(
            tuple(
                replace(term, factors=tuple((new[wire], letter) for wire, letter in term.factors))
                for term in observable.terms
            )
        )

    relabelled = replace(
        circuit,
        gates=tuple(replace(g, wires=tuple(new[wire] for wire in g.wires)) for g in circuit.gates),
        observables=tuple(moved(observable) for observable in circuit.observables),
    )
    assert_same(values(relabelled, seed, simulator), values(circuit, seed, simulator), simulator)


@simulators
@settings(max_examples=40)
@given(circuit=circuits(), seed=SEEDS)
def test_angles_have_the_period_four_pi(simulator, circuit, seed):
    turned = values(circuit, seed, simulator, shift=4 * math.pi)
    assert_same(turned, values(circuit, seed, simulator), simulator)


@simulators
@settings(max_examples=40)
@given(circuit=circuits(), seed=SEEDS, a=st.floats(-3, 3), b=st.floats(-3, 3), data=st.data())
def test_values_are_linear_in_observables(simulator, circuit, seed, a, b, data):
    first, second = (Observable.of(data.draw(words(circuit.n_qubits))) for _ in range(2))
    terms = [
        PauliString(term.factors, factor * term.coefficient)
        for factor, observable in ((a, first), (b, second))
        for term in observable.terms
    ]
    both = replace(circuit, observables=(first, second, Observable(tuple(terms))))
    of_first, of_second, of_sum = values(both, seed, simulator).unbind(1)
    assert_same(of_sum, a * of_first + b * of_second, simulator)


class Hybrid(nn.Module):
    """A small image classifier with a drawn circuit, computed in float64."""

    def __init__(self, circuit, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features = nn.Conv2d(1, 3, 3)
            self.reduction = nn.Linear(3, circuit.n_inputs)
            self.quantum = VQCLayer.from_circuit(circuit, torch.rand(circuit.n_weights))
            self.head = nn.Linear(len(circuit.observables), 3)
        self.double()

    def forward(self, images):
        pooled = self.features(images).tanh().mean(dim=(2, 3))
        return self.head(self.quantum(self.reduction(pooled)))


def images_and_maps(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 1, 6, 6, generator=generator, dtype=torch.float64)
    return images, torch.randn(batch, 1, 6, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", metrics.named_metrics())
@settings(max_examples=6)
@given(circuit=circuits(3, 4), seed=SEEDS, batch=st.integers(1, 4), data=st.data())
def test_a_metric_of_a_batch_is_that_of_its_images_in_any_order(name, circuit, seed, batch, data):
    model = Hybrid(circuit, seed)
    images, maps = images_and_maps(seed, batch)
    target = torch.arange(batch) % 3
    masks = torch.zeros(batch, 6, 6, dtype=torch.bool)
    masks[:, :3, 1:4] = True
    metric = metrics.named_metrics()[name]

    def attribute(images, target):
        return InputXGradient(model).attribute(images.clone().requires_grad_(), target)

    def measured(chosen):
        given = {
            "model": model,
            "attribute": attribute,
            "inputs": images[chosen],
            "attributions": maps[chosen],
            "target": target[chosen],
            "masks": masks[chosen],
        }
        return metric(**{n: given[n] for n in inspect.signature(metric).parameters if n in given})

    order = torch.tensor(data.draw(st.permutations(range(batch))))
    singly = torch.cat([measured(order[k : k + 1]) for k in range(batch)])
    for together in (measured(order), measured(torch.arange(batch))[order]):
        torch.testing.assert_close(together, singly, rtol=1e-8, atol=1e-8, equal_nan=True)


@settings(max_examples=40)
@given(circuit=circuits(3, 5), seed=SEEDS, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_shares_are_linear_in_the_score(circuit, seed, a, b):
    model = Hybrid(circuit, seed)
    images, _ = images_and_maps(seed, 2)

    def shares(weights):
        def score(images):
            return (model(images) * torch.tensor(weights, dtype=torch.float64)).sum(1)

        grad_cam = QuantumLayerGradCam(score, model.features, quantum_layer=model.quantum)
        return grad_cam.attribute_qubits(images, return_direct=True)

    for whole, first, second in zip(
        shares([a, b, 0.0]), shares([1.0, 0.0, 0.0]), shares([0.0, 1.0, 0.0]), strict=True
    ):
        torch.testing.assert_close(whole, a * first + b * second, rtol=1e-9, atol=1e-12)
