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

    error: Exception

    @classmethod
    def of(cls, error: BaseException, rank: int) -> "_Failure":
        """Keeps errors of the user's input; others may be of classes that only one process has."""
        if type(error).__module__ == "builtins" and isinstance(error, (OSError, ValueError)):
            return cls(error)
        got = f"{type(error).__name__}: {error}, in process {rank}"
        return cls(RuntimeError(_checks.sentence("all processes", "able to do their parts", got)))


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
        return cast("Result", self._exchange(result)[0])

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Sends an exception of this process to the others, which raise it where they next wait."""
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                distributed.all_gather_object([None] * self.size, _Failure.of(error, self.rank))
            raise

    def _exchange(self, local: Any) -> list[Any]:
        """Gathers one object from each process in all processes."""
        if self.size == 1:
            return [local]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, local)
        for received in gathered:
            if isinstance(received, _Failure):
                raise received.error
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
            Exception: If another process has failed.
        """
        return {
            number: result for part in self._exchange(results) for number, result in part.items()
        }
