"""Methods x metrics over a data set: `compare`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from captum_quantum import _checks, _files, _state
from captum_quantum._targets import TargetFunction
from captum_quantum.evaluation import batches, fingerprint, storage
from captum_quantum.evaluation.adapters import read_methods, read_metrics
from captum_quantum.evaluation.evaluator import Evaluator
from captum_quantum.evaluation.nulls import NULLS, check_inputs, measures_nulls, read_nulls
from captum_quantum.evaluation.processes import World, read_device
from captum_quantum.evaluation.report import Report
from captum_quantum.metrics.registry import needs_masks


def compare(
    methods: Mapping[str, Any],
    loader: Iterable[Any],
    metrics: Iterable[str] | Mapping[str, Callable[..., Tensor]],
    *,
    device: str | torch.device | None = None,
    output: str | PathLike[str] | None = None,
    seed: int = 0,
    target: str | TargetFunction = "label",
    nulls: Sequence[str] = (),
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

    With ``nulls``, the same metrics also measure uninformative maps of the same samples, for the
    same model and target, and the report tells how often a method beats them (`Report.wins`).

    Args:
        methods (Mapping[str, Any]): The attribution methods by name. Each is one of:

            - an object with Captum's ``attribute`` and ``forward_func``, such as
              ``QuantumLayerGradCam`` or any layer or primary attribution of Captum;
            - its ``attribute`` with further arguments, such as
              ``functools.partial(gradients.attribute, n_steps=20)``;
            - a CAM of pytorch-grad-cam;
            - a pair of a function ``(inputs, target) -> attributions`` and its model, where
              ``inputs`` has shape ``(batch, ...)``, ``target`` is classes ``(batch,)`` or the
              function that ``target`` is, and the attributions have shape ``(batch, ...)``.

            Names have no commas, quotes and line breaks.
        loader (Iterable): The batches, each ``(inputs, labels)`` or ``(inputs, labels, masks)``:
            inputs ``(batch, ...)`` of floating point, labels ``(batch,)`` of integers, masks
            ``(batch, ...)``. For example a DataLoader or a list. With ``output`` or several
            processes it must give the same batches each time, so it must not shuffle.
        metrics (Iterable[str] or Mapping[str, Callable]): Names of registered metrics (see
            `captum_quantum.metrics.named_metrics`), or functions by name. A function gets the
            arguments that its parameters name, of ``model`` (the method's), ``inputs``
            ``(batch, ...)``, ``attributions`` ``(batch, ...)``, ``target`` (classes ``(batch,)``,
            or the function that ``target`` is), ``masks`` ``(batch, ...)`` and ``attribute`` (a
            function ``(inputs, target) -> attributions``). It returns one number for each sample,
            ``(batch,)``. Its attribute ``higher_is_better`` is the metric's direction. Set options
            by ``functools.partial``.
        device (str or torch.device, optional): Where to move models and batches for the evaluation.
            With several processes of ``torchrun``, ``"cuda"`` means the GPU of the process.
            Default: batches are moved to the device of each model.
        output (str or PathLike, optional): A folder for the results, created if it does not exist.
            With it, every function among the methods and metrics, and one as target, needs an
            attribute ``version``, a string or an integer that you change with the function.
            Functions of captum_quantum, captum and torch need none.
        seed (int): Fixes all random numbers, at least 0.
        target (str or Callable): What to explain, the same for all methods: ``"label"``, the true
            classes; ``"predicted"``, the most probable ones by the first method's model; or a
            function of a model's output ``(batch, ...)`` that returns one value for each example,
            ``(batch,)``, differentiable: a margin, a log-probability, a region. A row's value
            depends on that row alone. The labels are then recorded only.
        nulls (Sequence[str]): The null maps to compare each method with, of each sample:

            - ``"area-noise"``: uniform noise in [0, 1] of the input's spatial size, raised to the
              power that gives the mask of `captum_quantum.metrics.average_drop` the same mean as
              the method's map does; to 1 where the method's mask is undefined. It depends on the
              image and the seed only.
            - ``"other-image"``: the method's map of the next sample in the loader, for that
              sample's own target; the last sample gets the map of the first. A map of another
              spatial size, from inputs of another size, is resized linearly.
            - ``"rival-class"``: the method's map of the class with the highest score by the
              method's model, the target left out.

            They are measured by the metrics that take ``attributions``, do not take ``attribute``
            and have a direction. Each costs as much as these metrics do; ``"rival-class"`` also as
            the maps.
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
        >>> nulls = ("area-noise", "other-image")
        >>> report = compare(
        ...     {"saliency": Saliency(model)}, batches, ["deletion"], nulls=nulls, progress=False
        ... )
        >>> [(w.metric, w.null, 0 <= w.rate <= 1) for w in report.wins]
        [('deletion', 'area-noise', True), ('deletion', 'other-image', True)]
    """
    world = World()
    with world.failing_together():
        _checks.check_int("seed", seed, 0)
        if not callable(target):
            _checks.check_choice("target", target, ("label", "predicted"))
        if not isinstance(confidence, float):
            _checks.wrong_type("confidence", "a number in (0, 1)", confidence)
        if not 0 < confidence < 1:
            _checks.wrong_value("confidence", "a number in (0, 1)", confidence)
        method_list = read_methods(methods)
        metric_list = read_metrics(metrics)
        null_names = read_nulls(nulls, target, method_list, metric_list)
        look_ahead = any(NULLS[name].looks_ahead for name in null_names)
        moved_to = read_device(device)
        batches.check_order(loader, output is not None or world.size > 1)
        n_batches = batches.length(loader)
        configuration: dict[str, Any] = {
            "format": 3,
            "versions": fingerprint.versions(),
            "methods": {m.name: m.describe(moved_to) for m in method_list},
            "metrics": {m.name: fingerprint.describe_function(m.function) for m in metric_list},
            "target": fingerprint.describe_function(target) if callable(target) else target,
            "seed": seed,
            "n_batches": n_batches,
        }
        if null_names:
            configuration["nulls"] = list(null_names)
        for argument in () if output is None else ("methods", "metrics"):
            for name, description in configuration[argument].items():
                fingerprint.check_versions(f"{argument}[{name!r}]", description)
        if output is not None and callable(target):
            fingerprint.check_versions("target", configuration["target"])
        with _state.random_state_kept():  # a DataLoader draws a seed for its workers
            first, loader = batches.peek(loader, look_ahead)
        check_inputs(null_names, first.inputs)
        configuration["first_batch"] = first.checksum
        for metric in metric_list:
            if needs_masks(metric.function) and first.masks is None:
                must = f"one of batches (inputs, labels, masks), for {metric.name}"
                _checks.wrong_value("loader", must, "no masks")
    folder = None if output is None else Path(output)
    names = [m.name for m in method_list], [m.name for m in metric_list]
    table = storage.Table(*names, null_names)
    results: dict[int, storage.BatchResult] = {}
    with ExitStack() as stack:
        if moved_to is not None and moved_to.type == "cuda":
            # NCCL communicates through the current device.
            stack.enter_context(torch.cuda.device(moved_to))
        world.check_same(configuration)
        if folder is not None:

            def recover() -> dict[int, storage.BatchResult]:
                stack.enter_context(_files.locked(folder))
                storage.check_configuration(folder, configuration)
                return storage.recover(folder, table)

            results |= world.first_does(recover)
        with world.failing_together():
            part = None
            if folder is not None:
                part = storage.Part(folder, table, world.rank)
                stack.callback(part.close)
            modules = [module for method in method_list for module in method.modules]
            stack.enter_context(_prepared(modules, moved_to))
            for method in method_list:
                stack.enter_context(method.prepare())
            evaluate = Evaluator(method_list, metric_list, null_names, target, seed)
            bar = tqdm(
                total=None if n_batches is None else len(range(world.rank, n_batches, world.size)),
                initial=sum(number % world.size == world.rank for number in results),
                desc="evaluation",
                unit="batch",
                disable=not progress or world.rank != 0,
            )
            stack.enter_context(bar)
            for batch in batches.remaining(loader, world, results, look_ahead):
                results[batch.number] = evaluate(batch)
                if part is not None:
                    part.append(results[batch.number])
                bar.update()
        results = world.gather(results)
        batches.check_complete(results, n_batches)
        if folder is not None:
            world.first_does(lambda: storage.merge(folder, table, results.values()))
    directions = {m.name: m.higher_is_better for m in metric_list}
    scales = {m.name: m.rounding_scale for m in metric_list}
    return Report(
        table.methods,
        directions,
        results.values(),
        configuration,
        confidence=confidence,
        seed=seed,
        rounding_scales=scales,
        nulls=null_names,
        null_metrics=[m.name for m in metric_list if measures_nulls(m)],
    )


