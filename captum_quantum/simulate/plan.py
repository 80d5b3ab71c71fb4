"""From a circuit to a plan of few large steps.

The state of ``n`` qubits is a matrix with ``2**n`` rows, one for each basis state, and a column for
each sample. A plan has

- a **head**: as long as a wire has seen only one-qubit gates, it holds a vector of two numbers. The
  state starts as the product of these vectors, and no gate of the head ever touches all rows;
- **steps**, of three kinds. A *monomial* step reorders the rows (CNOT, SWAP, Toffoli, ...: a run
  of such gates is one index) and multiplies them by phases (CZ, RZZ, CRZ, ...: a run of such gates
  is one vector). A *dense* step multiplies the rows of a few wires by one matrix, into which all
  neighbouring gates on these wires are multiplied beforehand; where that costs less, CNOTs too. A
  *turn* multiplies the rows by phases that differ from sample to sample: gates that take an input;
- a **readout**: reorderings at the end of the circuit reorder the observables instead of the state,
  and phases at the end that no observable sees are dropped, as are gates outside the observables'
  light cone.

All samples share the matrices of dense steps, and that is what makes them fast. A gate that takes
an input is a rotation about a Pauli word, or a phase. In the eigenbases of its Pauli letters it is
diagonal; so it becomes a turn between two changes of basis, one-qubit gates that are the same for
all samples and vanish in the matrices of its neighbours. In the head, where a wire is only a vector
of two numbers, it stays as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.gates import Primitive, extended_index
from captum_quantum.simulate.readout import masks

WHOLE = 6
"""Of circuits of at most this many qubits all that is between turns becomes one dense step."""
MAX_DENSE = 4
"""Others: the most wires that a dense step covers."""
SIDE_BY_SIDE = 3
"""The most wires of blocks without a gate between them, or in a staircase, that a dense step
covers."""
FACTORED = 10
"""From this many qubits on, signs of observables are made of those of half of the bits."""
POLYNOMIAL, COEFFICIENTS = 8, 2**17
"""Up to so many qubits, and coefficients of all observables, values are polynomials of the inputs
while the weights are frozen."""
FRONT = 4
"""A dense step is many small products side by side, one for each setting of the wires in front of
its own. From 2**4 on, a thread does most of them alone, on rows that it wrote itself. Of fewer, a
library shares each among threads: on cores without a cache in common that took up to four times as
long."""
MANY, NARROW = 12, 6
"""With 2**12 or more products of 2**6 or fewer rows each, calls cost more than to move the wires
forward."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A primitive of a gate, on wires of the circuit.

    Attributes:
        name (str): The gate's name.
        primitive (Primitive): Its matrix as a function of one angle.
        wires (tuple[int, ...]): Where it acts, the most significant first.
        column (int): The angle's column in the angle table; -1 for a fixed matrix.
        batched (bool): Whether the angle is an input.
    """

    name: str
    primitive: Primitive
    wires: tuple[int, ...]
    column: int
    batched: bool

    @property
    def is_fixed(self) -> bool:
        """Whether it has no angle."""
        return self.column < 0

    @property
    def is_rotation(self) -> bool:
        """Whether its entries are multiples of the angle's cosine and sine alone."""
        return not (self.is_fixed or bool(self.primitive.constant.any()))


@dataclass(frozen=True)
class Chain:
    """Consecutive one-qubit gates on a wire: one 2 x 2 matrix.

    Attributes:
        wire (int): The wire.
        factors (tuple[int, ...]): Positions in ``Plan.factors``, in order of application.
        batched (bool): Whether one of them takes an input.
    """

    wire: int
    factors: tuple[int, ...]
    batched: bool


@dataclass(frozen=True)
class Dense:
    """Multiplies the rows of neighbouring wires by one matrix.

    The state is seen as ``(left, 2**k, right)`` rows.

    Attributes:
        wires (tuple[int, ...]): The k wires, in the order of the state's rows.
        left (int): Number of row groups before them.
        layers (tuple): What is multiplied into the matrix, in order: tuples of chains, one for each
            wire, or the position of a factor on several wires.
        real (bool): Whether the matrix has no imaginary part, which halves the work.
    """

    wires: tuple[int, ...]
    left: int
    layers: tuple[tuple[Chain, ...] | int, ...]
    real: bool


