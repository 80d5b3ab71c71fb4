"""How states lie in memory: lanes, and buffers that operations write to.

A large batch of b samples on a CPU is cut into L lanes of b / L samples each. Its states form a
tensor ``(L * 2**n, b / L)``: all rows of the first lane, then all rows of the second, and so on.
PyTorch shares every operation among threads by rows. In lanes a thread therefore works on the same
samples in every operation, and finds the numbers that it reads in its own cache, where it wrote
them. With one lane the states are a tensor ``(2**n, b)``.
"""

from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum import _compat


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


class Buffers:
    """Two buffers in turn for the results of consecutive operations.

    New memory for every operation would cost more than the operation: the system clears each page
    of it when it is first touched. But neither autograd, while it records, nor ``torch.func``
    or ``torch.export`` allows writing into a given tensor; then every operation gets new memory.

    Args:
        like (Tensor): A tensor of the results' shape and dtype.
        buffer (Tensor, optional): The first buffer, if it was written last.
    """

    def __init__(self, like: Tensor, buffer: Tensor | None = None) -> None:
        self._like = like
        self._is_allowed = not (torch.is_grad_enabled() or _compat.in_transform())
        self._buffers = [] if buffer is None else [buffer]
        self._count = len(self._buffers)

    def next(self) -> Tensor | None:
        """The buffer that was not written last; None stands for new memory."""
        if not self._is_allowed:
            return None
        if len(self._buffers) < 2:
            self._buffers.append(self._like.new_empty(self._like.shape))
        self._count += 1
        return self._buffers[(self._count - 1) % 2]


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Lets glibc keep freed blocks of some MB for the next operation.

    Otherwise it returns them to the system, which clears every page again when it is touched next:
    that took longer than all the work of a training step. glibc keeps such blocks once a block of
    32 MB was freed. So one is allocated and freed here, untouched. Only time depends on it.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)
