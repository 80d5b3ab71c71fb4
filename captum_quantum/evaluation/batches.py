"""Batches of a loader: reads, checks and selects them."""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

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
from captum_quantum.evaluation.fingerprint import checksum_tensor
from captum_quantum.evaluation.processes import World
from captum_quantum.evaluation.storage import BatchResult


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
        return cls(number, start, inputs, labels.long(), masks)

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Batch":
        """Moves the tensors to a device.

        Args:
            device (torch.device): The device.

        Returns:
            Batch: The same batch there.
        """
        masks = None if self.masks is None else self.masks.to(device)
        inputs, labels = self.inputs.to(device), self.labels.to(device)
        return Batch(self.number, self.start, inputs, labels, masks)

    def select(self, rows: Tensor) -> "Batch":
        """Selects samples.

        Args:
            rows (Tensor): Indices of the samples, shape ``(n,)``, int64.

        Returns:
            Batch: A batch of these samples, with the same number and start.
        """
        masks = None if self.masks is None else self.masks[rows]
        return Batch(self.number, self.start, self.inputs[rows], self.labels[rows], masks)

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
    try:
        return len(loader)
    except TypeError:
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
    """Reads the first batch.

    Args:
        loader (Iterable): The loader, which may be an iterator.

    Returns:
        tuple[Batch, Iterable]: The first batch, and an iterable of all batches, this one included.

    Raises:
        TypeError, ValueError: If there is no batch, or the first one is wrong.
    """
    if _is_indexable(loader):
        raw = next(iter(_subset(loader, _indices(loader)[:1])), None)
    else:
        iterator = iter(loader)
        raw = next(iterator, None)
        loader = itertools.chain([raw], iterator)
    if raw is None:
        _checks.wrong_value("loader", "at least one batch", "none")
    return Batch.read(0, 0, raw), loader


def iterate(loader: Iterable[Any], world: World, done: frozenset[int]) -> Iterator[Batch]:
    """Yields the batches of this process: those whose number modulo the size is its rank.

    A DataLoader in sequential order loads only the batches that are not done. Any other loader is
    iterated as a whole, and batches that are done are yielded too, so that they can be compared.

    Args:
        loader (Iterable): The loader.
        world (World): The processes.
        done (frozenset[int]): Numbers of the batches whose results exist already.

    Raises:
        TypeError, ValueError: If a batch is wrong, or fewer batches exist than are done.
    """
    if _is_indexable(loader):
        indices = _indices(loader)
        starts = [0, *itertools.accumulate(map(len, indices))]
        numbers = [n for n in range(world.rank, len(indices), world.size) if n not in done]
        if numbers:
            loaded = _subset(loader, [indices[number] for number in numbers])
            for number, raw in zip(numbers, loaded, strict=True):
                yield Batch.read(number, starts[number], raw)
        return
    start = n_batches = 0
    for number, raw in enumerate(loader):
        batch = Batch.read(number, start, raw)
        if number % world.size == world.rank:
            yield batch
        start += len(batch)
        n_batches = number + 1
    if done and max(done) >= n_batches:
        _refuse_resuming(f"{n_batches} batches, and results of batch {max(done)}")


def _is_indexable(loader: Any) -> "TypeGuard[DataLoader[Any]]":
    """Whether single batches can be loaded without the others."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.batch_sampler.sampler) is SequentialSampler
    )


def _indices(loader: "DataLoader[Any]") -> list[list[int]]:
    """The samples' indices of each batch."""
    return list(loader.batch_sampler or ())


def _subset(loader: "DataLoader[Any]", batches: Sequence[list[int]]) -> "DataLoader[Any]":
    """A loader of some batches, given as their samples' indices."""
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


def check_unchanged(result: BatchResult, batch: Batch) -> None:
    """Checks that a batch is the one that a result was computed from.

    Args:
        result (BatchResult): The result.
        batch (Batch): The batch with the same number.

    Raises:
        ValueError: If inputs, labels or masks are different.
    """
    if result.checksum != batch.checksum:
        _refuse_resuming(f"another batch {result.number}")


def _refuse_resuming(got: str) -> NoReturn:
    raise ValueError(
        _checks.sentence(
            "loader", "one that gives the same batches as the run that is resumed", got
        )
    )


def check_complete(results: Mapping[int, BatchResult], n_batches: int | None) -> None:
    """Checks that no batch is missing and that no two overlap.

    Args:
        results (Mapping[int, BatchResult]): The results by batch number.
        n_batches (int, optional): The number of batches, if it is known.

    Raises:
        ValueError: If the loader did not give the same batches each time.
    """
    start = 0
    got = ""
    for position, number in enumerate(sorted(results)):
        result = results[number]
        if number != position or result.start != start:
            got = got or f"batch {number} at sample {result.start} instead of {start}"
        start += len(result.labels)
    if n_batches is not None and len(results) != n_batches:
        got = got or f"{len(results)} of {n_batches} batches"
    if got:
        raise ValueError(
            _checks.sentence("loader", "one that gives the same batches each time", got)
        )
