"""Named ansaetze as TorchQuantum modules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchquantum as tq
import torchquantum.functional as tqf
from torch import Tensor, nn
from torchquantum.layer import layer_name_dict

from captum_quantum import _checks
from captum_quantum.circuit import CircuitError, gate_type
from captum_quantum.tq.entanglement import ENTANGLEMENTS
from captum_quantum.tq.installed import name_and_version

Gates = list[tuple[str, tuple[int, ...]]]
"""Gates in order of application: TorchQuantum's name and the wires."""


def _on_each(name: str, n_qubits: int) -> Gates:
    """The gate on every qubit."""
    return [(name, (wire,)) for wire in range(n_qubits)]


def _check_sizes(n_qubits: int, n_layers: int) -> None:
    _checks.check_int("n_qubits", n_qubits, 1)
    _checks.check_int("n_layers", n_layers, 1)


class LayeredAnsatz(tq.QuantumModule):
    """An ansatz of layers that can be applied one at a time, as data re-uploading needs.

    Subclasses keep all weights in one tensor and implement :meth:`layer`.

    Attributes:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.
        weights (nn.Parameter): All angles in radians, drawn uniformly from [-pi, pi).
    """

    def __init__(self, n_qubits: int, n_layers: int, shape: tuple[int, ...]) -> None:
        _check_sizes(n_qubits, n_layers)
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


class GateListAnsatz(LayeredAnsatz):
    """An ansatz whose layers are lists of gates, each with weights of its own.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.
        gates (Callable): From a layer's index to its gates, pairs ``(name, wires)`` with
            TorchQuantum's names, in order of application.

    Attributes:
        weights (nn.Parameter): Angles in radians, in the order of the gates, shape ``(n_weights,)``
            unless the subclass gives them another.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int, gates: Callable[[int], Gates]) -> None:
        _check_sizes(n_qubits, n_layers)
        layers = [gates(index) for index in range(n_layers)]
        counts = [sum(gate_type(name).n_angles for name, _ in layer) for layer in layers]
        super().__init__(n_qubits, n_layers, (sum(counts),))
        self._layers = layers
        self._first_weights = [sum(counts[:index]) for index in range(n_layers)]

    def _shape_weights(self, *shape: int) -> None:
        """Gives the weights another shape, in the same order."""
        self.weights = nn.Parameter(self.weights.detach().reshape(shape))

    def layer(self, qdev: tq.QuantumDevice, index: int) -> None:
        """Applies the gates of one layer.

        Args:
            qdev (tq.QuantumDevice): The device.
            index (int): The layer, from 0 on.
        """
        weights, position = self.weights.reshape(-1), self._first_weights[index]
        for name, wires in self._layers[index]:
            n_angles = gate_type(name).n_angles
            angles = weights[None, position : position + n_angles] if n_angles else None
            tqf.func_name_dict[name](qdev, wires=list(wires), params=angles)
            position += n_angles


class BasicEntangler(GateListAnsatz):
    """RX on every qubit, then CNOTs from each qubit to the next, around the ring.

    PennyLane's ``BasicEntanglerLayers``: two qubits have one CNOT, not two. Weights ``(n_layers,
    n_qubits)``, radians, as there.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        def gates(index: int) -> Gates:
            ring = [(wire, (wire + 1) % n_qubits) for wire in range(n_qubits)]
            pairs = ring if n_qubits > 2 else ring[: n_qubits - 1]
            return _on_each("rx", n_qubits) + [("cnot", pair) for pair in pairs]

        super().__init__(n_qubits, n_layers, gates)
        self._shape_weights(n_layers, n_qubits)


