"""Named encoders and ansaetze as TorchQuantum modules."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import Tensor, nn
from torchquantum.encoding import encoder_op_list_name_dict
from torchquantum.layer import layer_name_dict

from captum_quantum import _checks
from captum_quantum.circuit import CircuitError
from captum_quantum.tq.installed import name_and_version


def _angle_encoder(*steps: tuple[str, bool]) -> Any:
    """Makes an encoder factory of steps (gate, takes an input); each step covers every qubit."""

    def make(n_qubits: int) -> tq.Encoder:
        entries, feature = [], 0
        for gate, takes_input in steps:
            for wire in range(n_qubits):
                entries.append(
                    {"input_idx": [feature] if takes_input else [], "func": gate, "wires": [wire]}
                )
                feature += takes_input
        return tq.GeneralEncoder(entries)

    return make


ENCODERS: dict[str, Callable[[int], nn.Module]] = {
    "ry": _angle_encoder(("ry", True)),
    "rx": _angle_encoder(("rx", True)),
    "rz_after_h": _angle_encoder(("hadamard", False), ("rz", True)),
    "ry_rz": _angle_encoder(("ry", True), ("rz", True)),
    "amplitude": lambda n_qubits: tq.StateEncoder(),
}
"""Our encoders by name: name -> factory of the number of qubits.

``ry``, ``rx``: R(x_i) on qubit i. ``rz_after_h``: H, then RZ(x_i), on qubit i. ``ry_rz``: RY(x_i),
then RZ(x_{n+i}), on qubit i, two features for each qubit. ``amplitude``: the 2**n inputs divided by
their norm are the amplitudes.
"""


class LayeredAnsatz(tq.QuantumModule):
    """An ansatz of layers that can be applied one at a time, as data re-uploading needs.

    Subclasses keep all weights in one tensor and implement :meth:`layer`.

    Attributes:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.
        weights (nn.Parameter): All angles in radians, drawn uniformly from [-pi, pi).
    """

    def __init__(self, n_qubits: int, n_layers: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.n_qubits = n_qubits
        self.n_layers = n_layers
        self.weights = nn.Parameter((torch.rand(shape) * 2 - 1) * math.pi)

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """Applies one layer to the device's state.

        Args:
            qdev (tq.QuantumDevice): The device.
            index (int): The layer, from 0 on.
        """
        raise NotImplementedError

    def forward(self, qdev: tq.QuantumDevice) -> None:
        """Applies all layers.

        Args:
            qdev (tq.QuantumDevice): The device.
        """
        for index in range(self.n_layers):
            self.layer(qdev, index)


class RotationRing(LayeredAnsatz):
    """RX, RY, RZ on every qubit, then CNOTs from each qubit to the next, around the ring.

    Weights ``(n_layers, n_qubits, 3)``. The circuit of arXiv:2306.03741.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        super().__init__(n_qubits, n_layers, (n_layers, n_qubits, 3))

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """Rotations, then the ring."""
        for wire in range(self.n_qubits):
            for which, gate in enumerate((tqf.rx, tqf.ry, tqf.rz)):
                gate(qdev, wires=wire, params=self.weights[index, wire, which : which + 1])
        if self.n_qubits > 1:
            for wire in range(self.n_qubits):
                tqf.cnot(qdev, wires=[wire, (wire + 1) % self.n_qubits])


class StronglyEntangling(LayeredAnsatz):
    """Rot on every qubit, then CNOTs at distance ``1 + index mod (n - 1)``.

    Weights ``(n_layers, n_qubits, 3)``, the angles of RZ RY RZ. arXiv:1804.00633.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        super().__init__(n_qubits, n_layers, (n_layers, n_qubits, 3))

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """Rotations, then the CNOTs."""
        for wire in range(self.n_qubits):
            tqf.rot(qdev, wires=wire, params=self.weights[index, wire][None])
        if self.n_qubits > 1:
            distance = 1 + index % (self.n_qubits - 1)
            for wire in range(self.n_qubits):
                tqf.cnot(qdev, wires=[wire, (wire + distance) % self.n_qubits])


class RealAmplitudes(LayeredAnsatz):
    """RY on every qubit, then CNOTs from each qubit to the next, last pair first; a final RY layer.

    Weights ``(n_layers + 1, n_qubits)``. Qiskit's circuit of that name: all amplitudes are real.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        super().__init__(n_qubits, n_layers, (n_layers + 1, n_qubits))

    def _rotations(self, qdev: tq.QuantumDevice, index: int) -> None:
        for wire in range(self.n_qubits):
            tqf.ry(qdev, wires=wire, params=self.weights[index, wire : wire + 1])

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """Rotations and CNOTs; the last layer ends with the final rotations."""
        self._rotations(qdev, index)
        for wire in reversed(range(self.n_qubits - 1)):
            tqf.cnot(qdev, wires=[wire, wire + 1])
        if index == self.n_layers - 1:
            self._rotations(qdev, self.n_layers)


