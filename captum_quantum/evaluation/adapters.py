"""Reads what a user gives as attribution methods and metrics."""

import copy
import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum._targets import TargetFunction, target_scores
from captum_quantum.evaluation import fingerprint
from captum_quantum.metrics import registry


@dataclass(frozen=True)
class Method:
    """An attribution method: how to compute attributions, and the model that it explains.

    Attributes:
        name (str): The method's name in reports.
        kind (str): What the method is, in words.
        options (dict[str, Any]): What else its attributions depend on, in words.
        run (Callable): ``(inputs, target)`` to attributions, as the method returns them. The target
            is classes, shape ``(batch,)``, or a function of the model's output.
        model (Callable): The model.
        layer (Any): The layer whose activations the method explains, if there is one.
        prepare (Callable): Returns a context manager, in which `run` is called.
    """

    name: str
    kind: str
    options: dict[str, Any]
    run: Callable[[Tensor, Any], Any]
    model: Callable[..., Any]
    layer: Any = None
    prepare: Callable[[], AbstractContextManager[None]] = nullcontext

    @cached_property
    def modules(self) -> list[nn.Module]:
        """The modules that the attributions depend on; none is a part of another."""
        modules: list[nn.Module] = []
        for candidate in (self.model, getattr(self.model, "__self__", None), self.layer):
            known = (part for module in modules for part in module.modules())
            if isinstance(candidate, nn.Module) and all(candidate is not part for part in known):
                modules.append(candidate)
        return modules

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter or buffer; the CPU if it has none."""
        for module in self.modules:
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                return tensor.device
        return torch.device("cpu")

    def attribute(self, inputs: Tensor, target: Tensor | TargetFunction) -> Tensor:
        """Computes attributions.

        Args:
            inputs (Tensor): Shape ``(batch, ...)``.
            target (Tensor or Callable): Classes, shape ``(batch,)``, int64, or a function of the
                model's output.

        Returns:
            Tensor: Shape ``(batch, ...)``, without a graph, on the inputs' device.

        Raises:
            TypeError, ValueError: If the method returns something else than a floating-point tensor
                or array with one entry for each input.
        """
        with torch.enable_grad():
            maps = self.run(inputs, target)
        if isinstance(maps, tuple) and len(maps) == 1:
            maps = maps[0]
        if isinstance(maps, np.ndarray):
            maps = torch.from_numpy(maps)
        argument = f"what method {self.name!r} returns"
        if not isinstance(maps, Tensor) or maps.shape[:1] != inputs.shape[:1]:
            _checks.wrong_value(argument, f"a tensor of {len(inputs)} maps", maps)
        return _checks.check_real(argument, maps).detach().to(inputs.device)

    def scores(self, inputs: Tensor) -> Tensor:
        """Computes the model's scores of all classes.

        Args:
            inputs (Tensor): Shape ``(batch, ...)``.

        Returns:
            Tensor: Shape ``(batch, n_classes)``, without a graph.

        Raises:
            ValueError: If the model returns something else.
        """
        with torch.no_grad():
            scores = self.model(inputs)
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(inputs):
            argument = f"the output of the model of {self.name!r}"
            _checks.wrong_value(argument, "(batch, n_classes)", scores)
        return scores

    def describe(self, device: torch.device | None) -> dict[str, Any]:
        """Describes what the attributions depend on.

        Args:
            device (torch.device, optional): Where the model will be. Default: where it is.

        Returns:
            dict[str, Any]: What JSON can hold.
        """
        return {
            "kind": self.kind,
            "options": self.options,
            "model": fingerprint.digest_modules(self.modules),
            "device": (device or self.device).type,
        }


def read_methods(methods: Any) -> list[Method]:
    """Reads the argument ``methods`` of `compare`.

    Args:
        methods (Mapping[str, Any]): What the user gives as methods, by name.

    Returns:
        list[Method]: The methods, in the same order.

    Raises:
        TypeError, ValueError: If a name or a method is wrong, or there is none.
    """
    if not isinstance(methods, Mapping):
        _checks.wrong_type("methods", "a mapping from names to attribution methods", methods)
    if not methods:
        _checks.wrong_value("methods", "at least one method", methods)
    return [_read_method(_check_name("methods", name), given) for name, given in methods.items()]


def read_metrics(metrics: Any) -> list[registry.Metric]:
    """Reads the argument ``metrics`` of `compare`.

    Args:
        metrics (Any): Names of registered metrics, or a mapping from names to functions.

    Returns:
        list[Metric]: The metrics, in the same order.

    Raises:
        TypeError, ValueError: If a name or a function is wrong, or there is none.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        must = "names of metrics, or a mapping from names to functions"
        _checks.wrong_type("metrics", must, metrics)
    if isinstance(metrics, Mapping):
        given = dict(metrics)
    else:
        named = registry.named_metrics()
        given = {_checks.check_choice("metrics", name, named): named.get(name) for name in metrics}
    if not given:
        _checks.wrong_value("metrics", "at least one metric", metrics)
    return [
        registry.read_metric(_check_name("metrics", name), function, argument=f"metrics[{name!r}]")
        for name, function in given.items()
    ]


def _check_name(argument: str, name: Any) -> str:
    """Returns a name if it can stand in a line of a CSV file without quotes."""
    must = "names without commas, quotes and line breaks"
    if not isinstance(name, str):
        _checks.wrong_type(argument, must, name)
    if not name.strip() or re.search(r'[,"\r\n]', name):
        _checks.wrong_value(argument, must, name)
    return name


