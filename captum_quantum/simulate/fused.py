"""The fused simulator: runs a plan on a batch of states, and goes back through it for gradients.

The state is a tensor ``(2**n, batch)``: reordering its rows copies whole rows, and a dense step is
one matrix product. Values need nothing but the current state. Gradients are found by adjoint
differentiation: the readout gives the gradient at the last state, every step takes state and
gradient one step back with the adjoint of its matrix, and the product of the two, summed over the
batch, is the gradient by the matrix. So no state but the last is kept, whatever the depth. From the
matrices to the angles, PyTorch's autograd takes over: they are small, and made all at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.gates import extended_index
from captum_quantum.simulate.plan import Chain, Dense, Factor, Plan, make_plan

BUDGET = 2**26
"""Bytes that one state of a batch may take; larger batches are cut into parts."""


@dataclass
class _Static:
    """All that depends on weights alone.

    Attributes:
        weights (Tensor): The weights it was made of, the start of its graph.
        entries (Tensor): 0, 1, then the entries of all factors' and runs' matrices, ``(e, 1)``.
        dense (dict): For each shared dense step its matrix.
        phases (dict): For each shared monomial step its phases, ``(2**n, 1)``.
    """

    weights: Tensor
    entries: Tensor
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class _Batched:
    """All that depends on the sample.

    Attributes:
        inputs (Tensor): The inputs it was made of, the start of its graph.
        state (Tensor): The state after the head, ``(2**n, batch)``.
        dense (dict): For each batched dense step its matrices, ``(batch, d, d)``.
        phases (dict): For each batched monomial step its phases, ``(2**n, batch)``.
    """

    inputs: Tensor
    state: Tensor
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


class FusedSimulator:
    """Runs one circuit; made once, kept by the layer.

    Args:
        circuit (Circuit): The circuit.

    Attributes:
        plan (Plan): What it runs; ``print(simulator.plan)`` shows it.

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
        self._programs: dict[tuple[torch.device, torch.dtype], _Program] = {}

    def __reduce__(self) -> Any:
        """Copies and pickles carry the circuit alone; tables are made anew."""
        return (type(self), (self.circuit,))

    def _program(self, device: torch.device, dtype: torch.dtype) -> "_Program":
        key = (device, dtype)
        if key not in self._programs:
            with torch.inference_mode(False):  # what is kept must serve training later
                self._programs[key] = _Program(self.plan, device, dtype)
        return self._programs[key]

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
        return program.read(program.evolve(static, batched))

    def call(
        self,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        needs: tuple[bool, bool] = (False, False),
    ) -> "FusedCall":
        """Expectation values with adjoint differentiation.

        Args:
            inputs: As in :meth:`run`.
            weights: As in :meth:`run`.
            dtype: As in :meth:`run`.
            needs (tuple[bool, bool]): Whether derivatives by inputs and by weights will be wanted.

        Returns:
            FusedCall: Its ``values``, and the way back.
        """
        return FusedCall(self._program(inputs.device, dtype), inputs, weights, needs)