class QCNN(LayeredAnsatz):
    """Quantum convolutional network: a layer convolves neighboring qubits and pools half of them.

    Convolution, on even, then odd neighboring pairs of the qubits still active: RY on both, RXX,
    RYY, RZZ, RY on both, with weights shared by all pairs. Pooling, on pairs: CRZ and, on control
    0, CRX from the qubit that is dropped to the one that stays. Weights ``(n_layers, 9)``. After
    arXiv:1810.03787. The qubits that stay are 1, 3, 5, ... of those active: read the last one.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        most = int(math.log2(n_qubits))
        if n_layers > most:
            must = f"at most log2(n_qubits) = {most} for ansatz 'qcnn', as every layer drops half "
            _checks.refuse("n_layers", f"{must}of the qubits", str(n_layers))
        super().__init__(n_qubits, n_layers, (n_layers, 9))

    def _active(self, index: int) -> list[int]:
        wires = list(range(self.n_qubits))
        for _ in range(index):
            wires = wires[1::2] + ([wires[-1]] if len(wires) % 2 else [])
        return wires

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """One convolution and one pooling."""
        angles: tuple[Tensor, ...] = torch.chunk(self.weights[index], 9)
        wires = self._active(index)
        pairs = list(zip(wires[0::2], wires[1::2], strict=False))
        between = list(zip(wires[1::2], wires[2::2], strict=False))
        for first, second in pairs + between:
            tqf.ry(qdev, wires=first, params=angles[0])
            tqf.ry(qdev, wires=second, params=angles[1])
            tqf.rxx(qdev, wires=[first, second], params=angles[2])
            tqf.ryy(qdev, wires=[first, second], params=angles[3])
            tqf.rzz(qdev, wires=[first, second], params=angles[4])
            tqf.ry(qdev, wires=first, params=angles[5])
            tqf.ry(qdev, wires=second, params=angles[6])
        for dropped, kept in pairs:
            tqf.crz(qdev, wires=[dropped, kept], params=angles[7])
            tqf.paulix(qdev, wires=dropped)
            tqf.crx(qdev, wires=[dropped, kept], params=angles[8])
            tqf.paulix(qdev, wires=dropped)


ANSAETZE: dict[str, Callable[[int, int], LayeredAnsatz]] = {
    "rx_ry_rz_ring": RotationRing,
    "strongly_entangling": StronglyEntangling,
    "real_amplitudes": RealAmplitudes,
    "qcnn": QCNN,
}
"""Our ansaetze by name."""

NAMED = frozenset(ANSAETZE.values())
"""Their classes: what gates they apply is known from their sizes."""


def make_encoder(encoder: Any, n_qubits: int) -> nn.Module | None:
    """Returns an encoder module.

    Args:
        encoder (str, nn.Module, list or None): The name of one of ours or of TorchQuantum's; a
            module, which is returned as it is; a list of gates as ``tq.GeneralEncoder`` takes it;
            None for a circuit without inputs.
        n_qubits (int): Number of qubits.

    Raises:
        ValueError: If there is no encoder of that name.
        TypeError: If it is neither a name nor a module.
    """
    if encoder is None or isinstance(encoder, nn.Module):
        return encoder
    if isinstance(encoder, (list, tuple)) and all(isinstance(entry, dict) for entry in encoder):
        gates: nn.Module = tq.GeneralEncoder(list(encoder))
        return gates
    if not isinstance(encoder, str):
        must = "a name, a TorchQuantum encoder, a list of its gates, or None"
        _checks.wrong_type("encoder", must, encoder)
    _checks.check_choice("encoder", encoder, [*ENCODERS, *encoder_op_list_name_dict])
    if encoder in ENCODERS:
        return ENCODERS[encoder](n_qubits)
    listed: nn.Module = tq.GeneralEncoder(encoder_op_list_name_dict[encoder])
    return listed


def make_ansatz(ansatz: Any, n_qubits: int, n_layers: int) -> nn.Module | None:
    """Returns an ansatz module.

    Args:
        ansatz (str, nn.Module, list or None): The name of one of ours or of TorchQuantum's; a
            module, which is returned as it is; a list of operators, applied in turn; a list of
            gates as TorchQuantum records them; None for no gates.
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers; the number of blocks of TorchQuantum's.

    Raises:
        ValueError: If there is no ansatz of that name.
        TypeError: If it is neither a name nor a module.
    """
    if ansatz is None or isinstance(ansatz, nn.Module):
        return ansatz
    if isinstance(ansatz, (list, tuple)):
        if ansatz and all(isinstance(part, dict) for part in ansatz):
            gates: nn.Module = tq.QuantumModule.from_op_history(list(ansatz))
            return gates
        if ansatz and all(isinstance(part, nn.Module) for part in ansatz):
            return nn.ModuleList(ansatz)
    if not isinstance(ansatz, str):
        must = "a name, a TorchQuantum module, a list of operators or gates, or None"
        _checks.wrong_type("ansatz", must, ansatz)
    _checks.check_choice("ansatz", ansatz, [*ANSAETZE, *layer_name_dict])
    if ansatz in ANSAETZE:
        return ANSAETZE[ansatz](n_qubits, n_layers)
    arch = {"n_wires": n_qubits, "n_blocks": n_layers, "n_layers_per_block": 1}
    try:
        layer: nn.Module = layer_name_dict[ansatz](arch)
    except NameError as error:
        raise CircuitError(
            f"ansatz {ansatz!r} cannot be built: {name_and_version()}'s own code for it ends in "
            f"NameError ({error})"
        ) from error
    return layer
