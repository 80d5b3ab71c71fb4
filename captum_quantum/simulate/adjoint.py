"""Adjoint differentiation: from the last state back to the angles.

Values need nothing but the current state. Gradients are found by adjoint differentiation. In the
notation of `matrices`, the readout gives the gradient W at the last state. A step ``psi' = U psi``
has

    W = U^T W',    psi = U^H psi'    (U is unitary),    W_U = W' psi^T,

so W and the state psi go back together, and W_U, summed over the batch, is the gradient by the
matrix. A turn, ``psi'_r = e^{i theta_r} psi_r`` at row r, changes with its angle by
``i psi'_r d theta_r``; so ``Re(i W'_r psi'_r)`` is the gradient by theta_r. No state but the last
is kept, whatever the depth.

Small circuits whose weights get no gradient need no states at all: see `polynomial`.
"""

import torch
from torch import Tensor

from captum_quantum.simulate.head import Batched
from captum_quantum.simulate.lanes import rows_by_lane
from captum_quantum.simulate.plan import Dense, Turn
from captum_quantum.simulate.program import Program
from captum_quantum.simulate.reading import as_reals
from captum_quantum.simulate.static import ByStatic, Static, static_back


@torch.no_grad()
def adjoint(
    program: Program,
    static: Static,
    batched: Batched,
    state: Tensor,
    grad: Tensor,
    inputs: bool,
    weights: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by input angles and weight angles, going back from the last state."""
    by = ByStatic()
    by_angles = state.real.new_zeros(batched.angles.shape) if program.tables.turns else None
    if program.in_reals:
        by_parts = program.reading.back_parts(state, grad)
        if weights:
            real, imaginary = (by_parts @ batched.state.T).chunk(2)
            by.dense[0] = torch.complex(real, -imaginary)
        W = static.dense[0].T @ by_parts
    else:
        W = _steps_back(program, static, batched, state, grad, by, by_angles, inputs, weights)
    by_inputs = program.head.back(batched, W, by, inputs, weights)
    if by_angles is not None and by_inputs is not None:
        by_inputs = by_inputs + by_angles
    return (
        None if by_inputs is None else by_inputs.T,
        static_back(program.tables, static, by) if weights else None,
    )


def _steps_back(
    program: Program,
    static: Static,
    batched: Batched,
    state: Tensor,
    grad: Tensor,
    by: ByStatic,
    by_angles: Tensor | None,
    inputs: bool,
    weights: bool,
) -> Tensor:
    """From the last state to the gradient at the first; adds up what it meets."""
    steps = program.plan.steps
    by_bits: dict[int, Tensor] = {}
    # The state is followed down to the first step that wants it, W down to the head; the state
    # before step 0 is still there. Each is a tensor of its own: so a thread finds rows of both
    # where it wrote them.
    wanted = [k for k, step in enumerate(steps) if (inputs if isinstance(step, Turn) else weights)]
    last = max(wanted[0], 1) if wanted else len(steps)
    W, W_spare = torch.empty_like(state), torch.empty_like(state)
    program.reading.back(state, grad, W)
    if last < len(steps):
        psi, psi_spare = state.clone(), torch.empty_like(state)
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        follow = number >= last
        if isinstance(step, Turn):
            turning = program.tables.turns[number]
            phases = turning.phases(batched.halves, batched.angles)
            program.turn(number, phases, W, W_spare)
            W, W_spare = W_spare, W
            if follow:
                backwards = [factor.conj_physical() for factor in phases]
                program.turn(number, backwards, psi, psi_spare)
                psi, psi_spare = psi_spare, psi
            if inputs:
                assert by_angles is not None
                before = psi if number else batched.state
                product = torch.mul(W, before, out=W_spare)
                turning.back(product, by_bits, by_angles)
        elif isinstance(step, Dense):
            matrix, left = static.dense[number], program.lanes * step.left
            program.apply(matrix.mT, W, left, W_spare)
            W, W_spare = W_spare, W
            if follow:
                program.apply(matrix.conj_physical().mT, psi, left, psi_spare)
                psi, psi_spare = psi_spare, psi
            if weights:
                before = psi if number else batched.state
                by.dense[number] = _outer(W_spare, before, left, matrix, program.dtype)
        else:
            if step.phases:
                program.times(W, static.phases[number], W_spare)
                W, W_spare = W_spare, W
                if follow:
                    program.times(psi, static.phases[number].conj_physical(), psi_spare)
                    psi, psi_spare = psi_spare, psi
                if weights:
                    before = psi if number else batched.state
                    if number == 0 and number in program.tables.rows:
                        before = before.index_select(0, program.tables.rows[number][0])
                    product = rows_by_lane(W_spare * before, program.lanes)
                    by.phases[number] = product.sum(dim=(0, 2))[:, None]
            if number in program.tables.rows:
                back = program.tables.rows[number][1]
                torch.index_select(W, 0, back, out=W_spare)
                W, W_spare = W_spare, W
                if follow:
                    torch.index_select(psi, 0, back, out=psi_spare)
                    psi, psi_spare = psi_spare, psi
    if by_bits:
        assert by_angles is not None
        by_angles += program.tables.circles.back(by_bits)
    return W


def _outer(W: Tensor, psi: Tensor, left: int, matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient by a step's matrix: ``W psi^T``, summed over all but its rows."""
    if matrix.dtype != W.dtype:
        # Re(W psi^T): of real and imaginary parts side by side, as -i i = 1.
        W, psi = as_reals(W), as_reals(psi.conj_physical())
    W, psi = (rows.reshape(left, len(matrix), -1) for rows in (W, psi))
    found = W[0] @ psi[0].mT if left == 1 else torch.bmm(W, psi.mT).sum(dim=0)
    return found.to(dtype)
