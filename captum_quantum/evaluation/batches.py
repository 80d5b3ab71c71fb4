"""Batches of a loader: reads, checks and selects them."""

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from torch import Tensor
from torch.utils import data

from captum_quantum import _checks
from captum_quantum.evaluation.fingerprint import checksum_tensor
from captum_quantum.evaluation.processes import World
from captum_quantum.evaluation.storage import BatchResult

_SHUFFLING = (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of the loader.

    Attributes:
        number (int): Index of the batch in the loader.
        start (int): Index of the batch's first sample in the data set.
        inputs (Tensor): Shape ``(batch, ...)``.
        labels (Tensor): Shape ``(batch,)``, int64.
        masks (Tensor or None): Shape ``(batch, ...)``.
    """

    number: int
    start: int
    inputs: Tensor
    labels: Tensor
    masks: Tensor | None

    @classmethod
    def read(cls, number: int, start: int, raw: Any) -> "Batch":
        """Reads what the loader yields.

        Args:
            number (int): Index of the batch in the loader.
            start (int): Index of the batch's first sample in the data set.
            raw (tuple or list): ``(inputs, labels)`` or ``(inputs, labels, masks)``.

        Returns:
            Batch: The batch, without a graph.

        Raises:
            TypeError, ValueError: If that is wrong.
        """
        must = "(inputs, labels) or (inputs, labels, masks)"
        if not isinstance(raw, (tuple, list)) or len(raw) not in (2, 3):
            _checks.wrong_type("each batch of the loader", must, raw)
        inputs = _checks.check_real("the loader's inputs", raw[0]).detach()
        labels, masks = raw[1], raw[2] if len(raw) == 3 else None
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            _checks.wrong_type("the loader's labels", "a tensor of integers", labels)
        if inputs.dim() == 0 or len(inputs) == 0:
            _checks.wrong_value("the loader's inputs", "at least one sample", inputs)
        if labels.shape != inputs.shape[:1]:
            _checks.wrong_value("the loader's labels", f"of shape ({len(inputs)},)", labels)
        if bool((labels < 0).any()):
            _checks.wrong_value("the loader's labels", "classes, none negative", int(labels.min()))
        if masks is not None and not isinstance(masks, Tensor):
            _checks.wrong_type("the loader's masks", "a tensor", masks)
        if masks is not None and masks.shape[:1] != inputs.shape[:1]:
            _checks.wrong_value("the loader's masks", f"{len(inputs)}, one a sample", masks)
        return cls(number, start, inputs, labels.long(), masks)

    def __len__(self) -> int:
        return len(self.inputs)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies a function to each of the tensors.

        Args:
            change (Callable): The function, for example one that selects samples.

        Returns:
            Batch: A batch with the same number and start.
        """
        masks = None if self.masks is None else change(self.masks)
        return Batch(self.number, self.start, change(self.inputs), change(self.labels), masks)

    @property
    def checksum(self) -> str:
        """Checksum of inputs, labels and masks: eight hexadecimal digits."""
        value = 0
        for tensor in (self.inputs, self.labels, self.masks):
            if tensor is not None:
                value = zlib.crc32(str((tensor.dtype, tuple(tensor.shape))).encode(), value)
                value = checksum_tensor(tensor, value)
        return f"{value:08x}"


def length(loader: Any) -> int | None:
    """Returns the number of batches, or None if the loader has no length.

    Args:
        loader (Any): The loader.
    """
    with contextlib.suppress(TypeError):
        return len(loader)
    return None


def check_order(loader: Any, repeated: bool) -> None:
    """Checks that a loader can be iterated, and in the same order each time if that is needed.

    Args:
        loader (Any): The loader.
        repeated (bool): Whether it must yield the same batches each time.

    Raises:
        TypeError: If it is not iterable.
        ValueError: If it shuffles although it must not.
    """
    if not isinstance(loader, Iterable):
        _checks.wrong_type("loader", "an iterable of batches", loader)
    if not repeated or not isinstance(loader, data.DataLoader):
        return
    for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(sampler, _SHUFFLING):
            must = "one that gives the same batches each time, for output or several processes"
            got = f"a DataLoader with shuffle=True or a {type(sampler).__name__}"
            _checks.refuse("loader", must, got)


def peek(loader: Iterable[Any]) -> tuple[Batch, Iterable[Any]]:
    """Reads the first batch.

    Args:
        loader (Iterable): The loader, which may be an iterator.

    Returns:
        tuple[Batch, Iterable]: The first batch, and an iterable of all batches, this one included.

    Raises:
        TypeError, ValueError: If there is no batch, or the first one is wrong.
    """
    if _is_indexable(loader):
        raw = next(iter(_subset(loader, list(loader.batch_sampler or ())[:1])), None)
    else:
        iterator = iter(loader)
        raw = next(iterator, None)
        loader = itertools.chain([raw], iterator)
    if raw is None:
        _checks.wrong_value("loader", "at least one batch", "none")
    return Batch.read(0, 0, raw), loader


def remaining(
    loader: Iterable[Any], world: World, results: Mapping[int, BatchResult]
) -> Iterator[Batch]:
    """Yields the batches of this process, those whose number modulo the size is its rank.

    Batches that have a result already are left out. A DataLoader in sequential order does not load
    them; any other loader is iterated as a whole, and they are compared with the results.

    Args:
        loader (Iterable): The loader.
        world (World): The processes.
        results (Mapping[int, BatchResult]): The results by batch number. Results of the yielded
            batches may be added during the iteration.

    Raises:
        TypeError, ValueError: If a batch is wrong or is not the one of its result, or fewer batches
            exist than results.
    """
    if _is_indexable(loader):
        indices = list(loader.batch_sampler or ())
        starts = [0, *itertools.accumulate(map(len, indices))]
        numbers = [n for n in range(world.rank, len(indices), world.size) if n not in results]
        if numbers:
            loaded = _subset(loader, [indices[number] for number in numbers])
            for number, raw in zip(numbers, loaded, strict=True):
                yield Batch.read(number, starts[number], raw)
        return
    start, number = 0, -1
    for number, raw in enumerate(loader):
        batch = Batch.read(number, start, raw)
        if number % world.size == world.rank:
            if number not in results:
                yield batch
            elif results[number].checksum != batch.checksum:
                _refuse_resuming(f"another batch {number}")
        start += len(batch)
    if (last := max(results, default=-1)) > number:
        _refuse_resuming(f"{number + 1} batches, and results of batch {last}")


def _is_indexable(loader: Any) -> "TypeGuard[data.DataLoader[Any]]":
    """Whether single batches can be loaded without the others."""
    return (
        isinstance(loader, data.DataLoader)
        and not isinstance(loader.dataset, data.IterableDataset)
        and type(loader.batch_sampler) is data.BatchSampler
        and type(loader.batch_sampler.sampler) is data.SequentialSampler
    )


def _subset(loader: "data.DataLoader[Any]", batches: Sequence[list[int]]) -> "data.DataLoader[Any]":
    """A loader of some batches, given as their samples' indices."""
    kept = ["collate_fn", "pin_memory", "worker_init_fn"]
    if loader.num_workers > 0 and len(batches) > 1:
        kept += ["num_workers", "timeout", "multiprocessing_context", "prefetch_factor"]
    options = {name: getattr(loader, name) for name in kept}
    return data.DataLoader(loader.dataset, batch_sampler=batches, **options)


def _refuse_resuming(got: str) -> NoReturn:
    _checks.refuse("loader", "one that gives the same batches as the run that is resumed", got)


def check_complete(results: Mapping[int, BatchResult], n_batches: int | None) -> None:
    """Checks that no batch is missing and that no two overlap.

    Args:
        results (Mapping[int, BatchResult]): The results by batch number.
        n_batches (int, optional): The number of batches, if it is known.

    Raises:
        ValueError: If the loader did not give the same batches each time.
    """
    start, must = 0, "one that gives the same batches each time"
    for position, (number, result) in enumerate(sorted(results.items())):
        if number != position or result.start != start:
            got = f"batch {number} at sample {result.start} instead of {start}"
            _checks.refuse("loader", must, got)
        start += len(result.labels)
    if n_batches not in (None, len(results)):
        _checks.refuse("loader", must, f"{len(results)} of {n_batches} batches")