@dataclass(frozen=True, eq=False)
class Monomial:
    """Reorders the rows, then multiplies them by phases.

    Attributes:
        rows (Tensor or None): New row r is old row ``rows[r]``; None for no reordering.
        phases (tuple): Pairs (factor position, place ``(2**n,)`` of each row on its diagonal).
        names (tuple[str, ...]): The gates, for the printed plan.
    """

    rows: Tensor | None
    phases: tuple[tuple[int, Tensor], ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Turn:
    """Multiplies the rows of each sample by phases ``e^{i s x}`` with its inputs x.

    Attributes:
        own (tuple): Of factors on one wire pairs (factor position, place of the wire among the
            bits of a row, the first being the most significant).
        wide (tuple): Of the others pairs (factor position, place ``(2**n,)`` of each row on its
            diagonal).
        names (tuple[str, ...]): The gates, for the printed plan.
    """

    own: tuple[tuple[int, int], ...]
    wide: tuple[tuple[int, Tensor], ...]
    names: tuple[str, ...]


Step = Dense | Monomial | Turn


@dataclass(frozen=True, eq=False)
class Parities:
    """Signs that are parities of a row's bits, as products of those of its first and last bits.

    ``signs[k, r] = sum_ij weights[k, i, j] first[i, first bits of r] last[j, last bits of r]``

    Attributes:
        first (Tensor): Entries 1 and -1, ``(n_first, 2**n_first_bits)``.
        last (Tensor): Likewise, ``(n_last, 2**n_last_bits)``.
        weights (Tensor): ``(n_observables, n_first * n_last)``.
    """

    first: Tensor
    last: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Readout:
    """Which products of the final state's rows give the expectation values.

    Attributes:
        signs (Tensor or None): ``(n_observables, 2**n)``, real, for the squared moduli of the rows.
        parities (Parities or None): The same for many qubits, where the table would be large.
        pairs (tuple): For observables with X or Y: pairs (partner ``(2**n,)``, weights
            ``(n_observables, 2**n)``): the products of a row with its partner's conjugate.
    """

    signs: Tensor | None
    parities: Parities | None
    pairs: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What runs for a circuit; ``print(plan)`` shows it.

    Attributes:
        circuit (Circuit): The circuit.
        factors (tuple[Factor, ...]): The factors of its gates that matter.
        head (tuple[Chain, ...]): One chain for each wire, possibly empty.
        steps (tuple[Step, ...]): The steps in order.
        readout (Readout): The end.
    """

    circuit: Circuit
    factors: tuple[Factor, ...]
    head: tuple[Chain, ...]
    steps: tuple[Step, ...]
    readout: Readout

    @property
    def is_real(self) -> bool:
        """Whether no number in it has an imaginary part."""
        return all(factor.primitive.is_real for factor in self.factors)

    @property
    def is_polynomial(self) -> bool:
        """Whether inputs only rotate ``|0>``, one on a wire, products of Z are read, and few.

        Then `polynomial` gives the values while the weights are frozen.
        """
        n, signs = self.circuit.n_qubits, self.readout.signs
        if n > POLYNOMIAL or self.circuit.amplitude_encoding or signs is None or self.readout.pairs:
            return False
        inputs = [
            (place, self.factors[position])
            for chain in self.head
            for place, position in enumerate(chain.factors)
            if self.factors[position].batched
        ]
        return (
            bool(inputs)
            and all(place == 0 and factor.is_rotation for place, factor in inputs)
            and not any(isinstance(step, Turn) for step in self.steps)
            and len(signs) * 3**n <= COEFFICIENTS
        )

    def __str__(self) -> str:
        n = self.circuit.n_qubits

        def chain_text(chain: Chain) -> str:
            return " ".join(self.factors[f].name for f in chain.factors)

        lines = [
            f"{n} qubits, {len(self.circuit.gates)} gates, of which {len(self.factors)} factors "
            f"matter; the state has {2**n} rows{' of real numbers' * self.is_real}"
        ]
        if self.circuit.amplitude_encoding:
            lines.append("head: the inputs are the amplitudes")
        else:
            lines.append("head: product of one vector of 2 for each wire")
            lines += [f"  wire {c.wire}: {chain_text(c) or 'stays |0>'}" for c in self.head]
        for number, step in enumerate(self.steps):
            if isinstance(step, Dense):
                size = 2 ** len(step.wires)
                count = sum(
                    1 if isinstance(layer, int) else sum(len(c.factors) for c in layer)
                    for layer in step.layers
                )
                lines.append(
                    f"step {number}: {'real ' * step.real}{size} x {size} matrix on wires "
                    f"{', '.join(map(str, step.wires))} from {count} factors"
                )
                continue
            what = []
            if isinstance(step, Turn):
                what.append("multiply the rows by phases, one for each sample")
            else:
                what += ["reorder the rows"] if step.rows is not None else []
                what += ["multiply them by phases"] if step.phases else []
            lines.append(f"step {number}: {' and '.join(what)} ({', '.join(step.names)})")
        parts = []
        if self.readout.signs is not None or self.readout.parities is not None:
            parts.append("squared moduli of the rows, weighted")
        if self.readout.pairs:
            parts.append(f"{len(self.readout.pairs)} products of rows with their partners")
        n_values = len(self.circuit.observables)
        lines.append(f"readout: {' and '.join(parts)}: {n_values} values")
        if self.is_polynomial:
            lines.append(
                f"while no weight gets a gradient, on a CPU, instead of all this: {n_values} "
                f"polynomials of the inputs with {3**n} coefficients"
            )
        return "\n".join(lines)


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


def _factors(circuit: Circuit) -> list[Factor]:
    """All gates as primitives, in order."""
    result, first = [], 0
    for gate in circuit.gates:
        for primitive in gate.type.primitives(len(gate.wires), gate.inverse):
            wires = tuple(gate.wires[k] for k in primitive.wires)
            own = primitive.angle
            batched = own >= 0 and gate.angles[own].source == "input"
            column = first + own if own >= 0 else -1
            result.append(Factor(gate.name, primitive, wires, column, batched))
        first += len(gate.angles)
    return result


def _in_stages(factors: list[Factor], circuit: Circuit) -> list[Factor]:
    """Makes turns of what takes inputs, outside the head, and brings those of a stage together.

    Factors on different wires may change places. A stage is what can be done before the first, the
    second, ... turn of its wires; then come the turns that end it.
    """
    in_head = [not circuit.amplitude_encoding] * circuit.n_qubits
    stage = [0] * circuit.n_qubits
    placed: list[tuple[int, Factor]] = []
    for factor in factors:
        wires = factor.wires
        if len(wires) == 1 and in_head[wires[0]]:
            placed.append((0, factor))
            continue
        now = max(stage[wire] for wire in wires)
        for wire in wires:
            in_head[wire] = False
            stage[wire] = now + factor.batched
        if not factor.batched:
            placed.append((2 * now, factor))
            continue
        before, turn, after = factor.primitive.diagonalised()
        name = f"{factor.name}'s basis"
        for order, parts in ((2 * now, before), (2 * now + 2, after)):
            for part in parts:
                own = tuple(wires[k] for k in part.wires)
                placed.append((order, Factor(name, part, own, -1, False)))
        placed.append((2 * now + 1, replace(factor, primitive=turn)))
    return [factor for _, factor in sorted(placed, key=lambda pair: pair[0])]


@dataclass(eq=False)
class _Open:
    """A dense step that still takes gates."""

    wires: list[int]
    factors: list[int] = field(default_factory=list)


class _Planner:
    def __init__(self, circuit: Circuit, front: int, staircases: bool = False) -> None:
        self.circuit = circuit
        self.staircases = staircases  # of CNOTs in dense steps, instead of reorderings
        self.n = circuit.n_qubits
        self.factors = tuple(_in_stages(self._relevant(_factors(circuit)), circuit))
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
        self.open: list[_Open] = []  # in order; those that share wires must stay in it
        self.last: dict[int, _Open] = {}  # the last open block on a wire
        self.monomial: list[int] = []
        self.turn: list[int] = []
        self._kept: dict[bytes, Tensor] = {}
        self.tail = len(self.factors)
        while self.tail > 0 and self.factors[self.tail - 1].primitive.is_permutation:
            self.tail -= 1

    def _relevant(self, factors: list[Factor]) -> list[Factor]:
        """Those that reach an observable, without phases that no observable sees."""
        letters = {
            letter
            for o in self.circuit.observables
            for term in o.terms
            for _, letter in term.factors
        }
        reached = {w for observable in self.circuit.observables for w in observable.wires}
        # Wires on which what follows is more than reorderings and phases before a readout in Z.
        mixed = set() if letters <= {"Z"} else set(range(self.n))
        kept = []
        for factor in reversed(factors):
            wires = set(factor.wires)
            if not wires & reached:
                continue
            if wires & mixed:
                mixed |= wires
            elif factor.primitive.is_diagonal:
                continue
            elif not factor.primitive.is_permutation:
                mixed |= wires
            reached |= wires
            kept.append(factor)
        return kept[::-1]

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
        readout = self._readout()
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
            block = _Open(sorted(wires))
            touching = {id(own): own for own in map(self.last.get, block.wires) if own is not None}
            for own in sorted(touching.values(), key=lambda own: len(own.wires)):
                union = sorted({*block.wires, *own.wires})
                if self._is_last(own) and len(union) <= self.limit:
                    block.wires, block.factors = union, block.factors + own.factors
                    self.open.remove(own)
            self.open.append(block)
            self.last.update(dict.fromkeys(block.wires, block))
        block.factors.append(position)

    def _block_of(self, wires: Iterable[int]) -> _Open | None:
        """The open block that is the last on all of these wires, if one is."""
        first, *others = (self.last.get(wire) for wire in wires)
        return first if all(own is first for own in others) else None

    def _is_last(self, block: _Open) -> bool:
        return self._block_of(block.wires) is block

    def _close_dense(self) -> None:
        """Emits the open blocks, small ones side by side in one matrix."""
        depth = dict.fromkeys(range(self.n), 0)
        waves: dict[int, list[_Open]] = {}  # blocks of a wave are on different wires
        for block in self.open:
            now = max(depth[wire] for wire in block.wires)
            depth.update(dict.fromkeys(block.wires, now + 1))
            waves.setdefault(now, []).append(block)
        self.open, self.last = [], {}
        for now in sorted(waves):
            later = [block.wires for k in sorted(waves) if k > now for block in waves[k]]
            packed = self._side_by_side(waves[now])
            for k, block in enumerate(packed):
                self._emit_dense(block, [other.wires for other in packed[k + 1 :]], later)

    def _side_by_side(self, blocks: list[_Open]) -> list[_Open]:
        """Packs neighbours; those behind the front apart from others, if that costs no step."""
        blocks = sorted(blocks, key=lambda block: min(map(self.layout.index, block.wires)))
        first = [block for block in blocks if self._is_behind_front(block)]
        later = [block for block in blocks if not self._is_behind_front(block)]
        apart, packed = self._pack(first) + self._pack(later), self._pack(first + later)
        return apart if len(apart) == len(packed) else packed

    def _is_behind_front(self, block: _Open) -> bool:
        return all(self.layout.index(wire) >= self.front for wire in block.wires)

    def _pack(self, blocks: list[_Open]) -> list[_Open]:
        """Puts neighbours together; most wires at the end, where products are narrow."""
        packed: list[_Open] = []
        wires_left = sum(len(block.wires) for block in blocks)
        room = self._room(wires_left)
        for block in reversed(blocks):
            if packed and len(packed[-1].wires) + len(block.wires) <= room:
                packed[-1].wires = block.wires + packed[-1].wires
                packed[-1].factors = block.factors + packed[-1].factors
                continue
            if packed:
                wires_left -= len(packed[-1].wires)
                room = self._room(wires_left)
            packed.append(_Open(list(block.wires), list(block.factors)))
        return packed[::-1]

    def _room(self, wires: int) -> int:
        """The size of the next of as few steps as possible, all about the same."""
        steps = -(-wires // (self.n if self.whole else SIDE_BY_SIDE))
        return -(-wires // steps) if wires else 0

    def _emit_dense(self, block: _Open, following: list[list[int]], later: list[list[int]]) -> None:
        """Emits a block; where rows must move for it, those of blocks after it come along.

        Args:
            block (_Open): The block.
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

    def _readout(self) -> Readout:
        """Folds the last reordering and the order of the wires into the observables."""
        size = 2**self.n
        order = torch.zeros(size, dtype=torch.long)  # basis index -> row of the state
        basis = torch.arange(size)
        for place, wire in enumerate(self.layout):
            order |= (basis >> (self.n - 1 - wire) & 1) << (self.n - 1 - place)
        last = self.steps[-1] if self.steps else None
        if isinstance(last, Monomial) and last.rows is not None and not last.phases:
            order = last.rows[order]
            self.steps.pop()
        index = torch.empty_like(order)
        index[order] = basis  # row -> basis index
        parities = self._parities(index) if self.n >= FACTORED else None
        if parities is not None:
            return Readout(None, parities, ())
        groups: dict[int, Tensor] = {}
        for k, observable in enumerate(self.circuit.observables):
            for term in observable.terms:
                flip, sign, n_y = masks(term.factors, self.n)
                if flip not in groups:
                    shape = (len(self.circuit.observables), size)
                    groups[flip] = torch.zeros(shape, dtype=torch.complex128)
                signs_of_rows = 1 - 2 * _parity(basis & sign, self.n).double()
                groups[flip][k] += term.coefficient * 1j**n_y * signs_of_rows
        signs = groups.pop(0)[:, index].real.contiguous() if 0 in groups else None
        pairs = tuple(
            (order[index ^ flip], weights[:, index].contiguous())
            for flip, weights in groups.items()
        )
        return Readout(signs, None, pairs)

    def _parities(self, index: Tensor) -> Parities | None:
        """Products of Z as parities of bits of the row; None if one of them is not that."""
        split = self.n // 2  # number of the last bits
        found: list[tuple[int, int, float]] = []  # observable, mask of bits, weight
        for k, observable in enumerate(self.circuit.observables):
            for term in observable.terms:
                flip, sign, _ = masks(term.factors, self.n)
                if flip:
                    return None
                signs = _parity(index & sign, self.n)
                mask = sum(1 << j for j in range(self.n) if signs[1 << j] != signs[0])
                if not torch.equal(
                    signs, _parity(torch.arange(2**self.n) & mask, self.n) ^ signs[0]
                ):
                    return None
                found.append((k, mask, term.coefficient * (1 - 2 * int(signs[0]))))
        firsts = sorted({mask >> split for _, mask, _ in found})
        lasts = sorted({mask & (2**split - 1) for _, mask, _ in found})
        weights = torch.zeros(len(self.circuit.observables), len(firsts), len(lasts)).double()
        for k, mask, weight in found:
            weights[k, firsts.index(mask >> split), lasts.index(mask & (2**split - 1))] += weight

        def table(masks: list[int], bits: int) -> Tensor:
            rows = torch.arange(2**bits)
            return torch.stack([1 - 2 * _parity(rows & mask, bits).double() for mask in masks])

        return Parities(table(firsts, self.n - split), table(lasts, split), weights.flatten(1))


def _parity(numbers: Tensor, bits: int) -> Tensor:
    """The parity of each number's bits: 0 or 1."""
    result = torch.zeros_like(numbers)
    for bit in range(bits):
        result ^= numbers >> bit & 1
    return result
