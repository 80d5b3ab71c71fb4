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
    check_again,
    check_order,
    check_whole,
    checksum,
    length,
    mine,
    peek,
)
from captum_quantum.evaluation.evaluator import Evaluator, prepared
from captum_quantum.evaluation.fingerprint import plain, versions
from captum_quantum.evaluation.metrics import check_masks, read_metrics
from captum_quantum.evaluation.processes import World, read_device
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
    """Evaluates attribution methods over the same batches and targets, by any metrics.

    A method computes its maps once for each batch, for all metrics. Each method brings its own
    model, so that a hybrid model and its classical twin can be compared. Models are evaluated in
    evaluation mode and come back as they were: mode, device, ``.grad``, global random state. A
    module that a plain function hides is not seen: neither switched, nor moved, nor told apart from
    another one when a run goes on; give the module itself where that matters.

    Batches that do not fit in memory are halved until they do. Of a batch nothing is kept but its
    results, some 8 bytes for each sample, method and metric: only they grow with the data set. A
    map with NaN or infinite values has no score: its sample is counted as undefined. What a method
    or metric draws from torch's generators is fixed by ``seed`` and the batch; the same for all
    methods. (Where a batch was halved, also by where: on a device with more memory free, other
    numbers are drawn.)

    With ``output``, every batch's results are appended to a file there before the next batch
    begins, and the same call goes on where a killed one has stopped. Under ``torchrun`` (or in any
    initialised ``torch.distributed``), every process takes each n-th batch, and each gets the whole
    report; the numbers are those of a single process. The folder must be the same for all.

    Args:
        methods (Mapping[str, Any]): The methods by name. Each is one of: an object with Captum's
            ``attribute`` and ``forward_func``, such as ``QuantumLayerGradCam`` or any layer or
            primary attribution of Captum; its ``attribute`` with further arguments, as
            ``functools.partial(gradients.attribute, n_steps=20)``; a CAM of pytorch-grad-cam; a
            pair of a function ``(inputs, target) -> attributions`` and its model.
        loader (Iterable): Batches ``(inputs, labels)`` or ``(inputs, labels, masks)``: inputs
            ``(batch, ...)``, labels ``(batch,)`` of integers, masks ``(batch, ...)``, for example a
            DataLoader or a list. With ``output`` or several processes it must give the same batches
            each time: do not shuffle.
        metrics (Iterable[str] or Mapping[str, Callable]): Names of `captum_quantum.metrics`, or
            functions by name. A function gets what its parameters are called: ``model``,
            ``inputs``, ``attributions``, ``target`` ``(batch,)``, ``masks``, ``attribute`` (a
            function ``(inputs, target) -> attributions``); it returns a number for each sample,
            ``(batch,)``. Its attribute ``higher_is_better`` is the direction. Options go in by
            ``functools.partial``.
        device (str or torch.device, optional): Where models and batches are moved for the duration;
            of several processes of ``torchrun``, ``"cuda"`` gives each its own GPU. Default:
            batches go to each model's own device.
        output (str or PathLike, optional): A folder for the results.
        seed (int): Fixes all that is random.
        target (str): The classes to explain: ``"label"``, the true ones, or ``"predicted"``, those
            that the first method's model holds for the most probable; the same for all methods.
        confidence (float): Level of the report's intervals, in (0, 1).
        progress (bool): Whether to show a progress bar on stderr.

    Returns:
        Report: Table, paired differences, every sample's values.

    Raises:
        TypeError, ValueError: If an argument, a batch or a metric's result is wrong.
        FileExistsError: If the folder's results were made with another configuration.
        BlockingIOError: If another process is writing to the folder.
        OSError: If results cannot be written, or have been damaged; those written stay.
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
        place = read_device(device)
        check_order(loader, output is not None or world.size > 1)
        total = length(loader)
        first, loader = peek(loader)
        check_masks(metric_list, first)
        configuration = {
            "format": 2,
            "versions": versions(),
            "methods": {m.name: m.describe(place) for m in method_list},
            "metrics": {m.name: plain(m.function) for m in metric_list},
            "target": target,
            "seed": seed,
            "n_batches": total,
            "first_batch": checksum(first),
        }
    table = storage.Table([m.name for m in method_list], [m.name for m in metric_list])
    with ExitStack() as stack:
        if place is not None and place.type == "cuda":
            stack.enter_context(torch.cuda.device(place))  # nccl talks through the current one
        world.check_same(configuration)
        folder = None if output is None else Path(output)
        found: dict[int, storage.BatchResult] = {}
        if folder is not None:
            opened = stack.enter_context(_opened(folder, world, configuration, table))
            found.update(opened)
        with world.failing_together():
            part = None
            if folder is not None:
                part = storage.Part(folder, table, world.rank)
                stack.callback(part.close)
            run = Evaluator(method_list, metric_list, target == "predicted", seed)
            stack.enter_context(prepared(method_list, place))
            for method in method_list:
                if method.hooks is not None:
                    stack.enter_context(method.hooks.taken())
            done = frozenset(found)
            bar = tqdm(
                total=None if total is None else len(range(world.rank, total, world.size)),
                initial=sum(number % world.size == world.rank for number in done),
                desc="evaluation",
                unit="batch",
                disable=not progress or world.rank != 0,
            )
            stack.enter_context(bar)
            for number, start, batch in mine(loader, world, done):
                if number in done:
                    check_again(found[number], batch)
                    continue
                found[number] = run(number, start, batch)
                if part is not None:
                    part.append(found[number])
                bar.update()
        found = world.gather(found)
        check_whole(found, total)
        if folder is not None:
            world.first_does(lambda: storage.merge(folder, table, found.values()))
    directions = {m.name: m.higher_is_better for m in metric_list}
    return Report(
        table.methods,
        directions,
        found.values(),
        configuration,
        confidence=confidence,
        seed=seed,
        rounding_scales={m.name: m.rounding_scale for m in metric_list},
    )


@contextmanager
def _opened(
    folder: Path, world: World, configuration: Mapping[str, Any], table: storage.Table
) -> Iterator[dict[int, storage.BatchResult]]:
    """Locks the folder, checks what it holds, and gives every process the batches that are done."""
    with ExitStack() as stack:

        def begin() -> dict[int, storage.BatchResult]:
            stack.enter_context(_files.locked(folder))
            storage.check_configuration(folder, configuration)
            return storage.recover(folder, table)

        yield world.first_does(begin)
