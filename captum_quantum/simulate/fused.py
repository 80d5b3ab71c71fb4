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
        shared (Tensor): Those entries that batched matrices read too, ``(e, 1)``.
        head (dict): For each shared level of the head its matrices, ``(n, 2, 2, 1)``.
        dense (dict): For each shared dense step its matrix.
        phases (dict): For each shared monomial step its phases, ``(2**n, 1)``.
    """

    weights: Tensor
    entries: Tensor
    shared: Tensor
    head: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class _Batched:
    """All that depends on the sample.

    Attributes:
        waves (tuple): Cosine and sine of every entry's angle, ``(n_entries, batch)`` each.
        entries (Tensor): Entries that batched matrices read, shared ones first, ``(e, batch)``.
        levels (list[Tensor]): The head's matrices, ``(n, 2, 2, batch or 1)`` for each level.
        vectors (list[Tensor]): The wires' vectors after each level, ``(n, 2, 1, batch)``.
        product (_Product or None): Their product; None under amplitude encoding.
        state (Tensor): The state after the head, ``(2**n, batch)``.
        dense (dict): For each batched dense step its matrices, ``(batch, d, d)``.
        phases (dict): For each batched monomial step its phases, ``(2**n, batch)``.
    """

    waves: tuple[Tensor, Tensor]
    entries: Tensor
    levels: list[Tensor]
    vectors: list[Tensor]
    product: "_Product | None"
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
        with torch.no_grad():
            batched = self._program.make_batched(self._parts[part], self._static, start=keep)
            # Detached: without steps it may be a view of matrices that are made of weights.
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


class _Product:
    """The product of vectors ``(m, k, r, b)``, first factor the most significant, and its way back.

    Even numbers of factors are multiplied in pairs, all pairs at once.

    Attributes:
        value (Tensor): ``(m, r**k, b)``.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.shape = vectors.shape
        m, k, r, b = vectors.shape
        self.inner: _Product | None = None
        if k == 1:
            self.value = vectors[:, 0]
            return
        if k % 2:
            self.inner = _Product(vectors[:, :-1])
            self.first, self.second = self.inner.value, vectors[:, -1]
        else:
            self.inner = _Product(vectors.reshape(2 * m, k // 2, r, b))
            self.first, self.second = self.inner.value.unflatten(0, (m, 2)).unbind(1)
        self.value = (self.first[:, :, None] * self.second[:, None]).flatten(1, 2)

    def back(self, grad: Tensor) -> Tensor:
        """Gradients by the factors, ``(m, k, r, b)``, from that by the value."""
        if self.inner is None:
            return grad[:, None]
        m, k, r, _ = self.shape
        grad = grad.unflatten(1, (self.first.shape[1], self.second.shape[1]))
        by_first = (grad * self.second[:, None].conj()).sum(dim=2)
        by_second = (grad * self.first[:, :, None].conj()).sum(dim=1)
        if k % 2:
            return torch.cat([self.inner.back(by_first), by_second[:, None]], dim=1)
        halves = torch.stack([by_first, by_second], dim=1).flatten(0, 1)
        return self.inner.back(halves).reshape(m, k, r, -1)


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
        frequencies = [factor.primitive.frequency for factor in turning]
        real = dtype.to_real()
        self.frequencies = torch.tensor(frequencies, device=device, dtype=real)[:, None]
        if turning:
            self.entry_frequencies = self.frequencies[self.slots]
            self.entry_columns = self.columns[self.slots]

    def waves(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every entry's angle: ``(n_angles, b)`` to ``(n_entries, b)`` each."""
        if not len(self.columns):
            nothing = angles.new_zeros(self.size, 1)
            return nothing, nothing
        turns = angles.index_select(0, self.columns) * self.frequencies
        cosine, sine = torch.cos(turns), torch.sin(turns)
        return cosine.index_select(0, self.slots), sine.index_select(0, self.slots)

    def entries(self, waves: tuple[Tensor, Tensor]) -> Tensor:
        """The entries of the factors' matrices, ``(n_entries, b)``."""
        cosine, sine = waves
        return self.constant + self.cosine * cosine + self.sine * sine

    def pull(self, waves: tuple[Tensor, Tensor], grad: Tensor, n_angles: int) -> Tensor:
        """Gradients by entries to gradients by angles: ``(n_entries, b) -> (n_angles, b)``."""
        if not len(self.columns):
            return grad.real.new_zeros(n_angles, grad.shape[1])
        cosine, sine = waves
        slope = self.sine * cosine - self.cosine * sine
        by_entry = (grad.conj() * slope).real * self.entry_frequencies
        by_angle = by_entry.new_zeros(n_angles, by_entry.shape[1])
        return by_angle.index_add_(0, self.entry_columns, by_entry)


class _Program:
    """A plan's tables on one device, in one precision."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.plan, self.device, self.dtype = plan, device, dtype
        self.real = dtype.to_real()
        self.n = plan.circuit.n_qubits
        self.row_bytes = 2**self.n * dtype.itemsize
        self._cached: tuple[Tensor, bool, _Static] | None = None
        self.amplitudes = plan.circuit.amplitude_encoding
        self.n_inputs = len(plan.circuit.columns("input"))
        self.has_batched_steps = any(step.batched for step in plan.steps)
        self._make_factors()
        self._make_links()
        self._make_steps()
        self._share_entries()
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
        self.zero_vectors = self.numbers.flip(0).expand(self.n, -1, -1)[..., None]

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

    def _share_entries(self) -> None:
        """Lets batched matrices read their own entries and only the static ones they need."""
        tables: list[Any] = [links for links in self.head if links.batched]
        for number, step in enumerate(self.plan.steps):
            if step.batched and isinstance(step, Dense):
                for layer in self.layers[number]:
                    tables += [*layer.links, *([layer] if layer.index is not None else [])]
        phases = [number for number in self.phase_rows if self.plan.steps[number].batched]
        read = [table.index for table in tables] + [self.phase_rows[number] for number in phases]
        used = torch.cat(
            [torch.zeros(0, dtype=torch.long, device=self.device), *(r.flatten() for r in read)]
        )
        self.shared = torch.unique(used[used < self.n_static])
        place = torch.zeros(
            self.n_static + self.batched_factors.size, dtype=torch.long, device=self.device
        )
        place[self.shared] = torch.arange(len(self.shared), device=self.device)
        own = torch.arange(self.batched_factors.size, device=self.device)
        place[self.n_static :] = len(self.shared) + own
        for table in tables:
            table.index = place[table.index]
        for number in phases:
            self.phase_rows[number] = place[self.phase_rows[number]]

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
        waves = self.static_factors.waves(angles)
        entries = torch.cat([self.numbers, self.static_factors.entries(waves)])
        if self.runs is not None:
            factors = entries[:, 0].index_select(0, self.runs.reshape(-1)).reshape(self.runs.shape)
            entries = torch.cat([entries, _run_product(factors).reshape(-1, 1)])
        static = _Static(weights, entries, entries.index_select(0, self.shared))
        for number, links in enumerate(self.head):
            if not links.batched:
                static.head[number] = _take(entries, links.index)
        for number, step in enumerate(self.plan.steps):
            if step.batched:
                continue
            if isinstance(step, Dense):
                static.dense[number] = self._matrix(number, entries)[0]
            elif step.phases:
                static.phases[number] = _take(entries, self.phase_rows[number]).prod(dim=0)
        return static

    def make_batched(self, inputs: Tensor, static: _Static, start: bool = False) -> _Batched:
        """Makes what depends on the sample.

        Args:
            inputs (Tensor): Input angles in radians ``(batch, n)``, or amplitudes.
            static (_Static): What does not depend on it.
            start (bool): Whether to record how the matrices of the steps come from their entries.
        """
        angles = inputs.to(self.real).T
        waves = self.batched_factors.waves(angles[: self.n_inputs])
        entries = static.shared.expand(-1, len(inputs))
        if self.batched_factors.size:
            entries = torch.cat([entries, self.batched_factors.entries(waves)])
        levels: list[Tensor] = []
        vectors: list[Tensor] = []
        product: _Product | None = None
        if self.amplitudes:
            state = angles.to(self.dtype)
        else:
            for number, links in enumerate(self.head):
                matrices = _take(entries, links.index) if links.batched else static.head[number]
                first = not vectors
                vectors.append(matrices[:, :, 0:1] if first else _multiply(matrices, vectors[-1]))
                levels.append(matrices)
            if not vectors:
                vectors.append(self.zero_vectors)
            product = _Product(vectors[-1][None, :, :, 0])
            state = product.value[0].expand(-1, len(inputs))
        if start and self.has_batched_steps:
            entries = entries.detach().requires_grad_()
        batched = _Batched(waves, entries, levels, vectors, product, state)
        with torch.set_grad_enabled(torch.is_grad_enabled() or start):
            for number, step in enumerate(self.plan.steps):
                if step.batched and isinstance(step, Dense):
                    batched.dense[number] = self._matrix(number, entries)
                elif step.batched:
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
            parts = torch.view_as_real(state.resolve_conj()).square()
            values = (self.signs @ parts.flatten(1)).unflatten(1, parts.shape[1:]).sum(dim=-1)
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
        shared: list[tuple[Tensor, Tensor]] = []  # pairs (matrix, its gradient)
        each: list[tuple[Tensor, Tensor]] = []
        g = self._seed(state, grad)
        follow = weights or any(step.batched for step in self.plan.steps)
        for number in range(len(self.plan.steps) - 1, -1, -1):
            step = self.plan.steps[number]
            if isinstance(step, Dense) and step.batched:
                adjoint = batched.dense[number].mH
                g_each = self._by_sample(g, step)
                before = torch.bmm(adjoint, self._by_sample(state, step))
                each.append((batched.dense[number], torch.bmm(g_each, before.mH)))
                state = self._by_row(before, step)
                g = self._by_row(torch.bmm(adjoint, g_each), step)
            elif isinstance(step, Dense):
                adjoint = static.dense[number].mH
                if follow:
                    state = self._apply(adjoint, state, step)
                if weights:
                    shared.append((static.dense[number], self._outer(g, state, step)))
                g = self._apply(adjoint, g, step)
            else:
                if step.phases:
                    phases = self._phases(number, static, batched)
                    if follow:
                        state = state * phases.conj()
                    if step.batched:
                        each.append((phases, g * state.conj()))
                    elif weights:
                        shared.append((phases, (g * state.conj()).sum(1, keepdim=True)))
                    g = g * phases.conj()
                if number in self.rows:
                    g = g.index_select(0, self.rows[number][1])
                    if follow:
                        state = state.index_select(0, self.rows[number][1])
        if self.amplitudes:
            by_inputs = g.real.T
            by_entries = torch.zeros_like(batched.entries)
        else:
            by_entries = self._back_through_head(static, batched, g, shared, weights)
            if each:
                (found,) = _by_autograd(each, batched.entries)
                by_entries = by_entries + found
            own = by_entries[len(self.shared) :]
            by_inputs = self.batched_factors.pull(batched.waves, own, self.n_inputs).T
        if not weights:
            return by_inputs, None
        if len(self.shared):
            by_shared = by_entries[: len(self.shared)].sum(dim=1, keepdim=True)
            shared.append((static.shared, by_shared))
        return by_inputs, _by_autograd(shared, static.weights)[0]

    def _back_through_head(
        self,
        static: _Static,
        batched: _Batched,
        g: Tensor,
        shared: list[tuple[Tensor, Tensor]],
        weights: bool,
    ) -> Tensor:
        """Gradients by the entries of the head's batched matrices; appends those by shared ones."""
        by_entries = torch.zeros_like(batched.entries)
        assert batched.product is not None
        g = batched.product.back(g[None])[0][:, :, None]
        for number in range(len(self.head) - 1, -1, -1):
            links = self.head[number]
            # At the first level, |0> reads only the first column.
            by_matrix = g if number == 0 else g * batched.vectors[number - 1].conj().transpose(1, 2)
            index = links.index[:, :, 0:1] if number == 0 else links.index
            if links.batched:
                flat = by_matrix.reshape(-1, by_matrix.shape[-1])
                by_entries.index_add_(0, index.reshape(-1), flat)
            elif weights:
                matrices = static.head[number]
                seen = matrices[:, :, 0:1] if number == 0 else matrices
                if number == 0 and matrices.requires_grad:
                    by_column = by_matrix.sum(dim=-1, keepdim=True)
                    by_matrix = torch.cat([by_column, torch.zeros_like(by_column)], dim=2)
                    shared.append((matrices, by_matrix))
                elif seen.requires_grad:
                    shared.append((matrices, by_matrix.sum(dim=-1, keepdim=True)))
            if number:
                g = _multiply(batched.levels[number].conj().transpose(1, 2), g)
        return by_entries

    def _outer(self, g: Tensor, before: Tensor, step: Dense) -> Tensor:
        size = 2 ** len(step.wires)
        if step.left == 1:
            return g.reshape(size, -1) @ before.reshape(size, -1).mH
        g = g.reshape(step.left, size, -1)
        return torch.bmm(g, before.reshape(step.left, size, -1).mH).sum(dim=0)


def _by_autograd(pairs: list[tuple[Tensor, Tensor]], leaf: Tensor) -> tuple[Tensor, ...]:
    """Gradients by what matrices were made of, from pairs (matrix, its gradient)."""
    recorded = [(matrix, grad) for matrix, grad in pairs if matrix.requires_grad]
    if not recorded or not leaf.requires_grad:
        return (torch.zeros_like(leaf),)
    return torch.autograd.grad(
        [matrix for matrix, _ in recorded],
        leaf,
        [grad for _, grad in recorded],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


_ONE = torch.tensor([[1, 0], [0, 1]])
"""Entries 0 and 1 are the numbers 0 and 1: the identity."""


def _square(start: int, side: int) -> Tensor:
    return torch.arange(start, start + side * side).reshape(side, side)
