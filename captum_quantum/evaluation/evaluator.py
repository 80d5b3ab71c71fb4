"""Computes all methods' values of a batch, in as many pieces as memory needs."""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.adapters import Method
from captum_quantum.evaluation.batches import Batch, checksum
from captum_quantum.metrics.registry import Metric

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


class Evaluator:
    """Computes all methods' values of a batch."""

    def __init__(
        self,
        methods: Sequence[Method],
        metrics: Sequence[Metric],
        predicted: bool,
        seed: int,
    ) -> None:
        self._methods = methods
        self._metrics = metrics
        self._predicted = predicted
        self._seed = seed
        self._sizes: dict[tuple[str, str, int], int] = {}

    def __call__(self, number: int, start: int, batch: Batch) -> storage.BatchResult:
        """The results of one batch."""
        targets = self._targets(number, batch)
        values = np.stack([self._values(m, number, start, batch, targets) for m in self._methods])
        # Copies: kept themselves, the loader's small tensors would lie scattered between its large
        # ones, and C's allocator could then not use the memory of those that are gone again.
        labels, classes = (tensor.cpu().numpy().copy() for tensor in (batch.labels, targets))
        return storage.BatchResult(number, checksum(batch), start, labels, classes, values)

    def _targets(self, number: int, batch: Batch) -> Tensor:
        if not self._predicted:
            return batch.labels
        method = self._methods[0]
        inputs = batch.inputs.to(method.device)

        def predict(rows: slice) -> Tensor:
            with torch.no_grad():
                scores = method.model(inputs[rows])
            if (
                not isinstance(scores, Tensor)
                or scores.dim() != 2
                or len(scores) != len(inputs[rows])
            ):
                _checks.wrong_value(
                    f"the output of the model of {method.name!r}", "(batch, n_classes)", scores
                )
            return scores.argmax(dim=1)

        pieces = self._in_pieces((method.name, "prediction"), number, batch, method.device, predict)
        return torch.cat(pieces)

    def _values(
        self, method: Method, number: int, start: int, batch: Batch, targets: Tensor
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        device = method.device
        batch, targets = batch.to(device), targets.to(device)

        def attribute(rows: slice) -> Tensor:
            return method.attribute(batch.inputs[rows], targets[rows])

        with _named(f"method {method.name!r}", start, batch):
            maps = torch.cat(
                self._in_pieces((method.name, "attribute"), number, batch, device, attribute)
            )
        values = np.full((len(batch), len(self._metrics)), np.nan)
        finite = maps.flatten(1).isfinite().all(dim=1) if maps.dim() > 1 else maps.isfinite()
        rows = finite.nonzero()[:, 0]
        if len(rows) < len(batch):
            masks = None if batch.masks is None else batch.masks[rows]
            batch = Batch(batch.inputs[rows], batch.labels[rows], masks)
            maps, targets = maps[rows], targets[rows]
        if len(rows):
            where = rows.cpu().numpy()
            for column, metric in enumerate(self._metrics):
                what = f"metric {metric.name!r} of method {method.name!r}"
                with _named(what, start, batch):
                    values[where, column] = self._value(
                        method, metric, number, batch, maps, targets
                    )
        return values

    def _value(
        self,
        method: Method,
        metric: Metric,
        number: int,
        batch: Batch,
        maps: Tensor,
        targets: Tensor,
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        def measure(rows: slice) -> Tensor:
            given = {
                "model": method.model,
                "inputs": batch.inputs[rows],
                "attributions": maps[rows],
                "target": targets[rows],
                "masks": None if batch.masks is None else batch.masks[rows],
                "attribute": method.attribute,
            }
            found = metric.function(**{name: given[name] for name in metric.arguments})
            n = len(targets[rows])
            if not isinstance(found, Tensor) or found.shape != (n,) or found.is_complex():
                _checks.wrong_value(
                    f"what metric {metric.name!r} returns", f"{n} numbers, of shape ({n},)", found
                )
            return found.detach().cpu().double()

        pieces = self._in_pieces((method.name, metric.name), number, batch, method.device, measure)
        return cast("np.ndarray[Any, np.dtype[np.float64]]", torch.cat(pieces).numpy())

    def _in_pieces(
        self,
        what: tuple[str, str],
        number: int,
        batch: Batch,
        device: torch.device,
        work: Callable[[slice], Tensor],
    ) -> list[Tensor]:
        """Works on a batch in as many pieces as memory asks for; pieces that fit are remembered.

        For batches of the same size only: so a batch is cut the same whichever came before it, and
        a run that goes on, or that is shared, draws the numbers of an undisturbed one.
        """
        n, start = len(batch), 0
        key = (*what, n)
        pieces = []
        while start < n:
            rows = slice(start, min(start + self._sizes.get(key, n), n))
            size = rows.stop - rows.start
            _seed(self._seed, number, start, device)
            piece = None
            try:
                piece = work(rows)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if size == 1:
                    raise MemoryError(f"a single sample does not fit in memory: {error}") from error
            if piece is None:
                # Out here the traceback is gone, and with it all that the attempt still held.
                self._sizes[key] = (size + 1) // 2
                gc.collect()
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
                continue
            pieces.append(piece)
            start = rows.stop
        return pieces


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or bool(
        _OUT_OF_MEMORY.search(str(error))
    )


@contextmanager
def _named(what: str, start: int, batch: Batch) -> Iterator[None]:
    """Notes on an error, where Python can do that, what it is about."""
    try:
        yield
    # Metrics and methods are the user's and may raise anything. It is raised again as it came,
    # with a note of where.
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(f"in {what}, batch of {len(batch)} samples from sample {start} on")
        raise


def _seed(seed: int, number: int, start: int, device: torch.device) -> None:
    """Seeds torch's generators for a piece of a batch: the same for all methods and metrics."""
    state = int(np.random.SeedSequence([seed, number, start]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(state)


@contextmanager
def prepared(methods: Sequence[Method], place: torch.device | None) -> Iterator[None]:
    """Evaluation mode on the wanted device; restores all that evaluating may change."""
    roots = [root for method in methods for root in method.modules]
    modules = {id(module): module for root in roots for module in root.modules()}.values()
    parameters = {id(p): p for root in roots for p in root.parameters()}.values()
    modes = [module.training for module in modules]
    before = [(p, p.data, p.grad) for p in parameters]
    buffers = [
        (module, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {p.device for p in parameters} | {buffer.device for _, _, buffer in buffers}
    devices |= {place} if place is not None else set()
    cudnn = torch.backends.cudnn
    with (
        torch.random.fork_rng(sorted({d.index or 0 for d in devices if d.type == "cuda"})),
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=False,
            deterministic=True,
            allow_tf32=cudnn.allow_tf32,
        ),
    ):
        try:
            for parameter in parameters:
                parameter.grad = None  # other packages add to it, or zero it in place
                if place is not None:
                    parameter.data = parameter.data.to(place)
            for module, name, buffer in buffers:
                module._buffers[name] = buffer if place is None else buffer.to(place)
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, data, grad in before:
                parameter.grad = None
                parameter.data = data
                parameter.grad = grad
            for module, name, buffer in buffers:
                module._buffers[name] = buffer
