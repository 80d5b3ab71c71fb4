"""How many threads the commands compute on."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one core of the CPU.

    The tensors are so small that threads wait for each other longer than they compute: several
    times longer on a busy machine. And the numbers do not depend on the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
