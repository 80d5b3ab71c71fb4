"""From the gates of a circuit to factors, in an order in which a plan can run them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from captum_quantum.circuit import Circuit
from captum_quantum.circuit.primitives import Primitive


@dataclass(frozen=True, eq=False)
class Factor:
    """A matrix with at most one angle, on wires of the circuit; a gate is a product of factors.

    Attributes:
        name (str): The gate's name.
        primitive (Primitive): The matrix as a function of the angle.
        wires (tuple[int, ...]): Where it acts, the most significant first.
        angle (int): Which angle: of those that come from inputs, or of those from weights, then
            constants; -1 for a fixed matrix.
        of_input (bool): Whether the angle comes from an input.
    """

    name: str
    primitive: Primitive
    wires: tuple[int, ...]
    angle: int = -1
    of_input: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether it has no angle."""
        return self.angle < 0

    @property
    def is_rotation(self) -> bool:
        """Whether its entries are multiples of the angle's cosine and sine alone."""
        return not (self.is_fixed or bool(self.primitive.constant.any()))


def relevant_factors(circuit: Circuit) -> list[Factor]:
    """The factors of all gates that reach an observable, in order.

    Phases that no observable sees, at the end before a diagonal readout, are left out.
    """
    is_diagonal = all(observable.is_diagonal for observable in circuit.observables)
    reached = {wire for observable in circuit.observables for wire in observable.wires}
    # Wires on which what follows is more than reorderings and phases before a diagonal readout.
    mixed = set() if is_diagonal else set(range(circuit.n_qubits))
    relevant = []
    for factor in reversed(_factors(circuit)):
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
        relevant.append(factor)
    return relevant[::-1]


def _factors(circuit: Circuit) -> list[Factor]:
    factors, first = [], 0
    sources = circuit.columns("input"), circuit.columns("weight") + circuit.columns("constant")
    index = {column: k for columns in sources for k, column in enumerate(columns)}
    for gate in circuit.gates:
        for primitive in gate.type.primitives(len(gate.wires), gate.inverse):
            wires = tuple(gate.wires[k] for k in primitive.wires)
            factor = Factor(gate.name, primitive, wires)
            if primitive.angle >= 0:
                of_input = gate.angles[primitive.angle].source == "input"
                factor = replace(factor, angle=index[first + primitive.angle], of_input=of_input)
            factors.append(factor)
        first += len(gate.angles)
    return factors


def arrange(
    factors: Sequence[Factor], circuit: Circuit
) -> tuple[tuple[Factor, ...], list[list[int]]]:
    """Separates the preparation, and makes phases of all other factors that take inputs.

    The preparation is, on every wire, the one-qubit factors before all others. After it a factor
    that takes an input is written in the eigenbases of its Pauli letters, in which it is diagonal:
    one-qubit gates, phases, and the inverses of these gates.

    Factors on different wires may change places. Stage s of the circuit is what can be done before
    the s-th phases of its wires; then come the phases that end it, and so on.

    Args:
        factors (Sequence[Factor]): In the order of application.
        circuit (Circuit): Their circuit.

    Returns:
        tuple: All factors, those of the preparation first, then stage by stage; and the
        preparation's positions among them for every wire.
    """
    is_prepared = [circuit.amplitude_encoding] * circuit.n_qubits
    stage = [0] * circuit.n_qubits
    ordered: list[tuple[int, Factor]] = []
    for factor in factors:
        wires = factor.wires
        if len(wires) == 1 and not is_prepared[wires[0]]:
            ordered.append((-1, factor))
            continue
        now = max(stage[wire] for wire in wires)
        for wire in wires:
            is_prepared[wire] = True
            stage[wire] = now + factor.of_input
        if not factor.of_input:
            ordered.append((2 * now, factor))
            continue
        before, phases, after = factor.primitive.diagonalized()
        for order, gates in ((2 * now, before), (2 * now + 2, after)):
            for gate in gates:
                of_gate = tuple(wires[k] for k in gate.wires)
                ordered.append((order, Factor(f"{factor.name}'s basis", gate, of_gate)))
        ordered.append((2 * now + 1, replace(factor, primitive=phases)))
    ordered.sort(key=lambda pair: pair[0])
    preparation: list[list[int]] = [[] for _ in range(circuit.n_qubits)]
    for position, (order, factor) in enumerate(ordered):
        if order < 0:
            preparation[factor.wires[0]].append(position)
    return tuple(factor for _, factor in ordered), preparation
