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

from dataclasses import dataclass

from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.factors import Factor

POLYNOMIAL, COEFFICIENTS = 8, 2**17
"""Up to so many qubits, and coefficients of all observables, values are polynomials of the inputs
while the weights are frozen."""


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
        rows (Tensor): The row of each basis state's amplitude, ``(2**n,)``.
        signs (Tensor or None): ``(n_observables, 2**n)``, real, for the squared moduli of the rows.
        parities (Parities or None): The same for many qubits, where the table would be large.
        pairs (tuple): For observables with X or Y: pairs (partner ``(2**n,)``, weights
            ``(n_observables, 2**n)``): the products of a row with its partner's conjugate.
    """

    rows: Tensor
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
