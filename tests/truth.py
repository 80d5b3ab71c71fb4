"""What the reference simulator says of a `Circuit`: values, probabilities and derivatives."""

import numpy as np
import reference as ref
import torch

from captum_quantum.circuit import HermitianMatrix, PauliString


def terms(observable):
    """The observable's terms, as the reference simulator reads them."""

    def read(term):
        if isinstance(term, PauliString):
            return dict(term.factors)
        if isinstance(term, HermitianMatrix):
            return np.array(term.matrix), term.wires
        ket = np.eye(2 ** len(term.wires))[int(term.outcome, 2)]
        return np.outer(ket, ket), term.wires

    return [(term.coefficient, read(term)) for term in observable.terms]


def _terms(circuit):
    return [terms(observable) for observable in circuit.observables]


def _gates(circuit, x, w):
    """The circuit's gates for one sample, as the reference simulator reads them."""

    def value(angle):
        return angle.value if angle.source == "constant" else sources[angle.source][angle.index]

    sources = {"input": np.asarray(x, dtype=float), "weight": np.asarray(w, dtype=float)}
    return [
        (gate.name, gate.wires, [float(value(a)) for a in gate.angles], gate.inverse)
        for gate in circuit.gates
    ]


def _start(circuit, x):
    if not circuit.amplitude_encoding:
        return None
    x = np.asarray(x, dtype=float)
    return x / np.linalg.norm(x)


def _samples(x, w):
    """Pairs of inputs and weights, one for each row of inputs."""
    x, w = (v.detach().double().numpy() if torch.is_tensor(v) else np.asarray(v) for v in (x, w))
    x = np.atleast_2d(x)
    return zip(x, w if w.ndim == 2 else [w] * len(x), strict=True)


def expectations(circuit, x, w):
    """Expectation values for rows of inputs, ``(batch, n_observables)``."""
    return np.array(
        [
            ref.expectations(
                circuit.n_qubits,
                _gates(circuit, *sample),
                _terms(circuit),
                _start(circuit, sample[0]),
            )
            for sample in _samples(x, w)
        ]
    ).reshape(-1, len(circuit.observables))


# Rows: eigenvectors of the eigenvalues 1 and -1, conjugated.
_EIGENVECTORS = {
    "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2),
    "Y": np.array([[1, -1j], [1, 1j]]) / np.sqrt(2),
    "Z": np.eye(2),
}


def probabilities(circuit, x, w, bases):
    """Probabilities of outcomes when wire q is measured in the basis ``bases[q]``."""
    change = np.eye(1)
    for basis in bases:
        change = np.kron(change, _EIGENVECTORS[basis])
    states = [
        ref.state(circuit.n_qubits, _gates(circuit, *sample), _start(circuit, sample[0]))
        for sample in _samples(x, w)
    ]
    return np.array([np.abs(change @ state) ** 2 for state in states])


def _derivatives(circuit, x, w, wanted):
    """Derivatives by the angles from some sources: the angles, and their columns."""
    places = [
        (g, a, angle)
        for g, gate in enumerate(circuit.gates)
        for a, angle in enumerate(gate.angles)
        if angle.source in wanted
    ]
    samples = list(_samples(x, w))
    columns = np.zeros((len(samples), len(circuit.observables), len(places)))
    for row, sample in zip(columns, samples, strict=True):
        gates, start = _gates(circuit, *sample), _start(circuit, sample[0])
        for column, (g, a, _) in enumerate(places):
            row[:, column] = ref.derivative(circuit.n_qubits, gates, _terms(circuit), g, a, start)
    return [angle for _, _, angle in places], columns


def angle_jacobian(circuit, x, w):
    """Derivatives by every angle of every gate: ``(batch, n_observables, n_angles)``."""
    return _derivatives(circuit, x, w, ("input", "weight", "constant"))[1]


def jacobian(circuit, x, w, source):
    """Derivatives by inputs or weights: ``(batch, n_observables, n)``; the chain rule adds up."""
    angles, columns = _derivatives(circuit, x, w, (source,))
    n = circuit.n_inputs if source == "input" else circuit.n_weights
    total = np.zeros((*columns.shape[:2], n))
    for column, angle in enumerate(angles):
        total[:, :, angle.index] += columns[:, :, column]
    return total
