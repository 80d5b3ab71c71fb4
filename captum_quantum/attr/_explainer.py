"""Runs a model once, recorded from a layer on, with the gradient rules of quantum layers."""

import functools
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor, nn

from captum_quantum import _checks, _compat, _targets
from captum_quantum.attr._broken_path import explain_broken_path
from captum_quantum.attr._recording import Grads, RecordedGraph, Recorder, graph_nodes
from captum_quantum.attr._transform import Transform
from captum_quantum.gradients import RULES, GradientPathError
from captum_quantum.gradients.interception import intercept
from captum_quantum.gradients.nodes import inputs_only
from captum_quantum.quantum_layer import check_part, find_quantum_layers


class LayerExplainer(LayerAttribution, GradientAttribution):
    """What all methods at a layer of a hybrid model share; see `QuantumLayerGradCam`."""

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: nn.Module,
        device_ids: list[int] | None = None,
        *,
        quantum_layer: nn.Module | Sequence[nn.Module] | None = None,
        gradient: str | None = None,
        path_steps: int | None = None,
        activation_transform: Transform | None = None,
        check: bool = True,
    ) -> None:
        if not callable(forward_func):
            _checks.wrong_type("forward_func", "a module or a function", forward_func)
        if not isinstance(layer, nn.Module):
            _checks.wrong_type("layer", "a module", layer)
        self._model = _module_behind(forward_func, layer)
        check_part("layer", layer, self._model)
        self._warned = False
        if gradient is not None:
            _checks.check_choice("gradient", gradient, RULES)
        if path_steps is not None:
            _checks.check_int("path_steps", path_steps, 1)
        if activation_transform is not None and not callable(activation_transform):
            _checks.wrong_type("activation_transform", "a function", activation_transform)
        self.gradient, self.path_steps, self.check = gradient, path_steps, check
        self.activation_transform = activation_transform
        self.quantum_layers = find_quantum_layers(self._model, quantum_layer)
        if gradient is not None and not self.quantum_layers:
            must = f"given for gradient={gradient!r}, as forward_func shows no quantum layer"
            _checks.refuse("quantum_layer", must, "None")
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)

    def _explained(
        self,
        explain: Callable[[RecordedGraph], Grads],
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: object | None,
        to_input: bool,
        *,
        shares: bool = False,
        cut: bool = True,
    ) -> Grads:
        """What follows from a recorded forward pass; with ``path_steps`` the mean over the path."""
        if not self._warned and _trains_statistics(self._model):
            self._warned = True
            warnings.warn(
                "forward_func has normalization layers in training mode: maps depend on the other "
                "examples, and each call changes the layers' statistics; call model.eval()",
                stacklevel=4,
            )
        m = self.path_steps
        scales = [1.0] if m is None else [(j + 0.5) / m for j in range(m)]
        total: Grads | None = None
        for scale in scales:
            with self._recorded(
                inputs, additional_forward_args, to_input, shares, cut, scale
            ) as graph:
                if m is not None and len(graph.calls) != len({call.device for call in graph.calls}):
                    must = "None for a layer that is called several times"
                    _checks.wrong_value("path_steps", must, m)
                values = explain(graph)
            total = values if total is None else tuple(map(torch.add, total, values))
        assert total is not None
        return total if m is None else tuple(each / m for each in total)

    @contextmanager
    def _recorded(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: object | None,
        to_input: bool,
        shares: bool,
        cut: bool,
        scale: float,
    ) -> Iterator[RecordedGraph]:
        """Runs the model once, recorded from the layer on, with the gradient rules swapped in."""
        formatted = self._check_inputs(inputs)

        def run() -> Any:
            return _compat.run_forward(self.forward_func, formatted, additional_forward_args)

        # DataParallel gathers in this thread what its own threads recorded.
        parallel = self.device_ids is not None or isinstance(self.forward_func, nn.DataParallel)
        recorder = Recorder(self.layer, to_input, cut and not parallel, scale)
        swapped = self.quantum_layers if shares else self._swapped()
        if_broken = self.gradient is None and not shares
        with (
            recorder.hooked(),
            intercept(
                swapped, self.gradient, if_broken=if_broken, check=self.check
            ) as quantum_calls,
        ):
            with self._angles_checked(), inputs_only() if cut else nullcontext():
                try:
                    output = run()
                except RuntimeError as error:
                    if "Can't call numpy()" not in str(error) or not recorder.calls:
                        raise
                    raise self._broken_path(to_input, run) from error
            if not recorder.calls:
                _checks.wrong_value("layer", "called by forward_func; it never was", self.layer)
            if not isinstance(output, Tensor):
                _checks.wrong_type("forward_func's output", "a tensor", output)
            graph = RecordedGraph(recorder.calls, output, quantum_calls)
            self._check_same_shapes(graph)
            graph = self._transformed(graph)
            with torch.enable_grad():
                try:
                    yield graph
                except GradientPathError:
                    raise self._broken_path(to_input, run) from None

    @contextmanager
    def _angles_checked(self) -> Iterator[None]:
        """Checks the angles on an accelerator once for the whole pass; on a CPU the layer does."""
        seen: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
            tensors = (a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor))
            seen.extend(a.detach() for a in tensors if a.device.type != "cpu")

        handles = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module in self.quantum_layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for angles in seen:
            _checks.check_finite("inputs of the quantum layer", angles)

    def _swapped(self) -> list[nn.Module]:
        """The quantum layers through which autograd alone would not take the wanted rule."""
        if self.gradient is not None:
            return self.quantum_layers
        follows = [getattr(module, "applies_rule", False) for module in self.quantum_layers]
        pairs = zip(self.quantum_layers, follows, strict=True)
        return [module for module, follows_rule in pairs if not follows_rule]

    def _broken_path(self, to_input: bool, run: Callable[[], Any]) -> GradientPathError:
        with intercept(self._swapped(), self.gradient):
            return explain_broken_path(self._model or self.forward_func, self.layer, to_input, run)

    def _check_inputs(self, inputs: Any) -> tuple[Tensor, ...]:
        formatted = (inputs,) if isinstance(inputs, Tensor) else inputs
        if not isinstance(formatted, tuple) or not formatted:
            _checks.wrong_type("inputs", "a tensor or a tuple of tensors", inputs)
        for tensor in formatted:
            if not isinstance(tensor, Tensor):
                _checks.wrong_type("inputs", "a tensor or a tuple of tensors", tensor)
            if tensor.dim() == 0 or tensor.shape[0] == 0:
                _checks.wrong_value("inputs", "at least one example along dimension 0", tensor)
        if torch.is_inference_mode_enabled():
            raise RuntimeError("attribution needs autograd, which torch.inference_mode() disables")
        if self._model is not None and not isinstance(self._model, nn.DataParallel):
            devices = {parameter.device for parameter in self._model.parameters()}
            if len(devices) == 1 and all(tensor.device not in devices for tensor in formatted):
                must = f"on the model's device, {devices.pop()}"
                _checks.wrong_value("inputs", must, formatted[0])
        return formatted

    def _check_same_shapes(self, graph: RecordedGraph) -> None:
        per_device: dict[torch.device, Any] = {}
        for call in graph.calls:
            shapes = [tuple(tensor.shape) for tensor in call.tensors]
            first = per_device.setdefault(call.device, shapes)
            if shapes != first:
                must = "one whose calls all give tensors of the same shape, to add up their maps"
                got = f"a {type(self.layer).__name__} with shapes {first} and {shapes}"
                _checks.refuse("layer", must, got)

    def _transformed(self, graph: RecordedGraph) -> RecordedGraph:
        """The graph with transformed activations; the layer's own without a transform."""
        transform = self.activation_transform
        if transform is None:
            return graph
        calls = [call.transformed(transform) for call in graph.calls]
        per_device = {call.device: call.activations for call in calls}
        for tensors in zip(*per_device.values(), strict=True):
            rows = sum(map(len, tensors))
            if graph.output.dim() > 0 and rows != len(graph.output):
                must = f"{len(graph.output)} rows, one for each example"
                _checks.refuse("activation_transform's result", must, f"{rows} rows")
        return replace(graph, calls=calls)

    def _check_single_tensor(self, graph: RecordedGraph) -> None:
        if len(graph.calls[0].tensors) != 1:
            must = "one of a single tensor; for several, use attribute"
            _checks.wrong_value("layer", must, f"{len(graph.calls[0].tensors)} tensors")

    def _score(self, graph: RecordedGraph, target: Any) -> Tensor:
        score = _targets.target_scores(graph.output, target)
        start = graph.output.grad_fn
        if callable(target) and start is not None and start not in graph_nodes([score]):
            must = "computed from the output by differentiable operations"
            _checks.refuse("target's values", must, "values without a gradient by it")
        return score


