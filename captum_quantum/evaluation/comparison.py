"""Methods x metrics over a data set: `compare`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from captum_quantum import _checks, _files
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.adapters import read_methods
from captum_quantum.evaluation.batches import (
    check_complete,
    check_order,
    check_unchanged,
    iterate,
    length,
    peek,
)
from captum_quantum.evaluation.devices import prepared, read_device
from captum_quantum.evaluation.evaluator import Evaluator
from captum_quantum.evaluation.fingerprint import check_versions, describe_function, versions
from captum_quantum.evaluation.metrics import check_masks, read_metrics
from captum_quantum.evaluation.processes import World
from captum_quantum.evaluation.report import Report
from captum_quantum.evaluation.statistics import check_confidence


def compare(
    methods: Mapping[str, Any],
    loader: Iterable[Any],
    metrics: Iterable[str] | Mapping[str, Callable[..., Tensor]],
    *,
    device: str | torch.device | None = None,
    output: str | PathLike[str] | None = None,
    seed: int = 0,
    target: str = "label",
    confidence: float = 0.95,
    progress: bool = True,
) -> Report:
    """Evaluates attribution methods by metrics, all on the same batches and targets.

    Each method computes its attributions once for each batch, for all metrics. Each method has a
    model of its own, so a hybrid model and its classical twin can be compared. Models are evaluated
    in evaluation mode and are restored afterwards: mode, device, ``.grad``; so is the global random
    state. Modules captured in the closure of a function are neither put in evaluation mode nor
    moved, and their weights are not part of the configuration: give the module itself where that
    matters.

    A batch that does not fit in memory is divided in halves until they fit. Only the results of a
    batch are kept, about 8 bytes for each sample, method and metric. Attributions with NaN or
    infinite values have no value by any metric; these samples are counted as undefined. The random
    numbers that a method or metric draws from PyTorch's generators depend on ``seed`` and the batch
    only, and are the same for all methods. (They also depend on where a batch is divided, and so on
    the memory of the device.)

    With ``output``, the results of each batch are written there before the next batch begins. The
    same call resumes a run that was killed. Under ``torchrun``, or in any initialized
    ``torch.distributed``, each of n processes evaluates every n-th batch and returns the complete
    report, with the numbers of a single process. All processes need the same ``output``.

    Args:
        methods (Mapping[str, Any]): The attribution methods by name. Each is one of:

            - an object with Captum's ``attribute`` and ``forward_func``, such as
              ``QuantumLayerGradCam`` or any layer or primary attribution of Captum;
            - its ``attribute`` with further arguments, such as
              ``functools.partial(gradients.attribute, n_steps=20)``;
            - a CAM of pytorch-grad-cam;
            - a pair of a function ``(inputs, target) -> attributions`` and its model, where
              ``inputs`` has shape ``(batch, ...)``, ``target`` ``(batch,)`` and the attributions
              ``(batch, ...)``.

            Names have no commas, quotes and line breaks.
        loader (Iterable): The batches, each ``(inputs, labels)`` or ``(inputs, labels, masks)``:
            inputs ``(batch, ...)`` of floating point, labels ``(batch,)`` of integers, masks
            ``(batch, ...)``. For example a DataLoader or a list. With ``output`` or several
            processes it must give the same batches each time, so it must not shuffle.
        metrics (Iterable[str] or Mapping[str, Callable]): Names of registered metrics (see
            `captum_quantum.metrics.named_metrics`), or functions by name. A function gets the
            arguments that its parameters name, of ``model`` (the method's), ``inputs``
            ``(batch, ...)``, ``attributions`` ``(batch, ...)``, ``target`` ``(batch,)``, ``masks``
            ``(batch, ...)`` and ``attribute`` (a function ``(inputs, target) -> attributions``). It
            returns one number for each sample, ``(batch,)``. Its attribute ``higher_is_better`` is
            the metric's direction. Set options by ``functools.partial``.
        device (str or torch.device, optional): Where to move models and batches for the evaluation.
            With several processes of ``torchrun``, ``"cuda"`` means the GPU of the process.
            Default: batches are moved to the device of each model.
        output (str or PathLike, optional): A folder for the results, created if it does not exist.
            With it, every function among the methods and metrics needs an attribute ``version``, a
            string or an integer that you change with the function. Functions of captum_quantum,
            captum and torch need none.
        seed (int): Fixes all random numbers, at least 0.
        target (str): The classes to explain: ``"label"``, the true ones, or ``"predicted"``, the
            most probable ones by the first method's model. They are the same for all methods.
        confidence (float): Confidence level of the report's intervals, in (0, 1).
        progress (bool): Whether to show a progress bar on stderr.

    Returns:
        Report: Means with confidence intervals, paired differences, the values of every sample.

    Raises:
        TypeError, ValueError: If an argument, a batch, or what a method or metric returns is wrong.
        FileExistsError: If ``output`` contains results of another configuration.
        BlockingIOError: If another process is writing to ``output``.
        OSError: If results cannot be written or are damaged. Results written before are kept.
        MemoryError: If a single sample does not fit in memory.

    Examples:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_quantum import compare
        >>> def energy_at_top(attributions):
        ...     energy = attributions.abs().flatten(2).sum(1)
        ...     return energy[:, :8].sum(1) / energy.sum(1)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> batches = [(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])) for _ in range(2)]
        >>> report = compare(
        ...     {"saliency": Saliency(model)}, batches, {"top": energy_at_top}, progress=False
        ... )
        >>> report.values["top"]["saliency"].shape
        (10,)
    """
    world = World()
    with world.failing_together():
        _checks.check_int("seed", seed, 0)
        _checks.check_choice("target", target, ("label", "predicted"))
        check_confidence(confidence)
        method_list = read_methods(methods)
        metric_list = read_metrics(metrics)
        moved_to = read_device(device)
        check_order(loader, output is not None or world.size > 1)
        n_batches = length(loader)
        first, loader = peek(loader)
        check_masks(metric_list, first)
        configuration: dict[str, Any] = {
            "format": 3,
            "versions": versions(),
            "methods": {m.name: m.describe(moved_to) for m in method_list},
            "metrics": {m.name: describe_function(m.function) for m in metric_list},
            "target": target,
            "seed": seed,
            "n_batches": n_batches,
            "first_batch": first.checksum,
        }
        if output is not None:
            for argument in ("methods", "metrics"):
                for name, description in configuration[argument].items():
                    check_versions(f"{argument}[{name!r}]", description)
    folder = None if output is None else Path(output)
    table = storage.Table([m.name for m in method_list], [m.name for m in metric_list])
    results: dict[int, storage.BatchResult] = {}
    with ExitStack() as stack:
        if moved_to is not None and moved_to.type == "cuda":
            # NCCL communicates through the current device.
            stack.enter_context(torch.cuda.device(moved_to))
        world.check_same(configuration)
        if folder is not None:
            results |= stack.enter_context(_opened(folder, world, configuration, table))
        with world.failing_together():
            part = None
            if folder is not None:
                part = storage.Part(folder, table, world.rank)
                stack.callback(part.close)
            modules = [module for method in method_list for module in method.modules]
            stack.enter_context(prepared(modules, moved_to))
            for method in method_list:
                stack.enter_context(method.prepare())
            evaluate = Evaluator(method_list, metric_list, target == "predicted", seed)
            done = frozenset(results)
            bar = tqdm(
                total=None if n_batches is None else len(range(world.rank, n_batches, world.size)),
                initial=sum(number % world.size == world.rank for number in done),
                desc="evaluation",
                unit="batch",
                disable=not progress or world.rank != 0,
            )
            stack.enter_context(bar)
            for batch in iterate(loader, world, done):
                if batch.number in done:
                    check_unchanged(results[batch.number], batch)
                    continue
                results[batch.number] = evaluate(batch)
                if part is not None:
                    part.append(results[batch.number])
                bar.update()
        results = world.gather(results)
        check_complete(results, n_batches)
        if folder is not None:
            world.first_does(lambda: storage.merge(folder, table, results.values()))
    return Report(
        table.methods,
        {m.name: m.higher_is_better for m in metric_list},
        results.values(),
        configuration,
        confidence=confidence,
        seed=seed,
        rounding_scales={m.name: m.rounding_scale for m in metric_list},
    )


@contextmanager
def _opened(
    folder: Path, world: World, configuration: Mapping[str, Any], table: storage.Table
) -> Iterator[dict[int, storage.BatchResult]]:
    """Locks the folder, checks its configuration, and yields its results in every process."""
    with ExitStack() as stack:

        def recover() -> dict[int, storage.BatchResult]:
            stack.enter_context(_files.locked(folder))
            storage.check_configuration(folder, configuration)
            return storage.recover(folder, table)

        yield world.first_does(recover)
