"""The function that is decomposed, and the distribution of its inputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_quantum import _checks

Function = Callable[[Tensor], Tensor]
"""From inputs ``(batch, n_inputs)`` to values ``(batch, n_outputs)``."""

Draw = Callable[[int], Tensor]
"""From a number to as many rows of independent inputs."""

# Of a value's scale and precision: standard deviations and differences that may be rounding.
_ROUNDING, _DIFFERENCE = 1e2, 1e3


class GivenFunction(NamedTuple):
    """What is decomposed.

    Attributes:
        function (Callable): The function.
        dtype (torch.dtype): That of its inputs, in whose precision values are computed.
        n_rows (int): How many rows it gets at most.
        scale (Tensor or None): A bound of each output, float64; None if there is none.
    """

    function: Function
    dtype: torch.dtype
    n_rows: int
    scale: Tensor | None = None

    def values(self, rows: Tensor) -> Tensor:
        """The outputs, float64 on the CPU.

        Args:
            rows (Tensor): Inputs, ``(batch, n_inputs)``.

        Returns:
            Tensor: Shape ``(batch, n_outputs)``.
        """
        parts = [self.function(part.to(self.dtype)) for part in rows.split(self.n_rows)]
        values = torch.cat([part.to("cpu", torch.float64) for part in parts])
        _checks.check_finite("output of the function", values)
        return values

    def check(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tries the function on a few rows.

        Args:
            rows (Tensor): Inputs, ``(batch, n_inputs)``.

        Returns:
            tuple[Tensor, Tensor]: The outputs, ``(batch, n_outputs)``, and how far rounding may
            change each, ``(n_outputs,)``.

        Raises:
            TypeError, ValueError: If the outputs are not real rows, or the outputs for a row are
                others at another call.
        """
        first = self.function(rows.to(self.dtype))
        _checks.check_real("output of the function", first)
        if first.dim() != 2 or len(first) != len(rows):
            must = f"of shape ({len(rows)}, n_outputs) for {len(rows)} rows"
            _checks.wrong_value("output of the function", must, first)
        first = first.to("cpu", torch.float64)
        _checks.check_finite("output of the function", first)
        again = self.values(rows.flip(0)[: len(rows) // 2])
        scale = first.abs().amax(0) if self.scale is None else self.scale
        tolerance = _DIFFERENCE * torch.finfo(self.dtype).eps * scale
        off = (first.flip(0)[: len(again)] - again).abs()
        if bool((off > tolerance).any()):
            must = (
                "the same at every call and of each row alone, as noise would count as "
                "interactions (are modules in training mode?)"
            )
            got = f"a difference of {float(off.max()):.1e} between two calls"
            _checks.refuse("output of the function", must, got)
        return first, tolerance

    def without_rounding(self, variance: Tensor, mean_square: Tensor) -> tuple[Tensor, bool]:
        """Tells variance from rounding.

        Args:
            variance (Tensor): Variance of each output, ``(n_outputs,)``.
            mean_square (Tensor): Mean square of each output, ``(n_outputs,)``.

        Returns:
            tuple[Tensor, bool]: The variances with rounding set to 0, and whether their sum is more
            than rounding.
        """
        squares = mean_square if self.scale is None else self.scale.square()
        floor = (_ROUNDING * torch.finfo(self.dtype).eps) ** 2 * squares
        return variance.where(variance > floor, 0.0), bool(variance.sum() > floor.sum())


def read_columns(x: Any, n_inputs: int | None = None) -> Tensor:
    """Reads the argument ``x``, whose columns are the inputs' distributions.

    Args:
        x (Any): What was given.
        n_inputs (int, optional): The number of columns, if there must be a certain one.
    """
    columns: Tensor = _checks.check_real("x", x).detach()
    n, *shape = columns.shape or (0,)
    if n < 2 or len(shape) != 1 or not shape[0] or n_inputs not in (None, shape[0]):
        of = "n_inputs" if n_inputs is None else n_inputs
        _checks.wrong_value("x", f"of shape (n, {of}) with n >= 2", x)
    _checks.check_finite("x", columns)
    return columns


def check_sampling(n_samples: Any, seed: Any) -> None:
    """Checks the arguments ``n_samples`` and ``seed``."""
    _checks.check_int("n_samples", n_samples, 2)
    _checks.check_int("seed", seed, 0, 2**64 - 1)


def draw_from_columns(x: Tensor, seed: int) -> Draw:
    """Independent inputs, each distributed as its column.

    Args:
        x (Tensor): Shape ``(n, n_inputs)``.
        seed (int): The seed.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        rows = torch.randint(len(x), (n, x.shape[1]), generator=generator)
        return x.gather(0, rows.to(x.device))

    return draw


def draw_uniformly(units: Sequence[float], seed: int) -> Draw:
    """Independent inputs, uniform on a period.

    Args:
        units (Sequence[float]): What each period is ``2 pi`` over.
        seed (int): The seed.
    """
    generator = torch.Generator().manual_seed(seed)
    half = math.pi / torch.tensor(units, dtype=torch.float64)

    def draw(n: int) -> Tensor:
        shape = (n, len(units))
        return half * (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1)

    return draw
