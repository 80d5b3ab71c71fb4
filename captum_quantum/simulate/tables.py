"""Where every entry stands in the matrices of a plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_quantum.circuit.primitives import extended_index
from captum_quantum.simulate.entries import IDENTITY, Factors, Multiples, cast, square
from captum_quantum.simulate.lanes import in_lanes
from captum_quantum.simulate.plan import Chain, Dense, Monomial, Plan, Turn
from captum_quantum.simulate.products import Runs
from captum_quantum.simulate.turns import Circles, Turning


@dataclass
class Links:
    """2 x 2 matrices side by side: ``index (k, 2, 2)`` of entries; whether any is batched."""

    index: Tensor
    batched: bool


@dataclass
class Layer:
    """A layer of a dense step's matrix; one of the following.

    Attributes:
        kron (tuple[int, int] or None): A Kronecker product of 2 x 2 matrices: which group of such,
            and its place there.
        index (Tensor or None): A factor: which entry stands where in the matrix, ``(d, d)``.
        rows (tuple[Tensor, Tensor] or None): Fixed: new row r is old row ``rows[0][r]``; the way
            back.
        matrix (Tensor or None): Fixed factors multiplied beforehand, ``(d, d)``.
    """

    kron: tuple[int, int] | None = None
    index: Tensor | None = None
    rows: tuple[Tensor, Tensor] | None = None
    matrix: Tensor | None = None


class Tables:
    """Where every entry stands in a plan's matrices, on one device, in one precision.

    Attributes:
        static_factors (Factors): Factors whose angles are weights or constants.
        batched_factors (Factors): Factors of the head whose angles are inputs, but those in
            ``half_angles``.
        half_angles (Multiples): For each wire half the angle of its first gate, if that is a
            rotation of ``|0>`` by an input: the head starts from its cosine and sine. 0 for the
            other wires, which start from (1, 0).
        whole_angles (Multiples): Twice these; for an odd number of wires one more, 0.
        head (list[Links]): What follows in the head.
        rows (dict): For each reordering its index and its inverse.
        turns (dict): For each turn how it is made of the inputs.
        circles (Circles): What turns do on single wires.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        self.plan, self.device, self.dtype, self.lanes = plan, device, dtype, lanes
        self.real = dtype.to_real()
        self.n = plan.circuit.n_qubits
        self._make_entries()
        self._make_links()
        self._make_steps()
        self._share_entries()

    def _make_entries(self) -> None:
        """The numbers 0 and 1 and fixed entries, static factors, runs of such, batched factors."""
        circuit = self.plan.circuit
        factors = self.plan.factors
        inputs = {column: k for k, column in enumerate(circuit.columns("input"))}
        weights = circuit.columns("weight") + circuit.columns("constant")
        fixed = [torch.tensor([0, 1], dtype=torch.complex128)]
        columns, frequencies = [0] * self.n, [0.0] * self.n
        self.start: dict[int, int] = {}
        for wire, chain in enumerate(self.plan.head):
            own = factors[chain.factors[0]] if chain.factors else None
            if own is None or not own.batched or not own.is_rotation:
                continue
            cosine, sine = own.primitive.cosine, own.primitive.sine
            assert cosine is not None
            assert sine is not None
            columns[wire] = inputs[own.column]
            frequencies[wire] = own.primitive.frequency
            # cos(f t) C |0> + sin(f t) S |0>: a fixed matrix with these columns after the waves.
            both = torch.stack([cosine[:, 0], sine[:, 0]], dim=1)
            if torch.equal(both, torch.eye(2, dtype=both.dtype)):
                self.start[chain.factors[0]] = -1
            else:
                self.start[chain.factors[0]] = sum(len(part) for part in fixed)
                fixed.append(both.reshape(-1))
        self.has_waves = bool(self.start)
        place = len(inputs), self.device, self.real
        self.half_angles = Multiples(columns, frequencies, *place)
        odd = self.n % 2
        doubled = [2 * frequency for frequency in frequencies] + [0.0] * odd
        self.whole_angles = Multiples(columns + [0] * odd, doubled, *place)
        self.numbers = cast(torch.cat(fixed), self.dtype).to(self.device)[:, None]
        static = [k for k in self._with_entries() if not factors[k].batched]
        in_head = {k for chain in self.plan.head for k in chain.factors}
        batched = [k for k in sorted(in_head) if factors[k].batched and k not in self.start]
        self.static_factors, self.batched_factors = (
            Factors([factors[k] for k in own], place, self.device, self.dtype)
            for own, place in (
                (static, {column: k for k, column in enumerate(weights)}),
                (batched, inputs),
            )
        )
        values = [circuit.angles[column][2].value for column in circuit.columns("constant")]
        self.constants = torch.tensor(values, device=self.device, dtype=self.real)
        first = len(self.numbers)
        for k, start in zip(static, self.static_factors.starts, strict=True):
            self.start[k] = first + start
        self.batched_start = dict(zip(batched, self.batched_factors.starts, strict=True))

    def _with_entries(self) -> list[int]:
        """Factors whose entries stand in tables: not those that only reorder rows, for example."""
        found = {k for chain in self.plan.head for k in chain.factors}
        for step in self.plan.steps:
            if isinstance(step, Dense):
                for layer in step.layers:
                    if isinstance(layer, int):
                        found |= set() if self.plan.factors[layer].is_fixed else {layer}
                    else:
                        found |= {k for chain in layer for k in chain.factors}
            elif isinstance(step, Monomial):
                found |= {position for position, _ in step.phases}
        return sorted(found)

    def _make_links(self) -> None:
        """Splits chains into links: runs of static factors, merged, and single batched ones."""
        layers = [self.plan.head]
        for step in self.plan.steps:
            if isinstance(step, Dense):
                layers += [layer for layer in step.layers if not isinstance(layer, int)]
        runs: list[list[int]] = []
        self.chain_links: dict[Chain, list[tuple[int, bool]]] = {}
        first_run = len(self.numbers) + self.static_factors.size
        for chain in (chain for layer in layers for chain in layer):
            links: list[tuple[int, bool]] = []
            run: list[int] = []
            for position in (*chain.factors, None):
                if position is not None and position in self.start:
                    if self.start[position] >= 0:
                        run.append(self.start[position])
                    continue
                if len(run) == 1:
                    links.append((run[0], False))
                elif run:
                    links.append((first_run + 4 * len(runs), False))
                    runs.append(run)
                run = []
                if position is not None:
                    links.append((self.batched_start[position], True))
            self.chain_links[chain] = links
        self.first_run = first_run
        self.n_static = first_run + 4 * len(runs)
        self.runs = Runs(runs, self.device) if runs else None

    def _entry(self, position: int) -> int:
        if position in self.start:
            return self.start[position]
        return self.n_static + self.batched_start[position]

    def _levels(self, chains: Sequence[Chain]) -> list[Links]:
        """The chains' links side by side: level l holds the l-th link of every chain."""
        links = [self.chain_links[chain] for chain in chains]
        levels = []
        for level in range(max((len(own) for own in links), default=0)):
            index = IDENTITY.repeat(len(chains), 1, 1)
            batched = False
            for k, own in enumerate(links):
                if level < len(own):
                    start, is_batched = own[level]
                    index[k] = square(start + (self.n_static if is_batched else 0), 2)
                    batched |= is_batched
            levels.append(Links(index.to(self.device), batched))
        return levels

    def _make_steps(self) -> None:
        self.head = self._levels(self.plan.head)
        self.layers: dict[int, list[Layer]] = {}
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}
        self.phase_rows: dict[int, Tensor] = {}
        self.turns: dict[int, Turning] = {}
        turns = [step for step in self.plan.steps if isinstance(step, Turn) and step.own]
        self.circles = Circles(turns, self.plan, self.device, self.dtype)
        krons: dict[int, list[Tensor]] = {}
        made: dict[int, tuple[Tensor, Tensor]] = {}  # layers of a circuit share their reorderings
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                self.layers[number] = self._dense_layers(step, krons)
                continue
            if isinstance(step, Turn):
                place = turns.index(step) if step.own else None
                own = self.plan, self.device, self.dtype, self.lanes
                self.turns[number] = Turning(step, place, *own)
                continue
            if step.rows is not None:
                if id(step.rows) not in made:
                    there, back = (
                        in_lanes(rows, 2**self.n, self.lanes).to(self.device)
                        for rows in (step.rows, torch.argsort(step.rows))
                    )
                    made[id(step.rows)] = there, back
                self.rows[number] = made[id(step.rows)]
            if step.phases:
                diagonals = []
                for position, places in step.phases:
                    side = 2 ** len(self.plan.factors[position].wires)
                    diagonals.append(self._entry(position) + places * (side + 1))
                self.phase_rows[number] = torch.stack(diagonals).to(self.device)
        groups = sorted(krons)
        self.krons = [torch.stack(krons[k]).reshape(-1, k, 4).to(self.device) for k in groups]
        for layers in self.layers.values():
            for layer in layers:
                if layer.kron is not None:
                    layer.kron = (groups.index(layer.kron[0]), layer.kron[1])

    def _dense_layers(self, step: Dense, krons: dict[int, list[Tensor]]) -> list[Layer]:
        layers: list[Layer] = []
        for layer in step.layers:
            if not isinstance(layer, int):
                # Without batched factors every chain has at most one link.
                levels = self._levels(layer)
                identity = IDENTITY.repeat(len(layer), 1, 1)
                group = krons.setdefault(len(layer), [])
                layers.append(Layer(kron=(len(layer), len(group))))
                group.append(levels[0].index.cpu() if levels else identity)
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
                    layers.append(Layer(matrix=matrix))
                continue
            entry = self._entry(layer) + own[:, None] * 2 ** len(places) + own[None, :]
            layers.append(Layer(index=torch.where(same, entry, 0).to(self.device)))
        for made in layers:
            if made.matrix is None:
                continue
            if bool(((made.matrix == 0) | (made.matrix == 1)).all()):
                rows = made.matrix.real.argmax(dim=1)
                made.rows = (rows.to(self.device), torch.argsort(rows).to(self.device))
                made.matrix = None
            else:
                made.matrix = cast(made.matrix, self.dtype).to(self.device)
        return layers

    def _share_entries(self) -> None:
        """Lets batched matrices read their own entries and only the static ones they need."""
        tables = [links for links in self.head if links.batched]
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        used = torch.cat([none, *(links.index.flatten() for links in tables)])
        self.shared = torch.unique(used[used < self.n_static])
        place = torch.zeros(
            self.n_static + self.batched_factors.size, dtype=torch.long, device=self.device
        )
        place[self.shared] = torch.arange(len(self.shared), device=self.device)
        own = torch.arange(self.batched_factors.size, device=self.device)
        place[self.n_static :] = len(self.shared) + own
        for links in tables:
            links.index = place[links.index]
