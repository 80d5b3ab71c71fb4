"""Named encoders as TorchQuantum modules: angles, amplitudes, and feature maps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torchquantum as tq
import torchquantum.functional as tqf
from torch import Tensor, nn
from torchquantum.encoding import encoder_op_list_name_dict

from captum_quantum import _checks
from captum_quantum.tq.entanglement import ENTANGLEMENTS


def product_of_complements(x: Tensor) -> Tensor:
    r"""Qiskit's data map: :math:`x_0` for one feature, otherwise the product of :math:`\pi - x_i`.

    Args:
        x (Tensor): Features, shape ``(batch, n)``.

    Returns:
        Tensor: Shape ``(batch,)``.
    """
    return x[:, 0] if x.shape[1] == 1 else (math.pi - x).prod(dim=1)


def product(x: Tensor) -> Tensor:
    """The product of the features.

    Args:
        x (Tensor): Features, shape ``(batch, n)``.

    Returns:
        Tensor: Shape ``(batch,)``.
    """
    return x.prod(dim=1)


class PauliFeatureMap(tq.Encoder):
    r"""Hadamard gates, then evolutions under Pauli strings by functions of the features.

    Each of ``reps`` repetitions puts H on every qubit and then, for each Pauli string P in turn and
    each group S of as many qubits as P has letters,

    .. math:: \exp\left(-\frac{i}{2} \alpha \, \phi(x_S) P_S\right), \qquad
        \phi(x_i) = x_i, \quad \phi(x_i, x_j, \dots) = (\pi - x_i)(\pi - x_j) \cdots

    This is Qiskit's ``PauliFeatureMap`` up to a global phase; with the defaults its
    ``ZZFeatureMap``, with ``paulis=("Z",)`` its ``ZFeatureMap`` (Havlicek et al.,
    arXiv:1804.11326). Where Qiskit has CNOTs around a phase gate, this is one RZZ or multi-qubit
    RZ. There are as many features as the device has wires; qubit i reads feature i.

    Args:
        paulis (Sequence[str]): Pauli strings of the letters I, X, Y, Z. As in Qiskit the last
            letter acts on the first qubit of a group, and letters I count for the features.
        reps (int): Number of repetitions.
        alpha (float): Factor of all angles.
        entanglement (str): The groups: ``"full"``: all; ``"linear"``: neighbors;
            ``"reverse_linear"``: neighbors, last ones first; ``"circular"``: the groups that close
            the ring (all of them, as in Qiskit 2), then ``"linear"``. Fewer qubits than letters
            have none.
        data_map (Callable): The function phi, from the features of a group, shape ``(batch, n)``,
            to shape ``(batch,)``.

    Raises:
        TypeError, ValueError: If an argument is wrong, or in the call the shape of the features.

    Examples:
        >>> import torch, torchquantum
        >>> from captum_quantum.tq import PauliFeatureMap
        >>> device = torchquantum.QuantumDevice(n_wires=3, bsz=2)
        >>> PauliFeatureMap(("Z", "YY"), entanglement="linear")(device, torch.rand(2, 3))
        >>> device.get_states_1d().shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        paulis: Sequence[str] = ("Z", "ZZ"),
        reps: int = 2,
        alpha: float = 2.0,
        entanglement: str = "full",
        data_map: Callable[[Tensor], Tensor] = product_of_complements,
    ) -> None:
        if isinstance(paulis, str) or not isinstance(paulis, Sequence):
            _checks.wrong_type("paulis", "a list of Pauli strings", paulis)
        if not paulis:
            _checks.wrong_value("paulis", "at least one Pauli string", paulis)
        for position, letters in enumerate(paulis):
            argument, must = f"paulis[{position}]", "a string of I, X, Y, Z, not of I alone"
            if not isinstance(letters, str):
                _checks.wrong_type(argument, must, letters)
            if not set(letters) <= set("IXYZ") or not set(letters) - {"I"}:
                _checks.wrong_value(argument, must, letters)
        _checks.check_int("reps", reps, 1)
        _checks.check_number("alpha", alpha, "a finite number", math.isfinite)
        _checks.check_choice("entanglement", entanglement, ENTANGLEMENTS)
        if not callable(data_map):
            _checks.wrong_type("data_map", "a function of the features of a group", data_map)
        super().__init__()
        self.paulis = tuple(paulis)
        self.reps = reps
        self.alpha = alpha
        self.entanglement = entanglement
        self.data_map = data_map

    def forward(self, qdev: tq.QuantumDevice, x: Tensor) -> None:
        """Encodes a batch of features.

        Args:
            qdev (tq.QuantumDevice): The device.
            x (Tensor): Features, real, shape ``(batch, n_wires)``.
        """
        n_qubits = qdev.n_wires
        _checks.check_real("x", x)
        if x.dim() != 2 or x.shape[1] != n_qubits:
            _checks.wrong_value("x", f"of shape (batch, {n_qubits}), one feature a qubit", x)
        for _ in range(self.reps):
            for wire in range(n_qubits):
                tqf.hadamard(qdev, wires=wire)
            for letters in self.paulis:
                for group in ENTANGLEMENTS[self.entanglement](n_qubits, len(letters)):
                    acting = zip(group, reversed(letters), strict=True)
                    word = {wire: letter for wire, letter in acting if letter != "I"}
                    _evolve(qdev, word, self.alpha * self._mapped(x[:, list(group)]))

    def _mapped(self, x: Tensor) -> Tensor:
        values = self.data_map(x)
        if _checks.check_real("what data_map returns", values).shape != x.shape[:1]:
            must = f"of shape ({x.shape[0]},), one value a sample"
            _checks.wrong_value("what data_map returns", must, values)
        return values