class FusedCall:
    """One evaluation of a batch, cut into parts where memory asks for it.

    Attributes:
        values (Tensor): Expectation values, ``(batch, n_observables)``.
    """

    def __init__(
        self,
        program: "_Program",
        inputs: Tensor,
        weights: Tensor,
        needs: tuple[bool, bool],
    ) -> None:
        self._program, self._needs = program, needs
        self._static = program.static(weights.detach(), needs[1])
        self._size = max(1, BUDGET // program.row_bytes)
        self._parts = inputs.detach().split(self._size)
        # A batch in one part keeps its last state for the way back; else each part runs once more.
        self._kept: tuple[_Batched, Tensor] | None = None
        self._last: _Answer | None = None
        keep = len(self._parts) == 1 and any(needs)
        values = [program.read(self._forward(k, keep)[1]) for k in range(len(self._parts))]
        self.values = values[0] if len(values) == 1 else torch.cat(values)

    def _forward(self, part: int, keep: bool) -> tuple[_Batched, Tensor]:
        if self._kept is not None:
            return self._kept
        with torch.set_grad_enabled(keep):
            leaf = self._parts[part].detach().requires_grad_(keep and self._needs[0])
            batched = self._program.make_batched(leaf, self._static)
        with torch.no_grad():
            # Detached: without any step it is the head's state itself, with its graph.
            state = self._program.evolve(self._static, batched).detach()
        if keep and len(self._parts) == 1:
            self._kept = (batched, state)
        return batched, state

    def pull_inputs(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to inputs ``(batch, n)``."""
        result = self._pull(grad, weights=False)[0]
        assert result is not None
        return result

    def pull_weights(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to weight angles ``(m,)``."""
        result = self._pull(grad, weights=True)[1]
        assert result is not None
        return result

    def _pull(self, grad: Tensor, weights: bool) -> tuple[Tensor | None, Tensor | None]:
        # Autograd asks for weights first, then for inputs, with the same gradient: one way back.
        last = self._last
        if last is not None and last.answers(grad) and (last.by_weights is not None or not weights):
            return last.by_inputs, last.by_weights
        by_inputs: list[Tensor] = []
        by_weights: Tensor | None = None
        for k, part in enumerate(grad.split(self._size)):
            batched, state = self._forward(k, keep=True)
            one, other = self._program.back(
                self._static, batched, state, part, self._needs[0], weights
            )
            by_inputs += [] if one is None else [one]
            if other is not None:
                by_weights = other if by_weights is None else by_weights + other
        joined = torch.cat(by_inputs) if by_inputs else None
        self._last = _Answer(grad, grad._version, joined, by_weights)
        return joined, by_weights


@dataclass
class _Answer:
    """The last gradient that was pulled back, as it was then, and the result."""

    grad: Tensor
    version: int
    by_inputs: Tensor | None
    by_weights: Tensor | None

    def answers(self, grad: Tensor) -> bool:
        """Whether a gradient is the very same, without looking at its values."""
        return (
            self.grad.data_ptr() == grad.data_ptr()
            and self.grad.shape == grad.shape
            and self.grad.stride() == grad.stride()
            and self.version == grad._version
        )


def _take(entries: Tensor, index: Tensor) -> Tensor:
    """``(e, b)`` and an index of any shape to ``(*index.shape, b)``."""
    return entries.index_select(0, index.reshape(-1)).reshape(*index.shape, entries.shape[1])


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Products of 2 x 2 matrices, the batch last: ``(..., 2, 2, b)`` and ``(..., 2, c, b)``.

    Written out, as a library's batched product of such small matrices costs more than it computes.
    """
    first = left[..., :, 0:1, :] * right[..., 0:1, :, :]
    return first + left[..., :, 1:2, :] * right[..., 1:2, :, :]


def _kron(factors: Tensor) -> Tensor:
    """``(m, k, r, c, b) -> (m, r**k, c**k, b)``, the first factor the most significant."""
    if factors.shape[1] == 1:
        return factors[:, 0]
    half = factors.shape[1] // 2
    first, second = _kron(factors[:, :half]), _kron(factors[:, half:])
    product = first[:, :, None, :, None] * second[:, None, :, None, :]
    return product.flatten(1, 2).flatten(2, 3)


def _run_product(factors: Tensor) -> Tensor:
    """Multiplies ``(m, length, 2, 2)`` along ``length``, a power of 2, the first acting first."""
    while factors.shape[1] > 1:
        factors = factors[:, 1::2] @ factors[:, 0::2]
    return factors[:, 0]


@dataclass
class _Links:
    """2 x 2 matrices side by side: ``index (k, 2, 2)`` of entries; whether any is batched."""

    index: Tensor
    batched: bool


@dataclass
class _Layer:
    """A layer of a dense step's matrix: one-qubit matrices, a factor in its place, or a fixed one.

    Attributes:
        links (list[_Links]): Levels of one-qubit matrices to be multiplied.
        index (Tensor or None): Which entry stands where in the matrix, ``(d, d)``.
        matrix (Tensor or None): Fixed factors multiplied beforehand, ``(d, d)``.
    """

    links: list[_Links] = field(default_factory=list)
    index: Tensor | None = None
    matrix: Tensor | None = None


class _Factors:
    """The entries of many factors' matrices from their angles, all at once."""

    def __init__(
        self,
        factors: Sequence[Factor],
        place: dict[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        turning = [factor for factor in factors if not factor.is_fixed]
        slot = {id(factor): k for k, factor in enumerate(turning)}
        zero = torch.zeros(0, dtype=torch.complex128)
        constant, cosine, sine, slots = [zero], [zero], [zero], []
        self.starts: list[int] = []
        size = 0
        for factor in factors:
            own = factor.primitive
            self.starts.append(size)
            size += own.constant.numel()
            constant.append(own.constant.reshape(-1))
            nothing = torch.zeros(own.constant.numel(), dtype=torch.complex128)
            cosine.append(nothing if own.cosine is None else own.cosine.reshape(-1))
            sine.append(nothing if own.sine is None else own.sine.reshape(-1))
            slots += [slot.get(id(factor), 0)] * own.constant.numel()
        self.size = size
        self.constant, self.cosine, self.sine = (
            torch.cat(parts).to(device, dtype)[:, None] for parts in (constant, cosine, sine)
        )
        self.slots = torch.tensor(slots, dtype=torch.long, device=device)
        columns = [place[factor.column] for factor in turning]
        self.columns = torch.tensor(columns, dtype=torch.long, device=device)
        self.frequencies = torch.tensor(
            [[factor.primitive.frequency] for factor in turning],
            device=device,
            dtype=dtype.to_real(),
        )

    def entries(self, angles: Tensor) -> Tensor:
        """``(n_angles, b) -> (n_entries, b)``."""
        if not len(self.columns):
            return self.constant
        turns = angles.index_select(0, self.columns) * self.frequencies
        cosine = torch.cos(turns).index_select(0, self.slots)
        sine = torch.sin(turns).index_select(0, self.slots)
        return self.constant + self.cosine * cosine + self.sine * sine


class _Program:
    """A plan's tables on one device, in one precision."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.plan, self.device, self.dtype = plan, device, dtype
        self.real = dtype.to_real()
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * dtype.itemsize
        self._cached: tuple[Tensor, bool, _Static] | None = None
        self._make_factors()
        self._make_links()
        self._make_steps()
        signs = plan.readout.signs
        self.signs = None if signs is None else signs.to(device, self.real)
        self.pairs = [(p.to(device), w.to(device, dtype)) for p, w in plan.readout.pairs]

    # -- tables: which entry stands where --------------------------------------------------------

    def _make_factors(self) -> None:
        """Entries 0 and 1 are 0 and 1; then come static factors, runs of such, batched factors."""
        circuit = self.plan.circuit
        inputs = {column: k for k, column in enumerate(circuit.columns("input"))}
        weights = circuit.columns("weight") + circuit.columns("constant")
        static = [k for k, factor in enumerate(self.plan.factors) if not factor.batched]
        batched = [k for k, factor in enumerate(self.plan.factors) if factor.batched]
        self.static_factors, self.batched_factors = (
            _Factors([self.plan.factors[k] for k in own], place, self.device, self.dtype)
            for own, place in (
                (static, {column: k for k, column in enumerate(weights)}),
                (batched, inputs),
            )
        )
        values = [circuit.angles[column][2].value for column in circuit.columns("constant")]
        self.constants = torch.tensor(values, device=self.device, dtype=self.real)
        self.start = {k: 2 + s for k, s in zip(static, self.static_factors.starts, strict=True)}
        self.batched_start = dict(zip(batched, self.batched_factors.starts, strict=True))
        self.numbers = torch.tensor([[0], [1]], device=self.device, dtype=self.dtype)

    def _make_links(self) -> None:
        """Splits chains into links: runs of static factors, merged, and single batched ones."""
        layers = [self.plan.head]
        for step in self.plan.steps:
            if isinstance(step, Dense):
                layers += [layer for layer in step.layers if not isinstance(layer, int)]
        runs: list[list[int]] = []
        self.chain_links: dict[Chain, list[tuple[int, bool]]] = {}
        first_run = 2 + self.static_factors.size
        for chain in (chain for layer in layers for chain in layer):
            links: list[tuple[int, bool]] = []
            run: list[int] = []
            for position in (*chain.factors, -1):
                if position >= 0 and position in self.start:
                    run.append(position)
                    continue
                if len(run) == 1:
                    links.append((self.start[run[0]], False))
                elif run:
                    links.append((first_run + 4 * len(runs), False))
                    runs.append(run)
                run = []
                if position >= 0:
                    links.append((self.batched_start[position], True))
            self.chain_links[chain] = links
        self.n_static = first_run + 4 * len(runs)
        self.runs: Tensor | None = None
        if runs:
            length = 1 << (max(map(len, runs)) - 1).bit_length()
            table = _ONE.repeat(len(runs), length, 1, 1)
            for r, run in enumerate(runs):
                for k, position in enumerate(run):
                    table[r, k] = _square(self.start[position], 2)
            self.runs = table.to(self.device)

    def _entry(self, position: int) -> int:
        if position in self.start:
            return self.start[position]
        return self.n_static + self.batched_start[position]

    def _levels(self, chains: Sequence[Chain]) -> list[_Links]:
        """The chains' links side by side: level l holds the l-th link of every chain."""
        links = [self.chain_links[chain] for chain in chains]
        levels = []
        for level in range(max((len(own) for own in links), default=0)):
            index = _ONE.repeat(len(chains), 1, 1)
            batched = False
            for k, own in enumerate(links):
                if level < len(own):
                    start, is_batched = own[level]
                    index[k] = _square(start + (self.n_static if is_batched else 0), 2)
                    batched |= is_batched
            levels.append(_Links(index.to(self.device), batched))
        return levels

    def _make_steps(self) -> None:
        self.head = self._levels(self.plan.head)
        self.layers: dict[int, list[_Layer]] = {}
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}
        self.phase_rows: dict[int, Tensor] = {}
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                self.layers[number] = self._dense_layers(step)
                continue
            if step.rows is not None:
                back = torch.argsort(step.rows)
                self.rows[number] = (step.rows.to(self.device), back.to(self.device))
            if step.phases:
                diagonals = []
                for position, places in step.phases:
                    side = 2 ** len(self.plan.factors[position].wires)
                    diagonals.append(self._entry(position) + places * (side + 1))
                self.phase_rows[number] = torch.stack(diagonals).to(self.device)

    def _dense_layers(self, step: Dense) -> list[_Layer]:
        layers: list[_Layer] = []
        for layer in step.layers:
            if not isinstance(layer, int):
                layers.append(_Layer(links=self._levels(layer)))
                continue
            factor = self.plan.factors[layer]
            places = [step.wires.index(wire) for wire in factor.wires]
            own, others = extended_index(places, len(step.wires))
            same = others[:, None] == others[None, :]
            if factor.is_fixed:
                matrix = factor.primitive.constant[own[:, None], own[None, :]] * same
                before = layers[-1].matrix if layers else None
                if before is not None:
                    layers[-1].matrix = matrix @ before
                else:
                    layers.append(_Layer(matrix=matrix))
                continue
            entry = self._entry(layer) + own[:, None] * 2 ** len(places) + own[None, :]
            layers.append(_Layer(index=torch.where(same, entry, 0).to(self.device)))
        for made in layers:
            if made.matrix is not None:
                made.matrix = made.matrix.to(self.device, self.dtype)
        return layers

    # -- matrices from angles --------------------------------------------------------------------

    def static(self, weights: Tensor, needs_grad: bool) -> _Static:
        """What depends on weights alone, from the last call if they are unchanged.

        On a CPU the weights are compared, which finds every change; elsewhere that would wait for
        the device, so it is made anew.
        """
        cached = self._cached
        known = cached is not None and (cached[1] or not needs_grad) and self.device.type == "cpu"
        if cached is not None and known and torch.equal(cached[0], weights):
            return cached[2]
        with torch.inference_mode(False), torch.set_grad_enabled(needs_grad):
            made = self.make_static(weights.clone().requires_grad_(needs_grad))
            self._cached = (weights.detach().clone(), needs_grad, made)
        return made

    def make_static(self, weights: Tensor) -> _Static:
        """Makes what depends on weights alone: ``(m,)`` weight angles in radians."""
        angles = torch.cat([weights.to(self.real), self.constants])[:, None]
        entries = torch.cat([self.numbers, self.static_factors.entries(angles)])
        if self.runs is not None:
            factors = entries[:, 0].index_select(0, self.runs.reshape(-1)).reshape(self.runs.shape)
            entries = torch.cat([entries, _run_product(factors).reshape(-1, 1)])
        static = _Static(weights, entries)
        for number, step in enumerate(self.plan.steps):
            if step.batched:
                continue
            if isinstance(step, Dense):
                static.dense[number] = self._matrix(number, entries)[0]
            elif step.phases:
                static.phases[number] = _take(entries, self.phase_rows[number]).prod(dim=0)
        return static

    def make_batched(self, inputs: Tensor, static: _Static) -> _Batched:
        """Makes what depends on the sample: ``(batch, n)`` input angles in radians."""
        batch, entries = len(inputs), static.entries
        if self.batched_factors.size:
            own = self.batched_factors.entries(inputs.to(self.real).T)
            entries = torch.cat([entries.expand(-1, batch), own])
        if self.plan.circuit.amplitude_encoding:
            state = inputs.to(self.dtype).T.contiguous()
        else:
            state = self._product_state(static.entries, entries, batch)
        batched = _Batched(inputs, state)
        for number, step in enumerate(self.plan.steps):
            if not step.batched:
                continue
            if isinstance(step, Dense):
                batched.dense[number] = self._matrix(number, entries)
            else:
                batched.phases[number] = _take(entries, self.phase_rows[number]).prod(dim=0)
        return batched

    def _matrix(self, number: int, entries: Tensor) -> Tensor:
        """A dense step's matrix: ``(n_entries, b) -> (b, d, d)``."""
        result: Tensor | None = None
        for layer in self.layers[number]:
            if layer.matrix is not None:
                factor = layer.matrix
            elif layer.index is not None:
                factor = _take(entries, layer.index).movedim(-1, 0)
            else:
                pieces = _take(entries, layer.links[0].index)
                for links in layer.links[1:]:
                    pieces = _multiply(_take(entries, links.index), pieces)
                factor = _kron(pieces[None])[0].movedim(-1, 0)
            result = factor if result is None else factor @ result
        assert result is not None
        return result if result.dim() == 3 else result[None]

    def _product_state(self, static: Tensor, entries: Tensor, batch: int) -> Tensor:
        """The head: the product of every wire's vector, ``(2**n, batch)``."""
        vectors: Tensor | None = None
        for links in self.head:
            own = entries if links.batched else static
            if vectors is None:
                vectors = _take(own, links.index[:, :, 0:1])
            else:
                vectors = _multiply(_take(own, links.index), vectors)
        if vectors is None:
            vectors = _take(static, _ONE[:, 0:1].to(self.device)).expand(self.n, -1, -1, -1)
        return _kron(vectors[None])[0, :, 0].expand(-1, batch)

    # -- forward and back ------------------------------------------------------------------------

    def evolve(self, static: _Static, batched: _Batched) -> Tensor:
        """Takes the state through all steps."""
        state = batched.state
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                if step.batched:
                    each = torch.bmm(batched.dense[number], self._by_sample(state, step))
                    state = self._by_row(each, step)
                else:
                    state = self._apply(static.dense[number], state, step)
                continue
            if number in self.rows:
                state = state.index_select(0, self.rows[number][0])
            if step.phases:
                state = state * self._phases(number, static, batched)
        return state

    def _phases(self, number: int, static: _Static, batched: _Batched) -> Tensor:
        return batched.phases[number] if number in batched.phases else static.phases[number]

    def _apply(self, matrix: Tensor, state: Tensor, step: Dense) -> Tensor:
        size, shape = len(matrix), state.shape
        if step.left == 1:
            return (matrix @ state.reshape(size, -1)).reshape(shape)
        seen = state.reshape(step.left, size, -1)
        return torch.bmm(matrix.expand(step.left, -1, -1), seen).reshape(shape)

    def _by_sample(self, state: Tensor, step: Dense) -> Tensor:
        """``(2**n, batch) -> (batch, d, 2**n / d)``."""
        size, batch = 2 ** len(step.wires), state.shape[1]
        seen = state.reshape(step.left, size, -1, batch)
        return seen.permute(3, 1, 0, 2).reshape(batch, size, -1)

    def _by_row(self, each: Tensor, step: Dense) -> Tensor:
        batch, size = each.shape[:2]
        seen = each.reshape(batch, size, step.left, -1)
        return seen.permute(2, 1, 3, 0).reshape(-1, batch)

    def read(self, state: Tensor) -> Tensor:
        """Expectation values of a state: ``(2**n, batch) -> (batch, n_observables)``."""
        values: Tensor | None = None
        if self.signs is not None:
            values = self.signs @ (state.real.square() + state.imag.square())
        for partner, weights in self.pairs:
            part = (weights @ (state.index_select(0, partner).conj() * state)).real
            values = part if values is None else values + part
        assert values is not None
        return values.T

    def _seed(self, state: Tensor, grad: Tensor) -> Tensor:
        """The gradient at the last state: ``2 sum_k grad_k O_k state``."""
        grad = 2 * grad.T.to(self.real)
        seed: Tensor | None = None
        if self.signs is not None:
            seed = (self.signs.T @ grad) * state
        for partner, weights in self.pairs:
            part = ((weights.T @ grad.to(self.dtype)) * state).index_select(0, partner)
            seed = part if seed is None else seed + part
        assert seed is not None
        return seed

    @torch.no_grad()
    def back(
        self,
        static: _Static,
        batched: _Batched,
        state: Tensor,
        grad: Tensor,
        inputs: bool,
        weights: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by input angles and weight angles, going back from the last state.

        The gradient g at a state obeys ``g_before = M^dagger g_after``, and the gradient by a
        matrix is ``g_after state_before^dagger``, summed over the batch where it is shared.
        """
        outputs: list[Tensor] = []
        grads: list[Tensor] = []
        g = self._seed(state, grad)
        follow = weights or any(step.batched for step in self.plan.steps)
        for number in range(len(self.plan.steps) - 1, -1, -1):
            step = self.plan.steps[number]
            if isinstance(step, Dense) and step.batched:
                adjoint = batched.dense[number].mH
                g_each = self._by_sample(g, step)
                before = torch.bmm(adjoint, self._by_sample(state, step))
                outputs.append(batched.dense[number])
                grads.append(torch.bmm(g_each, before.mH))
                state = self._by_row(before, step)
                g = self._by_row(torch.bmm(adjoint, g_each), step)
            elif isinstance(step, Dense):
                adjoint = static.dense[number].mH
                if follow:
                    state = self._apply(adjoint, state, step)
                if weights:
                    outputs.append(static.dense[number])
                    grads.append(self._outer(g, state, step))
                g = self._apply(adjoint, g, step)
            else:
                if step.phases:
                    phases = self._phases(number, static, batched)
                    if follow:
                        state = state * phases.conj()
                    if step.batched or weights:
                        product = g * state.conj()
                        outputs.append(phases)
                        grads.append(product if step.batched else product.sum(1, keepdim=True))
                    g = g * phases.conj()
                if number in self.rows:
                    g = g.index_select(0, self.rows[number][1])
                    if follow:
                        state = state.index_select(0, self.rows[number][1])
        outputs.append(batched.state)
        grads.append(g)
        wanted = [*([batched.inputs] if inputs else []), *([static.weights] if weights else [])]
        results = _by_autograd(outputs, grads, wanted)
        return results[0] if inputs else None, results[-1] if weights else None

    def _outer(self, g: Tensor, before: Tensor, step: Dense) -> Tensor:
        size = 2 ** len(step.wires)
        if step.left == 1:
            return g.reshape(size, -1) @ before.reshape(size, -1).mH
        g = g.reshape(step.left, size, -1)
        return torch.bmm(g, before.reshape(step.left, size, -1).mH).sum(dim=0)


def _by_autograd(
    outputs: list[Tensor], grads: list[Tensor], wanted: list[Tensor]
) -> tuple[Tensor, ...]:
    """From gradients by matrices and by the head's state to angles."""
    recorded = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    if not recorded or not any(leaf.requires_grad for leaf in wanted):
        return tuple(torch.zeros_like(leaf) for leaf in wanted)
    return torch.autograd.grad(
        [o for o, _ in recorded],
        wanted,
        [g for _, g in recorded],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


_ONE = torch.tensor([[1, 0], [0, 1]])
"""Entries 0 and 1 are the numbers 0 and 1: the identity."""


def _square(start: int, side: int) -> Tensor:
    return torch.arange(start, start + side * side).reshape(side, side)
