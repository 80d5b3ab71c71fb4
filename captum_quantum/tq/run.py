"""TorchQuantum's own batched run: the reference for every faster simulator."""

from types import MethodType
from typing import Any

import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import Tensor, nn

from captum_quantum.circuit import Circuit, gate_matrix

MATRIX_ONLY = frozenset(
    {
        # Its functional form raises NameError (mat_dict) in TorchQuantum 0.1.8.
        *("toffoli", "chadamard", "u1", "u2", "cu1", "rccx", "rc3x", "singleexcitation"),
        # Its functional form fails for batched angles.
        *("cu", "cu3", "xxminyy", "xxplusyy"),
    }
)
"""Gates that run_circuit hands to TorchQuantum as matrices."""


def shallow_copy(module: nn.Module, memo: dict[int, nn.Module] | None = None) -> nn.Module:
    """Copies a module tree without its tensors.

    TorchQuantum's modules store the device, wires and angles of their last call on themselves. Run
    on such a copy, the user's module keeps nothing of the batch, and threads do not meet.
    """
    memo = {} if memo is None else memo
    if id(module) in memo:
        return memo[id(module)]
    copy = module.__new__(type(module))
    memo[id(module)] = copy
    copy.__dict__ = {name: _rebound(value, memo) for name, value in module.__dict__.items()}
    if isinstance(module, tq.QuantumModule):
        copy.__dict__["static_mode"] = False  # it would build its graph on the user's module
    return copy


def _rebound(value: Any, memo: dict[int, nn.Module]) -> Any:
    """Replaces modules by their copies, in containers and bound methods too."""
    if isinstance(value, nn.Module):
        return shallow_copy(value, memo)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, shallow_copy(value.__self__, memo))
    if type(value) in (list, tuple):
        return type(value)(_rebound(item, memo) for item in value)
    if type(value) is dict:
        return {key: _rebound(item, memo) for key, item in value.items()}
    return value


def apply_modules(
    encoder: nn.Module, ansatz: Any, qdev: nn.Module, inputs: Tensor, reupload: bool
) -> None:
    """Applies encoder and ansatz to a device; with ``reupload``, the encoder before every layer."""
    if not reupload:
        encoder(qdev, inputs)
        ansatz(qdev)
        return
    for index in range(ansatz.n_layers):
        encoder(qdev, inputs)
        ansatz.layer(qdev, index)


def run_modules(
    encoder: nn.Module, ansatz: nn.Module, n_qubits: int, inputs: Tensor, reupload: bool = False
) -> Tensor:
    """Runs TorchQuantum modules on a fresh device and returns the final states.

    Args:
        encoder (nn.Module): A ``tq.Encoder``, called as ``encoder(qdev, inputs)``.
        ansatz (nn.Module): A ``tq.QuantumModule``, called as ``ansatz(qdev)``.
        n_qubits (int): Number of wires.
        inputs (Tensor): float32, shape ``(batch, n_inputs)``, on the device to run on.
        reupload (bool): Whether to apply the encoder before every layer of the ansatz.

    Returns:
        Tensor: complex64, shape ``(batch, 2**n_qubits)``.
    """
    memo: dict[int, nn.Module] = {}
    qdev = tq.QuantumDevice(n_wires=n_qubits, bsz=inputs.shape[0], device=inputs.device)
    apply_modules(shallow_copy(encoder, memo), shallow_copy(ansatz, memo), qdev, inputs, reupload)
    states: Tensor = qdev.get_states_1d()
    return states


def run_circuit(circuit: Circuit, angles: Tensor, amplitudes: Tensor | None = None) -> Tensor:
    """Runs a traced circuit on TorchQuantum with every gate's angles given one by one.

    Args:
        circuit (Circuit): The circuit.
        angles (Tensor): float32, shape ``(batch, n_angles)``, radians, as `Circuit.angle_table`.
        amplitudes (Tensor, optional): Normalised initial states, shape ``(batch, 2**n_qubits)``.

    Returns:
        Tensor: complex64, shape ``(batch, 2**n_qubits)``.
    """
    batch = angles.shape[0]
    qdev = tq.QuantumDevice(n_wires=circuit.n_qubits, bsz=batch, device=angles.device)
    if amplitudes is not None:
        qdev.set_states(amplitudes.to(torch.complex64))
    for gate, gate_angles in zip(circuit.gates, circuit.split(angles), strict=True):
        wires = list(gate.wires)
        if gate.name in MATRIX_ONLY:
            matrix = gate_matrix(
                gate.name, gate_angles, len(wires), inverse=gate.inverse, dtype=torch.complex64
            )
            tqf.qubitunitaryfast(qdev, wires=wires, params=matrix)
        else:
            tqf.func_name_dict.get(gate.name, tqf.shadamard)(
                qdev,
                wires=wires,
                params=gate_angles if gate.angles else None,
                n_wires=len(wires) if gate.type.n_wires is None else None,
                inverse=gate.inverse,
            )
    states: Tensor = qdev.get_states_1d()
    return states