def _evolve(qdev: tq.QuantumDevice, paulis: dict[int, str], angles: Tensor) -> None:
    """Applies ``exp(-i angle P / 2)``: a rotation about Z between changes of basis."""
    _change_basis(qdev, paulis, math.pi / 2)
    wires, params = list(paulis), angles[:, None]
    if len(wires) == 1:
        tqf.rz(qdev, wires=wires, params=params)
    elif len(wires) == 2:
        tqf.rzz(qdev, wires=wires, params=params)
    else:
        tqf.multirz(qdev, wires=wires, params=params, n_wires=len(wires))
    _change_basis(qdev, paulis, -math.pi / 2)


def _change_basis(qdev: tq.QuantumDevice, paulis: dict[int, str], quarter: float) -> None:
    """Turns X and Y into Z; ``quarter`` is pi / 2, or -pi / 2 for the way back."""
    for wire, letter in paulis.items():
        if letter == "X":
            tqf.hadamard(qdev, wires=wire)
        elif letter == "Y":
            tqf.rx(qdev, wires=wire, params=quarter)


class IQPEmbedding(PauliFeatureMap):
    """H and RZ(x_i) on every qubit, then RZZ(x_i x_j) on pairs, all of it ``n_repeats`` times.

    PennyLane's ``IQPEmbedding`` (Havlicek et al., arXiv:1804.11326). There are as many features,
    in radians, as the device has wires.

    Args:
        n_repeats (int): Number of repetitions.
        entanglement (str): The pairs: ``"full"``: all, PennyLane's default; ``"linear"`` or
            ``"reverse_linear"``: neighbors; ``"circular"``: neighbors around the ring.

    Raises:
        TypeError, ValueError: If an argument is wrong, or in the call the shape of the features.
    """

    def __init__(self, n_repeats: int = 1, entanglement: str = "full") -> None:
        _checks.check_int("n_repeats", n_repeats, 1)
        super().__init__(reps=n_repeats, alpha=1.0, entanglement=entanglement, data_map=product)


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
    "z_feature_map": lambda n_qubits: PauliFeatureMap(("Z",)),
    "zz_feature_map": lambda n_qubits: PauliFeatureMap(),
    "pauli_feature_map": lambda n_qubits: PauliFeatureMap(),
    "iqp": lambda n_qubits: IQPEmbedding(),
}
"""Our encoders by name: name -> factory of the number of qubits.

``ry``, ``rx``: R(x_i) on qubit i. ``rz_after_h``: H, then RZ(x_i), on qubit i. ``ry_rz``: RY(x_i),
then RZ(x_{n+i}), on qubit i, two features for each qubit. ``amplitude``: the 2**n inputs divided by
their norm are the amplitudes. ``z_feature_map``, ``zz_feature_map`` and ``pauli_feature_map`` are
Qiskit's with their defaults; the last two are the same circuit. ``iqp``: PennyLane's
``IQPEmbedding`` with one repetition.
"""


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
    is_list = isinstance(encoder, (list, tuple))
    if is_list and all(isinstance(g, dict) and {"func", "wires"} <= g.keys() for g in encoder):
        gates: nn.Module = tq.GeneralEncoder(list(encoder))
        return gates
    if not isinstance(encoder, str):
        must = "a name, a TorchQuantum encoder, a list of its gates with func and wires, or None"
        _checks.wrong_type("encoder", must, encoder)
    _checks.check_choice("encoder", encoder, [*ENCODERS, *encoder_op_list_name_dict])
    if encoder in ENCODERS:
        return ENCODERS[encoder](n_qubits)
    listed: nn.Module = tq.GeneralEncoder(encoder_op_list_name_dict[encoder])
    return listed
