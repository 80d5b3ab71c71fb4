"""Reads what a user gives as attribution methods."""

import dataclasses
import functools
import hashlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.evaluation.fingerprint import (
    name_in,
    options_of,
    plain,
    without_addresses,
    words,
)

Attribute = Callable[[Tensor, Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Method:
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
        """Where the model is."""
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
            digest.update(without_addresses(repr(module)).encode())
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


def read_methods(methods: Any) -> list[Method]:
    """Reads the methods of `compare`."""
    if not isinstance(methods, Mapping):
        _checks.wrong_type("methods", "a mapping from names to attribution methods", methods)
    if not methods:
        _checks.wrong_value("methods", "at least one method", methods)
    return [_read_method(check_name("methods", name), given) for name, given in methods.items()]


def check_name(argument: str, name: Any) -> str:
    """Names stand in a plain CSV file."""
    must = "names without commas, quotes and line breaks"
    if not isinstance(name, str):
        _checks.wrong_type(argument, must, name)
    if not name.strip() or re.search(r'[,"\r\n]', name):
        _checks.wrong_value(argument, must, name)
    return name


def _read_method(name: str, given: Any) -> Method:
    if isinstance(given, tuple) and len(given) == 2 and all(callable(part) for part in given):
        function, model = given
        options = {} if isinstance(model, nn.Module) else {"model": plain(model)}
        return _method(name, plain(function), options, function, model)
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
) -> Method:
    modules: list[nn.Module] = []
    for candidate in (model, getattr(model, "__self__", None), *others):
        known = (part for module in modules for part in module.modules())
        if isinstance(candidate, nn.Module) and all(candidate is not part for part in known):
            modules.append(candidate)
    return Method(name, kind, options, run, model, tuple(modules))


def _captum_method(
    name: str, owner: Any, function: Callable[..., Any], keywords: dict[str, Any]
) -> Method:
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
        kind += f" at {name_in(owner.forward_func, layer)}"
    if getattr(function, "__name__", "attribute") != "attribute":
        kind += f".{function.__name__}"
    if keywords:
        kind += f" {{{', '.join(f'{key!r}: {words(value)}' for key, value in keywords.items())}}}"
    options: dict[str, Any] = {**options_of(owner)}
    if inner is not None:
        options[type(inner).__name__] = options_of(inner)
    return _method(name, kind, options, run, owner.forward_func, layer)


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


def _cam_method(name: str, cam: Any) -> Method:
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

    layers = ", ".join(name_in(cam.model, layer) for layer in cam.target_layers)
    kind = f"{type(cam).__name__} at {layers}"
    method = _method(name, kind, options_of(cam), run, cam.model)
    return dataclasses.replace(method, hooks=hooks)
