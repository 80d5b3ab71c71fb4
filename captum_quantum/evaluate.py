"""Methods x metrics over a data set: batches, devices, processes, and runs that can be resumed."""

import dataclasses
import functools
import gc
import hashlib
import inspect
import itertools
import os
import re
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from tqdm import tqdm

from captum_quantum import _checks, _results
from captum_quantum._report import Difference, Report, Score, SeedReport, check_confidence
from captum_quantum.circuit import Circuit
from captum_quantum.metrics._maps import direction

__all__ = ["Difference", "Report", "Score", "SeedReport", "compare", "named_metrics"]

Attribute = Callable[[Tensor, Tensor], Any]
Result = TypeVar("Result")

_VERSIONED = ("captum_quantum", "captum", "torch")

GIVEN = ("attribute", "attributions", "inputs", "masks", "model", "target")
"""What a metric may ask for, by the names of its parameters."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


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
        read_methods = _read_methods(methods)
        read_metrics = _read_metrics(metrics)
        place = _read_device(device)
        _check_order(loader, output is not None or world.size > 1)
        total = _length(loader)
        first, loader = _peek(loader)
        _check_masks(read_metrics, first)
        configuration = {
            "format": 2,
            "versions": versions(),
            "methods": {m.name: m.describe(place) for m in read_methods},
            "metrics": {m.name: m.description for m in read_metrics},
            "target": target,
            "seed": seed,
            "n_batches": total,
            "first_batch": _checksum(first),
        }
    table = _results.Table([m.name for m in read_methods], [m.name for m in read_metrics])
    with ExitStack() as stack:
        if place is not None and place.type == "cuda":
            stack.enter_context(torch.cuda.device(place))  # nccl talks through the current one
        world.check_same(configuration)
        folder = None if output is None else Path(output)
        found: dict[int, _results.Batch] = {}
        if folder is not None:
            opened = stack.enter_context(_opened(folder, world, configuration, table))
            found.update(opened)
        with world.failing_together():
            part = None
            if folder is not None:
                part = _results.Part(folder, table, world.rank)
                stack.callback(part.close)
            run = _Run(read_methods, read_metrics, target == "predicted", seed)
            stack.enter_context(_prepared(read_methods, place))
            for method in read_methods:
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
            for number, start, batch in _mine(loader, world, done):
                if number in done:
                    _check_again(found[number], batch)
                    continue
                found[number] = run(number, start, batch)
                if part is not None:
                    part.append(found[number])
                bar.update()
        found = world.gather(found)
        _check_whole(found, total)
        if folder is not None:
            world.first_does(lambda: _results.merge(folder, table, found.values()))
    directions = {m.name: m.higher_is_better for m in read_metrics}
    return Report(
        table.methods,
        directions,
        found.values(),
        configuration,
        confidence=confidence,
        seed=seed,
    )


def versions() -> dict[str, str]:
    """The packages that results depend on, with their versions."""
    from captum_quantum import __version__

    found = (__version__, metadata.version("captum"), str(torch.__version__))
    return dict(zip(_VERSIONED, found, strict=True))


# --- methods ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Method:
    """One method: how to get maps from it, and the model that it explains."""

    name: str
    kind: str
    options: dict[str, Any]
    run: Attribute
    model: Callable[..., Any]
    modules: tuple[nn.Module, ...]
    hooks: "_Hooks | None" = None

    @property
    def device(self) -> torch.device:
        tensors = (
            tensor
            for module in self.modules
            for tensor in itertools.chain(module.parameters(), module.buffers())
        )
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The maps ``(batch, ...)``, without a graph."""
        with torch.enable_grad():
            maps = self.run(inputs, target)
        if isinstance(maps, tuple) and len(maps) == 1:
            maps = maps[0]
        if isinstance(maps, np.ndarray):
            maps = torch.from_numpy(maps)
        argument = f"what method {self.name!r} returns"
        if not isinstance(maps, Tensor) or maps.dim() == 0 or len(maps) != len(inputs):
            _checks.wrong_value(argument, f"a tensor of {len(inputs)} maps", maps)
        return _checks.check_real(argument, maps).detach().to(inputs.device)

    def describe(self, place: torch.device | None) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        digest = hashlib.sha256()
        for module in self.modules:
            digest.update(_without_addresses(repr(module)).encode())
            for name, value in sorted(module.state_dict().items()):
                if isinstance(value, Tensor):
                    digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
                    flat = value.detach().cpu().contiguous().flatten()
                    digest.update(flat.view(torch.uint8).numpy().data)
        return {
            "kind": self.kind,
            "options": self.options,
            "model": digest.hexdigest()[:16],
            "device": (place or self.device).type,
        }


