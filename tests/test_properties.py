"""Laws of quantum mechanics and of averages, on circuits, images and maps that Hypothesis draws."""

import inspect
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from captum.attr import InputXGradient
from circuits import arguments, circuits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_quantum import Observable, QuantumLayerGradCam, VQCLayer, metrics
from captum_quantum.circuit import PauliString
from captum_quantum.simulate import FusedSimulator

SEEDS = st.integers(0, 2**16)
TOLERANCE = {"fused": 1e-10, "torchquantum": 1e-4}  # complex128 and complex64

simulators = pytest.mark.parametrize("simulator", TOLERANCE)


small = partial(circuits, n_qubits=(1, 4), n_gates=(1, 8))
tiny = partial(circuits, n_qubits=(1, 3), n_gates=(1, 4))


def values(circuit, seed, simulator, shift=0.0):
    """Expectation values of two samples at random angles, all of them shifted."""
    inputs, weights = arguments(circuit, 2, seed)
    layer = VQCLayer.from_circuit(circuit, weights + shift, simulator=simulator)
    with torch.no_grad():
        return layer(inputs + shift)


def probabilities(circuit, seed):
    """Of the outcomes on all wires, a dimension for each wire behind that of two samples."""
    inputs, weights = arguments(circuit, 2, seed)
    table = circuit.angle_table(inputs, weights)
    found = FusedSimulator().probabilities(
        circuit,
        table[:, circuit.columns("input")],
        table[:, circuit.columns("weight")],
        torch.complex128,
    )
    return found.reshape(2, *[2] * circuit.n_qubits)


def assert_same(one, other, simulator):
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE[simulator])


@simulators
@settings(max_examples=40)
@given(circuit=small(), seed=SEEDS)
def test_a_circuit_and_its_inverse_are_the_identity(simulator, circuit, seed):
    inverse = [replace(gate, inverse=not gate.inverse) for gate in reversed(circuit.gates)]
    there_and_back = replace(circuit, gates=(*circuit.gates, *inverse, *circuit.gates))
    assert_same(
        values(there_and_back, seed, simulator), values(circuit, seed, simulator), simulator
    )


@simulators
@settings(max_examples=40)
@given(circuit=small(), seed=SEEDS, data=st.data())
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
    if simulator == "fused":
        axes = [0, *(new.index(wire) + 1 for wire in range(circuit.n_qubits))]
        expected = probabilities(circuit, seed).permute(axes)
        assert_same(probabilities(relabelled, seed), expected, simulator)


@simulators
@settings(max_examples=40)
@given(circuit=small(), seed=SEEDS)
def test_angles_have_the_period_four_pi(simulator, circuit, seed):
    turned = values(circuit, seed, simulator, shift=4 * math.pi)
    assert_same(turned, values(circuit, seed, simulator), simulator)


@simulators
@settings(max_examples=40)
@given(circuit=small(), seed=SEEDS, a=st.floats(-3, 3), b=st.floats(-3, 3), data=st.data())
def test_values_are_linear_in_observables(simulator, circuit, seed, a, b, data):
    n = circuit.n_qubits
    words = st.text("IXYZ", min_size=n, max_size=n)
    first, second = (Observable.of(data.draw(words)) for _ in range(2))
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
@given(circuit=tiny(), seed=SEEDS, batch=st.integers(1, 4), data=st.data())
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
@given(circuit=tiny(), seed=SEEDS, a=st.floats(-3, 3), b=st.floats(-3, 3))
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
