"""Adjoint differentiation: from the last state and its cotangent back to the angles.

The measurement gives the cotangent c of the last state. A step ``psi' = U psi`` with a unitary
matrix U has

    c = U^T c',    psi = U^H psi',    c_U = c' psi^T

in the convention of `matrices`; so the state and its cotangent are taken through all steps in
reverse order, and c_U, summed over the batch, is the cotangent of the matrix. A step of phases
``psi'_r = e^{i theta_r} psi_r`` gives theta_r the cotangent ``Re(i c'_r psi'_r)``. No state but the
last is kept, whatever the depth (Jones and Gacon, arXiv:2009.02823).
"""

import torch
from torch import Tensor

from captum_quantum.simulate.lanes import split_rows
from captum_quantum.simulate.matrices import Matrices, MatrixCotangents, matrices_vjp
from captum_quantum.simulate.measurement import as_reals
from captum_quantum.simulate.memory import Buffers
from captum_quantum.simulate.plan import Dense, InputPhases, Monomial
from captum_quantum.simulate.preparation import Prepared
from captum_quantum.simulate.program import Program


@torch.no_grad()
def adjoint_vjp(
    program: Program,
    matrices: Matrices,
    prepared: Prepared,
    state: Tensor,
    cotangent: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The vector-Jacobian product of expectation values.

    Args:
        program (Program): What has run.
        matrices (Matrices): What depends on weights alone.
        prepared (Prepared): What depends on the sample.
        state (Tensor): The last state; not modified.
        cotangent (Tensor): Of the values, ``(batch, n_observables)``.
        needs (tuple[bool, bool]): Whether to differentiate by what was given (input angles or
            amplitudes) and by weights.

    Returns:
        tuple[Tensor | None, Tensor | None]: ``(batch, n)`` and ``(m,)``; None where not needed.
    """
    cotangents = MatrixCotangents()
    of_angles = state.real.new_zeros(prepared.angles.shape)
    if program.in_reals:
        of_state = program.measurement.vjp_of_parts(state, cotangent)
        if needs[1]:
            real, imaginary = (of_state @ prepared.state.T).chunk(2)
            cotangents.dense[0] = torch.complex(real, -imaginary)
        of_state = matrices.dense[0].T @ of_state
    else:
        of_state = program.measurement.vjp(state, cotangent)
        of_state = _steps_vjp(
            program, matrices, prepared, state, of_state, cotangents, of_angles, needs
        )
    of_given = program.preparation.vjp(prepared, of_state, cotangents, of_angles, needs)
    return (
        of_given.T if needs[0] else None,
        matrices_vjp(program.tables, matrices, cotangents) if needs[1] else None,
    )


def _steps_vjp(
    program: Program,
    matrices: Matrices,
    prepared: Prepared,
    state: Tensor,
    cotangent: Tensor,
    cotangents: MatrixCotangents,
    of_angles: Tensor,
    needs: tuple[bool, bool],
) -> Tensor:
    """From the cotangent of the last state to that of the first.

    Args:
        program (Program): What has run.
        matrices (Matrices): What depends on weights alone.
        prepared (Prepared): What depends on the sample.
        state (Tensor): The last state; not modified.
        cotangent (Tensor): Its cotangent; overwritten.
        cotangents (MatrixCotangents): Receives those of dense steps and of phases.
        of_angles (Tensor): Receives what steps add to the cotangent of the input angles.
        needs (tuple[bool, bool]): Whether to differentiate by inputs and by weights.
    """
    steps = program.plan.steps
    needed = [needs[0] if isinstance(step, InputPhases) else needs[1] for step in steps]
    first = needed.index(True) if any(needed) else len(steps)
    # The state and its cotangent have buffers of their own: so a thread finds rows of both where it
    # wrote them.
    state_buffers, buffers = Buffers(state), Buffers(cotangent, cotangent)
    for number in range(len(steps) - 1, -1, -1):
        step, after = steps[number], cotangent
        if needed[number] and isinstance(step, InputPhases):
            program.tables.phases.vjp(number, after * state, of_angles)
        elif needed[number] and isinstance(step, Monomial) and step.phases:
            products = split_rows(after * state, program.lanes).sum(dim=(0, 2))[:, None]
            cotangents.phases[number] = products * matrices.phases[number].conj()
        cotangent = program.transpose(number, after, matrices, prepared, buffers, False)
        is_needed_dense = needed[number] and isinstance(step, Dense)
        if number and (number > first or is_needed_dense):
            state = program.transpose(number, state, matrices, prepared, state_buffers, True)
        if is_needed_dense and isinstance(step, Dense):
            before = state if number else prepared.state
            cotangents.dense[number] = _outer(
                after, before, program.lanes * step.left, matrices.dense[number]
            ).to(program.dtype)
    return cotangent


def _outer(cotangent: Tensor, state: Tensor, left: int, matrix: Tensor) -> Tensor:
    """The cotangent of a step's matrix: ``c psi^T``, summed over all but its rows."""
    if matrix.dtype != cotangent.dtype:
        # Re(c psi^T): of real and imaginary parts side by side, as -i i = 1.
        cotangent, state = as_reals(cotangent), as_reals(state.conj_physical())
    cotangent, state = (rows.reshape(left, len(matrix), -1) for rows in (cotangent, state))
    if left == 1:
        return cotangent[0] @ state[0].mT
    return torch.bmm(cotangent, state.mT).sum(dim=0)
