"""Runs a model once and cuts the autograd graph at a layer."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat
from captum_quantum.attr._transform import Transform, find_entries
from captum_quantum.gradients import GradientPathError
from captum_quantum.gradients.interception import QuantumCall

Grads = tuple[Tensor, ...]


def _replace_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Replaces floating-point and complex tensors, in nested tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() or value.is_complex() else value
    if isinstance(value, dict):
        return {key: _replace_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_replace_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def graph_nodes(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """All nodes of the autograd graph behind tensors."""
    nodes: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        yield node
        new = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= new
        nodes.extend(new)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """The tensors of one call of the layer, each the start of the recorded graph.

    Attributes:
        tensors (tuple[Tensor, ...]): What the layer got or gave, times the recorder's scale: what
            the gradients are taken by.
        activations (tuple[Tensor, ...]): The same without the scale, transformed.
        entries (tuple[Tensor, ...], optional): If the activations are transformed, the position of
            each of their entries in the flattened tensors.
    """

    tensors: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
    entries: tuple[Tensor, ...] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return self.tensors[0].device

    def transformed(self, transform: Transform) -> "LayerCall":
        """The same call with transformed activations; the tensors stay the layer's own."""
        entries = tuple(find_entries(transform, tensor) for tensor in self.activations)
        call = replace(self, entries=entries)
        return replace(call, activations=call.arrange(self.activations))

    def arrange(self, values: Grads) -> Grads:
        """Brings values of the shapes of the tensors into the shapes of the activations."""
        return values if self.entries is None else tuple(map(torch.take, values, self.entries))


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
        return threading.get_ident() == self._thread or _compat.is_replica(module)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        # PyTorch leaves kwargs out while another thread removes its hook; this thread's is there.
        return self._take((args, kwargs)) if self._mine(module) else None

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self._take(output) if self._mine(module) else None

    def _take(self, value: Any) -> Any:
        what = f"{'inputs' if self.to_input else 'output'} of layer {type(self.layer).__name__}"
        tensors: list[Tensor] = []
        _replace_tensors(value, tensors.append)
        wrong = [tensor for tensor in tensors if tensor.is_complex()]
        if wrong or not tensors:
            must = "a real floating-point tensor or a tuple of such"
            _checks.wrong_type(what, must, wrong[0] if wrong else value)
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
            self.calls.append(LayerCall(saved, given))
        self.on_call()
        clones = iter([tensor.clone() for tensor in saved])
        return _replace_tensors(value, lambda _: next(clones))

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks the layer, records nothing before it, and restores hook and grad mode."""
        if self.to_input:
            handle = self.layer.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            handle = self.layer.register_forward_hook(self._after)
        try:
            with torch.set_grad_enabled(not self.cut):
                yield
        finally:
            handle.remove()


@dataclass(frozen=True, eq=False)
class RecordedGraph:
    """One recorded forward pass: from the layer to the model's output.

    Attributes:
        calls (list[LayerCall]): The calls of the layer.
        output (Tensor): The model's output.
        quantum_calls (list[QuantumCall]): The calls of quantum layers whose rule was swapped in.
    """

    calls: list[LayerCall]
    output: Tensor
    quantum_calls: list[QuantumCall]

    def gradients(
        self,
        outputs: Tensor | Sequence[Tensor],
        grads: Any = None,
        *,
        needed: bool = False,
        **kwargs: Any,
    ) -> list[Grads]:
        """Derivatives of outputs by the activations, call by call; of unused tensors zero.

        Args:
            outputs (Tensor or Sequence[Tensor]): What is differentiated.
            grads (Sequence[Tensor], optional): Their cotangents; ones by default.
            needed (bool): Whether it is an error if none of the tensors is used.
            **kwargs: Further arguments of ``torch.autograd.grad``.
        """
        leaves = [tensor for call in self.calls for tensor in call.tensors]
        if grads is not None:
            kwargs["grad_outputs"] = grads
        given = torch.autograd.grad(outputs, leaves, **{**kwargs, "allow_unused": True})
        if needed and all(grad is None for grad in given):
            raise GradientPathError
        pairs = zip(leaves, given, strict=True)
        found = iter([torch.zeros_like(leaf) if grad is None else grad for leaf, grad in pairs])
        return [call.arrange(tuple(next(found) for _ in call.tensors)) for call in self.calls]

    def gather(self, values: Sequence[Grads], device_ids: list[int] | None) -> Grads:
        """Adds up the calls on each device, then joins the devices along the batch."""
        sums: dict[torch.device, Grads] = {}
        for call, new in zip(self.calls, values, strict=True):
            before = sums.get(call.device)
            sums[call.device] = new if before is None else tuple(map(torch.add, before, new))
        order = _compat.sort_devices(list(sums), device_ids)
        return tuple(
            torch.cat([sums[device][k].to(order[0]) for device in order])
            for k in range(len(sums[order[0]]))
        )
