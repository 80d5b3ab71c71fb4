"""From a circuit to its plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.primitives import extended_index
from captum_quantum.simulate.factors import Factor, arrange, relevant_factors
from captum_quantum.simulate.plan import Dense, InputPhases, Monomial, Plan, Step
from captum_quantum.simulate.readout import fold_readout

WHOLE = 6
"""Up to this many qubits, all that is between two steps of input phases is one dense step."""
MAX_DENSE = 4
"""With more qubits, the most wires that a dense step covers."""
SIDE_BY_SIDE = 3
"""The most wires that a dense step covers if it is made of blocks without a gate between them, or
is part of a staircase."""
FRONT = 4
"""A dense step is many small products side by side, one for each setting of the wires in front of
its own. From 2**4 products on, a thread does most of them alone, on rows that it wrote itself. With
fewer, a library shares each product among threads: on cores without a cache in common that took up
to four times as long."""
MANY, NARROW = 12, 6
"""With 2**12 or more products of 2**6 or fewer rows each, calling them costs more than to move the
wires forward."""


@torch.inference_mode(False)  # what is kept must serve training later
def make_plan(circuit: Circuit, front: int = FRONT) -> Plan:
    """Makes the plan of a circuit, on the CPU, without values of weights or inputs.

    Between two steps of input phases a run of CNOTs may stand between two layers of one-qubit
    gates. As one reordering of rows the run costs little, but then either layer needs matrices of
    its own. As a staircase, in which each block of wires shares one wire with the next, the run is
    multiplied into the blocks' matrices, together with both layers. The cheaper plan is taken.

    Args:
        circuit (Circuit): The circuit.
        front (int): How many wires are kept in front of a dense step's own, see `FRONT`.
    """
    plan = _Planner(circuit, front).plan()
    if circuit.n_qubits > WHOLE and any(isinstance(step, InputPhases) for step in plan.steps):
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
            cost += 2 * step.multiplications
    return cost


@dataclass(eq=False)
class _Block:
    """A dense step that still takes gates: gates on few wires whose product is one matrix.

    Attributes:
        wires (list[int]): Its wires.
        factors (list[int]): Positions of its factors, in the order of application.
    """

    wires: list[int]
    factors: list[int] = field(default_factory=list)


class _Planner:
    """Goes through a circuit's factors once and collects them into steps.

    Three kinds of steps are open at a time: blocks, which become dense steps, a monomial step, and
    a step of input phases. They are on different wires, so that each may be closed first.

    Args:
        circuit (Circuit): The circuit.
        front (int): How many wires are kept in front of a dense step's own.
        staircases (bool): Whether runs of CNOTs go into dense steps instead of reorderings.
    """

    def __init__(self, circuit: Circuit, front: int, staircases: bool = False) -> None:
        self.circuit, self.staircases = circuit, staircases
        self.n = circuit.n_qubits
        self.factors, self.preparation = arrange(relevant_factors(circuit), circuit)
        prepared = {position for chain in self.preparation for position in chain}
        self.rest = [k for k in range(len(self.factors)) if k not in prepared]
        self.is_whole = self.n <= WHOLE
        if self.is_whole and self.rest:
            # What follows the last input of each wire goes into the only matrix.
            for chain in self.preparation:
                while chain and not self.factors[chain[-1]].of_input:
                    self.rest.append(chain.pop())
            self.rest.sort()
        groups = 1 if self.is_whole else -(-self.n // MAX_DENSE)
        self.most_wires = max(-(-self.n // groups), min(self.n, 2))
        if staircases:
            self.most_wires = min(self.most_wires, SIDE_BY_SIDE)
        self.layout = list(range(self.n))  # the wires in the order of the rows' bits
        self.front = 0 if self.is_whole else min(front, self.n // 2)
        self.steps: list[Step] = []
        self.blocks: list[_Block] = []  # open, in order; those that share wires must stay in it
        self.last_block: dict[int, _Block] = {}  # by wire
        self.monomial: list[int] = []
        self.input_phases: list[int] = []
        self.kept: dict[bytes, Tensor] = {}
        self.is_monomial = [self._is_monomial(factor) for factor in self.factors]
        # From here on there are only reorderings, which the readout takes.
        self.tail = len(self.factors)
        while self.tail > 0 and self.factors[self.tail - 1].primitive.is_permutation:
            self.tail -= 1

    @staticmethod
    def _is_monomial(factor: Factor) -> bool:
        is_monomial = factor.primitive.is_permutation or factor.primitive.is_diagonal
        return is_monomial and len(factor.wires) > 1 and not factor.of_input

    def plan(self) -> Plan:
        for position in self.rest:
            if self.factors[position].of_input:
                self._make_way(position, self.input_phases)
                self.input_phases.append(position)
            elif self._goes_monomial(position):
                self._make_way(position, self.monomial)
                self.monomial.append(position)
            else:
                self._make_way(position, None)
                self._add_to_block(position)
        self._close_monomial()
        self._close_input_phases()
        self._close_blocks()
        rows = self._rows_of(range(self.n))
        last = self.steps[-1] if self.steps else None
        if isinstance(last, Monomial) and last.rows is not None and not last.phases:
            rows = last.rows[rows]
            self.steps.pop()
        preparation = tuple(map(tuple, self.preparation))
        readout = fold_readout(self.circuit, rows)
        return Plan(self.circuit, self.factors, preparation, tuple(self.steps), readout)

    def _goes_monomial(self, position: int) -> bool:
        """Whether a gate is worth a step over all rows: in a run of such, or too wide for a matrix.

        A single one costs less as a factor of a matrix that is multiplied anyway.
        """
        wires = self.factors[position].wires
        if not self.is_monomial[position] or position >= self.tail:
            return self.is_monomial[position]
        if self.is_whole:
            return not self.blocks  # before the matrix
        if self._block_of(wires) is not None:
            return False
        around = self.is_monomial[max(position - 1, 0) : position + 2]
        in_run = sum(around) > 1  # beside itself
        return len(wires) > self.most_wires or (in_run and not self.staircases)

    def _meets(self, position: int, others: Iterable[int]) -> bool:
        wires = set(self.factors[position].wires)
        return any(wires & set(self.factors[other].wires) for other in others)

    def _make_way(self, position: int, joins: list[int] | None) -> None:
        """Closes what a factor must come after, but not what it joins; None stands for a block."""
        of_blocks = [other for block in self.blocks for other in block.factors]
        if joins is not None and self._meets(position, of_blocks):
            self._close_monomial()
            self._close_blocks()
        if joins is not self.monomial and self._meets(position, self.monomial):
            self._close_monomial()
        if joins is not self.input_phases and self._meets(position, self.input_phases):
            self._close_input_phases()

    def _add_to_block(self, position: int) -> None:
        block = self._block_of(self.factors[position].wires)
        if block is None:
            block = _Block(sorted(self.factors[position].wires))
            touching = [self.last_block[wire] for wire in block.wires if wire in self.last_block]
            for other in sorted(dict.fromkeys(touching), key=lambda other: len(other.wires)):
                union = sorted({*block.wires, *other.wires})
                if self._block_of(other.wires) is other and len(union) <= self.most_wires:
                    block.wires, block.factors = union, block.factors + other.factors
                    self.blocks.remove(other)
            self.blocks.append(block)
            self.last_block.update(dict.fromkeys(block.wires, block))
        block.factors.append(position)

    def _block_of(self, wires: Iterable[int]) -> _Block | None:
        """The open block that is the last on all of these wires, if one is."""
        first, *others = (self.last_block.get(wire) for wire in wires)
        return first if all(other is first for other in others) else None

    def _close_blocks(self) -> None:
        """Emits the open blocks, small ones side by side in one matrix."""
        rounds = _in_rounds(self.blocks)
        self.blocks, self.last_block = [], {}
        most = self.n if self.is_whole else SIDE_BY_SIDE
        for number, blocks in enumerate(rounds):
            later = [block.wires for others in rounds[number + 1 :] for block in others]
            packed = _side_by_side(blocks, self.layout, self.front, most)
            for k, block in enumerate(packed):
                self._emit(block, [other.wires for other in packed[k + 1 :]], later)

    def _emit(self, block: _Block, following: list[list[int]], later: list[list[int]]) -> None:
        """Appends a block's dense step.

        Where rows must be reordered so that its wires are neighbors, those of blocks after it are
        brought along.

        Args:
            block (_Block): The block.
            following (list[list[int]]): Wires of blocks that follow, on other wires.
            later (list[list[int]]): Wires of those after them: of these as many as there is room
                for behind the front.
        """
        bits = sorted(self.layout.index(wire) for wire in block.wires)
        wires = [self.layout[bit] for bit in bits]
        front = min(self.front, self.n - len(wires) - sum(map(len, following)))
        is_apart = bits[-1] - bits[0] + 1 != len(bits)
        is_narrow = bits[0] >= MANY and bits[-1] >= self.n - NARROW
        if is_apart or is_narrow or bits[0] < front:
            moved: list[int] = []
            groups = [wires, *following, *later]
            for group, after in zip(groups, [*groups[1:], []], strict=True):
                new = [wire for wire in group if wire not in moved]
                if len(moved) + len(new) > self.n - front:
                    break
                moved += sorted(new, key=lambda wire: wire in after)  # what both have in between
            others = [wire for wire in self.layout if wire not in moved]
            layout = others[:front] + moved + others[front:]
            self._append_monomial(self._rows_of(layout), [], ("bring wires together",))
            self.layout = layout
            bits = list(range(front, front + len(bits)))
            wires = [self.layout[bit] for bit in bits]
        layers: list[tuple[tuple[int, ...], ...] | int] = []
        chains: dict[int, list[int]] = {wire: [] for wire in wires}
        for position in [*block.factors, None]:
            if position is not None and len(self.factors[position].wires) == 1:
                chains[self.factors[position].wires[0]].append(position)
                continue
            if any(chains.values()):
                layers.append(tuple(map(tuple, chains.values())))
                chains = {wire: [] for wire in wires}
            if position is not None:
                layers.append(position)
        is_real = all(self.factors[position].primitive.is_real for position in block.factors)
        self.steps.append(Dense(tuple(wires), 2 ** bits[0], tuple(layers), is_real))

    def _rows_of(self, layout: Sequence[int]) -> Tensor:
        """Where each row of another order of the wires stands in the present one."""
        rows = torch.arange(2**self.n)
        present = torch.zeros_like(rows)
        for bit, wire in enumerate(layout):
            value = rows >> (self.n - 1 - bit) & 1
            present |= value << (self.n - 1 - self.layout.index(wire))
        return present

    def _names_of(self, positions: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.factors[position].name for position in positions)

    def _close_monomial(self) -> None:
        if not self.monomial:
            return
        rows = torch.arange(2**self.n)
        phases: list[tuple[int, Tensor]] = []
        for position in self.monomial:
            factor = self.factors[position]
            bits = [self.layout.index(wire) for wire in factor.wires]
            local, others = extended_index(bits, self.n)
            if not factor.primitive.is_permutation:
                phases.append((position, local))
                continue
            moved = others
            source = factor.primitive.constant.real.argmax(dim=1)[local]  # row r reads this column
            for k, bit in enumerate(bits):
                value = source >> (len(bits) - 1 - k) & 1
                moved = moved | value << (self.n - 1 - bit)
            rows = rows[moved]
            phases = [(before, diagonal[moved]) for before, diagonal in phases]
        names = self._names_of(self.monomial)
        self.monomial = []
        if torch.equal(rows, torch.arange(2**self.n)):
            self._append_monomial(None, phases, names)
            return
        # As rows move anyway, wires return to their first order: so every layer is like the others.
        first_order = self._rows_of(range(self.n))
        phases = [(position, diagonal[first_order]) for position, diagonal in phases]
        self._append_monomial(rows[first_order], phases, names)
        self.layout = list(range(self.n))

    def _close_input_phases(self) -> None:
        if not self.input_phases:
            return
        factors = tuple(
            (position, tuple(map(self.layout.index, self.factors[position].wires)))
            for position in self.input_phases
        )
        self.steps.append(InputPhases(factors, self._names_of(self.input_phases)))
        self.input_phases = []

    def _append_monomial(
        self, rows: Tensor | None, phases: list[tuple[int, Tensor]], names: tuple[str, ...]
    ) -> None:
        last = self.steps[-1] if self.steps else None
        if isinstance(last, Monomial) and not last.phases and last.rows is not None:
            rows = last.rows if rows is None else last.rows[rows]
            names = last.names + names
            self.steps.pop()
        if rows is not None or phases:
            rows = None if rows is None else self._keep(rows)
            kept = tuple((position, self._keep(diagonal)) for position, diagonal in phases)
            self.steps.append(Monomial(rows, kept, names))

    def _keep(self, index: Tensor) -> Tensor:
        """The same tensor for the same numbers: layers of a circuit reorder rows alike."""
        return self.kept.setdefault(index.numpy().tobytes(), index)


def _in_rounds(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Groups blocks so that those of a round are on different wires, as early as they can be."""
    rounds: list[list[_Block]] = []
    depth: dict[int, int] = {}  # in how many rounds a wire is so far
    for block in blocks:
        first = max(depth.get(wire, 0) for wire in block.wires)
        depth.update(dict.fromkeys(block.wires, first + 1))
        rounds += [[] for _ in range(first + 1 - len(rounds))]
        rounds[first].append(block)
    return rounds


