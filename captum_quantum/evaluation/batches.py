"""Batches of a loader: reads, picks and checks them."""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from captum_quantum import _checks
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.fingerprint import crc
from captum_quantum.evaluation.processes import World


class Batch(NamedTuple):
    """A batch of the loader.

    Attributes:
        inputs (Tensor): Shape ``(batch, ...)``.
        labels (Tensor): Shape ``(batch,)``, int64.
        masks (Tensor or None): Shape ``(batch, ...)``.
    """

    inputs: Tensor
    labels: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        masks = None if self.masks is None else self.masks.to(device)
        return Batch(self.inputs.to(device), self.labels.to(device), masks)


def read_batch(raw: Any) -> Batch:
    """Checks what the loader gives as a batch."""
    must = "(inputs, labels) or (inputs, labels, masks)"
    if not isinstance(raw, (tuple, list)) or len(raw) not in (2, 3):
        _checks.wrong_type("each batch of the loader", must, raw)
    inputs = _checks.check_real("the loader's inputs", raw[0]).detach()
    labels = raw[1]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        _checks.wrong_type("the loader's labels", "a tensor of integers", labels)
    if inputs.dim() == 0 or len(inputs) == 0:
        _checks.wrong_value("the loader's inputs", "at least one sample", inputs)
    if labels.shape != inputs.shape[:1]:
        _checks.wrong_value("the loader's labels", f"of shape ({len(inputs)},)", labels)
    if bool((labels < 0).any()):
        _checks.wrong_value("the loader's labels", "classes, none negative", int(labels.min()))
    masks = raw[2] if len(raw) == 3 else None
    if masks is not None:
        if not isinstance(masks, Tensor):
            _checks.wrong_type("the loader's masks", "a tensor", masks)
        if masks.dim() == 0 or len(masks) != len(inputs):
            _checks.wrong_value("the loader's masks", f"{len(inputs)}, one a sample", masks)
    return Batch(inputs, labels.long(), masks)


def length(loader: Any) -> int | None:
    """The number of batches, where the loader knows it."""
    try:
        return len(loader)
    except TypeError:
        return None


def check_order(loader: Any, repeated: bool) -> None:
    """Refuses a loader that shuffles where it has to give the same batches again."""
    if not isinstance(loader, Iterable):
        _checks.wrong_type("loader", "an iterable of batches", loader)
    if not repeated or not isinstance(loader, DataLoader):
        return
    for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)):
            raise ValueError(
                _checks.sentence(
                    "loader",
                    "one that gives the same batches each time, for output or several processes",
                    f"a DataLoader with shuffle=True or a {type(sampler).__name__}",
                )
            )


def peek(loader: Iterable[Any]) -> tuple[Batch, Iterable[Any]]:
    """The first batch, read, and what still gives all batches."""
    if _can_pick(loader):
        picked = cast("DataLoader[Any]", loader)
        rows = list(itertools.islice(cast("Iterable[list[int]]", picked.batch_sampler), 1))
        return _first(next(iter(_picked(picked, rows)), None)), loader
    iterator = iter(loader)
    raw = next(iterator, None)
    return _first(raw), itertools.chain([raw], iterator)


def _first(raw: Any) -> Batch:
    if raw is None:
        _checks.wrong_value("loader", "at least one batch", "none")
    return read_batch(raw)


def checksum(batch: Batch) -> str:
    """Tells batches apart: inputs, labels and masks."""
    value = 0
    for tensor in batch:
        if tensor is not None:
            value = zlib.crc32(str((tensor.dtype, tuple(tensor.shape))).encode(), value)
            value = crc(tensor, value)
    return f"{value:08x}"


def _can_pick(loader: Any) -> bool:
    """Whether single batches can be had without loading the others."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.batch_sampler.sampler) is SequentialSampler
    )


def _picked(loader: "DataLoader[Any]", batches: Sequence[list[int]]) -> "DataLoader[Any]":
    """A loader of some of the batches."""
    many = loader.num_workers > 0 and len(batches) > 1
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers if many else 0,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout if many else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if many else None,
        prefetch_factor=loader.prefetch_factor if many else None,
    )


def mine(
    loader: Iterable[Any], world: World, done: frozenset[int]
) -> Iterator[tuple[int, int, Batch]]:
    """This process's batches: number, index of the first sample, batch.

    Of a DataLoader only batches that are still to be done are loaded; any other loader has to be
    gone through, and what comes by that is done already is given too, to be compared.
    """
    if _can_pick(loader):
        picked = cast("DataLoader[Any]", loader)
        batches = list(cast("Iterable[list[int]]", picked.batch_sampler))
        starts = [0, *itertools.accumulate(map(len, batches))]
        numbers = [n for n in range(world.rank, len(batches), world.size) if n not in done]
        if numbers:
            loaded = _picked(picked, [batches[number] for number in numbers])
            for number, raw in zip(numbers, loaded, strict=True):
                yield number, starts[number], read_batch(raw)
        return
    start = number = 0
    for number, raw in enumerate(loader, start=1):
        batch = read_batch(raw)
        if (number - 1) % world.size == world.rank:
            yield number - 1, start, batch
        start += len(batch)
    if done and max(done) >= number:
        _not_resumed(f"{number} batches, and results of batch {max(done)}")


def check_again(before: storage.BatchResult, batch: Batch) -> None:
    """Raises ValueError if a batch is not the one that a result was computed from."""
    if before.checksum != checksum(batch):
        _not_resumed(f"another batch {before.number}")


def _not_resumed(got: str) -> NoReturn:
    raise ValueError(
        _checks.sentence(
            "loader", "one that gives the same batches as the run that is resumed", got
        )
    )


def check_whole(found: Mapping[int, storage.BatchResult], total: int | None) -> None:
    """No batch is missing, none overlaps another."""
    start = 0
    for place, number in enumerate(sorted(found)):
        batch = found[number]
        if number != place or batch.start != start:
            _loader_changed(f"batch {number} at sample {batch.start} instead of {start}")
        start += len(batch.labels)
    if total is not None and len(found) != total:
        _loader_changed(f"{len(found)} of {total} batches")


def _loader_changed(got: str) -> NoReturn:
    raise ValueError(_checks.sentence("loader", "one that gives the same batches each time", got))
