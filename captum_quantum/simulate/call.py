"""One evaluation of a batch, and the way back from its values."""

import torch
from torch import Tensor

from captum_quantum.simulate.adjoint import adjoint
from captum_quantum.simulate.head import Batched
from captum_quantum.simulate.polynomial import Terms
from captum_quantum.simulate.program import Program

BUDGET = 2**26
"""Bytes that one state of a batch may take; larger batches are cut into parts."""

Kept = tuple[Batched, Tensor] | Terms
"""What a forward run leaves for the way back: all that depends on the sample."""


class FusedCall:
    """One evaluation of a batch, cut into parts where memory asks for it."""

    def __init__(
        self,
        program: Program,
        inputs: Tensor,
        weights: Tensor,
        needs: tuple[bool, bool],
    ) -> None:
        self._program, self._needs = program, needs
        self._static = program.static(weights.detach())
        self._polynomial = None if needs[1] else program.polynomial(self._static)
        self._size = program.lanes * max(1, BUDGET // program.row_bytes // program.lanes)
        inputs = inputs.detach()
        self._parts = inputs.split(self._size) if len(inputs) > self._size else (inputs,)
        # A batch in one part keeps this for the way back; else each part runs once more.
        self._kept: Kept | None = None

    def run(self) -> Tensor:
        """Expectation values, ``(batch, n_observables)``."""
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

    def _forward(self, inputs: Tensor) -> Kept:
        if self._polynomial is not None:
            return self._polynomial.terms(self._program.whole_angles(inputs), self._needs[0])
        batched = self._program.head.forward(inputs, self._static)
        return batched, self._program.evolve(self._static, batched.state, batched).detach()

    def _read(self, kept: Kept) -> Tensor:
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            return self._polynomial.read(kept)
        return self._program.read(kept[1])

    def _back(self, kept: Kept, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if isinstance(kept, Terms):
            assert self._polynomial is not None
            by_angles = self._polynomial.back(kept, grad.to(self._program.real))
            return self._program.tables.whole_angles.back(by_angles).T, None
        return adjoint(self._program, self._static, *kept, grad, *self._needs)

    def pull(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Output gradients ``(batch, n_observables)`` to those that ``needs`` asked for.

        Returns:
            tuple: By inputs, ``(batch, n)``, and by weight angles, ``(m,)``.
        """
        with torch.no_grad():
            if self._kept is not None:
                return self._back(self._kept, grad)
            parts = zip(grad.split(self._size), self._parts, strict=True)
            found = [self._back(self._forward(inputs), part) for part, inputs in parts]
        by_inputs, by_weights = zip(*found, strict=True)
        inputs, weights = self._needs
        return torch.cat(by_inputs) if inputs else None, sum(by_weights) if weights else None

    def pull_inputs(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to inputs ``(batch, n)``."""
        result = self.pull(grad)[0]
        assert result is not None
        return result

    def pull_weights(self, grad: Tensor) -> Tensor:
        """Output gradients ``(batch, n_observables)`` to weight angles ``(m,)``."""
        result = self.pull(grad)[1]
        assert result is not None
        return result
