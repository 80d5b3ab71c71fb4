"""From angles to the matrices of a plan, and from gradients by matrices back to angles.

All matrices are made at once, whatever the number of gates: cosines and sines of all angles, the
entries of all factors, products of consecutive one-qubit gates, Kronecker products over the wires
of a step. The way back goes through the same operations in reverse order.

Everywhere here and in the fused simulator, the gradient W by a complex tensor z means

    dE = Re(sum_k W_k dz_k),

without a complex conjugate. Then a product ``y = A x`` gives ``W_x = A^T W_y`` and
``W_A = W_y x^T``, and nothing needs to be conjugated on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_quantum.circuit.gates import extended_index
from captum_quantum.simulate.plan import Chain, Dense, Factor, Monomial, Plan, Turn

IDENTITY = torch.tensor([[1, 0], [0, 1]])
"""Entries 0 and 1 are the numbers 0 and 1: the places of the identity's entries."""


def square(start: int, side: int) -> Tensor:
    """Places of a matrix's entries that are stored one after the other, ``(side, side)``."""
    return torch.arange(start, start + side * side).reshape(side, side)


def take(entries: Tensor, index: Tensor) -> Tensor:
    """``(e, b)`` and an index of any shape to ``(*index.shape, b)``."""
    return entries.index_select(0, index.reshape(-1)).reshape(*index.shape, entries.shape[1])


def by_lanes(columns: Tensor, lanes: int) -> Tensor:
    """``(..., b)`` to ``(lanes, ..., b / lanes)``."""
    if lanes == 1:
        return columns[None]
    split: Tensor = columns.unflatten(-1, (lanes, -1))
    return split.movedim(-2, 0)


def of_lanes(columns: Tensor) -> Tensor:
    """``(lanes, ..., b / lanes)`` to ``(..., b)``."""
    if len(columns) == 1:
        return columns[0]
    return columns.movedim(0, -2).flatten(-2)


def in_lanes(index: Tensor, size: int, lanes: int) -> Tensor:
    """An index of ``size`` rows for each of the lanes, whose rows follow each other."""
    if lanes == 1:
        return index
    return (index + size * torch.arange(lanes)[:, None]).flatten()


