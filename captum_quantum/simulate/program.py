"""A plan on one device, in one precision: what depends on weights, and the steps forward."""

import torch
from torch import Tensor

from captum_quantum.simulate.head import Batched, Head
from captum_quantum.simulate.lanes import rows_by_lane
from captum_quantum.simulate.memory import Buffers, keep_freed_memory
from captum_quantum.simulate.plan import Dense, Plan, Turn
from captum_quantum.simulate.polynomial import Polynomial
from captum_quantum.simulate.products import Product, as_matrices
from captum_quantum.simulate.reading import Reading
from captum_quantum.simulate.static import Static, make_static
from captum_quantum.simulate.tables import Tables


class Program:
    """A plan on one device, in one precision, for samples in so many lanes."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        self.plan, self.device, self.lanes = plan, device, lanes
        self.real = dtype.to_real()
        self.dtype = self.real if plan.is_real else dtype
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * self.dtype.itemsize
        self.tables = Tables(plan, device, self.dtype, lanes)
        self.reading = Reading(plan.readout, self.n, device, self.dtype, lanes)
        self.in_reals = self._runs_in_reals()
        self.head = Head(self.tables, self.in_reals)
        self._cached: tuple[Tensor, Static] | None = None
        keep_freed_memory()
        # Coefficients pay where they are used again: on a CPU, where weights are compared.
        self.is_polynomial = plan.is_polynomial and device.type == "cpu"
        self._polynomial: tuple[Static, Polynomial] | None = None

    def _runs_in_reals(self) -> bool:
        """Whether the body is one complex matrix on a real state, of whose result moduli are read.

        Then nothing needs complex numbers: real and imaginary parts are two real products.
        """
        steps, tables = self.plan.steps, self.tables
        return (
            self.dtype.is_complex
            and len(steps) == 1
            and isinstance(steps[0], Dense)
            and len(steps[0].wires) == self.n
            and not (self.plan.circuit.amplitude_encoding or tables.head or self.reading.pairs)
            and self.reading.signs is not None
        )

    def static(self, weights: Tensor) -> Static:
        """What depends on weights alone, from the last call if they are unchanged.

        On a CPU the weights are compared, which finds every change; elsewhere that would wait for
        the device, so it is made anew.
        """
        cached = self._cached
        if cached is not None and weights.is_cpu and torch.equal(cached[0], weights):
            return cached[1]
        with torch.inference_mode(False), torch.no_grad():
            own = weights.clone()
            made = self.make_static(own)
            self._cached = (own, made)
        return made

    def polynomial(self, static: Static) -> Polynomial | None:
        """The values as polynomials of the inputs, if the circuit allows it.

        They are made when first asked for, and kept as long as what depends on weights alone.
        """
        if not self.is_polynomial:
            return None
        cached = self._polynomial
        if cached is None or cached[0] is not static:
            assert self.reading.signs is not None
            with torch.inference_mode(False), torch.no_grad():
                made = Polynomial(self._after_waves(static), self.reading.signs)
            cached = self._polynomial = (static, made)
        return cached[1]

    def _after_waves(self, static: Static) -> Tensor:
        """All that follows the first rotations as one matrix; in reals its parts."""
        if self.tables.head:
            vectors = static.head[0].reshape(1, self.n, 4, 1)
            start = as_matrices(Product(vectors).value)[0, ..., 0].contiguous()
        else:
            dtype = self.real if self.in_reals else self.dtype
            start = torch.eye(2**self.n, dtype=dtype, device=self.device)
        return self.evolve(static, start, None)

    def whole_angles(self, inputs: Tensor) -> Tensor:
        """What polynomials take: ``(batch, n_inputs)`` to ``(n, batch)``."""
        return self.tables.whole_angles.of(inputs.to(self.real).T)

    def make_static(self, weights: Tensor) -> Static:
        """Makes what depends on weights alone: matrices as `evolve` takes them."""
        made = make_static(self.tables, weights)
        if self.in_reals:
            made.dense[0] = torch.cat([made.dense[0].real, made.dense[0].imag])
            return made
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense) and step.real:
                made.dense[number] = made.dense[number].real.contiguous()
        return made

    def evolve(self, static: Static, state: Tensor, batched: Batched | None) -> Tensor:
        """Takes a state through all steps; in reals its parts, ``(2 * 2**n, batch)``."""
        if self.in_reals:
            return static.dense[0] @ state
        buffers = Buffers(state)
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                left = self.lanes * step.left
                state = self.apply(static.dense[number], state, left, buffers.next())
                continue
            if isinstance(step, Turn):
                assert batched is not None
                phases = self.tables.turns[number].phases(batched.halves, batched.angles)
                state = self.turn(number, phases, state, buffers.next())
                continue
            if number in self.tables.rows:
                rows = self.tables.rows[number][0]
                state = torch.index_select(state, 0, rows, out=buffers.next())
            if step.phases:
                state = self.times(state, static.phases[number], buffers.next())
        return state

    def times(self, state: Tensor, phases: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies every lane's rows by phases ``(2**n, 1)``."""
        target = None if out is None else rows_by_lane(out, self.lanes)
        found = torch.mul(rows_by_lane(state, self.lanes), phases, out=target)
        return found.flatten(0, 1) if out is None else out

    def apply(self, matrix: Tensor, state: Tensor, left: int, out: Tensor | None) -> Tensor:
        """Multiplies rows, seen as ``(left, d, ...)``, by a matrix ``(d, d)``, real or complex."""
        # A real matrix acts on real and imaginary parts alike.
        by_part = state.is_complex() and not matrix.is_complex()
        size = len(matrix)
        seen = (torch.view_as_real(state) if by_part else state).reshape(left, size, -1)
        target = None
        if out is not None:
            target = (torch.view_as_real(out) if by_part else out).view(seen.shape)
        if left == 1:
            found = torch.mm(matrix, seen[0], out=None if target is None else target[0])
        elif seen.shape[2] == 1:
            column = None if target is None else target[..., 0]
            found = torch.mm(seen[..., 0], matrix.mT, out=column)
        else:
            found = torch.bmm(matrix.expand(left, -1, -1), seen, out=target)
        if out is not None:
            return out
        if by_part:
            return torch.view_as_complex(found.view(*state.shape, 2))
        return found.view(state.shape)

    def turn(self, number: int, phases: list[Tensor], state: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies the rows of a state by a turn's phases."""
        turning = self.tables.turns[number]
        seen = turning.by_halves(state)
        target = None if out is None else turning.by_halves(out)
        for factor in phases:
            seen = torch.mul(seen, factor, out=target)
        return seen.flatten(0, 2) if out is None else out

    def read(self, state: Tensor) -> Tensor:
        """Expectation values of the last state, ``(batch, n_observables)``."""
        return self.reading.read_parts(state) if self.in_reals else self.reading.read(state)

    def probabilities(self, state: Tensor) -> Tensor:
        """The probability of each basis state in the last state, ``(batch, 2**n)``."""
        if self.in_reals:
            state = torch.complex(*state.chunk(2))
        return self.reading.probabilities(state)
