"""Expectation values of a state as a plan reads them, and their gradient at the state."""

import torch
from torch import Tensor

from captum_quantum.simulate.entries import cast
from captum_quantum.simulate.lanes import by_lanes, in_lanes, of_lanes, rows_by_lane
from captum_quantum.simulate.plan import Readout


def as_reals(states: Tensor) -> Tensor:
    """``(..., b)`` complex to ``(..., 2 b)`` real, both parts side by side; real as it is."""
    return torch.view_as_real(states).flatten(-2) if states.is_complex() else states


class Reading:
    """The readout of a plan on one device, in one precision.

    Args:
        readout (Readout): The readout.
        n (int): Number of qubits.
        device (torch.device): Where.
        dtype (torch.dtype): Of the states.
        lanes (int): Number of lanes that the samples run in.
    """

    def __init__(
        self, readout: Readout, n: int, device: torch.device, dtype: torch.dtype, lanes: int
    ) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.real = dtype.to_real()
        self.rows = readout.rows.to(device)
        signs = readout.signs
        self.signs = None if signs is None else signs.to(device, self.real)
        parities = readout.parities
        self.parities: tuple[Tensor, list[Tensor], Tensor] | None = None
        if parities is not None:
            first = parities.first.to(device, self.real)
            last = parities.last.to(device, self.real)
            # One product for each setting of the first bits; both ways are stored as they are read.
            count = lanes * first.shape[1]
            lasts = [part.expand(count, -1, -1) for part in (last, last.T.contiguous())]
            self.parities = first, lasts, parities.weights.to(device, self.real)
        # Of a real state the imaginary, antisymmetric part of an observable reads nothing.
        self.pairs = [
            (in_lanes(partner, 2**n, lanes).to(device), cast(weights, self.dtype).to(device))
            for partner, weights in readout.pairs
        ]

    def read_parts(self, state: Tensor) -> Tensor:
        """The same of a state whose real and imaginary parts follow each other."""
        assert self.signs is not None
        real, imaginary = state.square().chunk(2)
        return (self.signs @ (real + imaginary)).T

    def read(self, state: Tensor) -> Tensor:
        """Expectation values of a state: ``(lanes * 2**n, ...)`` to ``(batch, n_observables)``."""
        values: Tensor | None = None
        squares = as_reals(state.resolve_conj()).square()
        parts = squares.shape[1] // state.shape[1]
        if self.signs is not None:
            values = self.signs @ rows_by_lane(squares, self.lanes)
            values = values.view(*values.shape[:2], -1, parts).sum(dim=-1)
        if self.parities is not None:
            first, (last, _), combine = self.parities
            by_last = torch.bmm(last, squares.view(*last.shape[::2], -1))
            by_both = first @ by_last.view(self.lanes, first.shape[1], -1)
            by_both = by_both.view(self.lanes, combine.shape[1], -1, parts)
            values = combine @ by_both.sum(dim=-1)
        for partner, weights in self.pairs:
            products = state.index_select(0, partner).conj() * state
            part = (weights @ rows_by_lane(products, self.lanes)).real
            values = part if values is None else values + part
        assert values is not None
        return of_lanes(values).T

    def probabilities(self, state: Tensor) -> Tensor:
        """The probability of each basis state: ``(2**n, batch)`` to ``(batch, 2**n)``; one lane."""
        squares = state.real.square()
        if state.is_complex():
            squares = squares + state.imag.square()
        return squares.index_select(0, self.rows).T.contiguous()

    def back(self, psi: Tensor, grad: Tensor, W: Tensor) -> None:
        """Writes the gradient at the last state: ``2 sum_k grad_k (O_k psi)*``."""
        grad = by_lanes(2 * grad.T.to(self.real), self.lanes)
        # Both parts of a number at once: of the conjugate, the imaginary part with a minus.
        by_part = torch.stack([grad, -grad], dim=-1).flatten(-2) if W.is_complex() else grad
        by_row: Tensor | None = None
        if self.signs is not None:
            by_row = self.signs.T @ by_part
        elif self.parities is not None:
            first, (_, last), combine = self.parities
            by_sign = combine.T @ by_part
            by_last = first.T @ by_sign.view(self.lanes, len(first), -1)
            by_row = torch.bmm(last, by_last.view(*last.shape[::2], -1))
        if by_row is None:
            W.zero_()
        else:
            torch.mul(by_row.view(len(W), -1), as_reals(psi), out=as_reals(W))
        for partner, weights in self.pairs:
            coefficients = (weights.mH @ grad.to(self.dtype)).flatten(0, 1)
            W += (coefficients * psi.conj()).index_select(0, partner)

    def back_parts(self, state: Tensor, grad: Tensor) -> Tensor:
        """The gradient at a state whose real and imaginary parts follow each other."""
        assert self.signs is not None
        by_square = 2 * (self.signs.T @ grad.T.to(self.real))
        return (state.view(2, *by_square.shape) * by_square).view(state.shape)
