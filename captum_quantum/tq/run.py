"""TorchQuantum's own batched run: the reference for every faster simulator."""

from collections.abc import Sequence
from functools import lru_cache
from threading import RLock
from types import MethodType
from typing import Any, cast

import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import Tensor, nn

from captum_quantum import _compat
from captum_quantum.circuit import Circuit, gate_matrix, gate_type
from captum_quantum.tq.installed import TORCHQUANTUM_ERRORS
from captum_quantum.tq.recorder import Features, Recorder

running = RLock()
"""Held while the user's own modules run, or are copied: they may write to themselves."""


@lru_cache(maxsize=256)
@_compat.outside_transforms()  # what is found out is kept
@torch.inference_mode(False)
@torch.no_grad()
def applies(name: str) -> bool:
    """Whether the installed TorchQuantum applies a gate rightly, for a batch of angles.

    Its own function of the gate is tried on two samples and compared with the gate's matrix. In
    0.1.8 some of these functions end in NameError (``u1``, ``toffoli``), others fail for a batch
    (``cu``, ``xxplusyy``).

    Args:
        name (str): The gate's name.
    """
    kind = gate_type(name)
    n = kind.n_wires or 3
    wires, generator = list(range(n)), torch.Generator().manual_seed(0)
    angles = torch.rand(2, kind.n_angles, generator=generator) * 3
    start = torch.randn(2, 2**n, dtype=torch.complex64, generator=generator)
    for inverse in (False, True):
        qdev = tq.QuantumDevice(n_wires=n, bsz=2)
        qdev.set_states(start)
        matrix = gate_matrix(name, angles, n, inverse=inverse, dtype=torch.complex64)
        try:
            _apply(qdev, name, wires, angles, n if kind.n_wires is None else None, inverse)
        except TORCHQUANTUM_ERRORS:
            return False
        expected = (matrix @ start[..., None])[..., 0]
        if not torch.allclose(qdev.get_states_1d(), expected, atol=1e-4):
            return False
    return True


def _apply(
    qdev: nn.Module, name: str, wires: list[int], angles: Tensor, n_wires: int | None, inverse: bool
) -> None:
    """Applies a gate by TorchQuantum's own function of it."""
    params = angles if angles.shape[1] else None
    function = tqf.func_name_dict.get(name, tqf.shadamard)
    function(qdev, wires=wires, params=params, n_wires=n_wires, inverse=inverse)


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
    modules: Sequence[nn.Module | None], qdev: nn.Module, inputs: Tensor, reupload: bool
) -> None:
    """Applies encoder and ansatz to a device; with ``reupload``, the encoder before every layer.

    Args:
        modules (Sequence): The encoder, called as ``encoder(qdev, inputs)``, and the ansatz, called
            as ``ansatz(qdev)``; of ``nn.Sequential`` and ``nn.ModuleList`` each part is. None for
            none.
        qdev (nn.Module): The device.
        inputs (Tensor): Shape ``(batch, ...)``.
        reupload (bool): Whether to apply the encoder before every layer of the ansatz.
    """
    encoder, ansatz = modules[0], cast("Any", modules[1])
    for index in range(ansatz.n_layers if reupload else 1):
        if encoder is not None:
            _encode(encoder, qdev, inputs)
        if reupload:
            ansatz.layer(qdev, index)
        elif ansatz is not None:
            _apply_in_turn(ansatz, qdev)


def _apply_in_turn(module: Any, qdev: nn.Module) -> None:
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        module(qdev)
        return
    for part in module._modules.values():  # as often as they are there
        _apply_in_turn(part, qdev)


def _encode(encoder: nn.Module, qdev: nn.Module, inputs: Tensor) -> None:
    """Applies an encoder; of a plain list of gates a recorder learns which features they take."""
    if (
        not isinstance(qdev, Recorder)
        or not is_plain(encoder)
        or isinstance(encoder, tq.StateEncoder)
    ):
        encoder(qdev, inputs)
        return
    general: Any = encoder
    for info in general.func_list:
        features = None
        if tq.op_name_dict[info["func"]].num_params > 0:
            features = Features(info["input_idx"])
        apply = tqf.func_name_dict[info["func"]]
        apply(qdev, wires=info["wires"], params=features)


def is_plain(module: nn.Module | None) -> bool:
    """Whether a module is one of TorchQuantum's own encoders, as TorchQuantum made it."""
    exact = type(module) in (tq.GeneralEncoder, tq.StateEncoder)
    return exact and not is_hooked(module)


def is_hooked(module: Any) -> bool:
    """Whether calling a module does more than its class says."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "forward" in module.__dict__)


def run_modules(
    encoder: nn.Module | None,
    ansatz: nn.Module | None,
    n_qubits: int,
    inputs: Tensor,
    reupload: bool = False,
) -> Tensor:
    """Runs TorchQuantum modules on a fresh device and returns the final states.

    Args:
        encoder (nn.Module, optional): A ``tq.Encoder``, called as ``encoder(qdev, inputs)``.
        ansatz (nn.Module, optional): A ``tq.QuantumModule``, called as ``ansatz(qdev)``.
        n_qubits (int): Number of wires.
        inputs (Tensor): float32, shape ``(batch, ...)``, on the device to run on.
        reupload (bool): Whether to apply the encoder before every layer of the ansatz.

    Returns:
        Tensor: complex64, shape ``(batch, 2**n_qubits)``.
    """
    memo: dict[int, nn.Module] = {}
    qdev = tq.QuantumDevice(n_wires=n_qubits, bsz=inputs.shape[0], device=inputs.device)
    with running:
        copies = [None if m is None else shallow_copy(m, memo) for m in (encoder, ansatz)]
    apply_modules(copies, qdev, inputs, reupload)
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
        if gate.operator is not None or not applies(gate.name):
            matrix = gate.matrix(gate_angles, torch.complex64)
            tqf.qubitunitaryfast(qdev, wires=wires, params=matrix)
        else:
            n_wires = len(wires) if gate.type.n_wires is None else None
            _apply(qdev, gate.name, wires, gate_angles, n_wires, gate.inverse)
    states: Tensor = qdev.get_states_1d()
    return states
