"""Lanes: parts of a batch whose states follow each other in memory.

A large batch of b samples on a CPU is cut into L lanes of b / L samples each. Its states form a
tensor ``(L * 2**n, b / L)``: all rows of the first lane, then all rows of the second, and so on.
PyTorch shares every operation among threads by rows. In lanes a thread therefore works on the same
samples in every operation, and finds the numbers that it reads in its own cache, where it wrote
them. With one lane the states are a tensor ``(2**n, b)``.
"""

import torch
from torch import Tensor


def split_samples(columns: Tensor, lanes: int) -> Tensor:
    """``(..., b)`` to ``(lanes, ..., b / lanes)``."""
    if lanes == 1:
        return columns[None]
    split: Tensor = columns.unflatten(-1, (lanes, -1))
    return split.movedim(-2, 0)


def join_samples(columns: Tensor) -> Tensor:
    """``(lanes, ..., b / lanes)`` to ``(..., b)``."""
    if len(columns) == 1:
        return columns[0]
    return columns.movedim(0, -2).flatten(-2)


def split_rows(rows: Tensor, lanes: int) -> Tensor:
    """``(lanes * m, ...)`` to ``(lanes, m, ...)``."""
    return rows.view(lanes, -1, *rows.shape[1:])


def repeat_index(index: Tensor, size: int, lanes: int) -> Tensor:
    """An index into ``size`` rows, repeated for the rows of every lane."""
    if lanes == 1:
        return index
    return (index + size * torch.arange(lanes)[:, None]).flatten()
