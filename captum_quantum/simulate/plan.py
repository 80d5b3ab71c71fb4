"""What runs for a circuit: a product state and few large steps.

The state of n qubits is a matrix with ``2**n`` rows, one for each basis state, and a column for
each sample. A plan has

- a **preparation**: as long as only one-qubit gates act on a wire, it is a vector of two numbers.
  The state starts as the product of these vectors, and these gates never touch all rows;
- **steps**, of three kinds. A *monomial* step reorders the rows (CNOT, SWAP, Toffoli, ...: a run of
  such gates is one index) and multiplies them by phases (CZ, RZZ, CRZ, ...: a run of such gates is
  one vector). A *dense* step multiplies the rows of a few wires by one matrix: the product of all
  neighboring gates on these wires, CNOTs too where that costs less. A step of *input phases*
  multiplies the rows by phases that differ from sample to sample: gates that take an input;
- a **readout**: reorderings at the end of the circuit reorder the observables instead of the state,
  and phases at the end that no observable sees are left out, as are gates outside the observables'
  light cone.

All samples share the matrices of dense steps, and that is what makes them fast. A gate that takes
an input is a rotation about a Pauli word, or a phase. In the eigenbases of its Pauli letters it is
diagonal. So it becomes phases between two changes of basis: one-qubit gates that are the same for
all samples and are multiplied into the matrices of neighboring gates. Only in the preparation,
where a wire is a vector of two numbers, it stays as it is.
"""

from dataclasses import dataclass

from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.factors import Factor

POLYNOMIAL, COEFFICIENTS = 8, 2**17
"""The most qubits, and coefficients of all observables, for which values are polynomials of the
inputs while the weights are frozen."""


@dataclass(frozen=True)
class Dense:
    """Multiplies the rows of neighboring wires by one matrix.

    The state is seen as ``(left, 2**k, right)`` rows.

    Attributes:
        wires (tuple[int, ...]): The k wires, in the order of the state's rows.
        left (int): Number of row groups before them.
        layers (tuple): What is multiplied into the matrix, in order: either for each wire the
            positions of one-qubit factors in ``Plan.factors``, or the position of one factor on
            several wires.
        real (bool): Whether the matrix has no imaginary part, which halves the work.
    """

    wires: tuple[int, ...]
    left: int
    layers: tuple[tuple[tuple[int, ...], ...] | int, ...]
    real: bool


