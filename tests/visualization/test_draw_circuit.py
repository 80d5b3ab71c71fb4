"""Drawings of circuits."""

from matplotlib.figure import Figure

from captum_quantum import Angle, Circuit, Gate, Observable
from captum_quantum.circuit import GATE_TYPES
from captum_quantum.visualization import draw_circuit


def test_every_gate_is_drawn():
    gates = []
    for k, (name, kind) in enumerate(GATE_TYPES.items()):
        angles = (Angle.of_input(0), Angle.of_weight(1), Angle.constant(0.5), Angle.constant(0.1))
        gates.append(Gate(name, range(kind.n_wires or 2), angles[: kind.n_angles], k % 2 == 1))
    figure = draw_circuit(Circuit(5, gates, (Observable.of("Z0"),), 1, 2))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "U3(x[0], w[1], 0.5)" in "".join(t.replace("†", "") for t in texts)
    for name in ("SINGLEEXCITATION", "MULTIRZ", "QFT", "SX", "ECR"):
        assert any(name in text for text in texts), name
    assert isinstance(draw_circuit(Circuit(2, (), (Observable.of("Z0"),), 0)), Figure)