def _read_methods(methods: Any) -> list[_Method]:
    if not isinstance(methods, Mapping):
        _checks.wrong_type("methods", "a mapping from names to attribution methods", methods)
    if not methods:
        _checks.wrong_value("methods", "at least one method", methods)
    return [_read_method(_check_name("methods", name), given) for name, given in methods.items()]


def _check_name(argument: str, name: Any) -> str:
    """Names stand in a plain CSV file."""
    must = "names without commas, quotes and line breaks"
    if not isinstance(name, str):
        _checks.wrong_type(argument, must, name)
    if not name.strip() or re.search(r'[,"\r\n]', name):
        _checks.wrong_value(argument, must, name)
    return name


def _read_method(name: str, given: Any) -> _Method:
    if isinstance(given, tuple) and len(given) == 2 and all(callable(part) for part in given):
        function, model = given
        options = {} if isinstance(model, nn.Module) else {"model": _plain(model)}
        return _method(name, _plain(function), options, function, model)
    if callable(getattr(given, "attribute", None)) and hasattr(given, "forward_func"):
        return _captum_method(name, given, given.attribute, {})
    if callable(given) and hasattr(given, "target_layers") and hasattr(given, "model"):
        return _cam_method(name, given)
    keywords: dict[str, Any] = {}
    function = given
    while isinstance(function, functools.partial) and not function.args:
        keywords = {**function.keywords, **keywords}
        function = function.func
    owner = getattr(function, "__self__", None)
    if not hasattr(owner, "forward_func"):
        _checks.wrong_type(
            f"methods[{name!r}]",
            "an attribution object with attribute and forward_func, a CAM of pytorch-grad-cam, or "
            "a pair of a function (inputs, target) -> attributions and its model",
            given,
        )
    return _captum_method(name, owner, function, keywords)


def _method(
    name: str, kind: str, options: dict[str, Any], run: Attribute, model: Any, *others: Any
) -> _Method:
    modules: list[nn.Module] = []
    for candidate in (model, getattr(model, "__self__", None), *others):
        known = (part for module in modules for part in module.modules())
        if isinstance(candidate, nn.Module) and all(candidate is not part for part in known):
            modules.append(candidate)
    return _Method(name, kind, options, run, model, tuple(modules))


def _captum_method(
    name: str, owner: Any, function: Callable[..., Any], keywords: dict[str, Any]
) -> _Method:
    parameters = inspect.signature(function).parameters.values()
    takes_target = any(p.name == "target" or p.kind is p.VAR_KEYWORD for p in parameters)

    def run(inputs: Tensor, target: Tensor) -> Any:
        if takes_target:
            return function(inputs, target=target, **keywords)
        return function(inputs, **keywords)

    kind = type(owner).__name__
    inner = getattr(owner, "attribution_method", None)
    if inner is not None:
        kind += f" of {type(inner).__name__}"
    layer = getattr(owner, "layer", getattr(inner, "layer", None))
    if isinstance(layer, nn.Module):
        kind += f" at {_name_in(owner.forward_func, layer)}"
    if getattr(function, "__name__", "attribute") != "attribute":
        kind += f".{function.__name__}"
    if keywords:
        kind += f" {{{', '.join(f'{key!r}: {_words(value)}' for key, value in keywords.items())}}}"
    options: dict[str, Any] = {**_options(owner)}
    if inner is not None:
        options[type(inner).__name__] = _options(inner)
    return _method(name, kind, options, run, owner.forward_func, layer)


def _name_in(model: Any, layer: nn.Module) -> str:
    """What the model calls one of its layers."""
    named = model.named_modules() if isinstance(model, nn.Module) else []
    return next((name for name, module in named if module is layer), type(layer).__name__)