class SimplifiedTwoDesign(GateListAnsatz):
    """RY on every qubit; then layers of CZ and two RY on even, then on odd neighboring pairs.

    PennyLane's ``SimplifiedTwoDesign`` (Cerezo et al., arXiv:2001.00550). The first RY belong to
    layer 0. Weights ``(n_qubits + n_layers * (n_qubits - 1) * 2,)``, radians; from PennyLane's:
    ``torch.cat([initial_layer_weights, weights.flatten()])``.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        def gates(index: int) -> Gates:
            found = _on_each("ry", n_qubits) if index == 0 else []
            for first in (*range(0, n_qubits - 1, 2), *range(1, n_qubits - 1, 2)):
                found += [("cz", (first, first + 1)), ("ry", (first,)), ("ry", (first + 1,))]
            return found

        super().__init__(n_qubits, n_layers, gates)


ROTATIONS = ("rx", "ry", "rz", "h", "x", "y", "z", "s", "sdg", "t", "tdg")
"""Gates that :class:`TwoLocal` puts on every qubit."""

ENTANGLERS = (
    "cx", "cy", "cz", "crx", "cry", "crz", "rxx", "ryy", "rzz", "rzx", "swap"
)  # fmt: skip
"""Gates that :class:`TwoLocal` puts on pairs. There is no ``ch``: TorchQuantum's own one fails."""


class TwoLocal(GateListAnsatz):
    """Layers of gates on every qubit and on pairs, then once more the gates on every qubit.

    Qiskit's ``TwoLocal(n_qubits, rotations, entangler, entanglement, reps=n_layers)``; the last
    rotations belong to the last layer. One qubit has no pairs. Weights ``(n_weights,)``, radians,
    in the order of Qiskit's parameters: ``ansatz.weights.data = torch.tensor(values)`` takes the
    values of ``TwoLocal.assign_parameters(values)``. In each layer, for each rotation gate in turn,
    they are those of qubits 0 to n - 1; then those of the pairs, if the entangler has an angle.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.
        rotations (Sequence[str]): Gates on every qubit, one after the other: ``"rx"``, ``"ry"``,
            ``"rz"``, ``"h"``, ``"x"``, ``"y"``, ``"z"``, ``"s"``, ``"sdg"``, ``"t"``, ``"tdg"``.
        entangler (str): The gate on pairs, the control first: ``"cx"``, ``"cy"``, ``"cz"``,
            ``"crx"``, ``"cry"``, ``"crz"``, ``"rxx"``, ``"ryy"``, ``"rzz"``, ``"rzx"``,
            ``"swap"``.
        entanglement (str): The pairs: ``"full"``: all; ``"linear"``: neighbors, first pair first;
            ``"reverse_linear"``: neighbors, last pair first; ``"circular"``: last to first qubit,
            then ``"linear"``.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> from captum_quantum import VQCLayer
        >>> from captum_quantum.tq import TwoLocal
        >>> ansatz = TwoLocal(3, 2, rotations=["ry", "rz"], entangler="crx", entanglement="linear")
        >>> ansatz.weights.shape  # 3 rotation layers of 6 angles, 2 layers of 2 pairs
        torch.Size([22])
        >>> VQCLayer(3, ansatz=ansatz).circuit.n_weights
        22
    """

    def __init__(
        self,
        n_qubits: int,
        n_layers: int,
        rotations: Sequence[str] = ("ry",),
        entangler: str = "cz",
        entanglement: str = "full",
    ) -> None:
        if isinstance(rotations, str) or not isinstance(rotations, Sequence):
            _checks.wrong_type("rotations", "a list of names of gates", rotations)
        if not rotations:
            _checks.wrong_value("rotations", "at least one name of a gate", rotations)
        for position, name in enumerate(rotations):
            _checks.check_choice(f"rotations[{position}]", name, ROTATIONS)
        _checks.check_choice("entangler", entangler, ENTANGLERS)
        _checks.check_choice("entanglement", entanglement, ENTANGLEMENTS)

        def gates(index: int) -> Gates:
            rotated = [gate for name in rotations for gate in _on_each(name, n_qubits)]
            pairs = ENTANGLEMENTS[entanglement](n_qubits, 2)
            last = rotated if index == n_layers - 1 else []
            return rotated + [(entangler, pair) for pair in pairs] + last

        super().__init__(n_qubits, n_layers, gates)


