"""The processes that share an evaluation: those of torch.distributed, or one alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import distributed

from captum_quantum import _checks
from captum_quantum.evaluation import storage

Result = TypeVar("Result")


class _Failure(NamedTuple):
    """What a process says instead of its results."""

    words: str


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _failed(rank: int, words: str) -> str:
    return _checks.sentence(
        "all processes", "able to do their parts", f"{words}, in process {rank}"
    )


class World:
    """The processes that share the work: those of torch.distributed, or this one alone."""

    def __init__(self) -> None:
        many = distributed.is_available() and distributed.is_initialized()
        self.rank: int = distributed.get_rank() if many else 0
        self.size: int = distributed.get_world_size() if many else 1

    def first_does(self, work: Callable[[], Result]) -> Result:
        """Lets the first process work; all get the result, or the error."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except BaseException as error:
                known = isinstance(error, Exception) and type(error).__module__ == "builtins"
                outcome[1] = error if known else RuntimeError(_failed(0, _in_short(error)))
                distributed.broadcast_object_list(outcome, src=0)
                raise
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return cast("Result", outcome[0])

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """If one process fails here, the others fail where they next wait for it."""
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                distributed.all_gather_object([None] * self.size, _Failure(_in_short(error)))
            raise

    def _exchange(self, own: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, own)
        for rank, other in enumerate(everyone):
            if isinstance(other, _Failure):
                raise RuntimeError(_failed(rank, other.words))
        return everyone

    def check_same(self, configuration: dict[str, Any]) -> None:
        """Raises ValueError in all processes if they were not asked for the same."""
        if self.size == 1:
            return
        everyone = self._exchange(configuration)
        for rank, other in enumerate(everyone):
            if found := storage.difference(everyone[0], other):
                name, here, there = found
                raise ValueError(
                    _checks.sentence(
                        "compare's arguments",
                        "the same in all processes",
                        f"{name} = {here} in process 0, {there} in process {rank}",
                    )
                )

    def gather(self, found: dict[int, storage.BatchResult]) -> dict[int, storage.BatchResult]:
        """All processes' batches, in every process."""
        if self.size == 1:
            return found
        everyone = self._exchange(found)
        return {number: batch for part in everyone for number, batch in part.items()}


def read_device(device: Any) -> torch.device | None:
    """Reads the device of `compare`: of each process of torchrun its own GPU."""
    if device is None:
        return None
    must = "a device that torch knows, for example 'cpu' or 'cuda:0'"
    if not isinstance(device, (str, torch.device)):
        _checks.wrong_type("device", must, device)
    try:
        place = torch.device(device)
        if place == torch.device("cuda") and World().size > 1 and "LOCAL_RANK" in os.environ:
            place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            _checks.sentence("device", must, f"{str(device)!r} ({str(error).splitlines()[0]})")
        ) from error
    if place.type == "cuda" and place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return place
