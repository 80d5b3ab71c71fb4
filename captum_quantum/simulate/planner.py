"""From a circuit to its plan."""

from collections.abc import Iterable

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.primitives import extended_index
from captum_quantum.simulate.blocks import Block, side_by_side
from captum_quantum.simulate.factors import factors_of, in_stages, relevant
from captum_quantum.simulate.folding import fold_readout
from captum_quantum.simulate.plan import Chain, Dense, Monomial, Plan, Step, Turn

WHOLE = 6
"""Of circuits of at most this many qubits all that is between turns becomes one dense step."""
MAX_DENSE = 4
"""Others: the most wires that a dense step covers."""
SIDE_BY_SIDE = 3
"""The most wires of blocks without a gate between them, or in a staircase, that a dense step
covers."""
FRONT = 4
"""A dense step is many small products side by side, one for each setting of the wires in front of
its own. From 2**4 on, a thread does most of them alone, on rows that it wrote itself. Of fewer, a
library shares each among threads: on cores without a cache in common that took up to four times as
long."""
MANY, NARROW = 12, 6
"""With 2**12 or more products of 2**6 or fewer rows each, calls cost more than to move the wires
forward."""


def make_plan(circuit: Circuit, front: int = FRONT) -> Plan:
    """Makes the plan of a circuit; done once, on the CPU, without values of weights or inputs.

    Between two turns a run of CNOTs may stand between two layers of one-qubit gates. As one
    reordering it costs little, but then either layer needs matrices of its own. As a staircase,
    where each block of wires shares one with the next, it vanishes in the blocks' matrices together
    with both layers. The cheaper plan is taken.

    Args:
        circuit (Circuit): The circuit.
        front (int): How many wires are kept in front of a dense step's own, see `FRONT`.
    """
    plan = _Planner(circuit, front).plan()
    if circuit.n_qubits > WHOLE and any(isinstance(step, Turn) for step in plan.steps):
        plan = min(plan, _Planner(circuit, front, staircases=True).plan(), key=_cost)
    return plan


def _cost(plan: Plan) -> float:
    """What the steps cost, in units of one reordering, roughly as measured on two cores."""
    cost = 0.0
    for step in plan.steps:
        if isinstance(step, Dense):
            cost += 1.5 + 2 ** len(step.wires) / (8 if step.real else 4)
        elif isinstance(step, Monomial):
            cost += (step.rows is not None) + 2 * bool(step.phases)
        else:
            cost += 2 * (2 * bool(step.own) + len(step.wide))
    return cost