class RealAmplitudes(TwoLocal):
    """RY on every qubit, then CNOTs from each qubit to the next, last pair first; a final RY layer.

    Qiskit's circuit of that name: all amplitudes are real. Weights ``(n_layers + 1, n_qubits)``,
    radians: Qiskit's parameters in their order.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        super().__init__(n_qubits, n_layers, ("ry",), "cx", "reverse_linear")
        self._shape_weights(n_layers + 1, n_qubits)


class EfficientSU2(TwoLocal):
    """RY, RZ on every qubit, then CNOTs to the next qubit, last pair first; final RY, RZ.

    Qiskit's circuit of that name, with its default entanglement. Weights ``(n_layers + 1, 2,
    n_qubits)``, radians: Qiskit's parameters in their order, RY of all qubits before RZ.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        super().__init__(n_qubits, n_layers, ("ry", "rz"), "cx", "reverse_linear")
        self._shape_weights(n_layers + 1, 2, n_qubits)


class U3CU3(GateListAnsatz):
    """U3 on every qubit, then CU3 from each qubit to the next, around the ring.

    TorchQuantum's ``tq.layer.U3CU3Layer0``. With small weights it is near the identity: every gate
    on two qubits is controlled by a qubit's state, and does little at the start. Weights
    ``(n_layers, 2, n_qubits, 3)``, radians: those of all U3, then of all CU3, theta, phi, lambda.
    One qubit has no CU3, and weights ``(n_layers, 1, 1, 3)``.

    Args:
        n_qubits (int): Number of wires.
        n_layers (int): Number of layers.

    Raises:
        TypeError, ValueError: If a number is wrong.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        def gates(index: int) -> Gates:
            ring = [(wire, (wire + 1) % n_qubits) for wire in range(n_qubits) if n_qubits > 1]
            return _on_each("u3", n_qubits) + [("cu3", pair) for pair in ring]

        super().__init__(n_qubits, n_layers, gates)
        self._shape_weights(n_layers, 2 if n_qubits > 1 else 1, n_qubits, 3)


class QCNN(LayeredAnsatz):
    """Quantum convolutional network: a layer convolves neighboring qubits and pools half of them.

    Convolution, on even, then odd neighboring pairs of the qubits still active: RY on both, RXX,
    RYY, RZZ, RY on both, with weights shared by all pairs. Pooling, on pairs: CRZ and, on control
    0, CRX from the qubit that is dropped to the one that stays. Weights ``(n_layers, 9)``. After
    arXiv:1810.03787. The qubits that stay are 1, 3, 5, ... of those active: read the last one.
    """

    def __init__(self, n_qubits: int, n_layers: int) -> None:
        _check_sizes(n_qubits, n_layers)
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
    "basic_entangler": BasicEntangler,
    "simplified_two_design": SimplifiedTwoDesign,
    "efficient_su2": EfficientSU2,
    "two_local": TwoLocal,
    "u3cu3": U3CU3,
}
"""Our ansaetze by name: name -> factory of the numbers of qubits and layers.

``rx_ry_rz_ring``: the circuit of arXiv:2306.03741. ``qcnn``: a quantum convolutional network,
arXiv:1810.03787. ``strongly_entangling``, ``basic_entangler``, ``simplified_two_design``:
PennyLane's. ``real_amplitudes``, ``efficient_su2``, ``two_local`` (RY, and CZ on all pairs):
Qiskit's. ``u3cu3``: TorchQuantum's ``U3CU3Layer0``.
"""


NAMED = frozenset(ANSAETZE.values())
"""Their classes: which gates they apply is known from their sizes."""


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
    if isinstance(ansatz, (list, tuple)) and ansatz:
        if all(isinstance(part, dict) for part in ansatz):
            gates: nn.Module = tq.QuantumModule.from_op_history(list(ansatz))
            return gates
        if all(isinstance(part, nn.Module) for part in ansatz):
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
