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
        tensors (tuple[Tensor, ...]): What the layer got or gave, times the recorder's scale: what
            the gradients are taken by.
        activations (tuple[Tensor, ...]): The same without the scale.
        in_tuple (bool): Whether the layer gave a tuple or list.
    """

    tensors: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
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
        scale (float): By what the layer's tensors are multiplied on their way through the model.
    """

    def __init__(self, layer: nn.Module, to_input: bool, cut: bool, scale: float = 1.0) -> None:
        self.layer, self.to_input, self.cut, self.scale = layer, to_input, cut, scale
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
        # The first call starts the graph; later ones may depend on it and stay in it. What is saved
        # is a clone, and another goes on through the model, as either may be modified in place.
        start = self.cut and not self.calls
        saved = tuple(t.detach().clone() if start else t.clone() for t in tensors)
        given = saved
        if self.scale != 1:
            saved = tuple((self.scale * t).detach() if start else self.scale * t for t in given)
        for tensor in saved:
            if not tensor.requires_grad:
                tensor.requires_grad_()
        with self._lock:
            self.calls.append(LayerCall(saved, given, in_tuple))
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
    encloses: bool = False


class _PathFollower:
    """Follows the gradient path through every module call behind the layer."""

    def __init__(self, recorder: Recorder) -> None:
        self.stack: list[_Entered] = []
        self.broken: list[tuple[nn.Module, Any, bool]] = []
        self.recorder = recorder
        recorder.on_call = self._start
        self._thread = threading.get_ident()

    def _start(self) -> None:
        for entered in self.stack:
            entered.reached = entered.encloses = True

    def _connected(self, value: Any) -> bool:
        """Whether a tensor in a value depends on the layer; its own weights do not count."""
        leaves = [tensor for call in self.recorder.calls for tensor in call.tensors]
        nodes = [t.grad_fn for t in _tensors(value) if t.grad_fn is not None]
        seen = set(nodes)
        while nodes:
            node = nodes.pop()
            if any(getattr(node, "variable", None) is leaf for leaf in leaves):
                return True
            new = {parent for parent, _ in node.next_functions if parent is not None} - seen
            seen |= new
            nodes.extend(new)
        return False

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            self.stack.append(_Entered(module, self._connected(args)))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            entered = self.stack.pop()
            gives_tensors = next(_tensors(output), None) is not None
            if entered.reached and gives_tensors and not self._connected(output):
                self.broken.append((module, output, entered.encloses))


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

    recorder = Recorder(layer, to_input, cut=True)
    follower = _PathFollower(recorder)
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
        follower.broken = [(where, None, False)]
    finally:
        for handle in handles:
            handle.remove()
    head = f"no gradient reaches layer {name(layer)}: "
    if not follower.broken:
        return GradientPathError(
            head + "no module behind it breaks the path, so either forward_func does, between the "
            "modules and its output, or the output does not depend on the layer"
        )
    module, output, encloses = follower.broken[0]
    if not reason:
        kinds = sorted({str(t.dtype) for t in _tensors(output) if not t.is_floating_point()})
        causes = "a detach, a torch.no_grad block, an integer cast or a NumPy round trip"
        if kinds:
            reason = f"it returns {', '.join(kinds)}, through which no derivative passes"
        elif encloses:
            reason = (
                f"in its own forward, by {causes}, or because it does not use the layer's output"
            )
        else:
            reason = f"its input depends on the layer and its output does not ({causes} inside)"
    return GradientPathError(
        head
        + f"the path breaks in module {name(module)}: {reason}. If that is a quantum layer, give "
        "it as quantum_layer, with a gradient rule such as 'parameter-shift'"
    )
