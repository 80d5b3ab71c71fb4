"""Computes the values of all methods and metrics on a batch, in pieces that fit in memory."""

import gc
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_quantum import _checks, _state
from captum_quantum.evaluation.adapters import Method
from captum_quantum.evaluation.batches import Batch
from captum_quantum.evaluation.storage import BatchResult
from captum_quantum.metrics.registry import Metric

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


class Evaluator:
    """Computes the values of all methods and metrics on one batch after the other.

    Args:
        methods (Sequence[Method]): The methods.
        metrics (Sequence[Metric]): The metrics.
        predicted (bool): Whether to explain the most probable class of the first method's model
            instead of the label.
        seed (int): Fixes the random numbers that methods and metrics draw.
    """

    def __init__(
        self, methods: Sequence[Method], metrics: Sequence[Metric], predicted: bool, seed: int
    ) -> None:
        self._methods = methods
        self._metrics = metrics
        self._predicted = predicted
        self._seed = seed
        self._sizes: dict[tuple[str, int], int] = {}

    def __call__(self, batch: Batch) -> BatchResult:
        """Evaluates a batch.

        Args:
            batch (Batch): The batch.

        Returns:
            BatchResult: Labels, targets, and values ``(n_methods, batch, n_metrics)``.

        Raises:
            TypeError, ValueError: If a method, metric or model returns something wrong.
            MemoryError: If a single sample does not fit in memory.
        """
        targets = self._predict(batch) if self._predicted else batch.labels
        values = np.stack([self._evaluate(method, batch, targets) for method in self._methods])
        # Copies: the loader's small tensors would otherwise stay allocated between its large ones,
        # and C's allocator could not reuse the memory of those that were freed.
        labels, classes = (tensor.cpu().numpy().copy() for tensor in (batch.labels, targets))
        return BatchResult(batch.number, batch.checksum, batch.start, labels, classes, values)

    def _predict(self, batch: Batch) -> Tensor:
        """The most probable classes by the first method's model."""
        method = self._methods[0]
        inputs = batch.inputs.to(method.device)
        argument = f"the output of the model of {method.name!r}"

        def predict(rows: slice) -> Tensor:
            n = len(inputs[rows])
            with torch.no_grad():
                scores = method.model(inputs[rows])
            if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != n:
                _checks.wrong_value(argument, "(batch, n_classes)", scores)
            return scores.argmax(dim=1)

        return self._in_pieces(argument, batch, method.device, predict)

    def _evaluate(self, method: Method, batch: Batch, targets: Tensor) -> npt.NDArray[np.float64]:
        """A method's values by all metrics, ``(batch, n_metrics)``; NaN where undefined."""
        device = method.device
        batch, targets = batch.to(device), targets.to(device)

        def attribute(rows: slice) -> Tensor:
            return method.attribute(batch.inputs[rows], targets[rows])

        maps = self._in_pieces(f"method {method.name!r}", batch, device, attribute)
        values = np.full((len(batch), len(self._metrics)), np.nan)
        rows = maps.reshape(len(maps), -1).isfinite().all(dim=1).nonzero()[:, 0]
        if len(rows) < len(batch):
            batch, maps, targets = batch.select(rows), maps[rows], targets[rows]
        if len(rows):
            finite = rows.cpu().numpy()
            for column, metric in enumerate(self._metrics):
                values[finite, column] = self._measure(metric, method, batch, maps, targets)
        return values

    def _measure(
        self, metric: Metric, method: Method, batch: Batch, maps: Tensor, targets: Tensor
    ) -> npt.NDArray[np.float64]:
        """A metric's values ``(batch,)``."""

        def measure(rows: slice) -> Tensor:
            arguments = {
                "model": method.model,
                "inputs": batch.inputs[rows],
                "attributions": maps[rows],
                "target": targets[rows],
                "masks": None if batch.masks is None else batch.masks[rows],
                "attribute": method.attribute,
            }
            values = metric.function(**{name: arguments[name] for name in metric.arguments})
            n = len(targets[rows])
            if not isinstance(values, Tensor) or values.shape != (n,) or values.is_complex():
                _checks.wrong_value(
                    f"what metric {metric.name!r} returns", f"{n} numbers, of shape ({n},)", values
                )
            return values.detach().cpu().double()

        what = f"metric {metric.name!r} of method {method.name!r}"
        values: npt.NDArray[np.float64] = self._in_pieces(
            what, batch, method.device, measure
        ).numpy()
        return values

    def _in_pieces(
        self, what: str, batch: Batch, device: torch.device, work: Callable[[slice], Tensor]
    ) -> Tensor:
        """Works on a batch in pieces, halved until they fit in memory; concatenates the results.

        The size that fits is remembered for batches of the same size only. So a batch is divided in
        the same way whichever batches came before it, and draws the same random numbers when a run
        is resumed or shared by processes.
        """
        n, start, pieces = len(batch), 0, []
        while start < n:
            size = min(self._sizes.get((what, n), n), n - start)
            sequence = np.random.SeedSequence([self._seed, batch.number, start])
            _state.seed_generators(int(sequence.generate_state(1, np.uint64)[0]), device)
            try:
                pieces.append(work(slice(start, start + size)))
                start += size
                continue
            # Methods and metrics are the user's and may raise anything, which is raised again.
            except Exception as error:
                out_of_memory = _is_out_of_memory(error)
                if not out_of_memory or size == 1:
                    if hasattr(error, "add_note"):  # from Python 3.11 on
                        error.add_note(
                            f"in {what}, batch of {n} samples from sample {batch.start} on"
                        )
                    if out_of_memory:
                        raise MemoryError(
                            f"a single sample does not fit in memory: {error}"
                        ) from error
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
