"""The processes that share an evaluation: those of torch.distributed, or a single one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

from torch import distributed

from captum_quantum import _checks
from captum_quantum.evaluation.storage import difference

Result = TypeVar("Result")
Entry = TypeVar("Entry")


class _Failure(NamedTuple):
    """What a process that has failed sends instead of its results."""

    description: str

    @classmethod
    def of(cls, error: BaseException) -> "_Failure":
        return cls(f"{type(error).__name__}: {error}")

    def to_error(self, rank: int) -> RuntimeError:
        got = f"{self.description}, in process {rank}"
        return RuntimeError(_checks.sentence("all processes", "able to do their parts", got))


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
            Exception: What the function raises, in all processes; RuntimeError in the others if the
                exception is not a built-in one.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except BaseException as error:
                builtin = isinstance(error, Exception) and type(error).__module__ == "builtins"
                outcome[1] = error if builtin else _Failure.of(error).to_error(0)
                distributed.broadcast_object_list(outcome, src=0)
                raise
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return cast("Result", outcome[0])

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Sends an exception of this process to the others, which raise it where they next wait.

        The next collective operation of the others must be `check_same` or `gather`.
        """
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                distributed.all_gather_object([None] * self.size, _Failure.of(error))
            raise

    def _exchange(self, local: Any) -> list[Any]:
        """Gathers one object from each process in all processes."""
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, local)
        for rank, received in enumerate(gathered):
            if isinstance(received, _Failure):
                raise received.to_error(rank)
        return gathered

    def check_same(self, configuration: dict[str, Any]) -> None:
        """Checks that all processes have the same configuration.

        Args:
            configuration (dict[str, Any]): This process's configuration, which JSON can hold.

        Raises:
            ValueError: In all processes, if two of them differ.
            RuntimeError: If another process has failed.
        """
        if self.size == 1:
            return
        configurations = self._exchange(configuration)
        for rank, other in enumerate(configurations):
            if differing := difference(configurations[0], other):
                name, first, second = differing
                raise ValueError(
                    _checks.sentence(
                        "compare's arguments",
                        "the same in all processes",
                        f"{name} = {first} in process 0, {second} in process {rank}",
                    )
                )

    def gather(self, results: dict[int, Entry]) -> dict[int, Entry]:
        """Gathers all processes' results in every process.

        Args:
            results (dict[int, Any]): This process's results by batch number.

        Returns:
            dict[int, Any]: The results of all.

        Raises:
            RuntimeError: If another process has failed.
        """
        if self.size == 1:
            return results
        return {
            number: result for part in self._exchange(results) for number, result in part.items()
        }
