"""Drawing a circuit with Qiskit's drawer."""

from typing import TYPE_CHECKING, Any

from captum_quantum.circuit.circuit import Circuit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(circuit: Circuit, **kwargs: Any) -> "Figure":
    """Draws every gate as a labelled box or in its usual form; x[i] are inputs, w[j] weights.

    Args:
        circuit (Circuit): The circuit.
        **kwargs: Passed to ``qiskit.QuantumCircuit.draw``, for example ``fold`` or ``scale``.

    Returns:
        matplotlib.figure.Figure: The figure, free of pyplot's state.
    """
    from matplotlib.figure import Figure
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
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    drawn.draw("mpl", ax=axes, **{"fold": 20, **kwargs})
    axes.set_title("reads " + ", ".join(f"⟨{o}⟩" for o in circuit.observables), fontsize=10)
    return figure