class _Planner:
    def __init__(self, circuit: Circuit, front: int, staircases: bool = False) -> None:
        self.circuit = circuit
        self.staircases = staircases  # of CNOTs in dense steps, instead of reorderings
        self.n = circuit.n_qubits
        self.factors = tuple(in_stages(relevant(factors_of(circuit), circuit), circuit))
        self.head, self.body = self._split()
        self.whole = self.n <= WHOLE
        if self.whole and self.body:
            self._move_to_body()
        groups = 1 if self.whole else -(-self.n // MAX_DENSE)
        self.limit = max(-(-self.n // groups), min(self.n, 2))
        self.layout = list(range(self.n))
        if staircases:
            self.limit = min(self.limit, SIDE_BY_SIDE)
        self.front = 0 if self.whole else min(front, self.n // 2)
        self.steps: list[Step] = []
        self.open: list[Block] = []  # in order; those that share wires must stay in it
        self.last: dict[int, Block] = {}  # the last open block on a wire
        self.monomial: list[int] = []
        self.turn: list[int] = []
        self._kept: dict[bytes, Tensor] = {}
        self.tail = len(self.factors)
        while self.tail > 0 and self.factors[self.tail - 1].primitive.is_permutation:
            self.tail -= 1

    def _split(self) -> tuple[list[list[int]], list[int]]:
        """Every wire's one-qubit factors before any others, and the rest."""
        head: list[list[int]] = [[] for _ in range(self.n)]
        body: list[int] = []
        in_head = [not self.circuit.amplitude_encoding] * self.n
        for position, factor in enumerate(self.factors):
            if len(factor.wires) == 1 and in_head[factor.wires[0]]:
                head[factor.wires[0]].append(position)
                continue
            for wire in factor.wires:
                in_head[wire] = False
            body.append(position)
        return head, body

    def _move_to_body(self) -> None:
        """Takes what follows the last input of each wire out of the head, into the only matrix."""
        moved = []
        for own in self.head:
            while own and not self.factors[own[-1]].batched:
                moved.append(own.pop())
        self.body = sorted(moved + self.body)

    def plan(self) -> Plan:
        """Walks through the factors once."""
        for position in self.body:
            if self.factors[position].batched:
                self._add_turn(position)
            elif self._goes_monomial(position):
                self._add_monomial(position)
            else:
                self._add_dense(position)
        self._close_monomial()
        self._close_turn()
        self._close_dense()
        last, rows = (self.steps[-1] if self.steps else None), None
        if isinstance(last, Monomial) and last.rows is not None and not last.phases:
            rows = last.rows
            self.steps.pop()
        readout = fold_readout(self.circuit, self.layout, rows)
        return Plan(
            self.circuit,
            self.factors,
            tuple(self._chain(wire, own) for wire, own in enumerate(self.head)),
            tuple(self.steps),
            readout,
        )

    def _is_monomial(self, position: int) -> bool:
        if not 0 <= position < len(self.factors):
            return False
        factor = self.factors[position]
        own = factor.primitive
        return not factor.batched and len(own.wires) > 1 and (own.is_permutation or own.is_diagonal)

    def _goes_monomial(self, position: int) -> bool:
        """Whether a gate is worth a step over all rows: in a run of such, or too wide for a matrix.

        A single one costs less as a factor of a matrix that is multiplied anyway.
        """
        if not self._is_monomial(position):
            return False
        if position >= self.tail:
            return True
        wires = set(self.factors[position].wires)
        if self.whole:
            return not self.open  # before the matrix
        if self._block_of(wires) is not None:
            return False
        if self.staircases:
            return len(wires) > self.limit
        in_run = self._is_monomial(position - 1) or self._is_monomial(position + 1)
        return in_run or len(wires) > self.limit

    def _chain(self, wire: int, factors: Iterable[int]) -> Chain:
        own = tuple(factors)
        return Chain(wire, own, any(self.factors[f].batched for f in own))

    # What is open, in the monomial or in the turn are on different wires: they may change places.

    def _meets(self, position: int, others: Iterable[int]) -> bool:
        wires = set(self.factors[position].wires)
        return any(wires & set(self.factors[f].wires) for f in others)

    def _meets_open(self, position: int) -> bool:
        return any(self._meets(position, block.factors) for block in self.open)

    def _add_monomial(self, position: int) -> None:
        if self._meets_open(position):
            self._close_monomial()
            self._close_dense()
        if self._meets(position, self.turn):
            self._close_turn()
        self.monomial.append(position)

    def _add_turn(self, position: int) -> None:
        if self._meets(position, self.monomial):
            self._close_monomial()
        if self._meets_open(position):
            self._close_monomial()
            self._close_dense()
        self.turn.append(position)

    def _add_dense(self, position: int) -> None:
        wires = set(self.factors[position].wires)
        if self._meets(position, self.monomial):
            self._close_monomial()
        if self._meets(position, self.turn):
            self._close_turn()
        block = self._block_of(wires)
        if block is None:
            block = Block(sorted(wires))
            touching = {id(own): own for own in map(self.last.get, block.wires) if own is not None}
            for own in sorted(touching.values(), key=lambda own: len(own.wires)):
                union = sorted({*block.wires, *own.wires})
                if self._is_last(own) and len(union) <= self.limit:
                    block.wires, block.factors = union, block.factors + own.factors
                    self.open.remove(own)
            self.open.append(block)
            self.last.update(dict.fromkeys(block.wires, block))
        block.factors.append(position)

    def _block_of(self, wires: Iterable[int]) -> Block | None:
        """The open block that is the last on all of these wires, if one is."""
        first, *others = (self.last.get(wire) for wire in wires)
        return first if all(own is first for own in others) else None

    def _is_last(self, block: Block) -> bool:
        return self._block_of(block.wires) is block

    def _close_dense(self) -> None:
        """Emits the open blocks, small ones side by side in one matrix."""
        depth = dict.fromkeys(range(self.n), 0)
        waves: dict[int, list[Block]] = {}  # blocks of a wave are on different wires
        for block in self.open:
            now = max(depth[wire] for wire in block.wires)
            depth.update(dict.fromkeys(block.wires, now + 1))
            waves.setdefault(now, []).append(block)
        self.open, self.last = [], {}
        most = self.n if self.whole else SIDE_BY_SIDE
        for now in sorted(waves):
            later = [block.wires for k in sorted(waves) if k > now for block in waves[k]]
            packed = side_by_side(waves[now], self.layout, self.front, most)
            for k, block in enumerate(packed):
                self._emit_dense(block, [other.wires for other in packed[k + 1 :]], later)

    def _emit_dense(self, block: Block, following: list[list[int]], later: list[list[int]]) -> None:
        """Emits a block; where rows must move for it, those of blocks after it come along.

        Args:
            block (Block): The block.
            following (list[list[int]]): Wires of blocks that follow, on other wires.
            later (list[list[int]]): Wires of those after them: of these as many as there is room
                for behind the front.
        """
        places = sorted(self.layout.index(wire) for wire in block.wires)
        own = [self.layout[place] for place in places]
        front = min(self.front, self.n - len(own) - sum(map(len, following)))
        apart = places[-1] - places[0] + 1 != len(places)
        narrow = places[0] >= MANY and places[-1] >= self.n - NARROW
        if apart or narrow or places[0] < front:
            moved: list[int] = []
            groups = [own, *following, *later]
            for group, after in zip(groups, [*groups[1:], []], strict=True):
                new = [wire for wire in group if wire not in moved]
                if len(moved) + len(new) > self.n - front:
                    break
                moved += sorted(new, key=lambda wire: wire in after)  # what both have in between
            others = [wire for wire in self.layout if wire not in moved]
            self._relayout(others[:front] + moved + others[front:])
            places = list(range(front, front + len(places)))
        wires = tuple(self.layout[place] for place in places)
        layers: list[tuple[Chain, ...] | int] = []
        pending: dict[int, list[int]] = {}

        def flush() -> None:
            if pending:
                layers.append(tuple(self._chain(w, pending.get(w, ())) for w in wires))
                pending.clear()

        for position in block.factors:
            factor = self.factors[position]
            if len(factor.wires) == 1:
                pending.setdefault(factor.wires[0], []).append(position)
            else:
                flush()
                layers.append(position)
        flush()
        real = all(self.factors[f].primitive.is_real for f in block.factors)
        self.steps.append(Dense(wires, 2 ** places[0], tuple(layers), real))

    def _relayout(self, layout: list[int]) -> None:
        """Reorders the rows so that the wires stand in another order."""
        self._append_monomial(self._rows_of(layout), (), ("bring wires together",))
        self.layout = layout

    def _rows_of(self, layout: list[int]) -> Tensor:
        """Where each row of another order of the wires stands in the present one."""
        new_rows = torch.arange(2**self.n)
        old = torch.zeros_like(new_rows)
        for place, wire in enumerate(layout):
            bit = new_rows >> (self.n - 1 - place) & 1
            old |= bit << (self.n - 1 - self.layout.index(wire))
        return old

    def _close_monomial(self) -> None:
        if not self.monomial:
            return
        rows = torch.arange(2**self.n)
        phases: list[tuple[int, Tensor]] = []
        for position in self.monomial:
            factor = self.factors[position]
            places = [self.layout.index(wire) for wire in factor.wires]
            own, others = extended_index(places, self.n)
            if not factor.primitive.is_permutation:
                phases.append((position, own))
                continue
            source = factor.primitive.constant.real.argmax(dim=1)[own]  # row r reads this column
            moved = others
            for k, place in enumerate(places):
                bit = source >> (len(places) - 1 - k) & 1
                moved = moved | bit << (self.n - 1 - place)
            rows = rows[moved]
            phases = [(before, place[moved]) for before, place in phases]
        names = tuple(self.factors[position].name for position in self.monomial)
        changed = None if torch.equal(rows, torch.arange(2**self.n)) else rows
        if changed is not None:
            # As rows move anyway, wires go home: so every layer is like the others.
            home = self._rows_of(list(range(self.n)))
            changed, phases = rows[home], [(own, place[home]) for own, place in phases]
            self.layout = list(range(self.n))
        self._append_monomial(changed, tuple(phases), names)
        self.monomial = []

    def _close_turn(self) -> None:
        if not self.turn:
            return
        own: list[tuple[int, int]] = []
        wide: list[tuple[int, Tensor]] = []
        for position in self.turn:
            places = [self.layout.index(wire) for wire in self.factors[position].wires]
            if len(places) == 1:
                own.append((position, places[0]))
            else:
                wide.append((position, self._keep(extended_index(places, self.n)[0])))
        names = tuple(self.factors[position].name for position in self.turn)
        self.steps.append(Turn(tuple(own), tuple(wide), names))
        self.turn = []

    def _keep(self, index: Tensor) -> Tensor:
        """The same tensor for the same numbers: layers of a circuit reorder rows alike."""
        return self._kept.setdefault(index.numpy().tobytes(), index)

    def _append_monomial(
        self,
        rows: Tensor | None,
        phases: tuple[tuple[int, Tensor], ...],
        names: tuple[str, ...],
    ) -> None:
        last = self.steps[-1] if self.steps else None
        if isinstance(last, Monomial) and not last.phases and last.rows is not None:
            rows = last.rows if rows is None else last.rows[rows]
            names = last.names + names
            self.steps.pop()
        if rows is not None or phases:
            rows = None if rows is None else self._keep(rows)
            phases = tuple((position, self._keep(places)) for position, places in phases)
            self.steps.append(Monomial(rows, phases, names))
