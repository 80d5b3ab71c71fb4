"""Runs a model once and cuts the autograd graph at a layer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.gradient import GradientPathError


@dataclass(frozen=True, eq=False)
class LayerCall:
    """The tensors of one call of the layer, each the start of the recorded graph.

    Attributes:
        tensors (tuple[Tensor, ...]): What the layer got or gave.
        in_tuple (bool): Whether the layer gave a tuple or list.
    """

    tensors: tuple[Tensor, ...]
    in_tuple: bool

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return self.tensors[0].device


class Recorder:
    """The hook on the layer during one forward pass.

    Args:
        layer (nn.Module): The layer.
        to_input (bool): Whether to take its inputs instead of its outputs.
        cut (bool): Whether to start the graph here, with gradients recorded from here on only.
    """

    def __init__(self, layer: nn.Module, to_input: bool, cut: bool) -> None:
        self.layer, self.to_input, self.cut = layer, to_input, cut
        self.calls: list[LayerCall] = []
        self.on_call: Callable[[], None] = lambda: None
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    def _mine(self, module: nn.Module) -> bool:
        # DataParallel runs its replicas in threads of its own.
        return threading.get_ident() == self._thread or getattr(module, "_is_replica", False)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        return self._take(args) if self._mine(module) else None

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self._take(output) if self._mine(module) else None

    def _take(self, value: Any) -> Any:
        what = f"{'inputs' if self.to_input else 'output'} of layer {type(self.layer).__name__}"
        in_tuple = isinstance(value, (tuple, list))
        tensors = tuple(value) if in_tuple else (value,)
        must = "a real floating-point tensor or a tuple of such"
        if not tensors:
            _checks.wrong_value(what, must, value)
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                _checks.wrong_type(what, must, tensor)
        torch.set_grad_enabled(True)
        # A clone goes on through the model, as it may be modified in place.
        saved = tuple(t.detach().clone() if self.cut else t for t in tensors)
        for tensor in saved:
            if not tensor.requires_grad:
                tensor.requires_grad_()
        with self._lock:
            self.calls.append(LayerCall(saved, in_tuple))
        self.on_call()
        clones = [tensor.clone() for tensor in saved]
        if not in_tuple:
            return clones[0]
        return clones if isinstance(value, list) else tuple(clones)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks the layer, records nothing before it, and restores hook and grad mode."""
        if self.to_input:
            handle = self.layer.register_forward_pre_hook(self._before)
        else:
            handle = self.layer.register_forward_hook(self._after)
        try:
            with torch.set_grad_enabled(not self.cut):
                yield
        finally:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@dataclass
class _Entered:
    module: nn.Module
    reached: bool


class _PathFollower:
    """Follows the gradient path through every module call behind the layer."""

    def __init__(self) -> None:
        self.stack: list[_Entered] = []
        self.broken: list[tuple[nn.Module, Any]] = []
        self.started = False
        self._thread = threading.get_ident()

    def start(self) -> None:
        self.started = True
        for entered in self.stack:
            entered.reached = True

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            reached = self.started and any(t.grad_fn is not None for t in _tensors(args))
            self.stack.append(_Entered(module, reached))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            entered = self.stack.pop()
            if entered.reached and not any(t.requires_grad for t in _tensors(output)):
                self.broken.append((module, output))


def explain_broken_path(
    model: Any, layer: nn.Module, to_input: bool, run: Callable[[], Any]
) -> GradientPathError:
    """Runs the model once more and says at which module the gradient path breaks.

    Args:
        model (Any): The forward function; a module gives the names.
        layer (nn.Module): The layer that no gradient reaches.
        to_input (bool): Whether its inputs are meant.
        run (Callable): Runs the model.

    Returns:
        GradientPathError: To be raised.
    """
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    names = {m: n for n, m in model.named_modules()} if isinstance(model, nn.Module) else {}

    def name(module: nn.Module) -> str:
        own = names.get(module, "")
        return f"{own!r} ({type(module).__name__})" if own else type(module).__name__

    follower = _PathFollower()
    recorder = Recorder(layer, to_input, cut=True)
    recorder.on_call = follower.start
    handles = [
        register_module_forward_pre_hook(follower.enter),
        register_module_forward_hook(follower.leave),
    ]
    reason = ""
    try:
        with recorder.hooked():
            run()
    except RuntimeError as error:
        if "numpy" not in str(error) or not follower.stack:
            raise
        where, reason = follower.stack[-1].module, f"it goes through NumPy: {error}"
        follower.broken = [(where, None)]
    finally:
        for handle in handles:
            handle.remove()
    head = f"no gradient reaches layer {name(layer)}: "
    if not follower.broken:
        return GradientPathError(
            head + "no module behind it breaks the path, so either forward_func does, between the "
            "modules and its output, or the output does not depend on the layer"
        )
    module, output = follower.broken[0]
    if not reason:
        kinds = sorted({str(t.dtype) for t in _tensors(output) if not t.is_floating_point()})
        reason = (
            f"it returns {', '.join(kinds)}, through which no derivative passes"
            if kinds
            else "its input carries a gradient and its output does not (a detach, a torch.no_grad "
            "block, an integer cast or a NumPy round trip inside)"
        )
    return GradientPathError(
        head
        + f"the path breaks in module {name(module)}: {reason}. If that is a quantum layer, give "
        "it as quantum_layer, with a gradient rule such as 'parameter-shift'"
    )