def cast(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Complex numbers in a dtype; if that is real, they have no imaginary part."""
    return (numbers if dtype.is_complex else numbers.real).to(dtype)


def by_parts(W: Tensor) -> Tensor:
    """Gradients by real, then by imaginary parts, along dimension 0; real ones as they are."""
    return torch.cat([W.real, -W.imag]) if W.is_complex() else W


class Product:
    """The product of vectors ``(m, k, r, b)``, first factor the most significant, and its way back.

    Even numbers of factors are multiplied in pairs, all pairs at once.

    Attributes:
        value (Tensor): ``(m, r**k, b)``.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.shape = vectors.shape
        m, k, r, b = vectors.shape
        self.inner: Product | None = None
        if k == 1:
            self.value = vectors[:, 0]
            return
        if k % 2:
            self.inner = Product(vectors[:, :-1])
            self.first, self.second = self.inner.value, vectors[:, -1]
        else:
            self.inner = Product(vectors.reshape(2 * m, k // 2, r, b))
            halves = self.inner.value.reshape(m, 2, -1, b)
            self.first, self.second = halves[:, 0], halves[:, 1]
        self.value = (self.first[:, :, None] * self.second[:, None]).reshape(m, -1, b)

    def release(self) -> Tensor:
        """The value, forgotten here: the way back does not need it."""
        value = self.value
        del self.value
        return value

    def back(self, W: Tensor) -> Tensor:
        """Gradients by the factors, ``(m, k, r, b)``, from that by the value."""
        if self.inner is None:
            return W[:, None]
        m, k, r, _ = self.shape
        W = W.reshape(m, self.first.shape[1], self.second.shape[1], -1)
        by_first = (W * self.second[:, None]).sum(dim=2)
        by_second = (W * self.first[:, :, None]).sum(dim=1)
        if k % 2:
            return torch.cat([self.inner.back(by_first), by_second[:, None]], dim=1)
        if k == 2:
            return torch.stack([by_first, by_second], dim=1)
        halves = torch.stack([by_first, by_second], dim=1).reshape(2 * m, by_first.shape[1], -1)
        return self.inner.back(halves).reshape(m, k, r, -1)


class Multiples:
    """Angles picked from a table, each times its frequency, and the way back.

    Args:
        columns (Sequence[int]): The angle that each multiple is of.
        frequencies (Sequence[float]): By what it is multiplied.
        n_angles (int): Number of angles in the table.
        device (torch.device): Where.
        dtype (torch.dtype): Of the angles.
    """

    def __init__(
        self,
        columns: Sequence[int],
        frequencies: Sequence[float],
        n_angles: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.n_angles = n_angles
        # None where there is nothing to do: all in order, all frequencies 1.
        self.columns: Tensor | None = None
        if list(columns) != list(range(n_angles)):
            self.columns = torch.tensor(columns, dtype=torch.int32, device=device)
        self.frequencies: Tensor | None = None
        if any(frequency != 1 for frequency in frequencies):
            self.frequencies = torch.tensor(frequencies, device=device, dtype=dtype)[:, None]

    def of(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(m, b)``."""
        if self.columns is not None:
            angles = angles.index_select(0, self.columns)
        return angles if self.frequencies is None else angles * self.frequencies

    def back(self, W: Tensor) -> Tensor:
        """Gradients by multiples ``(m, b)`` to those by angles ``(n_angles, b)``."""
        W = W if self.frequencies is None else W * self.frequencies
        if self.columns is None:
            return W
        return W.new_zeros(self.n_angles, W.shape[1]).index_add_(0, self.columns, W)


class Factors:
    """The entries of many factors' matrices from their angles, all at once.

    The real and the imaginary part of an entry are each a number times 1, cos(f t) or sin(f t).
    """

    def __init__(
        self,
        factors: Sequence[Factor],
        place: dict[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        turning = [factor for factor in factors if not factor.is_fixed]
        slot = {id(factor): k for k, factor in enumerate(turning)}
        self.starts: list[int] = []
        self.size, m = 0, len(turning)
        numbers = [torch.zeros(0, 2, dtype=torch.float64)]
        places = [torch.zeros(0, 2, dtype=torch.long)]
        for factor in factors:
            own = factor.primitive
            self.starts.append(self.size)
            self.size += own.constant.numel()
            rows = (0, 1 + slot.get(id(factor), 0), 1 + m + slot.get(id(factor), 0))
            number = torch.zeros(own.constant.numel(), 2, dtype=torch.float64)
            where = torch.zeros_like(number, dtype=torch.long)
            for row, matrix in zip(rows, (own.constant, own.cosine, own.sine), strict=True):
                if matrix is not None:
                    parts = torch.view_as_real(matrix.resolve_conj().reshape(-1))
                    assert not bool(((number != 0) & (parts != 0)).any()), factor.name
                    where[parts != 0] = row
                    number = number + parts
            numbers.append(number)
            places.append(where)
        real = dtype.to_real()
        self.is_complex = dtype.is_complex
        count = 2 if self.is_complex else 1
        self.numbers = torch.cat(numbers).T[:count].reshape(-1, 1).to(device, real)
        self.places = torch.cat(places).T[:count].reshape(-1).to(device, torch.int32)
        columns = [place[factor.column] for factor in turning]
        frequencies = [factor.primitive.frequency for factor in turning]
        self.multiples = Multiples(columns, frequencies, len(place), device, real)
        self.one = torch.ones(1, 1, device=device, dtype=real)

    def waves(self, angles: Tensor) -> Tensor:
        """``(n_angles, b)`` to ``(1 + 2m, b)``: 1, then every factor's cosine, then its sine."""
        turns = self.multiples.of(angles)
        one = self.one.expand(1, angles.shape[1])
        return torch.cat([one, torch.cos(turns), torch.sin(turns)])

    def entries(self, waves: Tensor) -> Tensor:
        """The entries of the factors' matrices, ``(n_entries, b)``."""
        parts = waves.index_select(0, self.places) * self.numbers
        if not self.is_complex:
            return parts
        return torch.complex(parts[: self.size], parts[self.size :])

    def back(self, waves: Tensor, W: Tensor) -> Tensor:
        """Gradients by angles, ``(n_angles, b)``, from those by entries."""
        by_part = by_parts(W) * self.numbers
        by_wave = torch.zeros_like(waves).index_add_(0, self.places, by_part)
        cosine, sine = waves[1:].chunk(2)
        by_cosine, by_sine = by_wave[1:].chunk(2)
        return self.multiples.back(cosine * by_sine - sine * by_cosine)


class Runs:
    """Products of consecutive 2 x 2 matrices, and their way back.

    Args:
        runs (list[list[int]]): For each run where its matrices' entries start, in order of
            application.
        device (torch.device): Where.
    """

    def __init__(self, runs: list[list[int]], device: torch.device) -> None:
        self.count = len(runs)
        self.length = 1 << (max((len(run) for run in runs), default=1) - 1).bit_length()
        table = IDENTITY.repeat(self.length, len(runs), 1, 1)
        # Neighbours are multiplied level by level; in bit-reversed order the earlier ones of all
        # pairs are the first half, at every level.
        bits = self.length.bit_length() - 1
        for r, run in enumerate(runs):
            for k, start in enumerate(run):
                place = int(format(k, f"0{bits}b")[::-1], 2) if bits else 0
                table[place, r] = square(start, 2)
        self.index = table.reshape(-1).to(device, torch.int32)

    def levels(self, entries: Tensor) -> list[Tensor]:
        """From the matrices, ``(length * count, 2, 2)``, to the products, ``(count, 2, 2)``."""
        levels = [self._matrices(entries)]
        while len(levels[-1]) > self.count:
            earlier, later = levels[-1].chunk(2)
            levels.append(torch.bmm(later, earlier))
        return levels

    def _matrices(self, entries: Tensor) -> Tensor:
        return entries[:, 0].index_select(0, self.index).reshape(-1, 2, 2)

    def back(self, entries: Tensor, between: list[Tensor], W: Tensor) -> Tensor:
        """Gradients by the matrices' entries, in the order of ``index``.

        Args:
            entries (Tensor): What `levels` was given, and may have grown.
            between (list[Tensor]): The levels between the first and the last.
            W (Tensor): Gradients by the last.
        """
        for level in reversed([self._matrices(entries), *between]):
            earlier, later = level.chunk(2)
            W = torch.cat([torch.bmm(later.mT, W), torch.bmm(W, earlier.mT)])
        return W.reshape(-1, 1)


class Circles:
    """Phases of single wires in turns, of all of them at once.

    Args:
        turns (Sequence[Turn]): Those that have factors on one wire.
        plan (Plan): Their plan.
        device (torch.device): Where.
        dtype (torch.dtype): Of the states.
    """

    def __init__(
        self, turns: Sequence[Turn], plan: Plan, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.n = plan.circuit.n_qubits
        column = _input_columns(plan)
        # What each input adds to the phase of each wire's 0 and 1.
        exponents = torch.zeros(len(turns), self.n, 2, len(column), dtype=torch.float64)
        for place, turn in enumerate(turns):
            for position, wire in turn.own:
                factor = plan.factors[position]
                exponents[place, wire, :, column[factor.column]] += factor.primitive.exponents()
        self.exponents = exponents.flatten(0, 2).to(device, dtype.to_real())

    def of(self, angles: Tensor) -> Tensor:
        """Input angles ``(n_inputs, b)`` to the phases of each wire's 0 and 1, ``(t, n, 2, b)``."""
        if not len(self.exponents):
            return angles.new_zeros(0)
        return _on_circle(self.exponents @ angles).view(-1, self.n, 2, angles.shape[1])

    def back(self, by_bits: dict[int, Tensor]) -> Tensor:
        """Gradients by input angles, ``(n_inputs, b)``, from those of all turns."""
        return self.exponents.T @ torch.cat([by_bits[place] for place in sorted(by_bits)])


class Halves:
    """The products of circles over each half of the wires: of a few turns at once, not of all.

    Those of all would take memory that grows with the number of turns.

    Args:
        circles (Tensor): What `Circles` makes, ``(t, n, 2, b)``.
        lanes (int): Number of lanes that the samples run in.
    """

    def __init__(self, circles: Tensor, lanes: int) -> None:
        self.circles, self.lanes = circles, lanes
        self.start = self.count = 0
        self.products: list[Tensor] = []

    def of(self, place: int) -> list[Tensor]:
        """Of a turn, ``(lanes, 2**n_first, 1, b / lanes)`` and ``(lanes, 1, 2**n_last, ...)``."""
        if not self.start <= place < self.start + self.count:
            n = self.circles.shape[1]
            sizes = [n - n // 2, n // 2]
            # Together as large as a state.
            self.count = max(1, 2**n // sum(2**size for size in sizes))
            self.start = place - place % self.count
            vectors = by_lanes(self.circles[self.start : self.start + self.count], self.lanes)
            self.products = [
                Product(half.flatten(0, 1)).value.view(self.lanes, -1, 2**size, half.shape[-1])
                for size, half in zip(sizes, vectors.split(sizes, dim=2), strict=True)
                if size
            ]
        first, *last = (product[:, place - self.start] for product in self.products)
        return [first[:, :, None], *(half[:, None] for half in last)]


class Turning:
    """A turn's phases from the inputs, and from gradients by rows back to the inputs.

    With ``s_f(r)`` the exponent of factor f at row r, ``theta_r = sum_f s_f(r) x_f``. Of factors on
    one wire it depends on one bit of r; the phases are then a product over the wires, of which the
    first and the last half of the bits are multiplied to one vector each.

    Args:
        turn (Turn): The turn.
        place (int or None): Where `Circles` has its factors on one wire, if there are any.
        plan (Plan): Its plan.
        device (torch.device): Where.
        dtype (torch.dtype): Of the states.
        lanes (int): Number of lanes that the samples run in.
    """

    def __init__(
        self,
        turn: Turn,
        place: int | None,
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype,
        lanes: int,
    ) -> None:
        real = dtype.to_real()
        n = plan.circuit.n_qubits
        self.place = place
        self.halves = lanes, 2 ** (n - n // 2), 2 ** (n // 2)
        # Sums over all rows with a given bit, for the first and for the last half of the bits.
        self.bits = [_bits(bits).to(device, real) for bits in (n - n // 2, n // 2)]
        column = _input_columns(plan)
        self.wide = []
        for position, places in turn.wide:
            factor = plan.factors[position]
            exponents = factor.primitive.exponents()[:, None].to(device, real)
            rows = in_lanes(places, len(exponents), lanes).to(device)
            self.wide.append((column[factor.column], exponents, rows))

    def phases(self, halves: Halves, angles: Tensor) -> list[Tensor]:
        """Vectors whose product the phases are.

        Args:
            halves (Halves): Of the factors on one wire.
            angles (Tensor): Input angles, ``(n_inputs, b)``.

        Returns:
            list[Tensor]: For rows seen by the halves of their bits, ``(lanes, 2**n_first,
            2**n_last, b / lanes)``: two vectors of the factors on one wire, if there are any, then
            one for each of the others.
        """
        found: list[Tensor] = []
        if self.place is not None:
            found += halves.of(self.place)
        for column, exponents, rows in self.wide:
            own = by_lanes(_on_circle(exponents * angles[column]), self.halves[0])
            found.append(self.by_halves(own.flatten(0, 1).index_select(0, rows)))
        return found

    def by_halves(self, rows: Tensor) -> Tensor:
        """``(lanes * 2**n, b / lanes)`` to ``(lanes, 2**n_first, 2**n_last, b / lanes)``."""
        return rows.view(*self.halves, rows.shape[1])

    def back(self, W: Tensor, by_bits: dict[int, Tensor], by_angles: Tensor) -> None:
        """Gradients from ``W_r psi_r``, ``(lanes * 2**n, b / lanes)``; adds them up.

        A change of theta changes the state by ``i psi_r``, and so E by ``Re(i W_r psi_r)``, before
        the turn as after it.

        Args:
            W (Tensor): The products.
            by_bits (dict): For each turn gradients by the phases of each wire's 0 and 1.
            by_angles (Tensor): Gradients by the angles of wide factors.
        """
        if self.place is not None:
            halves = self.by_halves(W)
            sums = zip(self.bits, (halves.sum(dim=2), halves.sum(dim=1)), strict=True)
            by_bit = torch.cat([bits @ -part.imag for bits, part in sums], dim=1)
            by_bits[self.place] = of_lanes(by_bit)
        for column, exponents, rows in self.wide:
            lanes = (self.halves[0], len(exponents))
            by_entry = W.new_zeros(lanes[0] * lanes[1], W.shape[1]).index_add_(0, rows, W)
            own = of_lanes(by_entry.imag.unflatten(0, lanes))
            by_angles[column] -= (exponents * own).sum(dim=0)


def _input_columns(plan: Plan) -> dict[int, int]:
    """The place of an angle among the inputs, by its column in the angle table."""
    return {column: k for k, column in enumerate(plan.circuit.columns("input"))}


def _on_circle(theta: Tensor) -> Tensor:
    """``e^{i theta}``."""
    return torch.complex(torch.cos(theta), torch.sin(theta))


def _bits(n_bits: int) -> Tensor:
    """``(2 n_bits, 2**n_bits)``: for each bit where it is 0, then where it is 1."""
    bits = torch.arange(2**n_bits) >> torch.arange(n_bits - 1, -1, -1)[:, None] & 1
    return torch.stack([1 - bits, bits], dim=1).flatten(0, 1)


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


@dataclass
class Static:
    """All that depends on weights alone.

    Attributes:
        weights (Tensor): The weight angles it was made of.
        waves (Tensor): 1, cosines and sines of the static factors' angles.
        runs (list[Tensor]): Levels of the products of consecutive one-qubit gates between the
            first and the last, which stand in ``entries``.
        krons (list[Product]): For each number of wires all Kronecker products, as vectors.
        squares (list): The same as matrices.
        entries (Tensor): 0, 1, fixed entries, then those of all factors and runs, ``(e, 1)``.
        shared (Tensor): Those entries that batched matrices read too, ``(e, 1)``.
        head (dict): For each shared level of the head its matrices, ``(n, 2, 2)``.
        dense (dict): For each dense step its matrix.
        partial (dict): For each of several layers the products of its first layers.
        phases (dict): For each monomial step its phases, ``(2**n, 1)``.
    """

    weights: Tensor
    waves: Tensor
    runs: list[Tensor]
    krons: list[Product]
    squares: list[tuple[Tensor, ...]]
    entries: Tensor
    shared: Tensor
    head: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    partial: dict[int, list[Tensor]] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class ByStatic:
    """Gradients by what `Static` holds, found on the way back."""

    shared: Tensor | None = None
    head: dict[int, Tensor] = field(default_factory=dict)
    dense: dict[int, Tensor] = field(default_factory=dict)
    phases: dict[int, Tensor] = field(default_factory=dict)


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

    # -- where which entry stands ----------------------------------------------------------------

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

    # -- from weights to matrices, and back ------------------------------------------------------

    def make_static(self, weights: Tensor) -> Static:
        """Makes what depends on weights alone: ``(m,)`` weight angles in radians."""
        angles = weights.to(self.real)
        if len(self.constants):
            angles = torch.cat([angles, self.constants])
        waves = self.static_factors.waves(angles[:, None])
        entries = torch.cat([self.numbers, self.static_factors.entries(waves)])
        runs: list[Tensor] = []
        if self.runs is not None:
            _, *runs, products = self.runs.levels(entries)
            entries = torch.cat([entries, products.reshape(-1, 1)])
        krons = [Product(take(entries, index)) for index in self.krons]
        squares = [as_matrices(kron.release())[..., 0].unbind() for kron in krons]
        shared = entries.index_select(0, self.shared)
        static = Static(weights, waves, runs, krons, squares, entries, shared)
        for number, links in enumerate(self.head):
            if not links.batched:
                static.head[number] = take(entries, links.index)[..., 0]
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, Dense):
                partial: list[Tensor] = []
                for layer in self.layers[number]:
                    partial.append(_apply_layer(layer, entries, squares, partial))
                static.dense[number] = partial[-1]
                static.partial[number] = partial
            elif isinstance(step, Monomial) and step.phases:
                static.phases[number] = take(entries, self.phase_rows[number]).prod(dim=0)
        return static

    def static_back(self, static: Static, by: ByStatic) -> Tensor:
        """Gradients by weight angles, ``(m,)``, from those by the matrices."""
        entries = static.entries
        W = torch.zeros_like(entries)
        if by.shared is not None:
            W.index_add_(0, self.shared, by.shared)
        for number, W_head in by.head.items():
            W.index_add_(0, self.head[number].index.reshape(-1), W_head.reshape(-1, 1))
        for number, W_phases in by.phases.items():
            rows = self.phase_rows[number]
            # A phase is a product of numbers of modulus 1: without one of them, its conjugate more.
            others = (static.phases[number] * take(entries, rows).conj()) * W_phases
            W.index_add_(0, rows.reshape(-1), others.reshape(-1, 1))
        by_kron: list[list[Tensor]] = [[torch.empty(0)] * len(index) for index in self.krons]
        for number, W_matrix in by.dense.items():
            self._layers_back(static, number, W_matrix, W, by_kron)
        for index, kron, found in zip(self.krons, static.krons, by_kron, strict=True):
            own = kron.back(_as_vectors(torch.stack(found)))
            W.index_add_(0, index.reshape(-1), own.reshape(-1, 1))
        if self.runs is not None:
            W_runs = W[self.first_run :].reshape(-1, 2, 2)
            W.index_add_(0, self.runs.index, self.runs.back(entries, static.runs, W_runs))
        own = W[len(self.numbers) : self.first_run]
        return self.static_factors.back(static.waves, own)[: len(static.weights), 0]

    def _layers_back(
        self,
        static: Static,
        number: int,
        W: Tensor,
        by_entries: Tensor,
        by_kron: list[list[Tensor]],
    ) -> None:
        """From the matrix of a dense step to its layers: gradients by entries are added up."""
        layers, partial = self.layers[number], static.partial[number]
        for k in range(len(layers) - 1, -1, -1):
            layer = layers[k]
            if layer.rows is not None:
                W = W.index_select(0, layer.rows[1])
                continue
            factor = _matrix_of(layer, static.entries, static.squares)
            if layer.matrix is None:
                W_factor = W @ partial[k - 1].mT if k else W
                if layer.kron is not None:
                    by_kron[layer.kron[0]][layer.kron[1]] = W_factor
                else:
                    assert layer.index is not None
                    # Entry 0, the number 0, stands where the factor has none: nobody reads it.
                    by_entries.index_add_(0, layer.index.reshape(-1), W_factor.reshape(-1, 1))
            if k:
                W = factor.mT @ W


def _matrix_of(layer: Layer, entries: Tensor, squares: list[tuple[Tensor, ...]]) -> Tensor:
    if layer.kron is not None:
        return squares[layer.kron[0]][layer.kron[1]]
    if layer.index is not None:
        return take(entries, layer.index)[..., 0]
    assert layer.matrix is not None
    return layer.matrix


def _apply_layer(
    layer: Layer, entries: Tensor, squares: list[tuple[Tensor, ...]], partial: list[Tensor]
) -> Tensor:
    """The product of a step's layers so far and one more."""
    if layer.rows is not None:
        if partial:
            return partial[-1].index_select(0, layer.rows[0])
        size = len(layer.rows[0])
        eye = torch.eye(size, dtype=entries.dtype, device=entries.device)
        return eye.index_select(0, layer.rows[0])
    matrix = _matrix_of(layer, entries, squares)
    return matrix @ partial[-1] if partial else matrix


def as_matrices(vectors: Tensor) -> Tensor:
    """``(m, 4**k, b)`` with places (r1 c1 r2 c2 ...) to ``(m, 2**k, 2**k, b)``."""
    m, size, b = vectors.shape
    k = (size.bit_length() - 1) // 2
    order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1]
    return vectors.reshape(m, *([2] * (2 * k)), b).permute(order).reshape(m, 2**k, 2**k, b)


def _as_vectors(matrices: Tensor) -> Tensor:
    """The inverse of `as_matrices`, for ``b = 1``."""
    k = matrices.shape[1].bit_length() - 1
    split = matrices.reshape(-1, *([2] * (2 * k)))
    order = [0, *(place for j in range(k) for place in (1 + j, 1 + k + j))]
    return split.permute(order).reshape(-1, 4**k, 1)
