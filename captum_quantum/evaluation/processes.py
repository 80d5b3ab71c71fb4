"""The processes that share an evaluation, and their devices."""

import os
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from captum_quantum import _checks
from captum_quantum.evaluation.storage import difference

Result = TypeVar("Result")


class World:
    """The processes that share the work: those of torch.distributed, or this one alone.

    Attributes:
        rank (int): The number of this process, 0 for the first.
        size (int): The number of processes.
    """

    def __init__(self) -> None:
        many = distributed.is_available() and distributed.is_initialized()
        self.rank: int = distributed.get_rank() if many else 0
        self.size: int = distributed.get_world_size() if many else 1

    def first_does(self, work: Callable[[], Result]) -> Result:
        """Runs a function in the first process only.

        Args:
            work (Callable): The function, without arguments.

        Returns:
            Any: What the function returns, in all processes.

        Raises:
            Exception: What the function raises. Other processes raise the same if it is a built-in
                OSError or ValueError, otherwise a RuntimeError.
        """
        with self.failing_together():
            result = work() if self.rank == 0 else None
        results: list[Result] = self._exchange(result)
        return results[0]

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Sends an exception of this process to the others, which raise it where they next wait."""
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                sent = error
                # Errors of the user's input are sent; others may be of classes that only this
                # process has.
                if type(error).__module__ != "builtins" or not isinstance(
                    error, (OSError, ValueError)
                ):
                    got = f"{type(error).__name__}: {error}, in process {self.rank}"
                    text = _checks.sentence("all processes", "able to do their parts", got)
                    sent = RuntimeError(text)
                distributed.all_gather_object([None] * self.size, sent)
            raise

    def _exchange(self, local: Any) -> list[Any]:
        """Gathers one object from each process in all; raises the error of one that has failed."""
        if self.size == 1:
            return [local]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, local)
        for received in gathered:
            if isinstance(received, BaseException):
                raise received
        return gathered

    def check_same(self, configuration: dict[str, Any]) -> None:
        """Checks that all processes have the same configuration.

        Args:
            configuration (dict[str, Any]): This process's configuration, which JSON can hold.

        Raises:
            ValueError: In all processes, if two of them differ.
            Exception: If another process has failed.
        """
        configurations = self._exchange(configuration)
        for rank, other in enumerate(configurations):
            if differing := difference(configurations[0], other):
                name, first, second = differing
                got = f"{name} = {first} in process 0, {second} in process {rank}"
                _checks.refuse("compare's arguments", "the same in all processes", got)

    def gather(self, results: dict[int, Result]) -> dict[int, Result]:
        """Gathers all processes' results in every process.

        Args:
            results (dict[int, Any]): This process's results by batch number.

        Returns:
            dict[int, Any]: The results of all.

        Raises:
            Exception: If another process has failed.
        """
        return dict(ChainMap(*self._exchange(results)))


def read_device(device: Any) -> torch.device | None:
    """Reads the argument ``device`` of `compare`.

    Args:
        device (Any): The device. ``"cuda"`` means the GPU of this process under ``torchrun``.

    Returns:
        torch.device or None: The device, a GPU with its index; None for the default.

    Raises:
        TypeError, ValueError: If it is not a device that PyTorch can use.
    """
    if device is None:
        return None
    must = "a device that torch knows, for example 'cpu' or 'cuda:0'"
    if not isinstance(device, (str, torch.device)):
        _checks.wrong_type("device", must, device)
    try:
        read = torch.device(device)
        if read == torch.device("cuda") and World().size > 1 and "LOCAL_RANK" in os.environ:
            read = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=read)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            _checks.sentence("device", must, f"{str(device)!r} ({str(error).splitlines()[0]})")
        ) from error
    if read.type == "cuda" and read.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return read