def _read_method(name: str, given: Any) -> Method:
    method = _adapt_pair(name, given) or _adapt_captum(name, given) or _adapt_cam(name, given)
    if method is None:
        must = (
            "an attribution object with attribute and forward_func, a CAM of pytorch-grad-cam, or "
            "a pair of a function (inputs, target) -> attributions and its model"
        )
        _checks.wrong_type(f"methods[{name!r}]", must, given)
    return method


def _adapt_pair(name: str, given: Any) -> Method | None:
    """A pair of a function and its model."""
    if not (isinstance(given, tuple) and len(given) == 2 and all(map(callable, given))):
        return None
    function, model = given
    describe = fingerprint.describe_function
    options = {} if isinstance(model, nn.Module) else {"model": describe(model)}
    return Method(name, describe(function), options, function, model)


def _adapt_captum(name: str, given: Any) -> Method | None:
    """An attribution object of Captum, or its ``attribute`` with further arguments."""
    owner, function = given, getattr(given, "attribute", None)
    keywords: dict[str, Any] = {}
    if not hasattr(given, "forward_func"):
        function = given
        while isinstance(function, functools.partial) and not function.args:
            keywords = {**function.keywords, **keywords}
            function = function.func
        owner = getattr(function, "__self__", None)
    if not callable(function) or not hasattr(owner, "forward_func"):
        return None
    parameters = inspect.signature(function).parameters.values()
    method_name = getattr(function, "__name__", "attribute")
    takes_target = any(p.name == "target" or p.kind is p.VAR_KEYWORD for p in parameters)

    def run(inputs: Tensor, target: Any) -> Any:
        if not takes_target:
            return function(inputs, **keywords)
        if not callable(target):
            return function(inputs, target=target, **keywords)
        scored = _Scored(owner.forward_func, target)
        copied = _with_model(owner, owner.forward_func, scored)
        values = getattr(copied, method_name)(inputs, **keywords)
        if not scored.called:
            must = "one that explains its forward_func, for a target that is a function"
            _checks.wrong_value(f"methods[{name!r}]", must, owner)
        return values

    inner = getattr(owner, "attribution_method", None)  # of a NoiseTunnel
    layer = getattr(owner, "layer", getattr(inner, "layer", None))
    kind = type(owner).__name__
    options: dict[str, Any] = {**fingerprint.describe_attributes(owner)}
    if inner is not None:
        kind += f" of {type(inner).__name__}"
        options[type(inner).__name__] = fingerprint.describe_attributes(inner)
    if isinstance(layer, nn.Module):
        kind += f" at {_layer_name(owner.forward_func, layer)}"
    if method_name != "attribute":
        kind += f".{method_name}"
    if keywords:
        described = (f"{k!r}: {fingerprint.describe_value(v)}" for k, v in keywords.items())
        kind += f" {{{', '.join(described)}}}"
    return Method(name, kind, options, run, owner.forward_func, layer)


class _Scored(nn.Module):
    """A model whose output is the value of a target that is a function, for each example."""

    def __init__(self, model: Callable[..., Any], function: TargetFunction) -> None:
        super().__init__()
        self.model, self.function, self.called = model, function, False

    def forward(self, *args: Any) -> Tensor:
        """Runs the model; returns ``(batch,)``."""
        self.called = True
        return target_scores(self.model(*args), self.function)


def _with_model(explainer: Any, model: Any, other: Any) -> Any:
    """A copy of an explainer of Captum's, and of those inside of it, that explains another model.

    Captum's explainers take no functions as targets.
    """
    copied = copy.copy(explainer)
    for name, value in vars(explainer).items():
        if value is model:
            setattr(copied, name, other)
        elif hasattr(value, "attribute") and hasattr(value, "forward_func"):
            setattr(copied, name, _with_model(value, model, other))
    return copied


def _layer_name(model: Any, layer: nn.Module) -> str:
    """The name of a layer in its model, or its type if the model does not contain it."""
    named = model.named_modules() if isinstance(model, nn.Module) else []
    return next((name for name, module in named if module is layer), type(layer).__name__)


def _adapt_cam(name: str, cam: Any) -> Method | None:
    """A CAM of pytorch-grad-cam.

    From its construction on, a CAM has hooks on its layers that keep the activations of every
    forward pass, also those of metrics. So the given one has none during the comparison, and each
    batch gets a copy of its own, with hooks for this batch.
    """
    parts = ("model", "target_layers", "activations_and_grads")
    if not callable(cam) or not all(hasattr(cam, part) for part in parts):
        return None
    make_hooks = type(cam.activations_and_grads)
    arguments = {key: getattr(cam, key) for key in inspect.signature(make_hooks).parameters}

    def run(inputs: Tensor, target: Any) -> Tensor:
        scores: list[Callable[[Tensor], Tensor]]
        if callable(target):  # it gives each its example's part of the output
            scores = [lambda output: target_scores(output[None], target)[0]] * len(inputs)
        else:
            scores = [functools.partial(torch.select, dim=-1, index=c) for c in target.tolist()]
        copied = copy.copy(cam)
        copied.device = inputs.device  # it moves the inputs to its device
        copied.activations_and_grads = make_hooks(**arguments)
        try:
            maps = copied(input_tensor=inputs, targets=scores)
        finally:
            copied.activations_and_grads.release()
        return torch.as_tensor(np.asarray(maps)).to(inputs.dtype)[:, None]

    @contextmanager
    def prepare() -> Iterator[None]:
        has_hooks = bool(cam.activations_and_grads.handles)
        cam.activations_and_grads.release()
        try:
            yield
        finally:
            if has_hooks:
                cam.activations_and_grads = make_hooks(**arguments)

    layers = ", ".join(_layer_name(cam.model, layer) for layer in cam.target_layers)
    kind = f"{type(cam).__name__} at {layers}"
    options = fingerprint.describe_attributes(cam)
    return Method(name, kind, options, run, cam.model, prepare=prepare)
