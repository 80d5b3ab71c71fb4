"""Measures attribution methods and null maps batch by batch, in pieces that fit in memory."""

import gc
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_quantum import _checks, _state
from captum_quantum._targets import TargetFunction, of_examples
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.adapters import Method
from captum_quantum.evaluation.batches import Batch
from captum_quantum.evaluation.nulls import NULLS, Explained, measures_nulls
from captum_quantum.metrics.registry import Metric

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


@dataclass
class Evaluator:
    """Computes the values of all methods and metrics on one batch after the other.

    Attributes:
        methods (Sequence[Method]): The methods.
        metrics (Sequence[Metric]): The metrics.
        nulls (Sequence[str]): The names of the null maps.
        target (str or Callable): ``"label"``, ``"predicted"``, the most probable class of the first
            method's model, or a function of the output.
        seed (int): Fixes the random numbers that methods and metrics draw.
    """

    methods: Sequence[Method]
    metrics: Sequence[Metric]
    nulls: Sequence[str]
    target: str | TargetFunction
    seed: int
    _sizes: dict[tuple[str, int], int] = field(default_factory=dict, init=False)

    def __call__(self, batch: Batch) -> storage.BatchResult:
        """Evaluates a batch.

        Args:
            batch (Batch): The batch.

        Returns:
            BatchResult: Labels, targets, and values ``(n_rows, batch, n_metrics)``.

        Raises:
            TypeError, ValueError: If a method, metric or model returns something wrong.
            MemoryError: If a single sample does not fit in memory.
        """
        target = self._read_target(batch)
        following = None if batch.following is None else self._read_target(batch.following)
        rows = [self._evaluate(method, batch, target, following) for method in self.methods]
        classes = target
        if callable(classes):
            classes = torch.full_like(batch.labels, storage.FUNCTION, dtype=torch.int64)
        # Copies: the loader's small tensors would otherwise stay allocated between its large ones,
        # and C's allocator could not reuse the memory of those that were freed.
        labels, targets = (tensor.cpu().numpy().copy() for tensor in (batch.labels, classes))
        start, values = batch.start, np.concatenate(rows)
        return storage.BatchResult(batch.number, batch.checksum, start, labels, targets, values)

    def _read_target(self, batch: Batch) -> Tensor | TargetFunction:
        """The classes of a batch that are explained, or the function."""
        if callable(self.target):
            return self.target
        return batch.labels if self.target == "label" else self._predict(self.methods[0], batch)

    def _predict(self, method: Method, batch: Batch) -> Tensor:
        """The most probable classes by a method's model."""
        batch = batch.map(lambda tensor: tensor.to(method.device))

        def predict(rows: slice) -> Tensor:
            return method.scores(batch.inputs[rows]).argmax(dim=1)

        return self._in_pieces(f"the output of the model of {method.name!r}", batch, predict)

    def _evaluate(
        self,
        method: Method,
        batch: Batch,
        target: Tensor | TargetFunction,
        following: Tensor | TargetFunction | None,
    ) -> npt.NDArray[np.float64]:
        """Values of a method and of its null maps, ``(1 + n_nulls, batch, n_metrics)``.

        Args:
            method (Method): The method.
            batch (Batch): The batch.
            target (Tensor or Callable): Its classes, or a function of the output.
            following (Tensor, Callable or None): The target of the sample that follows the batch.
        """
        device, owner = method.device, f"method {method.name!r}"

        def explain(batch: Batch, target: Tensor | TargetFunction) -> tuple[Batch, Any, Tensor]:
            batch = batch.map(lambda tensor: tensor.to(device))
            moved = target.to(device) if isinstance(target, Tensor) else target

            def attribute(rows: slice) -> Tensor:
                return method.attribute(batch.inputs[rows], of_examples(moved, rows))

            return batch, moved, self._in_pieces(owner, batch, attribute)

        batch, target, maps = explain(batch, target)
        ahead = None
        if batch.following is not None and following is not None:
            ahead = explain(batch.following, following)[-1]
        explained = Explained(method, batch, target, maps, ahead, self.seed)
        values = [self._measure_all(self.metrics, owner, explained)]
        measuring = [metric for metric in self.metrics if measures_nulls(metric)]
        for name in self.nulls:
            what = f"null {name!r} of {owner}"
            maps = self._in_pieces(what, batch, partial(NULLS[name].make, explained))
            values.append(self._measure_all(measuring, what, explained._replace(maps=maps)))
        return np.stack(values)

    def _measure_all(
        self, metrics: Sequence[Metric], what: str, explained: Explained
    ) -> npt.NDArray[np.float64]:
        """Values of maps, ``(batch, n_metrics)``; NaN where undefined or not measured.

        Args:
            metrics (Sequence[Metric]): The metrics to measure by, among those of the evaluator.
            what (str): What the maps are, for errors.
            explained (Explained): The maps and their batch.
        """
        n, maps = len(explained.batch), explained.maps
        values = np.full((n, len(self.metrics)), np.nan)
        rows = maps.reshape(n, -1).isfinite().all(dim=1).nonzero()[:, 0]
        if len(rows) < n:
            explained = explained._replace(
                batch=explained.batch.map(lambda tensor: tensor[rows]),
                target=of_examples(explained.target, rows),
                maps=maps[rows],
            )
        if len(rows):
            finite = rows.cpu().numpy()
            for metric in metrics:
                measured = self._measure(metric, what, explained)
                values[finite, self.metrics.index(metric)] = measured.numpy()
        return values

    def _measure(self, metric: Metric, what: str, explained: Explained) -> Tensor:
        """A metric's values ``(batch,)``."""
        method, batch = explained.method, explained.batch

        def measure(rows: slice) -> Tensor:
            part = batch.map(lambda tensor: tensor[rows])
            arguments = {
                "model": method.model,
                "inputs": part.inputs,
                "attributions": explained.maps[rows],
                "target": of_examples(explained.target, rows),
                "masks": part.masks,
                "attribute": method.attribute,
            }
            values = metric.function(**{name: arguments[name] for name in metric.arguments})
            n = len(part)
            if not isinstance(values, Tensor) or values.shape != (n,) or values.is_complex():
                argument = f"what metric {metric.name!r} returns"
                _checks.wrong_value(argument, f"{n} numbers, of shape ({n},)", values)
            return values.detach().cpu().double()

        return self._in_pieces(f"metric {metric.name!r} of {what}", batch, measure)

    def _in_pieces(self, what: str, batch: Batch, work: Callable[[slice], Tensor]) -> Tensor:
        """Works on a batch in pieces, halved until they fit in memory; concatenates the results.

        The size that fits is remembered for batches of the same size only. So a batch is divided in
        the same way whichever batches came before it, and draws the same random numbers when a run
        is resumed or shared by processes.
        """
        n, start, pieces = len(batch), 0, []
        while start < n:
            size = min(self._sizes.get((what, n), n), n - start)
            sequence = np.random.SeedSequence([self.seed, batch.number, start])
            seed = int(sequence.generate_state(1, np.uint64)[0])
            _state.seed_generators(seed, batch.inputs)
            try:
                pieces.append(work(slice(start, start + size)))
                start += size
                continue
            # Methods and metrics are the user's: there is no list of what they may raise. Only a
            # lack of memory is dealt with; anything else is raised again, with a note where it was.
            except Exception as error:
                out_of_memory = _is_out_of_memory(error)
                if not out_of_memory or size == 1:
                    if hasattr(error, "add_note"):  # from Python 3.11 on
                        note = f"in {what}, batch of {n} samples from sample {batch.start} on"
                        error.add_note(note)
                    if out_of_memory:
                        text = f"a single sample does not fit in memory: {error}"
                        raise MemoryError(text) from error
                    raise
            # The traceback has been released here, and with it the tensors of the attempt.
            self._sizes[what, n] = (size + 1) // 2
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        return torch.cat(pieces)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )
