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

from captum_quantum.simulate.layout import Buffers, split_rows
from captum_quantum.simulate.matrices import Matrices, MatrixCotangents, matrices_vjp
from captum_quantum.simulate.measurement import as_reals
from captum_quantum.simulate.plan import Dense, InputPhases, Monomial
from captum_quantum.simulate.preparation import Prepared
from captum_quantum.simulate.products import outer_products
from captum_quantum.simulate.program import Program


class AdjointRun:
    """Values of a program, and their vector-Jacobian product.

    Args:
        program (Program): The program.
        matrices (Matrices): What depends on weights alone.
        needs (tuple[bool, bool]): Whether to differentiate by what is given (input angles or
            amplitudes) and by weights.
    """

    def __init__(self, program: Program, matrices: Matrices, needs: tuple[bool, bool]) -> None:
        self._program, self._matrices, self._needs = program, matrices, needs

    def forward(self, given: Tensor, derivatives: bool = True) -> tuple[Prepared, Tensor]:
        """Runs the program.

        Args:
            given (Tensor): Input angles or amplitudes, ``(batch, n)``.
            derivatives (bool): Not used: the last state is all that `vjp` takes.

        Returns:
            tuple[Prepared, Tensor]: What depends on the samples, and the last state.
        """
        prepared = self._program.preparation.forward(given, self._matrices)
        state = self._program.evolve(prepared.state, self._matrices, prepared)
        return prepared, state.detach()

    def values(self, run: tuple[Prepared, Tensor]) -> Tensor:
        """Expectation values, ``(batch, n_observables)``, from what `forward` returned."""
        return self._program.measurement.values(run[1])

    def vjp(
        self, run: tuple[Prepared, Tensor], cotangent: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The vector-Jacobian product.

        Args:
            run (tuple[Prepared, Tensor]): What `forward` returned; not modified.
            cotangent (Tensor): Of the values, ``(batch, n_observables)``.

        Returns:
            tuple[Tensor | None, Tensor | None]: Of what was given, ``(batch, n)``, and of the
            weights, ``(m,)``; None where not needed.
        """
        program, matrices, (prepared, state) = self._program, self._matrices, run
        cotangents = MatrixCotangents()
        of_angles = state.real.new_zeros(program.tables.n_inputs, prepared.angles.shape[1])
        of_state = program.measurement.vjp(state, cotangent)
        if program.in_reals:
            if self._needs[1]:
                real, imaginary = (of_state @ prepared.state.T).chunk(2)
                cotangents.dense[0] = torch.complex(real, -imaginary)
            of_state = matrices.dense[0].T @ of_state
        else:
            of_state = self._steps_vjp(prepared, state, of_state, cotangents, of_angles)
        of_given = program.preparation.vjp(prepared, of_state, cotangents, of_angles, self._needs)
        return (
            of_given.T if self._needs[0] else None,
            matrices_vjp(program.tables, matrices, cotangents) if self._needs[1] else None,
        )

    def _steps_vjp(
        self,
        prepared: Prepared,
        state: Tensor,
        cotangent: Tensor,
        cotangents: MatrixCotangents,
        of_angles: Tensor,
    ) -> Tensor:
        """From the cotangent of the last state to that of the first.

        Args:
            prepared (Prepared): What depends on the samples.
            state (Tensor): The last state; not modified.
            cotangent (Tensor): Its cotangent; overwritten.
            cotangents (MatrixCotangents): Receives those of dense steps and of phases.
            of_angles (Tensor): Receives what steps add to the cotangent of the input angles.
        """
        program, matrices = self._program, self._matrices
        steps = program.plan.steps
        needed = [self._needs[0 if isinstance(step, InputPhases) else 1] for step in steps]
        for number in program.tables.fixed:
            needed[number] = False
        first = needed.index(True) if any(needed) else len(steps)
        # The state and its cotangent have buffers of their own: so a thread finds rows of both
        # where it wrote them.
        state_buffers, buffers = Buffers(state), Buffers(cotangent, cotangent)
        for number in range(len(steps) - 1, -1, -1):
            step, after = steps[number], cotangent
            if needed[number] and isinstance(step, InputPhases):
                program.tables.phases.vjp(number, after * state, of_angles)
            elif needed[number] and isinstance(step, Monomial) and step.phases:
                products = split_rows(after * state, program.lanes).sum(dim=(0, 2))[:, None]
                cotangents.phases[number] = products * matrices.phases[number].conj()
            cotangent = program.apply(number, after, matrices, prepared, buffers, True)
            is_dense = isinstance(step, Dense)
            if number and (number > first or (number == first and is_dense)):
                state = program.apply(number, state, matrices, prepared, state_buffers, True, True)
            if needed[number] and isinstance(step, Dense):
                before, left = state if number else prepared.state, program.lanes * step.left
                of_matrix = _outer(after, before, left, matrices.dense[number])
                cotangents.dense[number] = of_matrix.to(program.dtype)
        return cotangent


def _outer(cotangent: Tensor, state: Tensor, left: int, matrix: Tensor) -> Tensor:
    """The cotangent of a step's matrix: ``c psi^T``, summed over all but its rows."""
    if matrix.dtype != cotangent.dtype:
        # Re(c psi^T): of real and imaginary parts side by side, as -i i = 1.
        cotangent, state = as_reals(cotangent), as_reals(state.conj_physical())
    cotangent, state = (rows.reshape(left, len(matrix), -1) for rows in (cotangent, state))
    products = outer_products(cotangent, state)
    return products[0] if left == 1 else products.sum(dim=0)
