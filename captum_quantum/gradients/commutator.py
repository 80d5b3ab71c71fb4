"""QGrad-CAM's own rule: commutators of density matrices in complex128, slow and literal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, CircuitError, Gate
from captum_quantum.circuit.primitives import extend
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.rule import JacobianRule

_MAX_QUBITS = 10


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
        leaf = angles.detach().requires_grad_()
        unitary = gate.matrix(leaf)
        entries = torch.view_as_real(unitary).flatten(1)
        # One row of ones for each real and imaginary part; samples do not depend on each other.
        rows = torch.eye(entries.shape[1], dtype=entries.dtype, device=entries.device)
        (derivative,) = torch.autograd.grad(
            entries, leaf, rows[:, None].expand(-1, len(leaf), -1), is_grads_batched=True
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
    if circuit.n_qubits > _MAX_QUBITS:
        raise CircuitError(
            f"the commutator rule works on density matrices of 4**n entries: n_qubits must be at "
            f"most {_MAX_QUBITS}; got {circuit.n_qubits}. Use 'parameter-shift'"
        )
    wide = angles.detach().to(torch.float64)
    n, batch = circuit.n_qubits, len(wide)
    per_gate = circuit.split(wide)
    unitaries = []
    for gate, gate_angles in zip(circuit.gates, per_gate, strict=True):
        matrix = gate.matrix(gate_angles)
        unitaries.append(extend(matrix, gate.wires, n))
    if amplitudes is None:
        amplitudes = torch.eye(1, 2**n, device=wide.device).expand(batch, -1)
    states = amplitudes.detach().to(torch.complex128)
    rho = states[:, :, None] * states[:, None, :].conj()
    for unitary in unitaries:
        rho = unitary @ rho @ unitary.mH
    observables = torch.stack([o.matrix(n) for o in circuit.observables]).to(wide.device)[None]
    jacobian = wide.new_zeros(batch, len(circuit.observables), len(circuit.angles))
    column = len(circuit.angles)
    for gate, gate_angles, unitary in zip(
        reversed(circuit.gates), reversed(per_gate), reversed(unitaries), strict=True
    ):
        column -= len(gate.angles)
        for which in range(len(gate.angles)):
            if column + which in columns:
                generator = extend(_generator(gate, gate_angles, which), gate.wires, n)[:, None]
                commutator = generator @ observables - observables @ generator
                trace = torch.einsum("bij,boji->bo", rho, commutator)
                jacobian[:, :, column + which] = (0.5j * trace).real
        # Both one gate back: the state before it, the observables in the Heisenberg picture.
        rho = unitary.mH @ rho @ unitary
        observables = unitary.mH[:, None] @ observables @ unitary[:, None]
    return jacobian[:, :, list(columns)].to(angles.dtype)
