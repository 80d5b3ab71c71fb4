"""One evaluation of a batch: its values, and their vector-Jacobian product."""

import torch
from torch import Tensor

from captum_quantum.simulate.adjoint import adjoint_vjp
from captum_quantum.simulate.polynomial import Terms
from captum_quantum.simulate.preparation import Prepared
from captum_quantum.simulate.program import Program

BUDGET = 2**26
"""Bytes that one state of a batch may take; larger batches are cut into parts."""

Kept = tuple[Prepared, Tensor] | Terms
"""What a run leaves for its vector-Jacobian product: all that depends on the sample."""


def split(given: Tensor, program: Program) -> tuple[Tensor, ...]:
    """Cuts a batch into parts whose states fit into `BUDGET`, whole lanes each."""
    size = program.lanes * max(1, BUDGET // program.row_bytes // program.lanes)
    return given.split(size) if len(given) > size else (given,)


class Evaluation:
    """One evaluation of a batch, cut into parts where memory asks for it.

    Args:
        program (Program): What runs.
        given (Tensor): Input angles or amplitudes, ``(batch, n)``.
        weights (Tensor): Weight angles, ``(m,)``.
        needs (tuple[bool, bool]): Whether derivatives by ``given`` and ``weights`` will be wanted.
    """

    def __init__(
        self, program: Program, given: Tensor, weights: Tensor, needs: tuple[bool, bool]
    ) -> None:
        self._program, self._needs = program, needs
        self._matrices = program.matrices(weights.detach())
        self._polynomial = None
        if program.has_polynomial and not needs[1]:
            self._polynomial = program.polynomial(self._matrices)
        self._parts = split(given.detach(), program)
        # A batch in one part keeps this for the pullback; else each part runs once more.
        self._kept: Kept | None = None

    def values(self) -> Tensor:
        """Expectation values, ``(batch, n_observables)``; not held here."""
        values = []
        with torch.no_grad():
            for part in self._parts:
                kept = self._forward(part)
                values.append(self._read(kept))
        if len(values) > 1:
            return torch.cat(values)
        if any(self._needs):
            self._kept = kept
        return values[0]

    def _forward(self, given: Tensor) -> Kept:
        program = self._program
        if self._polynomial is not None:
            angles = program.tables.whole_angles.forward(given.to(program.real).T)
            return self._polynomial.terms(angles, self._needs[0])
        prepared = program.preparation.forward(given, self._matrices)
        return prepared, program.evolve(prepared.state, self._matrices, prepared).detach()

    def _read(self, kept: Kept) -> Tensor:
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            return self._polynomial.values(kept)
        return self._program.values(kept[1])

    def _vjp(self, kept: Kept, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        program = self._program
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            of_angles = self._polynomial.vjp(kept, cotangent.to(program.real))
            return program.tables.whole_angles.vjp(of_angles).T, None
        return adjoint_vjp(program, self._matrices, *kept, cotangent, self._needs)

    def pullback(self, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The vector-Jacobian product.

        Args:
            cotangent (Tensor): ``(batch, n_observables)``.

        Returns:
            tuple: Derivatives by ``given``, ``(batch, n)``, and by ``weights``, ``(m,)``; None
            where not wanted.
        """
        with torch.no_grad():
            if self._kept is not None:
                return self._vjp(self._kept, cotangent)
            cotangents = cotangent.split([len(part) for part in self._parts])
            parts = zip(self._parts, cotangents, strict=True)
            found = [self._vjp(self._forward(given), part) for given, part in parts]
        by_given, by_weights = zip(*found, strict=True)
        given, weights = self._needs
        return torch.cat(by_given) if given else None, sum(by_weights) if weights else None
