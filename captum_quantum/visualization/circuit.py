"""Figures of circuits, by Qiskit's drawer."""

from typing import Any

from matplotlib.figure import Figure

from captum_quantum.circuit import Circuit, describe_readout


def draw_circuit(circuit: Circuit, **kwargs: Any) -> Figure:
    """Draws a circuit; x[i] are inputs, w[j] weights, and the title names the observables.

    Args:
        circuit (Circuit): The circuit.
        **kwargs: Passed to ``qiskit.QuantumCircuit.draw``, for example ``fold`` or ``scale``.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.

    Examples:
        >>> from captum_quantum import Angle, Circuit, Gate, Observable
        >>> from captum_quantum.visualization import draw_circuit
        >>> gates = (Gate("ry", (0,), (Angle.of_input(0),)), Gate("cnot", (0, 1)))
        >>> figure = draw_circuit(Circuit(2, gates, (Observable.of("Z1"),), n_inputs=1))
        >>> figure.axes[0].get_title()
        'reads ⟨Z1⟩'
    """
    from matplotlib import pyplot
    from qiskit import QuantumCircuit
    from qiskit.circuit import Gate as QiskitGate

    usual = {
        "hadamard": "h", "paulix": "x", "pauliy": "y", "pauliz": "z", "cnot": "cx",
        "cy": "cy", "cz": "cz", "swap": "swap", "toffoli": "ccx",
    }  # fmt: skip
    drawn = QuantumCircuit(circuit.n_qubits)
    if circuit.amplitude_encoding:
        start = QiskitGate("amplitudes", circuit.n_qubits, [], label="amplitudes x / |x|")
        drawn.append(start, list(range(circuit.n_qubits)))
    for gate in circuit.gates:
        if gate.name in usual:
            getattr(drawn, usual[gate.name])(*gate.wires)
            continue
        angles = f"({', '.join(map(str, gate.angles))})" if gate.angles else ""
        label = f"{gate.name.upper()}{'†' if gate.inverse else ''}{angles}"
        drawn.append(QiskitGate(gate.name, len(gate.wires), [], label=label), list(gate.wires))
    # Given axes, the drawer scales text wrongly; without, it makes a figure with pyplot, from whose
    # list it is removed here.
    figure: Figure = drawn.draw("mpl", **{"fold": 16, "style": "clifford", **kwargs})
    pyplot.close(figure)
    reads = describe_readout(circuit.observables, "⟨⟩")
    figure.axes[0].set_title(f"reads {reads}", fontsize=11)
    return figure
