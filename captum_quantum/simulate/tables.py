"""Where every entry stands in the matrices of a plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_quantum.circuit.primitives import Primitive, extend, extended_index
from captum_quantum.simulate.entries import AngleMap, Entries, cast
from captum_quantum.simulate.layout import repeat_index
from captum_quantum.simulate.phases import PhaseTable
from captum_quantum.simulate.plan import Dense, Monomial, Plan
from captum_quantum.simulate.products import ChainProducts, square

IDENTITY = square(0, 2)
"""All entries begin with those of the identity, see `Entries`."""


@dataclass
class Layer:
    """A matrix that is multiplied into that of a dense step; one of the following.

    Attributes:
        kron (tuple[int, int] or None): A Kronecker product of 2 x 2 matrices: their number, and
            which of the products of as many.
        index (Tensor or None): Which entry stands where, ``(d, d)``.
        matrix (Tensor or None): A fixed matrix, ``(d, d)``.
        rows (tuple[Tensor, Tensor] or None): If the matrix is a permutation, its index of rows and
            the inverse, ``(d,)``.
    """

    kron: tuple[int, int] | None = None
    index: Tensor | None = None
    matrix: Tensor | None = None
    rows: tuple[Tensor, Tensor] | None = None


class Tables:
    """The indices of a plan's matrices, on one device, in one precision.

    Two sets of entries are made, `Entries`: those of gates with weights or constants, the same for
    all samples; and those of gates of the preparation that take inputs. Products of consecutive
    one-qubit gates follow the former.

    Attributes:
        constants (Tensor): Constant angles, which follow the weight angles.
        shared (Entries): Entries of gates that take no input.
        of_inputs (Entries): Entries of the preparation's gates that take inputs, but for the first
            rotations.
        rotates (bool): Whether there are first rotations: gates that rotate ``|0>`` by an input. A
            wire starts as ``(cos t, sin t)`` then, else as ``(1, 0)``.
        half_angles (AngleMap): The angles t of all wires, 0 for those that start as ``(1, 0)``.
        whole_angles (AngleMap): Twice these, and for an odd number of wires one more, 0.
        levels (list): What follows in the preparation: pairs of indices of entries, ``(n, 2, 2)``,
            a matrix for each wire, and whether these are of inputs.
        chains (ChainProducts or None): Products of consecutive one-qubit gates.
        krons (dict[int, Tensor]): For each number k of wires the indices of the factors of all
            Kronecker products of k matrices, ``(m, k, 4)``.
        layers (dict[int, list[Layer]]): For each dense step what is multiplied into its matrix.
        fixed (list[int]): The dense steps that take no weights.
        rows (dict[int, tuple[Tensor, Tensor]]): For each reordering its index and its inverse.
        diagonals (dict[int, Tensor]): For each step of phases the entries whose product they are,
            ``(m, 2**n)``.
        phases (PhaseTable): Phases from inputs.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        self.plan, self.device, self.dtype, self.lanes = plan, device, dtype, lanes
        self.real = dtype.to_real()
        self.n = plan.circuit.n_qubits
        self.n_inputs = len(plan.circuit.columns("input"))
        self._make_entries(self._first_rotations())
        self._chains: list[list[int]] = []
        self._make_levels()
        self._make_steps()
        self.chains = ChainProducts(self._chains, device) if self._chains else None
        self.phases = PhaseTable(plan, device, dtype, lanes)

    def _first_rotations(self) -> dict[int, Primitive | None]:
        """By position, the fixed matrices that replace them; None for the identity.

        A rotation by an input turns ``|0>`` into ``cos t C |0> + sin t S |0>``: the fixed matrix
        with the columns ``C |0>`` and ``S |0>``, applied to ``(cos t, sin t)``.
        """
        columns, frequencies = [0] * self.n, [0.0] * self.n
        replaced: dict[int, Primitive | None] = {}
        for wire, chain in enumerate(self.plan.preparation):
            factor = self.plan.factors[chain[0]] if chain else None
            if factor is None or not factor.of_input or not factor.is_rotation:
                continue
            cosine, sine = factor.primitive.cosine, factor.primitive.sine
            assert cosine is not None
            assert sine is not None
            columns[wire], frequencies[wire] = factor.angle, factor.primitive.frequency
            both = torch.stack([cosine[:, 0], sine[:, 0]], dim=1)
            is_identity = torch.equal(both, torch.eye(2, dtype=both.dtype))
            replaced[chain[0]] = None if is_identity else Primitive((0,), both)
        self.rotates = bool(replaced)
        arguments = self.n_inputs, self.device, self.real
        self.half_angles = AngleMap(columns, frequencies, *arguments)
        odd, doubled = self.n % 2, [2 * frequency for frequency in frequencies]
        self.whole_angles = AngleMap(columns + [0] * odd, doubled + [0.0] * odd, *arguments)
        return replaced

    def _make_entries(self, replaced: dict[int, Primitive | None]) -> None:
        circuit = self.plan.circuit
        constants = circuit.columns("constant")
        shared = {position: (matrix, -1) for position, matrix in replaced.items() if matrix}
        of_inputs: dict[int, tuple[Primitive, int]] = {}
        prepared = {position for chain in self.plan.preparation for position in chain}
        for position, factor in enumerate(self.plan.factors):
            if factor.of_input and position in prepared and position not in replaced:
                of_inputs[position] = factor.primitive, factor.angle
            is_reordering = len(factor.wires) > 1 and factor.primitive.is_permutation
            if not (factor.of_input or is_reordering):
                shared[position] = factor.primitive, factor.angle
        kind = self.device, self.dtype
        n_angles = len(circuit.columns("weight")) + len(constants)
        self.shared = Entries(list(shared.values()), n_angles, *kind)
        self.of_inputs = Entries(list(of_inputs.values()), self.n_inputs, *kind)
        self._starts = dict(zip(shared, self.shared.starts, strict=True))
        self._input_starts = dict(zip(of_inputs, self.of_inputs.starts, strict=True))
        values = [circuit.angles[column][2].value for column in constants]
        self.constants = torch.tensor(values, device=self.device, dtype=self.real)

    def _segments(self, chain: Sequence[int]) -> list[list[int]]:
        """Where matrices of one-qubit gates start, in turn some shared ones and one of an input."""
        segments: list[list[int]] = [[]]
        for position in chain:
            if position in self._input_starts:
                segments += [[self._input_starts[position]], []]
            elif position in self._starts:
                segments[-1].append(self._starts[position])
        return segments

    def _product_of(self, starts: list[int]) -> Tensor:
        """Indices of the entries of a product of 2 x 2 matrices, ``(2, 2)``."""
        if len(starts) < 2:
            return square(starts[0] if starts else 0, 2)
        self._chains.append(starts)
        return square(self.shared.size + 4 * (len(self._chains) - 1), 2)

    def _make_levels(self) -> None:
        segments = [self._segments(chain) for chain in self.plan.preparation]
        self.levels: list[tuple[Tensor, bool]] = []
        for level in range(max(map(len, segments))):
            products = [
                self._product_of(of_wire[level] if level < len(of_wire) else [])
                for of_wire in segments
            ]
            if not all(torch.equal(product, IDENTITY) for product in products):
                self.levels.append((torch.stack(products).to(self.device), level % 2 == 1))

    def _make_steps(self) -> None:
        self.layers: dict[int, list[Layer]] = {}
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}
        self.diagonals: dict[int, Tensor] = {}
        self.fixed: list[int] = []
        self._norm = 1.0
        krons: dict[int, list[Tensor]] = {}
        kept: dict[int, tuple[Tensor, Tensor]] = {}  # layers of a circuit share their reorderings
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                self.layers[number] = self._layers_of(step, krons)
                if self.layers[number][0].matrix is not None and len(self.layers[number]) == 1:
                    self.fixed.append(number)
            elif isinstance(step, Monomial):
                if step.rows is not None:
                    if id(step.rows) not in kept:
                        both = (step.rows, torch.argsort(step.rows))
                        index, inverse = (repeat_index(r, 2**self.n, self.lanes) for r in both)
                        kept[id(step.rows)] = index.to(self.device), inverse.to(self.device)
                    self.rows[number] = kept[id(step.rows)]
                if step.phases:
                    diagonals = []
                    for position, diagonal in step.phases:
                        side = 2 ** len(self.plan.factors[position].wires)
                        diagonals.append(self._starts[position] + diagonal * (side + 1))
                    self.diagonals[number] = torch.stack(diagonals).to(self.device)
        self.krons = {
            k: torch.stack(products).view(-1, k, 4).to(self.device) for k, products in krons.items()
        }

    def _layers_of(self, step: Dense, krons: dict[int, list[Tensor]]) -> list[Layer]:
        layers: list[Layer] = []
        k = len(step.wires)
        for layer in step.layers:
            fixed = self._fixed_matrix(layer, step.wires)
            if fixed is not None:
                if layers and layers[-1].matrix is not None:
                    layers[-1].matrix = fixed @ layers[-1].matrix
                else:
                    layers.append(Layer(matrix=fixed))
                continue
            if not isinstance(layer, int):
                products = krons.setdefault(k, [])
                layers.append(Layer(kron=(k, len(products))))
                # A chain in a dense step takes no inputs: it has one segment.
                chains = [self._product_of(self._segments(chain)[0]) for chain in layer]
                products.append(torch.stack(chains))
                continue
            bits = [step.wires.index(wire) for wire in self.plan.factors[layer].wires]
            row, others = extended_index(bits, k)
            same = others[:, None] == others[None, :]
            entry = self._starts[layer] + row[:, None] * 2 ** len(bits) + row[None, :]
            # Where the wires that it does not act on differ, the matrix is 0, as is entry 1.
            layers.append(Layer(index=torch.where(same, entry, 1).to(self.device)))
        for layer_ in layers:
            if layer_.matrix is not None:
                rows = layer_.matrix.real.argmax(dim=1)
                identity = torch.eye(len(rows), dtype=layer_.matrix.dtype)
                if torch.equal(layer_.matrix, identity[rows]):
                    layer_.rows = rows.to(self.device), torch.argsort(rows).to(self.device)
                layer_.matrix = self._rounded(layer_.matrix, len(layers) == 1).to(self.device)
        return layers

    def _fixed_matrix(self, layer: Any, wires: Sequence[int]) -> Tensor | None:
        """The matrix of a layer of a step, in complex128; None if it takes weights."""
        chains = [[layer]] if isinstance(layer, int) else layer
        if not all(self.plan.factors[p].is_fixed for chain in chains for p in chain):
            return None
        if isinstance(layer, int):
            factor = self.plan.factors[layer]
            return extend(
                factor.primitive.constant, [wires.index(w) for w in factor.wires], len(wires)
            )
        matrix = torch.ones(1, 1, dtype=torch.complex128)
        for chain in chains:
            product = torch.eye(2, dtype=torch.complex128)
            for position in chain:
                product = self.plan.factors[position].primitive.constant @ product
            matrix = torch.kron(matrix, product)
        return matrix

    def _rounded(self, matrix: Tensor, is_step: bool) -> Tensor:
        """A fixed matrix in the precision of the states.

        Rounding changes the norm a little, and equal matrices change it alike: over hundreds of
        steps that adds up. So what the steps before have added is taken from the next one.
        """
        if not is_step:
            return cast(matrix, self.dtype)
        rounded = cast(matrix / math.sqrt(self._norm), self.dtype)
        self._norm *= float(rounded.to(torch.complex128).abs().square().sum()) / len(matrix)
        return rounded
