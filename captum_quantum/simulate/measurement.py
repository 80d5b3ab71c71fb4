"""Expectation values and probabilities of a plan's last state, and the state's cotangent."""

import torch
from torch import Tensor

from captum_quantum.simulate.entries import cast
from captum_quantum.simulate.layout import join_samples, repeat_index, split_rows, split_samples
from captum_quantum.simulate.plan import Marginals, Readout


def as_reals(states: Tensor) -> Tensor:
    """``(..., b)`` complex to ``(..., 2 b)`` real, both parts side by side; real unchanged."""
    return torch.view_as_real(states).flatten(-2) if states.is_complex() else states


class Measurement:
    """The readout of a plan on one device, in one precision.

    Args:
        readout (Readout): The readout.
        n (int): Number of qubits.
        device (torch.device): Where.
        dtype (torch.dtype): Of the states.
        lanes (int): Number of lanes.
        in_reals (bool): Whether states are ``(2 * 2**n, batch)``, real parts above imaginary ones.
    """

    def __init__(
        self,
        readout: Readout,
        n: int,
        device: torch.device,
        dtype: torch.dtype,
        lanes: int,
        in_reals: bool,
    ) -> None:
        self._lanes, self._dtype, self._real = lanes, dtype, dtype.to_real()
        self._in_reals = in_reals
        self._rows = readout.rows.to(device)
        self.signs = None if readout.signs is None else readout.signs.to(device, self._real)
        self._parities: tuple[Tensor, list[Tensor], Tensor] | None = None
        if readout.parities is not None:
            parities = readout.parities
            first, last, weights = (
                table.to(device, self._real)
                for table in (parities.first, parities.last, parities.weights)
            )
            # One product for each setting of the first bits; the transpose is stored in its order.
            count = lanes * first.shape[1]
            lasts = [part.expand(count, -1, -1) for part in (last, last.T.contiguous())]
            self._parities = first, lasts, weights
        self._marginals: Marginals | None = None
        if readout.marginals is not None:
            marginals, table = readout.marginals, readout.marginals.weights
            self._marginals = Marginals(
                repeat_index(marginals.order, 2**n, lanes).to(device),
                repeat_index(marginals.outcomes, marginals.n_outcomes, lanes).to(device),
                marginals.n_outcomes,
                None if table is None else table.to(device, self._real),
            )
        # Of a real state the imaginary, antisymmetric part of an observable reads nothing.
        self._pairs = [
            (repeat_index(partner, 2**n, lanes).to(device), cast(numbers, dtype).to(device))
            for partner, numbers in readout.pairs
        ]

    def values(self, state: Tensor) -> Tensor:
        """Expectation values of a state: ``(lanes * 2**n, ...)`` to ``(batch, n_observables)``."""
        values: Tensor | None = None
        if self._in_reals and self.signs is not None:
            real, imaginary = state.square().chunk(2)
            return (self.signs @ (real + imaginary)).T
        squares = as_reals(state.resolve_conj()).square()
        parts = squares.shape[1] // state.shape[1]
        if self.signs is not None:
            values = self.signs @ split_rows(squares, self._lanes)
            values = values.view(*values.shape[:2], -1, parts).sum(dim=-1)
        if self._parities is not None:
            first, (last, _), weights = self._parities
            of_last = torch.bmm(last, squares.view(*last.shape[::2], -1))
            of_both = first @ of_last.view(self._lanes, first.shape[1], -1)
            of_both = of_both.view(self._lanes, weights.shape[1], -1, parts)
            values = weights @ of_both.sum(dim=-1)
        if self._marginals is not None:
            sizes = self._lanes, self._marginals.n_outcomes, -1
            by_outcome = squares.index_select(0, self._marginals.order).unflatten(0, sizes)
            values = by_outcome.sum(dim=2)
            if self._marginals.weights is not None:
                values = self._marginals.weights @ values
            values = values.unflatten(2, (-1, parts)).sum(dim=-1)
        for partner, weights in self._pairs:
            products = state.index_select(0, partner).conj() * state
            part = (weights @ split_rows(products, self._lanes)).real
            values = part if values is None else values + part
        assert values is not None
        return join_samples(values).T

    def vjp(self, state: Tensor, cotangent: Tensor) -> Tensor:
        """The cotangent of the state, ``2 sum_k c_k (O_k psi)*``.

        Args:
            state (Tensor): The last state psi, ``(lanes * 2**n, batch / lanes)``.
            cotangent (Tensor): The numbers c_k, ``(batch, n_observables)``.
        """
        if self._in_reals and self.signs is not None:
            of_squares = self.signs.T @ (2 * cotangent.T.to(self._real))
            return (state.view(2, *of_squares.shape) * of_squares).view(state.shape)
        doubled = split_samples(2 * cotangent.T.to(self._real), self._lanes)
        # Both parts of a number at once: of the conjugate, the imaginary part with a minus.
        of_parts = doubled
        if state.is_complex():
            of_parts = torch.stack([doubled, -doubled], dim=-1).flatten(-2)
        result = torch.empty_like(state)
        if self.signs is not None:
            of_rows = self.signs.T @ of_parts
        elif self._parities is not None:
            first, (_, last), weights = self._parities
            of_both = (weights.T @ of_parts).view(self._lanes, len(first), -1)
            of_rows = torch.bmm(last, (first.T @ of_both).view(*last.shape[::2], -1))
        elif self._marginals is not None:
            of_outcomes = of_parts
            if self._marginals.weights is not None:
                of_outcomes = self._marginals.weights.T @ of_parts
            of_rows = of_outcomes.flatten(0, 1).index_select(0, self._marginals.outcomes)
        else:
            of_rows = of_parts.new_zeros(())
        shape = as_reals(result).shape if of_rows.dim() else ()
        torch.mul(of_rows.view(shape), as_reals(state), out=as_reals(result))
        for partner, weights in self._pairs:
            coefficients = (weights.mH @ doubled.to(self._dtype)).flatten(0, 1)
            result += (coefficients * state.conj()).index_select(0, partner)
        return result

    def probabilities(self, state: Tensor) -> Tensor:
        """The probability of each basis state: ``(2**n, batch)`` to ``(batch, 2**n)``; one lane."""
        if self._in_reals:
            state = torch.complex(*state.chunk(2))
        squares = state.real.square()
        if state.is_complex():
            squares = squares + state.imag.square()
        return squares.index_select(0, self._rows).T.contiguous()