def _module_behind(forward_func: Callable[..., Any], layer: nn.Module) -> nn.Module | None:
    """The module whose parts forward_func calls, as far as that can be known."""
    if isinstance(forward_func, nn.Module):
        return forward_func
    owner = getattr(forward_func, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner
    found = _modules_in(forward_func)
    inside = {id(part) for module in found for part in module.modules() if part is not module}
    roots = nn.ModuleList(module for module in found if id(module) not in inside)
    if all(layer is not part for part in roots.modules()):
        return None  # they are not the model
    return roots[0] if len(roots) == 1 else roots


def _modules_in(function: Any) -> list[nn.Module]:
    """The modules that a function is given, encloses, is bound to or names among its globals."""
    candidates: list[Any] = [function]
    if isinstance(function, functools.partial):
        candidates += [*function.args, *function.keywords.values(), *_modules_in(function.func)]
    elif hasattr(function, "__code__"):
        seen = inspect.getclosurevars(function)
        candidates += [*seen.nonlocals.values(), *seen.globals.values()]
        candidates += [getattr(function, "__self__", None), *(function.__defaults__ or ())]
    for candidate in [*candidates]:
        is_object = not isinstance(candidate, (nn.Module, type, types.ModuleType))
        if is_object and hasattr(candidate, "__dict__"):
            candidates += vars(candidate).values()
    return list({id(c): c for c in candidates if isinstance(c, nn.Module)}.values())


def _trains_statistics(model: nn.Module | None) -> bool:
    """Whether normalization layers of a model use the statistics of the batch."""
    modules = () if model is None else model.modules()
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in modules)