@contextmanager
def _prepared(modules: Sequence[nn.Module], device: torch.device | None) -> Iterator[None]:
    """Prepares models for evaluation and restores everything that evaluating may change.

    Models are in evaluation mode, without ``.grad``, on the given device; cuDNN is deterministic.

    Args:
        modules (Sequence[nn.Module]): The models.
        device (torch.device, optional): Where to move them. Default: they stay where they are.
    """
    together = nn.ModuleList(modules)  # modules and parameters that several models share come once
    parameters = list(together.parameters())
    buffers = [
        (module, name, buffer)
        for module in together.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    tensors = [*parameters, *(buffer for _, _, buffer in buffers)]
    values = [(parameter, parameter.data) for parameter in parameters]
    cudnn = torch.backends.cudnn
    with (
        _state.random_state_kept(*tensors, *([] if device is None else [device])),
        _state.evaluation_mode(*modules),
        # Other packages add to the gradients, or set them to zero in place.
        _state.grads_kept(parameters),
        cudnn.flags(cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32),
    ):
        try:
            if device is not None:
                for parameter in parameters:
                    parameter.data = parameter.data.to(device)
                for module, name, buffer in buffers:
                    setattr(module, name, buffer.to(device))
            yield
        finally:
            for parameter, data in values:
                parameter.grad = None  # it may be on another device
                parameter.data = data
            for module, name, buffer in buffers:
                setattr(module, name, buffer)