def _options(thing: Any) -> dict[str, str]:
    """An object's plain attributes, which tell how it was constructed, and its functions."""
    plain = (bool, int, float, str, types.FunctionType, types.NoneType)
    return {
        name: _words(value)
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if isinstance(value, plain)
    }


@dataclasses.dataclass(frozen=True)
class _ClassScore:
    """What pytorch-grad-cam calls a target: the score to explain of one sample's output."""

    category: int

    def __call__(self, output: Tensor) -> Tensor:
        return output[..., self.category]


class _Hooks:
    """The hooks that a CAM of pytorch-grad-cam leaves on its layers from when it is made.

    They keep the activations, and hooks on them, of every forward pass, be it the CAM's or not.
    """

    def __init__(self, cam: Any) -> None:
        self._places: list[tuple[dict[int, Any], int, Any]] = []
        for handle in getattr(getattr(cam, "activations_and_grads", None), "handles", ()):
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks:
                self._places.append((hooks, handle.id, hooks[handle.id]))

    def _put(self) -> None:
        for hooks, key, hook in self._places:
            hooks[key] = hook

    def _take(self) -> None:
        for hooks, key, _ in self._places:
            hooks.pop(key, None)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the hooks off; in the end they are on again."""
        self._take()
        try:
            yield
        finally:
            self._put()

    @contextmanager
    def put(self) -> Iterator[None]:
        """Puts them on; in the end they are off again."""
        self._put()
        try:
            yield
        finally:
            self._take()


@contextmanager
def _attributes_kept(*things: Any) -> Iterator[None]:
    """Objects come back with the attributes that they had."""
    before = [dict(vars(thing)) for thing in things]
    try:
        yield
    finally:
        for thing, attributes in zip(things, before, strict=True):
            vars(thing).clear()
            vars(thing).update(attributes)


def _cam_method(name: str, cam: Any) -> _Method:
    hooks = _Hooks(cam)
    store = getattr(cam, "activations_and_grads", None)
    things = [cam] if store is None else [cam, store]

    def run(inputs: Tensor, target: Tensor) -> Tensor:
        scores = [_ClassScore(category) for category in target.tolist()]
        with hooks.put(), _attributes_kept(*things):
            # It moves the inputs to where its model was when it was made.
            cam.device = inputs.device
            maps = torch.as_tensor(np.asarray(cam(input_tensor=inputs, targets=scores)))
        return maps.to(inputs.dtype)[:, None]

    layers = ", ".join(_name_in(cam.model, layer) for layer in cam.target_layers)
    kind = f"{type(cam).__name__} at {layers}"
    method = _method(name, kind, _options(cam), run, cam.model)
    return dataclasses.replace(method, hooks=hooks)


def _plain(function: Any) -> str:
    """A function's name, what it does and the arguments bound to it, the same in every process.

    Functions of packages whose versions the configuration names go by their names alone.
    """
    if isinstance(function, functools.partial):
        bound = [*map(_words, function.args)]
        bound += [f"{key}={_words(value)}" for key, value in function.keywords.items()]
        return f"{_plain(function.func)}({', '.join(bound)})"
    owner = getattr(function, "__self__", None)
    named = function
    if not hasattr(function, "__qualname__"):
        owner, named = function, type(function)
        function = named.__call__
    text = f"{named.__module__}.{named.__qualname__}"
    if text.split(".")[0] in _VERSIONED:
        return text
    function = inspect.unwrap(getattr(function, "__func__", function))
    if isinstance(function, types.FunctionType):
        text += f" {_hash_of(function)}"
    if owner is not None and not isinstance(owner, (type, nn.Module)) and _options(owner):
        text += f" {_options(owner)}"
    return text


def _hash_of(function: types.FunctionType) -> str:
    """Changes with what a function does, its defaults and the values that it encloses."""
    words = [*_words_of_code(function.__code__)]
    words += [_words(value) for value in function.__defaults__ or ()]
    words += [f"{k}={_words(value)}" for k, value in (function.__kwdefaults__ or {}).items()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            if isinstance(cell.cell_contents, (bool, int, float, str, Tensor)):
                words.append(_words(cell.cell_contents))
    return f"{zlib.crc32('; '.join(words).encode()):08x}"


def _words_of_code(code: types.CodeType) -> Iterator[str]:
    yield from (code.co_code.hex(), *code.co_names)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _words_of_code(value)
        else:
            yield _words(value)


def _words(value: Any) -> str:
    """A value in words that are the same in every process."""
    if isinstance(value, Tensor):
        return f"{value.dtype!s} {tuple(value.shape)} {_crc(value):08x}"
    if callable(value) and not isinstance(value, (type, nn.Module)):
        return _plain(value)
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_words, value)))}}}"
    return _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


# --- metrics ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Metric:
    """One metric, and which of `GIVEN` it asks for."""

    name: str
    function: Callable[..., Any]
    asks_for: frozenset[str]
    higher_is_better: bool | None
    description: str


def _read_metrics(metrics: Any) -> list[_Metric]:
    must = "names of metrics, or a mapping from names to functions"
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        _checks.wrong_type("metrics", must, metrics)
    if isinstance(metrics, Mapping):
        given = dict(metrics)
    else:
        named = named_metrics()
        given = {_checks.check_choice("metrics", name, named): named.get(name) for name in metrics}
    if not given:
        _checks.wrong_value("metrics", "at least one metric", metrics)
    return [_read_metric(_check_name("metrics", n), function) for n, function in given.items()]


def named_metrics() -> dict[str, Callable[..., Any]]:
    """The metrics that `compare` knows by name: one map in, one number out.

    Those of `captum_quantum.metrics`, and of its ``parameter_randomization`` the rank correlation
    after randomising the quantum or the classical part alone, ``randomization_quantum`` and
    ``randomization_classical``.

    Returns:
        dict[str, Callable]: The functions by name.
    """
    from captum_quantum import metrics

    found = {
        name: getattr(metrics, name)
        for name in metrics.__all__
        if hasattr(getattr(metrics, name), "higher_is_better")
        and name != "parameter_randomization"
        and not _unknown_parameters(getattr(metrics, name))
    }
    for function in (randomization_quantum, randomization_classical):
        found[function.__name__] = function
    return found


def _randomization(part: str, model: nn.Module, *arguments: Any) -> Tensor:
    from captum_quantum.metrics import parameter_randomization

    similar = parameter_randomization(model, *arguments, parts=part)
    return similar[part].rank_correlation


@direction(higher_is_better=False)
def randomization_quantum(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Tensor
) -> Tensor:
    """Rank correlation of the maps before and after the quantum layers are randomised.

    Args:
        model (nn.Module): The model.
        attribute (Callable): ``(inputs, target)`` to maps.
        inputs (Tensor): Shape ``(batch, ...)``.
        target (Tensor): Shape ``(batch,)``.

    Returns:
        Tensor: Shape ``(batch,)``; NaN for a model without quantum layers. See
        `captum_quantum.metrics.parameter_randomization`.
    """
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "an nn.Module, for randomization_quantum", model)
    if not any(isinstance(getattr(m, "circuit", None), Circuit) for m in model.modules()):
        return torch.full((len(inputs),), torch.nan)
    return _randomization("quantum", model, attribute, inputs, target)


@direction(higher_is_better=False)
def randomization_classical(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Tensor
) -> Tensor:
    """Rank correlation of the maps before and after all other layers are randomised.

    Args:
        model: As in `randomization_quantum`.
        attribute: As in `randomization_quantum`.
        inputs: As in `randomization_quantum`.
        target: As in `randomization_quantum`.

    Returns:
        Tensor: Shape ``(batch,)``.
    """
    return _randomization("classical", model, attribute, inputs, target)


def _unknown_parameters(function: Callable[..., Any]) -> list[str]:
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in GIVEN or p.kind is p.POSITIONAL_ONLY)
    ]


def _read_metric(name: str, function: Any) -> _Metric:
    argument = f"metrics[{name!r}]"
    if not callable(function):
        _checks.wrong_type(argument, "a function", function)
    if unknown := _unknown_parameters(function):
        raise TypeError(
            _checks.sentence(
                argument,
                f"a function whose parameters without default are among {', '.join(GIVEN)}",
                f"{_plain(function)} with {', '.join(unknown)}",
            )
        )
    inner, bound = function, set()
    while isinstance(inner, functools.partial):
        bound |= set(inner.keywords)
        inner = inner.func
    asked = {n for n in inspect.signature(function).parameters if n in GIVEN} - bound
    direction = getattr(function, "higher_is_better", getattr(inner, "higher_is_better", None))
    return _Metric(name, function, frozenset(asked), direction, _plain(function))


def needs_masks(function: Callable[..., Any]) -> bool:
    """Whether a metric cannot do without masks."""
    parameter = inspect.signature(function).parameters.get("masks")
    return parameter is not None and parameter.default is parameter.empty


def _check_masks(metrics: Sequence[_Metric], first: "_Batch") -> None:
    for metric in metrics:
        if needs_masks(metric.function) and first.masks is None:
            _checks.wrong_value(
                "loader", f"one of batches (inputs, labels, masks), for {metric.name}", "no masks"
            )


# --- batches ------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    inputs: Tensor
    labels: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "_Batch":
        masks = None if self.masks is None else self.masks.to(device)
        return _Batch(self.inputs.to(device), self.labels.to(device), masks)


def _read_batch(raw: Any) -> _Batch:
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
    return _Batch(inputs, labels.long(), masks)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _check_order(loader: Any, repeated: bool) -> None:
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


def _peek(loader: Iterable[Any]) -> tuple[_Batch, Iterable[Any]]:
    """The first batch, read, and what still gives all batches."""
    if _can_pick(loader):
        picked = cast("DataLoader[Any]", loader)
        rows = list(itertools.islice(cast("Iterable[list[int]]", picked.batch_sampler), 1))
        return _first(next(iter(_picked(picked, rows)), None)), loader
    iterator = iter(loader)
    raw = next(iterator, None)
    return _first(raw), itertools.chain([raw], iterator)


def _first(raw: Any) -> _Batch:
    if raw is None:
        _checks.wrong_value("loader", "at least one batch", "none")
    return _read_batch(raw)


def _checksum(batch: _Batch) -> str:
    """Tells batches apart: inputs, labels and masks."""
    crc = 0
    for tensor in batch:
        if tensor is not None:
            crc = zlib.crc32(str((tensor.dtype, tuple(tensor.shape))).encode(), crc)
            crc = _crc(tensor, crc)
    return f"{crc:08x}"


def _crc(tensor: Tensor, start: int = 0) -> int:
    flat = tensor.detach().cpu().contiguous().flatten()
    return zlib.crc32(flat.view(torch.uint8).numpy().data, start)


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


def _mine(
    loader: Iterable[Any], world: "World", done: frozenset[int]
) -> Iterator[tuple[int, int, _Batch]]:
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
                yield number, starts[number], _read_batch(raw)
        return
    start = number = 0
    for number, raw in enumerate(loader, start=1):
        batch = _read_batch(raw)
        if (number - 1) % world.size == world.rank:
            yield number - 1, start, batch
        start += len(batch)
    if done and max(done) >= number:
        _not_resumed(f"{number} batches, and results of batch {max(done)}")


def _check_again(before: _results.Batch, batch: _Batch) -> None:
    if before.checksum != _checksum(batch):
        _not_resumed(f"another batch {before.number}")


def _not_resumed(got: str) -> NoReturn:
    raise ValueError(
        _checks.sentence(
            "loader", "one that gives the same batches as the run that is resumed", got
        )
    )


def _check_whole(found: Mapping[int, _results.Batch], total: int | None) -> None:
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


# --- the work -----------------------------------------------------------------------------------


class _Run:
    """Computes all methods' values of a batch."""

    def __init__(
        self,
        methods: Sequence[_Method],
        metrics: Sequence[_Metric],
        predicted: bool,
        seed: int,
    ) -> None:
        self._methods = methods
        self._metrics = metrics
        self._predicted = predicted
        self._seed = seed
        self._sizes: dict[tuple[str, str, int], int] = {}

    def __call__(self, number: int, start: int, batch: _Batch) -> _results.Batch:
        targets = self._targets(number, batch)
        values = np.stack([self._values(m, number, start, batch, targets) for m in self._methods])
        # Copies: kept themselves, the loader's small tensors would lie scattered between its large
        # ones, and C's allocator could then not use the memory of those that are gone again.
        labels, classes = (tensor.cpu().numpy().copy() for tensor in (batch.labels, targets))
        return _results.Batch(number, _checksum(batch), start, labels, classes, values)

    def _targets(self, number: int, batch: _Batch) -> Tensor:
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
        self, method: _Method, number: int, start: int, batch: _Batch, targets: Tensor
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
            batch = _Batch(batch.inputs[rows], batch.labels[rows], masks)
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
        method: _Method,
        metric: _Metric,
        number: int,
        batch: _Batch,
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
            found = metric.function(**{name: given[name] for name in metric.asks_for})
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
        batch: _Batch,
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
def _named(what: str, start: int, batch: _Batch) -> Iterator[None]:
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
def _prepared(methods: Sequence[_Method], place: torch.device | None) -> Iterator[None]:
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