@dataclass(frozen=True, eq=False)
class Monomial:
    """Reorders the rows, then multiplies them by phases.

    Attributes:
        rows (Tensor or None): New row r is old row ``rows[r]``; None for no reordering.
        phases (tuple): Pairs (position of a factor, for each row its index on the factor's
            diagonal, ``(2**n,)``).
        names (tuple[str, ...]): The gates, for the printed plan.
    """

    rows: Tensor | None
    phases: tuple[tuple[int, Tensor], ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class InputPhases:
    """Multiplies the rows of each sample by phases ``exp(i s x)`` with its inputs x.

    Attributes:
        factors (tuple): Pairs (position of a factor, which bits of a row its wires are, 0 being the
            most significant).
        names (tuple[str, ...]): The gates, for the printed plan.
    """

    factors: tuple[tuple[int, tuple[int, ...]], ...]
    names: tuple[str, ...]

    @property
    def multiplications(self) -> int:
        """How often each row is multiplied: twice for all factors on single wires together."""
        n_multi = sum(len(bits) > 1 for _, bits in self.factors)
        return n_multi + 2 * (n_multi < len(self.factors))


Step = Dense | Monomial | InputPhases


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
class Marginals:
    """Squared moduli of the rows, added up by the outcomes of the k wires that are read.

    Attributes:
        order (Tensor): The rows, those of the first outcome first, ``(2**n,)``.
        outcomes (Tensor): The outcome of each row, ``(2**n,)``.
        n_outcomes (int): Number of outcomes, ``2**k``.
        weights (Tensor or None): ``(n_observables, 2**k)``, real, for the outcomes' probabilities;
            None if these are the values.
    """

    order: Tensor
    outcomes: Tensor
    n_outcomes: int
    weights: Tensor | None


@dataclass(frozen=True, eq=False)
class Readout:
    """Which products of the last state's rows give the expectation values.

    Attributes:
        rows (Tensor): The row of each basis state's amplitude, ``(2**n,)``.
        signs (Tensor or None): ``(n_observables, 2**n)``, real, for the squared moduli of the rows.
        parities (Parities or None): The same for many qubits, where that table would be large, and
            products of Z.
        marginals (Marginals or None): The same for many qubits and other observables.
        pairs (tuple): For observables that are not diagonal: pairs (partner ``(2**n,)``, weights
            ``(n_observables, 2**n)``): the products of a row with its partner's conjugate.
    """

    rows: Tensor
    signs: Tensor | None
    parities: Parities | None
    marginals: Marginals | None
    pairs: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What runs for a circuit; ``print(plan)`` shows it.

    Attributes:
        circuit (Circuit): The circuit.
        factors (tuple[Factor, ...]): The factors of its gates that matter.
        preparation (tuple): For each wire the positions of its factors in the preparation.
        steps (tuple[Step, ...]): The steps in order.
        readout (Readout): The end.
    """

    circuit: Circuit
    factors: tuple[Factor, ...]
    preparation: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    readout: Readout

    @property
    def is_real(self) -> bool:
        """Whether no number in it has an imaginary part."""
        return all(factor.primitive.is_real for factor in self.factors)

    @property
    def is_polynomial(self) -> bool:
        """Whether values are polynomials of few terms, see `polynomial`.

        Inputs must only rotate ``|0>``, one on a wire, and diagonal observables be read.
        """
        n, signs = self.circuit.n_qubits, self.readout.signs
        if n > POLYNOMIAL or self.circuit.amplitude_encoding or signs is None or self.readout.pairs:
            return False
        first = {chain[0] for chain in self.preparation if chain}
        inputs = {k for k, factor in enumerate(self.factors) if factor.of_input}
        return (
            bool(inputs)
            and inputs <= first
            and all(self.factors[k].is_rotation for k in inputs)
            and len(signs) * 3**n <= COEFFICIENTS
        )

    @property
    def multiply_adds(self) -> int:
        """Complex multiply-adds of all steps for one sample, forwards; a real matrix counts half.

        A dense step on k wires takes ``2**k`` for each of the ``2**n`` rows, a multiplication by
        phases one.
        """
        total = 0.0
        for step in self.steps:
            if isinstance(step, Dense):
                total += 2 ** len(step.wires) / (2 if step.real else 1)
            elif isinstance(step, Monomial):
                total += bool(step.phases)
            else:
                total += step.multiplications
        return int(2**self.circuit.n_qubits * total)

    def __str__(self) -> str:
        n = self.circuit.n_qubits
        lines = [
            f"{n} qubits, {len(self.circuit.gates)} gates, of which {len(self.factors)} factors "
            f"matter; the state has {2**n} rows{' of real numbers' * self.is_real}; "
            f"{self.multiply_adds} multiply-adds for each sample"
        ]
        if self.circuit.amplitude_encoding:
            lines.append("preparation: the inputs are the amplitudes")
        else:
            lines.append("preparation: product of one vector of 2 for each wire")
            for wire, chain in enumerate(self.preparation):
                names = " ".join(self.factors[f].name for f in chain)
                lines.append(f"  wire {wire}: {names or 'stays |0>'}")
        lines += [f"step {k}: {self._describe(step)}" for k, step in enumerate(self.steps)]
        readout = []
        diagonal = self.readout.signs, self.readout.parities, self.readout.marginals
        if any(part is not None for part in diagonal):
            readout.append("squared moduli of the rows, weighted")
        if self.readout.pairs:
            readout.append(f"{len(self.readout.pairs)} products of rows with their partners")
        n_values = len(self.circuit.observables)
        lines.append(f"readout: {' and '.join(readout)}: {n_values} values")
        if self.is_polynomial:
            lines.append(
                f"while no weight gets a gradient, on a CPU, instead of all this: {n_values} "
                f"polynomials of the inputs with {3**n} coefficients"
            )
        return "\n".join(lines)

    @staticmethod
    def _describe(step: Step) -> str:
        if isinstance(step, Dense):
            size, wires = 2 ** len(step.wires), ", ".join(map(str, step.wires))
            return f"multiply by a {'real ' * step.real}{size} x {size} matrix on wires {wires}"
        if isinstance(step, InputPhases):
            what = "multiply the rows by phases, one for each sample"
        else:
            parts = "reorder the rows" * (step.rows is not None), "multiply them by phases"
            what = " and ".join(parts[: 1 + bool(step.phases)]).removeprefix(" and ")
        return f"{what} ({', '.join(step.names)})"
