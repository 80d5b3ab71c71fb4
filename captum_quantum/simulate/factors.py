"""From the gates of a circuit to the factors that matter, in the order in which they are run."""

from dataclasses import dataclass, replace

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.primitives import Primitive


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


def factors_of(circuit: Circuit) -> list[Factor]:
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


def in_stages(factors: list[Factor], circuit: Circuit) -> list[Factor]:
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
        before, turn, after = factor.primitive.diagonalized()
        name = f"{factor.name}'s basis"
        for order, parts in ((2 * now, before), (2 * now + 2, after)):
            for part in parts:
                own = tuple(wires[k] for k in part.wires)
                placed.append((order, Factor(name, part, own, -1, False)))
        placed.append((2 * now + 1, replace(factor, primitive=turn)))
    return [factor for _, factor in sorted(placed, key=lambda pair: pair[0])]


def relevant(factors: list[Factor], circuit: Circuit) -> list[Factor]:
    """Those that reach an observable, without phases that no observable sees."""
    letters = {
        letter for o in circuit.observables for term in o.terms for _, letter in term.factors
    }
    reached = {w for observable in circuit.observables for w in observable.wires}
    # Wires on which what follows is more than reorderings and phases before a readout in Z.
    mixed = set() if letters <= {"Z"} else set(range(circuit.n_qubits))
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
