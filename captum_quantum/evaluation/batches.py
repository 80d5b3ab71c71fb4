"""Batches of a loader: reads, checks and selects them."""

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
        following (Batch or None): The sample after the last one, without mask, as a batch of its
            own; after the data set's last sample its first one. None where it is not needed.
    """

    number: int
    start: int
    inputs: Tensor
    labels: Tensor
    masks: Tensor | None
    following: "Batch | None" = None

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
            Batch: A batch with the same number, start and following sample.
        """
        masks = None if self.masks is None else change(self.masks)
        return replace(self, inputs=change(self.inputs), labels=change(self.labels), masks=masks)

    def followed_by(self, other: "Batch") -> "Batch":
        """Returns this batch with a copy of another one's first sample as the following one.

        Args:
            other (Batch): The next batch; after the last one, the first.
        """
        inputs, labels = other.inputs[:1].clone(), other.labels[:1].clone()
        return replace(self, following=Batch(other.number, other.start, inputs, labels, None))

    @property
    def checksum(self) -> str:
        """Checksum of inputs, labels, masks and the following sample: eight hexadecimal digits."""
        value = 0
        tensors = [self.inputs, self.labels, self.masks]
        if self.following is not None:
            tensors += [self.following.inputs, self.following.labels]
        for tensor in tensors:
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


def peek(loader: Iterable[Any], look_ahead: bool = False) -> tuple[Batch, Iterable[Any]]:
    """Reads the first batch.

    Args:
        loader (Iterable): The loader, which may be an iterator.
        look_ahead (bool): Whether each sample needs another one that follows it.

    Returns:
        tuple[Batch, Iterable]: The first batch, and an iterable of all batches, this one included.

    Raises:
        TypeError, ValueError: If there is no batch, or the first one is wrong, or there is one
            sample only and it needs another one.
    """
    if _is_indexable(loader):
        indices = list(loader.batch_sampler or ())
        seen, n_seen = list(_subset(loader, indices[:1])), len(indices)
    else:
        iterator = iter(loader)
        # Copies: a loader may fill the same memory with the next batch.
        seen = [_copy(raw) for raw in itertools.islice(iterator, 2 if look_ahead else 1)]
        n_seen = len(seen)
        loader = itertools.chain(seen, iterator)
    if not seen:
        _checks.wrong_value("loader", "at least one batch", "none")
    first = Batch.read(0, 0, seen[0])
    if look_ahead and n_seen == len(first) == 1:
        must = "at least two samples, for the null 'other-image'"
        _checks.refuse("loader", must, "a single one")
    return first, loader


def _copy(raw: Any) -> Any:
    """Copies the tensors of what a loader yields."""
    if not isinstance(raw, (tuple, list)):
        return raw
    return [part.clone() if isinstance(part, Tensor) else part for part in raw]


def remaining(
    loader: Iterable[Any],
    world: World,
    results: Mapping[int, BatchResult],
    look_ahead: bool = False,
) -> Iterator[Batch]:
    """Yields the batches of this process, those whose number modulo the size is its rank.

    Batches that have a result already are left out. A DataLoader in sequential order does not load
    them; any other loader is iterated as a whole, and they are compared with the results.

    Args:
        loader (Iterable): The loader.
        world (World): The processes.
        results (Mapping[int, BatchResult]): The results by batch number. Results of the yielded
            batches may be added during the iteration.
        look_ahead (bool): Whether batches get their following sample. A DataLoader in sequential
            order loads just that sample; any other loader is one batch ahead.

    Raises:
        TypeError, ValueError: If a batch is wrong or is not the one of its result, or fewer batches
            exist than results.
    """
    if _is_indexable(loader):
        yield from _load(loader, world, results, look_ahead)
        return
    number = -1
    for batch in _iterate(loader, look_ahead):
        number = batch.number
        if number % world.size == world.rank:
            if number not in results:
                yield batch
            elif results[number].checksum != batch.checksum:
                _refuse_resuming(f"another batch {number}")
    if (last := max(results, default=-1)) > number:
        _refuse_resuming(f"{number + 1} batches, and results of batch {last}")


def _load(
    loader: "data.DataLoader[Any]",
    world: World,
    results: Mapping[int, BatchResult],
    look_ahead: bool,
) -> Iterator[Batch]:
    """Loads the batches of this process that have no result."""
    indices = list(loader.batch_sampler or ())
    starts = [0, *itertools.accumulate(map(len, indices))]
    numbers = [n for n in range(world.rank, len(indices), world.size) if n not in results]
    wanted = [(number, indices[number]) for number in numbers]
    if look_ahead:
        after = [(number + 1) % len(indices) for number in numbers]
        ahead = [(number, indices[number][:1]) for number in after]
        wanted = list(itertools.chain(*zip(wanted, ahead, strict=True)))
    if not wanted:
        return
    raws = iter(_subset(loader, [samples for _, samples in wanted]))
    loaded = (
        Batch.read(number, starts[number], raw)
        for (number, _), raw in zip(wanted, raws, strict=True)
    )
    for batch in loaded:
        yield batch.followed_by(next(loaded)) if look_ahead else batch


def _iterate(loader: Iterable[Any], look_ahead: bool) -> Iterator[Batch]:
    """Reads all batches."""
    start, first, before = 0, None, None
    for number, raw in enumerate(loader):
        batch = Batch.read(number, start, raw)
        start += len(batch)
        if not look_ahead:
            yield batch
            continue
        if before is None:
            first = batch.followed_by(batch).following  # a copy of the first sample
        else:
            yield before.followed_by(batch)
        before = batch.map(Tensor.clone)  # as in `peek`
    if before is not None and first is not None:
        yield before.followed_by(first)


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
