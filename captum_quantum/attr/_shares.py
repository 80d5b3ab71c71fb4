"""How much of the map belongs to each qubit and each observable."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit


def membership(
    circuit: Circuit | None, input_wires: Sequence[int] | None, angles: Tensor
) -> Tensor:
    """How much of each angle belongs to each qubit: ``(n_qubits, n_columns)``, columns sum to 1."""
    n_columns = angles.shape[1]
    if circuit is not None:
        if input_wires is not None:
            _checks.wrong_value(
                "input_wires", "None for a quantum layer that shows its circuit", input_wires
            )
        share = angles.new_zeros(circuit.n_qubits, n_columns)
        for column, position in enumerate(circuit.columns("input")):
            gate = circuit.angles[position][0]
            share[list(gate.wires), column] = 1 / len(gate.wires)
        return share
    wires = list(range(n_columns)) if input_wires is None else list(input_wires)
    if len(wires) != n_columns:
        _checks.wrong_value("input_wires", f"{n_columns} qubits, one for each input", input_wires)
    for wire in wires:
        _checks.check_int("input_wires", wire, 0)
    share = angles.new_zeros(max(wires) + 1, n_columns)
    share[wires, list(range(n_columns))] = 1
    return share


def one_at_a_time(grad: Tensor) -> Iterator[Tensor]:
    """The gradient with all but one output of each example set to zero, for each output."""
    flat = grad.flatten(1) if grad.dim() > 1 else grad[None]
    for column in range(flat.shape[1]):
        mask = torch.zeros_like(flat)
        mask[:, column] = 1
        yield (flat * mask).reshape(grad.shape)
