"""QGrad-CAM's own rule: commutators of density matrices in complex128, slow and literal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, CircuitError, Gate, gate_matrix
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.rule import JacobianRule
from captum_quantum.simulate.density import MAX_QUBITS, embed, observable_matrix


class Commutator(JacobianRule):
    r"""The paper's :math:`\tfrac{i}{2} \mathrm{tr}(\rho [G, \tilde O])` (arXiv:2408.05899)."""

    name = "commutator"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Needs the angles of a circuit's gates."""
        if function.layer is None:
            return (
                f"needs the gates of a circuit, which {_checks.describe(function.module)} does not "
                "show; use 'parameter-shift' or 'finite-difference'"
            )
        if function.angles is None:
            return (
                "does not apply to the inputs of amplitude encoding, which are no angles of gates; "
                "use 'backprop' or 'finite-difference'"
            )
        return None

    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Each variable's derivative from its gate's generator."""
        assert function.angles is not None
        circuit, table, columns, initial = function.angles
        return commutator_jacobian(circuit, table, columns, initial)


def _generator(gate: Gate, angles: Tensor, which: int) -> Tensor:
    """The Hermitian G with ``dU/dt = -(i/2) G U`` for one angle t of a gate: ``(batch, d, d)``."""
    with torch.enable_grad():
        own = angles.detach().requires_grad_()
        unitary = gate_matrix(gate.name, own, len(gate.wires), inverse=gate.inverse)
        entries = torch.view_as_real(unitary).flatten(1)
        # One row of ones for each real and imaginary part; samples do not depend on each other.
        rows = torch.eye(entries.shape[1], dtype=entries.dtype, device=entries.device)
        (derivative,) = torch.autograd.grad(
            entries, own, rows[:, None].expand(-1, len(own), -1), is_grads_batched=True
        )
    parts = derivative[..., which].mT.reshape(*unitary.shape, 2).contiguous()
    return 2j * torch.view_as_complex(parts) @ unitary.detach().mH


def commutator_jacobian(
    circuit: Circuit, angles: Tensor, columns: Sequence[int], amplitudes: Tensor | None = None
) -> Tensor:
    """Derivatives of expectation values by QGrad-CAM's commutator formula.

    For a gate ``exp(-i t G / 2)``, the state rho after it and the observable O in the Heisenberg
    picture of the gates behind it, ``d tr(rho O) / dt = (i/2) tr(rho [G, O])`` (arXiv:2408.05899).

    Args:
        circuit (Circuit): The circuit, of at most 10 qubits.
        angles (Tensor): Angle table, shape ``(batch, n_angles)``, radians.
        columns (Sequence[int]): The columns of the table to differentiate by.
        amplitudes (Tensor, optional): Normalized initial states, shape ``(batch, 2**n_qubits)``.

    Returns:
        Tensor: Real, shape ``(batch, n_observables, len(columns))``, in the dtype of ``angles``.

    Raises:
        CircuitError: If the circuit has more than 10 qubits.
    """
    if circuit.n_qubits > MAX_QUBITS:
        raise CircuitError(
            f"the commutator rule works on density matrices of 4**n entries: n_qubits must be at "
            f"most {MAX_QUBITS}; got {circuit.n_qubits}. Use 'parameter-shift'"
        )
    wide = angles.detach().to(torch.float64)
    batch, size = wide.shape[0], 2**circuit.n_qubits
    per_gate = circuit.split(wide)
    unitaries = [
        embed(
            gate_matrix(gate.name, own, len(gate.wires), inverse=gate.inverse),
            gate.wires,
            circuit.n_qubits,
        )
        for gate, own in zip(circuit.gates, per_gate, strict=True)
    ]
    if amplitudes is None:
        start = wide.new_zeros(batch, size)
        start[:, 0] = 1
    else:
        start = amplitudes.detach().to(torch.float64)
    rho = torch.einsum("bi,bj->bij", start, start).to(torch.complex128)
    for unitary in unitaries:
        rho = unitary @ rho @ unitary.mH

    heisenberg = torch.stack(
        [observable_matrix(observable, circuit.n_qubits) for observable in circuit.observables]
    ).to(wide.device)[None]
    jacobian = wide.new_zeros(batch, len(circuit.observables), len(columns))
    slot = {column: k for k, column in enumerate(columns)}
    last = len(circuit.angles)
    for gate, gate_angles, unitary in zip(
        reversed(circuit.gates), reversed(per_gate), reversed(unitaries), strict=True
    ):
        first = last - len(gate.angles)
        for column in range(first, last):
            if column in slot:
                generator = embed(
                    _generator(gate, gate_angles, column - first), gate.wires, circuit.n_qubits
                )[:, None]
                commutator = generator @ heisenberg - heisenberg @ generator
                trace = torch.einsum("bij,boji->bo", rho, commutator)
                jacobian[:, :, slot[column]] = (0.5j * trace).real
        rho = unitary.mH @ rho @ unitary
        heisenberg = unitary.mH[:, None] @ heisenberg @ unitary[:, None]
        last = first
    return jacobian.to(angles.dtype)
