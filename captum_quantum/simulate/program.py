"""A plan on one device, in one precision."""

import torch
from torch import Tensor

from captum_quantum.simulate.lanes import split_rows
from captum_quantum.simulate.matrices import Matrices, make_matrices
from captum_quantum.simulate.measurement import Measurement
from captum_quantum.simulate.memory import Buffers, keep_freed_memory
from captum_quantum.simulate.plan import Dense, InputPhases, Plan
from captum_quantum.simulate.polynomial import Polynomial
from captum_quantum.simulate.preparation import Preparation, Prepared
from captum_quantum.simulate.products import KroneckerProduct, as_matrices
from captum_quantum.simulate.tables import Tables


class Program:
    """What runs a plan.

    If the plan's only step is a complex matrix on a real state, and only moduli of the result are
    read, complex numbers are not needed: the result's real and imaginary parts are two products of
    real matrices. Then the states after the step are ``(2 * 2**n, batch)``, real parts above
    imaginary ones, as is the matrix.

    Args:
        plan (Plan): The plan.
        device (torch.device): Where.
        dtype (torch.dtype): complex64 or complex128.
        lanes (int): Number of lanes that a batch runs in.

    Attributes:
        dtype (torch.dtype): Of the states: real if all of the plan's numbers are.
        real (torch.dtype): The real one of this precision.
        row_bytes (int): Bytes that the state of one sample takes.
        in_reals (bool): Whether the above holds.
        has_polynomial (bool): Whether `polynomial` can be called.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        self.plan, self.lanes = plan, lanes
        self.real = dtype.to_real()
        self.dtype = self.real if plan.is_real else dtype
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * self.dtype.itemsize
        self.tables = Tables(plan, device, self.dtype, lanes)
        self.measurement = Measurement(plan.readout, self.n, device, self.dtype, lanes)
        self.in_reals = (
            self.dtype.is_complex
            and len(plan.steps) == 1
            and isinstance(plan.steps[0], Dense)
            and len(plan.steps[0].wires) == self.n
            and not (plan.circuit.amplitude_encoding or self.tables.levels or plan.readout.pairs)
            and plan.readout.signs is not None
        )
        self.preparation = Preparation(self.tables, self.in_reals)
        # Its coefficients pay where they are used again: on a CPU, where weights are compared.
        self.has_polynomial = plan.is_polynomial and device.type == "cpu"
        self._matrices: tuple[Tensor, Matrices] | None = None
        self._polynomial: tuple[Matrices, Polynomial] | None = None
        keep_freed_memory()

    def matrices(self, weights: Tensor) -> Matrices:
        """What depends on weights alone, from the last call if they are unchanged.

        On a CPU the weights are compared, which finds every change. Elsewhere that would wait for
        the device, and the matrices are rebuilt.
        """
        cached = self._matrices
        if cached is not None and weights.is_cpu and torch.equal(cached[0], weights):
            return cached[1]
        with torch.inference_mode(False), torch.no_grad():
            copy = weights.clone()
            matrices = self.make_matrices(copy)
            self._matrices = (copy, matrices)
        return matrices

    def make_matrices(self, weights: Tensor) -> Matrices:
        """Makes what depends on weights alone; differentiable."""
        matrices = make_matrices(self.tables, weights)
        if self.in_reals:
            matrices.dense[0] = torch.cat([matrices.dense[0].real, matrices.dense[0].imag])
        return matrices

    def polynomial(self, matrices: Matrices) -> Polynomial:
        """The values as polynomials of the inputs, kept as long as the matrices."""
        cached = self._polynomial
        if cached is None or cached[0] is not matrices:
            assert self.measurement.signs is not None
            with torch.inference_mode(False), torch.no_grad():
                if self.tables.levels:
                    vectors = matrices.levels[0].reshape(1, self.n, 4, 1)
                    start = as_matrices(KroneckerProduct(vectors).value)[0]
                else:
                    dtype = self.real if self.in_reals else self.dtype
                    device = self.measurement.signs.device
                    start = torch.eye(2**self.n, dtype=dtype, device=device)
                whole = self.evolve(start, matrices, None)
                cached = (matrices, Polynomial(whole, self.measurement.signs))
            self._polynomial = cached
        return cached[1]

    def run(self, given: Tensor, weights: Tensor) -> Tensor:
        """Expectation values, recorded by autograd step by step: derivatives of any order."""
        matrices = self.make_matrices(weights)
        prepared = self.preparation.forward(given, matrices)
        return self.values(self.evolve(prepared.state, matrices, prepared))

    def evolve(self, state: Tensor, matrices: Matrices, prepared: Prepared | None) -> Tensor:
        """Applies all steps to a state.

        Args:
            state (Tensor): ``(lanes * 2**n, batch / lanes)``.
            matrices (Matrices): What depends on weights alone.
            prepared (Prepared or None): What depends on the sample; None where no step does.
        """
        if self.in_reals:
            return matrices.dense[0] @ state
        buffers = Buffers(state)
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                state = self._dense(matrices.dense[number], state, step.left, buffers.next())
            elif isinstance(step, InputPhases):
                assert prepared is not None
                state = self._multiply(self._phases(number, prepared), state, buffers.next())
            else:
                if number in self.tables.rows:
                    index, _ = self.tables.rows[number]
                    state = torch.index_select(state, 0, index, out=buffers.next())
                if step.phases:
                    state = self._times(matrices.phases[number], state, buffers.next())
        return state

    def transpose(
        self,
        number: int,
        state: Tensor,
        matrices: Matrices,
        prepared: Prepared,
        buffers: Buffers,
        conjugate: bool,
    ) -> Tensor:
        """Applies ``U^T`` to a state, or ``U^H`` with ``conjugate``, for a step ``U``."""
        step = self.plan.steps[number]

        def conj(numbers: Tensor) -> Tensor:
            return numbers.conj_physical() if conjugate else numbers

        if isinstance(step, Dense):
            matrix = conj(matrices.dense[number]).mT
            return self._dense(matrix, state, step.left, buffers.next())
        if isinstance(step, InputPhases):
            phases = [conj(factor) for factor in self._phases(number, prepared)]
            return self._multiply(phases, state, buffers.next())
        if step.phases:
            state = self._times(conj(matrices.phases[number]), state, buffers.next())
        if number in self.tables.rows:
            _, inverse = self.tables.rows[number]
            state = torch.index_select(state, 0, inverse, out=buffers.next())
        return state

    def _phases(self, number: int, prepared: Prepared) -> list[Tensor]:
        return self.tables.phases.factors(number, prepared.halves, prepared.angles)

    def _times(self, phases: Tensor, state: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies every lane's rows by phases ``(2**n, 1)``."""
        target = None if out is None else split_rows(out, self.lanes)
        result = torch.mul(split_rows(state, self.lanes), phases, out=target)
        return result.flatten(0, 1) if out is None else out

    def _multiply(self, factors: list[Tensor], state: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies the rows by what `PhaseTable.factors` returned."""
        by_halves = self.tables.phases.by_halves
        result, target = by_halves(state), None if out is None else by_halves(out)
        for factor in factors:
            result = torch.mul(result, factor, out=target)
        return result.flatten(0, 2) if out is None else out

    def _dense(self, matrix: Tensor, state: Tensor, left: int, out: Tensor | None) -> Tensor:
        """Multiplies rows, seen as ``(lanes * left, d, ...)``, by a matrix ``(d, d)``."""
        # A real matrix acts on real and imaginary parts alike.
        by_parts = state.is_complex() and not matrix.is_complex()
        left, size = self.lanes * left, len(matrix)
        seen = (torch.view_as_real(state) if by_parts else state).reshape(left, size, -1)
        target = None
        if out is not None:
            target = (torch.view_as_real(out) if by_parts else out).view(seen.shape)
        if left == 1:
            result = torch.mm(matrix, seen[0], out=None if target is None else target[0])
        elif seen.shape[2] == 1:
            column = None if target is None else target[..., 0]
            result = torch.mm(seen[..., 0], matrix.mT, out=column)
        else:
            result = torch.bmm(matrix.expand(left, -1, -1), seen, out=target)
        if out is not None:
            return out
        if by_parts:
            return torch.view_as_complex(result.view(*state.shape, 2))
        return result.view(state.shape)

    def values(self, state: Tensor) -> Tensor:
        """Expectation values of the last state, ``(batch, n_observables)``."""
        measurement = self.measurement
        return (measurement.values_of_parts if self.in_reals else measurement.values)(state)

    def probabilities(self, state: Tensor) -> Tensor:
        """The probability of each basis state in the last state, ``(batch, 2**n)``."""
        if self.in_reals:
            state = torch.complex(*state.chunk(2))
        return self.measurement.probabilities(state)
