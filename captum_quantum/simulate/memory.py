"""Memory that operations on states write to."""

from functools import lru_cache

import torch
from torch import Tensor

from captum_quantum import _compat


class Buffers:
    """Two buffers in turn for the results of consecutive operations.

    New memory for every operation would cost more than the operation: the system clears each page
    of it when it is first touched. But neither autograd, while it records, nor ``torch.func``
    allows writing into a given tensor; then every operation gets new memory.

    Args:
        like (Tensor): A tensor of the results' shape and dtype.
        buffer (Tensor, optional): The first buffer, if it was written last.
    """

    def __init__(self, like: Tensor, buffer: Tensor | None = None) -> None:
        self._like = like
        self._is_allowed = not (torch.is_grad_enabled() or _compat.in_functorch())
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
