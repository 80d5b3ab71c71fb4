"""Samples in lanes: a batch cut into parts whose rows follow each other."""

import torch
from torch import Tensor


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


def rows_by_lane(rows: Tensor, lanes: int) -> Tensor:
    """``(lanes * m, ...)`` to ``(lanes, m, ...)``."""
    return rows.view(lanes, -1, *rows.shape[1:])
