"""Turns: phases that differ from sample to sample, and their way back to the inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum.simulate.lanes import by_lanes, in_lanes, of_lanes
from captum_quantum.simulate.plan import Plan, Turn
from captum_quantum.simulate.products import Product


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
