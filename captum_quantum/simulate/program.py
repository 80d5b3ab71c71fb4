"""A plan on one device, in one precision."""

import torch
from torch import Tensor

from captum_quantum import _compat
from captum_quantum.simulate.layout import Buffers, keep_freed_memory
from captum_quantum.simulate.matrices import Matrices, make_matrices
from captum_quantum.simulate.measurement import Measurement
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
        in_parts (bool): Whether initial states are given as real and imaginary parts.

    Attributes:
        dtype (torch.dtype): Of the states: real if all of the plan's numbers are.
        real (torch.dtype): The real one of this precision.
        row_bytes (int): Bytes that the state of one sample takes.
        in_reals (bool): Whether the above holds.
        has_polynomial (bool): Whether `polynomial` can be called.
        keeps_given (bool): Whether the vector-Jacobian product of a run reads what was given.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype,
        lanes: int,
        in_parts: bool = False,
    ) -> None:
        self.plan, self.lanes = plan, lanes
        self.real = dtype.to_real()
        self.dtype = self.real if plan.is_real and not in_parts else dtype
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * self.dtype.itemsize
        self.tables = Tables(plan, device, self.dtype, lanes)
        self.in_reals = (
            self.dtype.is_complex
            and len(plan.steps) == 1
            and isinstance(plan.steps[0], Dense)
            and len(plan.steps[0].wires) == self.n
            and not (plan.circuit.amplitude_encoding or self.tables.levels or plan.readout.pairs)
            and plan.readout.signs is not None
        )
        self.preparation = Preparation(self.tables, self.in_reals, in_parts)
        self.measurement = Measurement(
            plan.readout, self.n, device, self.dtype, lanes, self.in_reals
        )
        # Its coefficients pay where they are used again: on a CPU, where weights are compared.
        self.has_polynomial = plan.is_polynomial and device.type == "cpu"
        self.keeps_given = self.tables.phases.reads_angles or plan.circuit.amplitude_encoding
        self._matrices: tuple[Tensor, Matrices] | None = None
        self._polynomial: tuple[Matrices, Polynomial] | None = None
        keep_freed_memory()

    def matrices(self, weights: Tensor) -> Matrices:
        """What depends on weights alone, from the last call if they are unchanged.

        On a CPU the weights are compared, which finds every change. Elsewhere that would wait for
        the device, and the matrices are rebuilt.
        """
        if _compat.in_transform():
            return self.make_matrices(weights)
        cached = self._matrices
        if cached is not None and weights.is_cpu and torch.equal(cached[0], weights):
            return cached[1]
        with torch.inference_mode(False), torch.no_grad():
            copy = weights.clone()
            matrices = self.make_matrices(copy)
        if weights.is_cpu:
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
                angles = self.tables.whole_angles
                cached = (matrices, Polynomial(whole, self.measurement.signs, angles))
            if not _compat.in_transform():
                self._polynomial = cached
        return cached[1]

    def run(self, given: Tensor, weights: Tensor) -> Tensor:
        """Expectation values, recorded by autograd step by step: derivatives of any order."""
        matrices = self.make_matrices(weights)
        prepared = self.preparation.forward(given, matrices)
        return self.measurement.values(self.evolve(prepared.state, matrices, prepared))

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
        for number in range(len(self.plan.steps)):
            state = self.apply(number, state, matrices, prepared, buffers)
        return state

    def apply(
        self,
        number: int,
        state: Tensor,
        matrices: Matrices,
        prepared: Prepared | None,
        buffers: Buffers,
        transpose: bool = False,
        conjugate: bool = False,
    ) -> Tensor:
        """Applies a step ``U`` to a state, or ``U^T``, or with both flags ``U^H``.

        Args:
            number (int): The step.
            state (Tensor): ``(lanes * 2**n, batch / lanes)``; not modified.
            matrices (Matrices): What depends on weights alone.
            prepared (Prepared or None): What depends on the sample.
            buffers (Buffers): Memory for the result.
            transpose (bool): Whether to transpose ``U``.
            conjugate (bool): Whether to conjugate ``U``.
        """
        step = self.plan.steps[number]
        if isinstance(step, Dense):
            matrix = matrices.dense[number]
            matrix = matrix.conj_physical() if conjugate else matrix
            matrix = matrix.mT if transpose else matrix
            return self._dense(matrix, state, self.lanes * step.left, buffers.next())
        if isinstance(step, InputPhases):
            assert prepared is not None
            factors = self.tables.phases.factors(number, prepared.halves, prepared.angles)
            if conjugate:
                factors = [factor.conj_physical() for factor in factors]
            return self._multiply(factors, state, buffers.next(), self.tables.phases.shape)
        index = self.tables.rows[number][transpose] if number in self.tables.rows else None
        if index is not None and not transpose:
            state = torch.index_select(state, 0, index, out=buffers.next())
        if step.phases:
            phases = matrices.phases[number]
            phases = phases.conj_physical() if conjugate else phases
            state = self._multiply([phases], state, buffers.next(), (self.lanes, -1))
        if index is not None and transpose:
            state = torch.index_select(state, 0, index, out=buffers.next())
        return state

    @staticmethod
    def _multiply(
        factors: list[Tensor], state: Tensor, out: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Multiplies rows, seen in a shape, by factors."""
        target = None if out is None else out.view(*shape, out.shape[1])
        result = state.view(*shape, state.shape[1])
        for factor in factors:
            result = torch.mul(result, factor, out=target)
        return result.view(state.shape) if out is None else out

    @staticmethod
    def _dense(matrix: Tensor, state: Tensor, left: int, out: Tensor | None) -> Tensor:
        """Multiplies rows, seen as ``(left, d, ...)``, by a matrix ``(d, d)``."""
        # A real matrix acts on real and imaginary parts alike.
        by_parts = state.is_complex() and not matrix.is_complex()
        seen = (torch.view_as_real(state) if by_parts else state).reshape(left, len(matrix), -1)
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
