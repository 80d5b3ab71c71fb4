"""From gradients and activations to maps, and to the shares of qubits and observables."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit


def channel_weights(grad: Tensor) -> Tensor:
    """Averages a gradient over all dimensions behind the channels, which stay with size 1."""
    return grad.mean(dim=tuple(range(2, grad.dim())), keepdim=True) if grad.dim() > 2 else grad


def weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
    """The sum of activations ``(batch, channels, *spatial)`` over the channels, times weights.

    Args:
        weights (Tensor): Shape ``(batch, channels, 1, ...)``, or that of the activations.
        activation (Tensor): Shape ``(batch, channels, *spatial)``.

    Returns:
        Tensor: Shape ``(batch, 1, *spatial)``.
    """
    if activation.dim() < 3 or weights.shape[2:].numel() > 1:
        return (weights * activation).sum(dim=1, keepdim=True)
    # A product of matrices, as all scaled channels would take as much memory as the activations.
    summed = torch.bmm(weights.flatten(1)[:, None], activation.flatten(2))
    return summed.reshape(len(activation), 1, *activation.shape[2:])


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


def one_at_a_time(cotangent: Tensor, by_last_dim: bool) -> Iterator[Tensor]:
    """The cotangent of a layer's outputs with all observables but one set to zero, for each.

    Args:
        cotangent (Tensor): Shape ``(..., n_observables)``.
        by_last_dim (bool): Whether the last dimension alone counts the observables; else all
            dimensions behind the first.
    """
    flat = cotangent if by_last_dim or cotangent.dim() < 2 else cotangent.flatten(1)
    for observable in range(flat.shape[-1]):
        mask = flat.new_zeros(flat.shape[-1])
        mask[observable] = 1
        yield (flat * mask).reshape(cotangent.shape)
