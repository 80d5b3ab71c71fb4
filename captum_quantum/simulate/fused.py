"""The fused simulator: runs a plan on a batch of states, and goes back through it for gradients.

The state psi is a tensor ``(2**n, batch)``: reordering its rows copies whole rows, and a dense step
is one matrix product. On a CPU, a large batch runs in lanes, whose states follow each other,
``(lanes * 2**n, batch / lanes)``: as every operation is shared among threads by rows, a thread
finds the numbers that it needs where it wrote them.

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

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.matrices import (
    ByStatic,
    Halves,
    Product,
    Static,
    Tables,
    as_matrices,
    by_lanes,
    cast,
    in_lanes,
    of_lanes,
    take,
)
from captum_quantum.simulate.plan import FRONT, WHOLE, Dense, Plan, Turn, make_plan
from captum_quantum.simulate.polynomial import Polynomial, Terms

BUDGET = 2**26
"""Bytes that one state of a batch may take; larger batches are cut into parts."""
LANES, LANE = 4, 32
"""On a CPU a batch runs in so many lanes, if that leaves at least so many samples for each."""


class FusedSimulator:
    """Runs one circuit; made once, kept by the layer.

    Args:
        circuit (Circuit): The circuit.

    Attributes:
        plan (Plan): What it runs; ``print(simulator.plan)`` shows it. For batches that run in lanes
            see :meth:`plan_for`.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> simulator = FusedSimulator(VQCLayer(1, n_layers=1, ansatz="real_amplitudes").circuit)
        >>> angles, weights = torch.tensor([[0.0], [1.0]]), torch.zeros(2)
        >>> simulator.run(angles, weights, torch.complex64)  # cos(0), cos(1)
        tensor([[1.0000],
                [0.5403]])
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.plan: Plan = make_plan(circuit)
        self._in_lanes: Plan | None = None
        self._programs: dict[tuple[torch.device, torch.dtype, int], _Program] = {}

    def __reduce__(self) -> Any:
        """Copies and pickles carry the circuit alone; tables are made anew."""
        return (type(self), (self.circuit,))

    def plan_for(self, batch: int) -> Plan:
        """What runs for so many samples on a CPU, while gradients need no derivatives themselves.

        A batch in lanes is many small products as it is; so its plan need not keep as many wires in
        front of a dense step's own, and has fewer reorderings.
        """
        if self._lanes(batch, torch.device("cpu")) == 1:
            return self.plan
        if self._in_lanes is None:
            self._in_lanes = make_plan(self.circuit, FRONT - (LANES.bit_length() - 1))
        return self._in_lanes

    def _lanes(self, batch: int, device: torch.device) -> int:
        fits = self.circuit.n_qubits > WHOLE and batch >= LANES * LANE and batch % LANES == 0
        return LANES if fits and device.type == "cpu" else 1

    def _program(self, device: torch.device, dtype: torch.dtype, batch: int = 1) -> "_Program":
        lanes = self._lanes(batch, device)
        key = (device, dtype, lanes)
        program = self._programs.get(key)
        if program is None:
            with torch.inference_mode(False):  # what is kept must serve training later
                plan = self.plan if lanes == 1 else self.plan_for(batch)
                program = self._programs[key] = _Program(plan, device, dtype, lanes)
        return program

    def run(self, inputs: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Expectation values, recorded by autograd step by step: derivatives of any order.

        Args:
            inputs (Tensor): Input angles, one for each gate that takes one, ``(batch, n)``; under
                amplitude encoding the initial states, ``(batch, 2**n_qubits)``.
            weights (Tensor): Weight angles, one for each gate that takes one, ``(m,)``.
            dtype (torch.dtype): complex64 or complex128.

        Returns:
            Tensor: ``(batch, n_observables)``.
        """
        program = self._program(inputs.device, dtype)
        static = program.make_static(weights)
        batched = program.make_batched(inputs, static)
        return program.read(program.evolve(static, batched.state, batched))

    def call(
        self,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        needs: tuple[bool, bool] = (False, False),
    ) -> "tuple[Tensor, FusedCall]":
        """Expectation values with adjoint differentiation.

        Args:
            inputs: As in :meth:`run`.
            weights: As in :meth:`run`.
            dtype: As in :meth:`run`.
            needs (tuple[bool, bool]): Whether derivatives by inputs and by weights will be wanted.

        Returns:
            tuple[Tensor, FusedCall]: Values ``(batch, n_observables)``, and the way back. The call
            does not hold the values: a graph whose node holds it would never be freed.
        """
        program = self._program(inputs.device, dtype)
        if needs[1] or not program.is_polynomial:
            program = self._program(inputs.device, dtype, len(inputs))
        call = FusedCall(program, inputs, weights, needs)
        return call.run(), call


class FusedCall:
    """One evaluation of a batch, cut into parts where memory asks for it."""

    def __init__(
        self,
        program: "_Program",
        inputs: Tensor,
        weights: Tensor,
        needs: tuple[bool, bool],
    ) -> None:
        self._program, self._needs = program, needs
        self._static = program.static(weights.detach())
        self._polynomial = None if needs[1] else program.polynomial(self._static)
        self._size = program.lanes * max(1, BUDGET // program.row_bytes // program.lanes)
        inputs = inputs.detach()
        self._parts = inputs.split(self._size) if len(inputs) > self._size else (inputs,)
        # A batch in one part keeps this for the way back; else each part runs once more.
        self._kept: _Kept | None = None

    def run(self) -> Tensor:
        """Expectation values, ``(batch, n_observables)``."""
        values = []
        with torch.no_grad():
            for part in self._parts:
                kept = self._forward(part)
                values.append(self._read(kept))
        if len(values) > 1:
            return torch.cat(values)
        if any(self._needs):
            self._kept = kept
        return values[0]

    def _forward(self, inputs: Tensor) -> "_Kept":
        if self._polynomial is not None:
            return self._polynomial.terms(self._program.whole_angles(inputs), self._needs[0])
        batched = self._program.make_batched(inputs, self._static)
        return batched, self._program.evolve(self._static, batched.state, batched).detach()

    def _read(self, kept: "_Kept") -> Tensor:
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            return self._polynomial.read(kept)
        return self._program.read(kept[1])

    def _back(self, kept: "_Kept", grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            by_angles = self._polynomial.back(kept, grad.to(self._program.real))
            return self._program.tables.whole_angles.back(by_angles).T, None
        return self._program.back(self._static, *kept, grad, *self._needs)

    def pull(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Output gradients ``(batch, n_observables)`` to those that ``needs`` asked for.

        Returns:
            tuple: By inputs, ``(batch, n)``, and by weight angles, ``(m,)``.
        """
        with torch.no_grad():
            if self._kept is not None:
                return self._back(self._kept, grad)
            parts = zip(grad.split(self._size), self._parts, strict=True)
            found = [self._back(self._forward(inputs), part) for part, inputs in parts]
        by_inputs, by_weights = zip(*found, strict=True)
        inputs, weights = self._needs
        return torch.cat(by_inputs) if inputs else None, sum(by_weights) if weights else None

    def pull_inputs(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to inputs ``(batch, n)``."""
        result = self.pull(grad)[0]
        assert result is not None
        return result

    def pull_weights(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to weight angles ``(m,)``."""
        result = self.pull(grad)[1]
        assert result is not None
        return result


@dataclass
class _Batched:
    """All that depends on the sample.

    Attributes:
        angles (Tensor): Input angles, ``(n, batch)``, or amplitudes.
        halves (Halves): The phases of turns on single wires.
        waves (Tensor or None): 1, cosines and sines of input angles of the head but those that are
            first on a wire.
        entries (Tensor): Entries that the head's matrices read, shared ones first, ``(e, batch)``.
        levels (list[Tensor]): The head's matrices: shared ``(n, 2, 2)``, or ``(n, 2, 2, batch)``.
        vectors (list[Tensor]): The wires' vectors before the first level, real, and after each:
            ``(n, 2, batch or 1)``.
        product (Product or None): Their product; None under amplitude encoding.
        state (Tensor): The state after the head, ``(lanes * 2**n, batch / lanes)``.
    """

    angles: Tensor
    halves: Halves
    waves: Tensor | None
    entries: Tensor
    levels: list[Tensor]
    vectors: list[Tensor]
    product: Product | None
    state: Tensor


_Kept = tuple[_Batched, Tensor] | Terms
"""What a forward run leaves for the way back: all that depends on the sample."""


class _Buffers:
    """Where the next operation writes: two buffers in turn, or new memory under transforms.

    Neither autograd, while it records, nor ``torch.func`` allows writing into a given tensor.

    New memory for every operation would cost more than it computes: the system clears each page
    of it when it is first touched.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._transformed = (
            torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None
        )
        self._buffers: list[Tensor] = []
        self._count = 0

    def next(self) -> Tensor | None:
        """The buffer that was not written last; None stands for new memory."""
        if self._transformed:
            return None
        if len(self._buffers) < 2:
            self._buffers.append(self._like.new_empty(self._like.shape))
        self._count += 1
        return self._buffers[(self._count - 1) % 2]


def _as_reals(states: Tensor) -> Tensor:
    """``(..., b)`` complex to ``(..., 2 b)`` real, both parts side by side; real as it is."""
    return torch.view_as_real(states).flatten(-2) if states.is_complex() else states


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Products of 2 x 2 matrices and vectors, a pair for each sample: ``(n, 2, 2, b), (n, 2, b)``.

    Written out, as a library's batched product of such small matrices costs more than it computes.
    """
    return left[:, :, 0] * right[:, 0:1] + left[:, :, 1] * right[:, 1:2]


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Lets glibc keep freed blocks of some MB for the next step.

    Else it gives them back to the system, which clears every page anew when it is touched again:
    that took longer than all the work of a step. glibc does so until a block of 32 MB was freed
    once. So one is, untouched; nothing but time depends on it.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


class _Program:
    """A plan on one device, in one precision, for samples in so many lanes."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        self.plan, self.device, self.lanes = plan, device, lanes
        self.real = dtype.to_real()
        self.dtype = self.real if plan.is_real else dtype
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * self.dtype.itemsize
        self.tables = Tables(plan, device, self.dtype, lanes)
        self._cached: tuple[Tensor, Static] | None = None
        self.amplitudes = plan.circuit.amplitude_encoding
        self.n_inputs = len(plan.circuit.columns("input"))
        _keep_freed_memory()
        zero = torch.tensor([1, 0], device=device, dtype=self.real)
        self.zero_vectors = zero.expand(self.n, 2)[..., None]
        signs = plan.readout.signs
        self.signs = None if signs is None else signs.to(device, self.real)
        parities = plan.readout.parities
        self.parities: tuple[Tensor, list[Tensor], Tensor] | None = None
        if parities is not None:
            first = parities.first.to(device, self.real)
            last = parities.last.to(device, self.real)
            # One product for each setting of the first bits; both ways are stored as they are read.
            count = lanes * first.shape[1]
            lasts = [part.expand(count, -1, -1) for part in (last, last.T.contiguous())]
            self.parities = first, lasts, parities.weights.to(device, self.real)
        # Of a real state the imaginary, antisymmetric part of an observable reads nothing.
        self.pairs = [
            (in_lanes(partner, 2**self.n, lanes).to(device), cast(weights, self.dtype).to(device))
            for partner, weights in plan.readout.pairs
        ]
        self.in_reals = self._runs_in_reals()
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
            and not (self.amplitudes or tables.head or self.pairs)
            and self.signs is not None
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
            assert self.signs is not None
            with torch.inference_mode(False), torch.no_grad():
                made = Polynomial(self._after_waves(static), self.signs)
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
        made = self.tables.make_static(weights)
        if self.in_reals:
            made.dense[0] = torch.cat([made.dense[0].real, made.dense[0].imag])
            return made
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense) and step.real:
                made.dense[number] = made.dense[number].real.contiguous()
        return made

    # -- from inputs to the first state ----------------------------------------------------------

    def make_batched(self, inputs: Tensor, static: Static) -> _Batched:
        """Makes what depends on the sample.

        Args:
            inputs (Tensor): Input angles in radians ``(batch, n)``, or amplitudes.
            static (Static): What does not depend on it.
        """
        tables = self.tables
        angles = inputs.to(self.real).T
        waves: Tensor | None = None
        entries = static.shared
        if tables.batched_factors.size:
            waves = tables.batched_factors.waves(angles)
            own = tables.batched_factors.entries(waves)
            entries = torch.cat([entries.expand(-1, len(inputs)), own])
        levels: list[Tensor] = []
        vectors: list[Tensor] = []
        product: Product | None = None
        if self.amplitudes:
            state = by_lanes(angles.to(self.dtype), self.lanes).flatten(0, 1)
        else:
            vectors.append(self._head_waves(angles))
            for number, links in enumerate(tables.head):
                before = vectors[-1]
                if links.batched:
                    assert links.index is not None
                    levels.append(take(entries, links.index))
                    vectors.append(_multiply(levels[-1], before))
                else:
                    levels.append(static.head[number])
                    vectors.append(_turn(levels[-1], before))
            last = vectors[-1]
            if self.lanes > 1:
                last = last.expand(-1, -1, len(inputs))
            product = Product(by_lanes(last, self.lanes))
            state = product.value.flatten(0, 1)
            state = state if self.in_reals else state.to(self.dtype)
            state = state.expand(-1, len(inputs) // self.lanes)
        halves = Halves(tables.circles.of(angles), self.lanes)
        return _Batched(angles, halves, waves, entries, levels, vectors, product, state)

    def _head_waves(self, angles: Tensor) -> Tensor:
        """Cosine and sine of every wire's first input angle, ``(n, 2, batch)``; or (1, 0)."""
        tables = self.tables
        if not tables.has_waves:
            return self.zero_vectors
        half = tables.half_angles.of(angles)
        return torch.stack([torch.cos(half), torch.sin(half)], dim=1)

    # -- forward ---------------------------------------------------------------------------------

    def evolve(self, static: Static, state: Tensor, batched: _Batched | None) -> Tensor:
        """Takes a state through all steps; in reals its parts, ``(2 * 2**n, batch)``."""
        if self.in_reals:
            return static.dense[0] @ state
        buffers = _Buffers(state)
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                left = self.lanes * step.left
                state = self._apply(static.dense[number], state, left, buffers.next())
                continue
            if isinstance(step, Turn):
                assert batched is not None
                phases = self.tables.turns[number].phases(batched.halves, batched.angles)
                state = self._turn(number, phases, state, buffers.next())
                continue
            if number in self.tables.rows:
                rows = self.tables.rows[number][0]
                state = torch.index_select(state, 0, rows, out=buffers.next())
            if step.phases:
                state = self._times(state, static.phases[number], buffers.next())
        return state

    def _times(self, state: Tensor, phases: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies every lane's rows by phases ``(2**n, 1)``."""
        target = None if out is None else self._of_lane(out)
        found = torch.mul(self._of_lane(state), phases, out=target)
        return found.flatten(0, 1) if out is None else out

    def _of_lane(self, rows: Tensor) -> Tensor:
        """``(lanes * m, ...)`` to ``(lanes, m, ...)``."""
        return rows.view(self.lanes, -1, *rows.shape[1:])

    def _apply(self, matrix: Tensor, state: Tensor, left: int, out: Tensor | None) -> Tensor:
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

    def _turn(self, number: int, phases: list[Tensor], state: Tensor, out: Tensor | None) -> Tensor:
        """Multiplies the rows of a state by a turn's phases."""
        turning = self.tables.turns[number]
        seen = turning.by_halves(state)
        target = None if out is None else turning.by_halves(out)
        for factor in phases:
            seen = torch.mul(seen, factor, out=target)
        return seen.flatten(0, 2) if out is None else out

    def read(self, state: Tensor) -> Tensor:
        """Expectation values of a state: ``(lanes * 2**n, ...)`` to ``(batch, n_observables)``."""
        values: Tensor | None = None
        if self.in_reals:
            assert self.signs is not None
            real, imaginary = state.square().chunk(2)
            return (self.signs @ (real + imaginary)).T
        squares = _as_reals(state.resolve_conj()).square()
        parts = squares.shape[1] // state.shape[1]
        if self.signs is not None:
            values = self.signs @ self._of_lane(squares)
            values = values.view(*values.shape[:2], -1, parts).sum(dim=-1)
        if self.parities is not None:
            first, (last, _), combine = self.parities
            by_last = torch.bmm(last, squares.view(*last.shape[::2], -1))
            by_both = first @ by_last.view(self.lanes, first.shape[1], -1)
            by_both = by_both.view(self.lanes, combine.shape[1], -1, parts)
            values = combine @ by_both.sum(dim=-1)
        for partner, weights in self.pairs:
            products = state.index_select(0, partner).conj() * state
            part = (weights @ self._of_lane(products)).real
            values = part if values is None else values + part
        assert values is not None
        return of_lanes(values).T

    # -- back ------------------------------------------------------------------------------------

    def _readout_back(self, psi: Tensor, grad: Tensor, W: Tensor) -> None:
        """Writes the gradient at the last state: ``2 sum_k grad_k (O_k psi)*``."""
        grad = by_lanes(2 * grad.T.to(self.real), self.lanes)
        # Both parts of a number at once: of the conjugate, the imaginary part with a minus.
        by_part = torch.stack([grad, -grad], dim=-1).flatten(-2) if W.is_complex() else grad
        by_row: Tensor | None = None
        if self.signs is not None:
            by_row = self.signs.T @ by_part
        elif self.parities is not None:
            first, (_, last), combine = self.parities
            by_sign = combine.T @ by_part
            by_last = first.T @ by_sign.view(self.lanes, len(first), -1)
            by_row = torch.bmm(last, by_last.view(*last.shape[::2], -1))
        if by_row is None:
            W.zero_()
        else:
            torch.mul(by_row.view(len(W), -1), _as_reals(psi), out=_as_reals(W))
        for partner, weights in self.pairs:
            coefficients = (weights.mH @ grad.to(self.dtype)).flatten(0, 1)
            W += (coefficients * psi.conj()).index_select(0, partner)

    @torch.no_grad()
    def back(
        self,
        static: Static,
        batched: _Batched,
        state: Tensor,
        grad: Tensor,
        inputs: bool,
        weights: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by input angles and weight angles, going back from the last state."""
        by = ByStatic()
        steps = self.plan.steps
        by_angles = state.real.new_zeros(batched.angles.shape) if self.tables.turns else None
        by_bits: dict[int, Tensor] = {}
        if self.in_reals:
            assert self.signs is not None
            by_square = 2 * (self.signs.T @ grad.T.to(self.real))
            by_parts = (state.view(2, *by_square.shape) * by_square).view(state.shape)
            if weights:
                real, imaginary = (by_parts @ batched.state.T).chunk(2)
                by.dense[0] = torch.complex(real, -imaginary)
            W = static.dense[0].T @ by_parts
            return self._head_back(static, batched, W, by_angles, by, inputs, weights)
        # The state is followed down to the first step that wants it, W down to the head; the state
        # before step 0 is still there. Each is a tensor of its own: so a thread finds rows of both
        # where it wrote them.
        wanted = [
            k for k, step in enumerate(steps) if (inputs if isinstance(step, Turn) else weights)
        ]
        last = max(wanted[0], 1) if wanted else len(steps)
        W, W_spare = torch.empty_like(state), torch.empty_like(state)
        self._readout_back(state, grad, W)
        if last < len(steps):
            psi, psi_spare = state.clone(), torch.empty_like(state)
        for number in range(len(steps) - 1, -1, -1):
            step = steps[number]
            follow = number >= last
            if isinstance(step, Turn):
                turning = self.tables.turns[number]
                phases = turning.phases(batched.halves, batched.angles)
                self._turn(number, phases, W, W_spare)
                W, W_spare = W_spare, W
                if follow:
                    backwards = [factor.conj_physical() for factor in phases]
                    self._turn(number, backwards, psi, psi_spare)
                    psi, psi_spare = psi_spare, psi
                if inputs:
                    assert by_angles is not None
                    before = psi if number else batched.state
                    product = torch.mul(W, before, out=W_spare)
                    turning.back(product, by_bits, by_angles)
            elif isinstance(step, Dense):
                matrix, left = static.dense[number], self.lanes * step.left
                self._apply(matrix.mT, W, left, W_spare)
                W, W_spare = W_spare, W
                if follow:
                    self._apply(matrix.conj_physical().mT, psi, left, psi_spare)
                    psi, psi_spare = psi_spare, psi
                if weights:
                    before = psi if number else batched.state
                    by.dense[number] = self._outer(W_spare, before, left, matrix)
            else:
                if step.phases:
                    self._times(W, static.phases[number], W_spare)
                    W, W_spare = W_spare, W
                    if follow:
                        self._times(psi, static.phases[number].conj_physical(), psi_spare)
                        psi, psi_spare = psi_spare, psi
                    if weights:
                        before = psi if number else batched.state
                        if number == 0 and number in self.tables.rows:
                            before = before.index_select(0, self.tables.rows[number][0])
                        product = self._of_lane(W_spare * before)
                        by.phases[number] = product.sum(dim=(0, 2))[:, None]
                if number in self.tables.rows:
                    back = self.tables.rows[number][1]
                    torch.index_select(W, 0, back, out=W_spare)
                    W, W_spare = W_spare, W
                    if follow:
                        torch.index_select(psi, 0, back, out=psi_spare)
                        psi, psi_spare = psi_spare, psi
        if by_bits:
            assert by_angles is not None
            by_angles += self.tables.circles.back(by_bits)
        return self._head_back(static, batched, W, by_angles, by, inputs, weights)

    def _outer(self, W: Tensor, psi: Tensor, left: int, matrix: Tensor) -> Tensor:
        """The gradient by a step's matrix: ``W psi^T``, summed over all but its rows."""
        if matrix.dtype != W.dtype:
            # Re(W psi^T): of real and imaginary parts side by side, as -i i = 1.
            W, psi = _as_reals(W), _as_reals(psi.conj_physical())
        W, psi = (rows.reshape(left, len(matrix), -1) for rows in (W, psi))
        found = W[0] @ psi[0].mT if left == 1 else torch.bmm(W, psi.mT).sum(dim=0)
        return found.to(self.dtype)

    def _head_back(
        self,
        static: Static,
        batched: _Batched,
        W: Tensor,
        by_angles: Tensor | None,
        by: ByStatic,
        inputs: bool,
        weights: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """From the first state to the angles."""
        tables = self.tables
        by_inputs: Tensor | None = None
        by_entries: Tensor | None = None
        if batched.waves is not None:
            by_entries = torch.zeros_like(batched.entries)
        if self.amplitudes:
            by_inputs = of_lanes(self._of_lane(W.real))
        else:
            by_waves = self._vectors_back(batched, W, by, by_entries, weights)
            if inputs:
                by_inputs = self._waves_back(batched, by_waves)
        if by_angles is not None and by_inputs is not None:
            by_inputs = by_inputs + by_angles
        if by_entries is not None:
            if batched.waves is not None and inputs:
                own = by_entries[len(tables.shared) :]
                found = tables.batched_factors.back(batched.waves, own)
                by_inputs = found if by_inputs is None else by_inputs + found
            if weights:
                by.shared = by_entries[: len(tables.shared)].sum(dim=1, keepdim=True)
        return (
            by_inputs.T if inputs and by_inputs is not None else None,
            tables.static_back(static, by) if weights else None,
        )

    def _vectors_back(
        self, batched: _Batched, W: Tensor, by: ByStatic, by_entries: Tensor | None, weights: bool
    ) -> Tensor:
        """From the product to the first vectors, ``(n, 2, batch)`` real; adds up what it meets."""
        assert batched.product is not None
        levels, vectors = batched.levels, batched.vectors
        if not levels:
            W = W.real
        W = of_lanes(batched.product.back(self._of_lane(W)))
        for number in range(len(levels) - 1, -1, -1):
            matrices, before = levels[number], vectors[number]
            links = self.tables.head[number]
            if links.batched:
                assert by_entries is not None
                W_matrices = W[:, :, None] * before[:, None]
                flat = W_matrices.reshape(-1, W_matrices.shape[-1])
                by_entries.index_add_(0, links.index.reshape(-1), flat)
                W = _multiply(matrices.transpose(1, 2), W)
            elif number or not W.is_complex():
                if weights:
                    by.head[number] = W @ before.mT.expand(-1, W.shape[2], -1)
                W = matrices.mT @ W
            else:
                parts = torch.cat([W.real, -W.imag], dim=1)
                if weights:
                    found = parts @ before.mT.expand(-1, parts.shape[2], -1)
                    by.head[number] = torch.complex(found[:, :2], -found[:, 2:])
                return torch.cat([matrices.real, matrices.imag], dim=1).mT @ parts
        return W.real

    def _waves_back(self, batched: _Batched, by_waves: Tensor) -> Tensor:
        """From cosines and sines to the input angles, ``(n_inputs, batch)``."""
        tables = self.tables
        if not tables.has_waves:
            return by_waves.new_zeros(self.n_inputs, by_waves.shape[-1])
        cosine, sine = batched.vectors[0].unbind(1)
        return tables.half_angles.back(cosine * by_waves[:, 1] - sine * by_waves[:, 0])


def _turn(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Shared 2 x 2 matrices ``(n, 2, 2)`` on vectors ``(n, 2, b)``, complex or real."""
    if vectors.dtype == matrices.dtype:
        return matrices @ vectors
    parts = torch.cat([matrices.real, matrices.imag], dim=1) @ vectors
    return torch.complex(parts[:, :2], parts[:, 2:])