def _read_device(device: Any) -> torch.device | None:
    if device is None:
        return None
    must = "a device that torch knows, for example 'cpu' or 'cuda:0'"
    if not isinstance(device, (str, torch.device)):
        _checks.wrong_type("device", must, device)
    try:
        place = torch.device(device)
        if place == torch.device("cuda") and World().size > 1 and "LOCAL_RANK" in os.environ:
            place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            _checks.sentence("device", must, f"{str(device)!r} ({str(error).splitlines()[0]})")
        ) from error
    if place.type == "cuda" and place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return place


# --- processes ----------------------------------------------------------------------------------


class _Failure(NamedTuple):
    """What a process says instead of its results."""

    words: str


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _failed(rank: int, words: str) -> str:
    return _checks.sentence(
        "all processes", "able to do their parts", f"{words}, in process {rank}"
    )


class World:
    """The processes that share the work: those of torch.distributed, or this one alone."""

    def __init__(self) -> None:
        many = distributed.is_available() and distributed.is_initialized()
        self.rank: int = distributed.get_rank() if many else 0
        self.size: int = distributed.get_world_size() if many else 1

    def first_does(self, work: Callable[[], Result]) -> Result:
        """Lets the first process work; all get the result, or the error."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except BaseException as error:
                known = isinstance(error, Exception) and type(error).__module__ == "builtins"
                outcome[1] = error if known else RuntimeError(_failed(0, _in_short(error)))
                distributed.broadcast_object_list(outcome, src=0)
                raise
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return cast("Result", outcome[0])

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """If one process fails here, the others fail where they next wait for it."""
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                distributed.all_gather_object([None] * self.size, _Failure(_in_short(error)))
            raise

    def _exchange(self, own: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, own)
        for rank, other in enumerate(everyone):
            if isinstance(other, _Failure):
                raise RuntimeError(_failed(rank, other.words))
        return everyone

    def check_same(self, configuration: dict[str, Any]) -> None:
        """Raises ValueError in all processes if they were not asked for the same."""
        if self.size == 1:
            return
        everyone = self._exchange(configuration)
        for rank, other in enumerate(everyone):
            if found := _results.difference(everyone[0], other):
                name, here, there = found
                raise ValueError(
                    _checks.sentence(
                        "compare's arguments",
                        "the same in all processes",
                        f"{name} = {here} in process 0, {there} in process {rank}",
                    )
                )

    def gather(self, found: dict[int, _results.Batch]) -> dict[int, _results.Batch]:
        """All processes' batches, in every process."""
        if self.size == 1:
            return found
        everyone = self._exchange(found)
        return {number: batch for part in everyone for number, batch in part.items()}


@contextmanager
def _opened(
    folder: Path, world: World, configuration: Mapping[str, Any], table: _results.Table
) -> Iterator[dict[int, _results.Batch]]:
    """Locks the folder, checks what it holds, and gives every process the batches that are done."""
    with ExitStack() as stack:

        def begin() -> dict[int, _results.Batch]:
            stack.enter_context(_results.locked(folder))
            _results.check_configuration(folder, configuration)
            return _results.recover(folder, table)

        yield world.first_does(begin)
