"""Memory that operations on states write to."""

from functools import lru_cache

import torch
from torch import Tensor


class Buffers:
    """Where the next operation writes: two buffers in turn, or new memory under transforms.

    Neither autograd, while it records, nor ``torch.func`` allows writing into a given tensor.

    New memory for every operation would cost more than it computes: the system clears each page
    of it when it is first touched.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._transformed = (
            torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None
        )
        self._buffers: list[Tensor] = []
        self._count = 0

    def next(self) -> Tensor | None:
        """The buffer that was not written last; None stands for new memory."""
        if self._transformed:
            return None
        if len(self._buffers) < 2:
            self._buffers.append(self._like.new_empty(self._like.shape))
        self._count += 1
        return self._buffers[(self._count - 1) % 2]


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Lets glibc keep freed blocks of some MB for the next step.

    Else it gives them back to the system, which clears every page anew when it is touched again:
    that took longer than all the work of a step. glibc does so until a block of 32 MB was freed
    once. So one is, untouched; nothing but time depends on it.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)