def _side_by_side(
    blocks: Sequence[_Block], layout: Sequence[int], front: int, most: int
) -> list[_Block]:
    """Puts small blocks on different wires together.

    Blocks behind the first ``front`` wires are kept apart from others, if that costs no step.

    Args:
        blocks (Sequence[_Block]): The blocks.
        layout (Sequence[int]): The wires in the order of the rows' bits.
        front (int): Number of wires that are kept in front of a dense step's.
        most (int): The most wires of a step.
    """
    ordered = sorted(blocks, key=lambda block: min(map(layout.index, block.wires)))

    def is_behind(block: _Block) -> bool:
        return all(layout.index(wire) >= front for wire in block.wires)

    behind = [block for block in ordered if is_behind(block)]
    others = [block for block in ordered if not is_behind(block)]
    apart, packed = _pack(behind, most) + _pack(others, most), _pack(behind + others, most)
    return apart if len(apart) == len(packed) else packed


def _pack(blocks: Sequence[_Block], most: int) -> list[_Block]:
    """Puts neighbors together; most wires at the end, where products are narrow."""
    packed: list[_Block] = []
    wires_left = sum(len(block.wires) for block in blocks)
    size = _next_size(wires_left, most)
    for block in reversed(blocks):
        if packed and len(packed[-1].wires) + len(block.wires) <= size:
            packed[-1].wires = block.wires + packed[-1].wires
            packed[-1].factors = block.factors + packed[-1].factors
            continue
        if packed:
            wires_left -= len(packed[-1].wires)
            size = _next_size(wires_left, most)
        packed.append(_Block(list(block.wires), list(block.factors)))
    return packed[::-1]


def _next_size(wires: int, most: int) -> int:
    """The wires of the next of as few steps as possible, all about the same size."""
    steps = -(-wires // most)
    return -(-wires // steps) if wires else 0
