"""Drawing a circuit with Qiskit's drawer."""

from typing import Any

from matplotlib.figure import Figure

from captum_quantum.circuit import Circuit


def draw_circuit(circuit: Circuit, **kwargs: Any) -> Figure:
    """Draws every gate as a labelled box or in its usual form; x[i] are inputs, w[j] weights.

    Args:
        circuit (Circuit): The circuit.
        **kwargs: Passed to ``qiskit.QuantumCircuit.draw``, for example ``fold`` or ``scale``.

    Returns:
        matplotlib.figure.Figure: The figure, free of pyplot's state.
    """
    from matplotlib import pyplot
    from qiskit import QuantumCircuit
    from qiskit.circuit import Gate as QiskitGate

    usual = {
        "hadamard": "h", "paulix": "x", "pauliy": "y", "pauliz": "z", "cnot": "cx",
        "cy": "cy", "cz": "cz", "swap": "swap", "toffoli": "ccx",
    }  # fmt: skip
    drawn = QuantumCircuit(circuit.n_qubits)
    for gate in circuit.gates:
        if gate.name in usual:
            getattr(drawn, usual[gate.name])(*gate.wires)
            continue
        angles = f"({', '.join(map(str, gate.angles))})" if gate.angles else ""
        label = f"{gate.name.upper()}{'†' if gate.inverse else ''}{angles}"
        drawn.append(QiskitGate(gate.name, len(gate.wires), [], label=label), list(gate.wires))
    # With axes of ours, the drawer scales its text to the wrong size; so it makes a figure through
    # pyplot, which is taken off pyplot's list again.
    figure: Figure = drawn.draw("mpl", **{"fold": 16, "style": "clifford", **kwargs})
    pyplot.close(figure)
    reads = "reads " + ", ".join(f"⟨{observable}⟩" for observable in circuit.observables)
    figure.axes[0].set_title(reads, fontsize=11)
    return figure
