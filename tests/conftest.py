"""Settings of all tests, and what several of them compare circuits with."""

from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import reference as ref
import torch
from PIL import Image

from captum_quantum.cli import main

# Tests run in several processes, and the circuits are small: more threads only get in the way.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "deterministic", derandomize=True, deadline=None, database=None, print_blob=False
)
hypothesis.settings.load_profile("deterministic")


def _terms(circuit):
    return [
        [(term.coefficient, dict(term.factors)) for term in observable.terms]
        for observable in circuit.observables
    ]


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


def _rows(values):
    return np.atleast_2d(values.detach().double().numpy() if torch.is_tensor(values) else values)


def _numbers(values):
    return values.detach().double().numpy().ravel() if torch.is_tensor(values) else values


def expectations(circuit, x, w):
    """Expectation values of a circuit for rows of inputs, by the reference simulator."""
    return np.array(
        [
            ref.expectations(
                circuit.n_qubits,
                _gates(circuit, row, _numbers(w)),
                _terms(circuit),
                _start(circuit, row),
            )
            for row in _rows(x)
        ]
    )


def _derivatives(circuit, x, w, wanted):
    """Derivatives by the angles from some sources: the angles, and their columns."""
    places = [
        (g, a, angle)
        for g, gate in enumerate(circuit.gates)
        for a, angle in enumerate(gate.angles)
        if angle.source in wanted
    ]
    columns = np.zeros((len(_rows(x)), len(circuit.observables), len(places)))
    for row, sample in zip(columns, _rows(x), strict=True):
        gates, start = _gates(circuit, sample, _numbers(w)), _start(circuit, sample)
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


@pytest.fixture(scope="session")
def truth():
    """What the reference simulator says of a `Circuit`: values and derivatives."""
    return SimpleNamespace(
        expectations=expectations, angle_jacobian=angle_jacobian, jacobian=jacobian
    )


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of a demo that trains for two epochs."""
    output = tmp_path_factory.mktemp("demo") / "made" / "here"
    assert main(["demo", "--epochs", "2", "--device", "cpu", "--output", str(output)]) == 0
    return output


@pytest.fixture
def image(tmp_path):
    """The file of a handwritten digit's image."""
    from captum_quantum.datasets import load_digits

    pixels = (load_digits().test_images[3, 0] * 255).byte().numpy()
    Image.fromarray(pixels).resize((90, 90)).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.fixture
def check_refused(capsys):
    """Checks that a command refuses its arguments, with a message of one line."""

    def check(arguments, message):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith(f"captum-quantum {arguments[0]}: error: ")
        assert message in err

    return check
