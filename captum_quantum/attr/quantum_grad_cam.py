"""QGrad-CAM with Captum's API."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _run_forward,
    _select_targets,
    _sort_key_list,
)
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.attr._broken_path import explain_broken_path
from captum_quantum.attr._recording import LayerCall, Recorder
from captum_quantum.attr._shares import membership, one_at_a_time
from captum_quantum.circuit import Circuit
from captum_quantum.gradients import (
    RULES,
    GradientPathError,
    QuantumCall,
    inputs_only,
    intercept,
)

Grads = tuple[Tensor, ...]


@dataclass
class _Graph:
    """One recorded forward pass: from the layer to the model's output."""

    calls: list[LayerCall]
    output: Tensor
    quantum_calls: list[QuantumCall]

    @property
    def leaves(self) -> list[Tensor]:
        return [tensor for call in self.calls for tensor in call.tensors]

    def regroup(self, grads: Sequence[Tensor | None]) -> list[Grads]:
        """The gradients of ``leaves``, call by call; None, an unused tensor, becomes zero."""
        filled = [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(self.leaves, grads, strict=True)
        ]
        grouped, start = [], 0
        for call in self.calls:
            grouped.append(tuple(filled[start : start + len(call.tensors)]))
            start += len(call.tensors)
        return grouped


def _channel_weights(grad: Tensor) -> Tensor:
    """Averages a gradient over all dimensions behind the channels, which stay with size 1."""
    return grad.mean(dim=tuple(range(2, grad.dim())), keepdim=True) if grad.dim() > 2 else grad


def _grad_cam(grad: Tensor, activation: Tensor, sum_channels: bool = True) -> Tensor:
    weights = _channel_weights(grad)
    if not sum_channels:
        return weights * activation
    if activation.dim() < 3:
        return (weights * activation).sum(dim=1, keepdim=True)
    # A product of matrices, as all scaled channels would take as much memory as the activations.
    summed = torch.bmm(weights.flatten(1)[:, None], activation.flatten(2))
    return summed.reshape(len(activation), 1, *activation.shape[2:])


class QuantumLayerGradCam(LayerAttribution, GradientAttribution):
    r"""QGrad-CAM: Grad-CAM for hybrid quantum-classical models, with Captum's API.

    With :math:`A^k` the feature maps of a convolutional layer and :math:`y` the target's score, the
    importance of feature map k and the map are

    .. math:: w_k = \frac{1}{W H} \sum_{ij} \frac{\partial y}{\partial A^k_{ij}}, \qquad
              L = \sum_k w_k A^k,

    where the derivative passes the variational quantum circuits behind the layer by an exact
    quantum rule (arXiv:2408.05899, arXiv:1610.02391). The class takes the place of
    :class:`captum.attr.LayerGradCam`: same arguments, same results, on purely classical models too.
    As there, the map is signed and raw; ``relu_attributions=True`` gives the papers' map.

    Where the score saturates, gradients at the activations alone say little. With ``path_steps=m``
    the importance is averaged over m points between no activation and the activations, at the cost
    of m forward and backward passes (Integrated Grad-CAM, arXiv:2102.07805, with weights averaged
    over pixels as above):

    .. math:: w_k = \frac{1}{m} \sum_{j=1}^m \frac{1}{W H} \sum_{ij} \left.\frac{\partial
              y}{\partial A^k_{ij}}\right|_{s_j A}, \qquad s_j = \frac{j - 1/2}{m}.

    What it adds: gradient rules for quantum layers that autograd cannot differentiate, the share of
    every qubit and observable, several classes from one forward pass, nothing recorded for autograd
    before the layer, and errors that name the module at which a gradient path breaks. Of a layer
    that is called several times in a forward pass, all calls count: their maps add up. Attributions
    are detached unless ``grad_kwargs`` asks for ``create_graph``.

    Args:
        forward_func (Callable): The model or any function of it.
        layer (nn.Module): The layer whose feature maps are explained.
        device_ids (list[int], optional): Device ids, only for a forward_func that applies a
            DataParallel model without being one.
        quantum_layer (nn.Module or sequence, optional): The quantum layers. Default: every module
            of forward_func that has a :class:`~captum_quantum.Circuit`, such as ``VQCLayer``;
            without any, this is plain Grad-CAM. Any other module, tensor in and tensor out, can be
            given.
        gradient (str, optional): The rule for them, as in :func:`captum_quantum.quantum_gradient`.
            Default: each layer's own.
        path_steps (int, optional): Number m of points over which the importance is averaged, for a
            layer that is called once in a forward pass. Default: the activations alone, Grad-CAM.

    Raises:
        TypeError: If forward_func is not callable, or a layer is not a module.
        ValueError: If a layer is not part of forward_func, or the rule is unknown.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerAttribution
        >>> from captum_quantum import QuantumLayerGradCam, VQCLayer
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
        ... )
        >>> images = torch.rand(2, 1, 8, 8)
        >>> grad_cam = QuantumLayerGradCam(model, model[1])
        >>> maps = grad_cam.attribute(images, target=3)
        >>> maps.shape
        torch.Size([2, 1, 6, 6])
        >>> LayerAttribution.interpolate(maps, (8, 8)).shape
        torch.Size([2, 1, 8, 8])
        >>> shares = grad_cam.attribute_qubits(images, target=3)
        >>> shares.shape, torch.allclose(shares.sum(1, keepdim=True), maps, atol=1e-5)
        (torch.Size([2, 4, 6, 6]), True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: nn.Module,
        device_ids: list[int] | None = None,
        *,
        quantum_layer: nn.Module | Sequence[nn.Module] | None = None,
        gradient: str | None = None,
        path_steps: int | None = None,
    ) -> None:
        if not callable(forward_func):
            _checks.wrong_type("forward_func", "a module or a function", forward_func)
        if not isinstance(layer, nn.Module):
            _checks.wrong_type("layer", "a module", layer)
        self._model = _module_behind(forward_func)
        self._check_part("layer", layer)
        if gradient is not None:
            _checks.check_choice("gradient", gradient, RULES)
        if path_steps is not None:
            _checks.check_int("path_steps", path_steps, 1)
        self.gradient, self.path_steps = gradient, path_steps
        self.quantum_layers = self._find_quantum_layers(quantum_layer)
        if gradient is not None and not self.quantum_layers:
            raise ValueError(
                _checks.sentence(
                    "quantum_layer",
                    f"given for gradient={gradient!r}, as forward_func shows no quantum layer",
                    "None",
                )
            )
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)

    def _check_part(self, argument: str, module: nn.Module) -> None:
        if self._model is not None and all(module is not own for own in self._model.modules()):
            _checks.wrong_value(
                argument, f"one of the modules of {type(self._model).__name__}", module
            )

    def _find_quantum_layers(
        self, given: nn.Module | Sequence[nn.Module] | None
    ) -> list[nn.Module]:
        if given is None:
            modules = [] if self._model is None else list(self._model.modules())
            return [m for m in modules if isinstance(getattr(m, "circuit", None), Circuit)]
        listed = [given] if isinstance(given, nn.Module) else given
        if not isinstance(listed, Sequence) or not listed:
            _checks.wrong_type("quantum_layer", "a module or a sequence of modules", given)
        for module in listed:
            if not isinstance(module, nn.Module):
                _checks.wrong_type("quantum_layer", "a module or a sequence of modules", module)
            self._check_part("quantum_layer", module)
        return list(listed)

    # As Captum's own methods are. Captum ships no types, so mypy cannot see that this decorator
    # returns the method with its signature; nothing on our side could declare it.
    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object | None = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """The map of the target's score: ``LayerGradCam.attribute``, through quantum layers.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): The model's inputs, examples along dimension 0.
            target (int, tuple, Tensor or list, optional): Which output is explained: an index for
                all examples, or one for each; tuples index outputs of several dimensions. None for
                an output of one number for each example.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.
            relu_attributions (bool): Whether to keep only what speaks for the target.
            attr_dim_summation (bool): Whether to sum over the channels, dimension 1.
            grad_kwargs (dict, optional): Further arguments of ``torch.autograd.grad``.

        Returns:
            Tensor or tuple[Tensor, ...]: Of the layer's output's shape, with dimension 1 of size 1,
            ``(batch, 1, *spatial)``, or ``(batch, channels, *spatial)`` without summation; a tuple
            for a layer of several tensors.

        Raises:
            TypeError, ValueError: If an argument is wrong, the layer is never called, or its calls
                give tensors of different shapes.
            GradientPathError: If no gradient reaches the layer; names the module that breaks it.
            GradientRuleError: If the gradient rule does not apply.
        """
        kwargs = dict(grad_kwargs or {})

        def maps_of(graph: _Graph) -> Grads:
            grads = self._gradients(graph, self._score(graph, target), kwargs)
            maps = [
                tuple(
                    _grad_cam(grad, activation, attr_dim_summation)
                    for grad, activation in zip(own, call.activations, strict=True)
                )
                for own, call in zip(grads, graph.calls, strict=True)
            ]
            return self._gather(graph, maps)

        maps = self._explained(
            maps_of,
            inputs,
            additional_forward_args,
            attribute_to_layer_input,
            cut=not kwargs.get("create_graph", False),
        )
        if relu_attributions:
            maps = tuple(torch.relu(one) for one in maps)
        if not kwargs.get("create_graph", False):
            maps = tuple(one.detach() for one in maps)
        return maps if len(maps) > 1 else maps[0]

    def importance(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object | None = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor:
        """The importance w_k of every feature map: the gradient averaged over its pixels.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.

        Returns:
            Tensor: Shape ``(batch, channels)``.
        """

        def weights_of(graph: _Graph) -> Grads:
            self._check_single_tensor(graph)
            grads = self._gradients(graph, self._score(graph, target), {})
            weights = [(_channel_weights(own[0]).flatten(1),) for own in grads]
            return self._gather(graph, weights)

        (weights,) = self._explained(
            weights_of, inputs, additional_forward_args, attribute_to_layer_input
        )
        return weights.detach()

    def attribute_classes(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Sequence[Any],
        additional_forward_args: object | None = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
    ) -> Tensor:
        """The maps of several targets from one forward pass.

        Args:
            inputs: As in :meth:`attribute`.
            targets (Sequence): Targets as in :meth:`attribute`, for example ``range(10)``.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.
            relu_attributions: As in :meth:`attribute`.

        Returns:
            Tensor: Shape ``(batch, len(targets), *spatial)``; one column equals
            ``attribute(inputs, target)``.
        """
        if isinstance(targets, (str, Tensor)) or not isinstance(targets, Sequence):
            _checks.wrong_type("targets", "a sequence of targets", targets)
        if not targets:
            _checks.wrong_value("targets", "a sequence of at least one target", targets)

        def maps_of(graph: _Graph) -> Grads:
            self._check_single_tensor(graph)
            scores = [self._score(graph, target) for target in targets]
            columns = [
                self._map(graph, self._gradients(graph, score, {"retain_graph": True}))
                for score in scores
            ]
            return (torch.cat(columns, dim=1),)

        (maps,) = self._explained(
            maps_of, inputs, additional_forward_args, attribute_to_layer_input
        )
        return torch.relu(maps) if relu_attributions else maps

    def attribute_qubits(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object | None = None,
        attribute_to_layer_input: bool = False,
        *,
        input_wires: Sequence[int] | None = None,
        return_direct: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""Each qubit's share of the map.

        With :math:`\varphi` the encoding angles, :math:`\partial y / \partial A = D + \sum_q
        (\partial y / \partial \varphi_q) (\partial \varphi_q / \partial A)`, where the sum over a
        qubit's angles takes every gate on its wire that has an input as angle (an angle of a gate
        on several wires is split evenly) and the direct part D takes all paths past the quantum
        layer. Qubit q's map is Grad-CAM with its term alone. Shares and direct part add up to the
        signed map. Of a layer called several times, each path counts at its first call.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.
            input_wires (Sequence[int], optional): For a quantum layer that shows no circuit, the
                qubit of each of its inputs. Default: input i belongs to qubit i.
            return_direct (bool): Whether to return the direct part too.

        Returns:
            Tensor or tuple[Tensor, Tensor]: Shares, shape ``(batch, n_qubits, *spatial)``, and with
            ``return_direct`` the direct part, shape ``(batch, 1, *spatial)``.

        Raises:
            ValueError: If there is no single quantum layer behind the layer, or its encoding has no
                angles on qubits, as amplitude encoding.
        """
        module = self._single_quantum_layer()
        circuit: Circuit | None = getattr(module, "circuit", None)
        if circuit is not None and circuit.amplitude_encoding:
            _checks.wrong_value(
                "quantum_layer",
                "one whose inputs are angles on qubits, as amplitude encoding has no qubit shares",
                module,
            )

        def shares_of(graph: _Graph) -> Grads:
            score = self._quantum_score(graph, target)
            pulled = torch.autograd.grad(
                score,
                [call.angles for call in graph.quantum_calls],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            # From here on no gradient passes a quantum call: every path counts at its first.
            for call in graph.quantum_calls:
                call.open = False
            share = membership(circuit, input_wires, pulled[0])
            columns = [
                self._map(
                    graph,
                    self._pull(
                        graph,
                        [call.angles for call in graph.quantum_calls],
                        [grad * qubit for grad in pulled],
                    ),
                )
                for qubit in share
            ]
            direct = self._map(graph, self._pull(graph, [score], [torch.ones_like(score)]))
            return torch.cat(columns, dim=1), direct

        shares, direct = self._explained(
            shares_of, inputs, additional_forward_args, attribute_to_layer_input, intercepted=True
        )
        return (shares, direct) if return_direct else shares

    def attribute_observables(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object | None = None,
        attribute_to_layer_input: bool = False,
        *,
        return_direct: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""Each observable's share of the map.

        As :meth:`attribute_qubits`, with the quantum layer's expectation values in the place of its
        angles: :math:`\partial y / \partial A = D + \sum_o (\partial y / \partial E_o) (\partial
        E_o / \partial A)`.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            attribute_to_layer_input: As in :meth:`attribute`.
            return_direct (bool): Whether to return the direct part too.

        Returns:
            Tensor or tuple[Tensor, Tensor]: Shares, shape ``(batch, n_observables, *spatial)``, and
            with ``return_direct`` the direct part, shape ``(batch, 1, *spatial)``.

        Raises:
            ValueError: If there is no single quantum layer behind the layer.
        """
        self._single_quantum_layer()

        def shares_of(graph: _Graph) -> Grads:
            score = self._quantum_score(graph, target)
            calls = graph.quantum_calls
            pulled = torch.autograd.grad(
                score,
                [call.outputs for call in calls],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for call in calls:
                call.open = False
            shares: Tensor | None = None
            for call, grad in zip(calls, pulled, strict=True):
                call.open = True
                own = torch.cat(
                    [
                        self._map(graph, self._pull(graph, [call.outputs], [masked]))
                        for masked in one_at_a_time(grad)
                    ],
                    dim=1,
                )
                call.open = False
                shares = own if shares is None else shares + own
            direct = self._map(graph, self._pull(graph, [score], [torch.ones_like(score)]))
            assert shares is not None
            return shares, direct

        shares, direct = self._explained(
            shares_of, inputs, additional_forward_args, attribute_to_layer_input, intercepted=True
        )
        return (shares, direct) if return_direct else shares

    def _explained(
        self,
        explain: Callable[[_Graph], Grads],
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: object | None,
        to_input: bool,
        *,
        intercepted: bool | None = None,
        cut: bool = True,
    ) -> Grads:
        """What follows from a recorded forward pass; with ``path_steps`` the mean over the path."""
        if intercepted is None:
            intercepted = self.gradient is not None
        m = self.path_steps
        scales = [1.0] if m is None else [(j + 0.5) / m for j in range(m)]
        total: Grads | None = None
        for scale in scales:
            with self._recorded(
                inputs, additional_forward_args, to_input, intercepted, cut, scale
            ) as graph:
                if m is not None and len(graph.calls) != len({call.device for call in graph.calls}):
                    _checks.wrong_value(
                        "path_steps", "None for a layer that is called several times", m
                    )
                own = explain(graph)
            total = own if total is None else tuple(map(torch.add, total, own))
        assert total is not None
        return total if m is None else tuple(each / m for each in total)

    @contextmanager
    def _recorded(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: object | None,
        to_input: bool,
        intercepted: bool,
        cut: bool,
        scale: float,
    ) -> Iterator[_Graph]:
        """Runs the model once, recorded from the layer on, with the gradient rules swapped in."""
        formatted = self._check_inputs(inputs)
        arguments = _format_additional_forward_args(additional_forward_args)

        def run() -> Any:
            return _run_forward(self.forward_func, formatted, None, arguments)

        # DataParallel gathers in this thread what its own threads recorded.
        parallel = self.device_ids is not None or isinstance(self.forward_func, nn.DataParallel)
        recorder = Recorder(self.layer, to_input, cut and not parallel, scale)
        swapped = self.quantum_layers if intercepted else []
        with recorder.hooked(), intercept(swapped, self.gradient) as quantum_calls:
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
            graph = _Graph(recorder.calls, output, quantum_calls)
            self._check_same_shapes(graph)
            with torch.enable_grad():
                try:
                    yield graph
                except GradientPathError:
                    raise self._broken_path(to_input, run) from None

    @contextmanager
    def _angles_checked(self) -> Iterator[None]:
        """Checks the angles on an accelerator once for the whole pass; on a CPU the layer does."""
        seen: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.extend(
                a.detach() for a in args if isinstance(a, Tensor) and a.device.type != "cpu"
            )

        handles = [module.register_forward_pre_hook(note) for module in self.quantum_layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for angles in seen:
            _checks.check_finite("inputs of the quantum layer", angles)

    def _broken_path(self, to_input: bool, run: Callable[[], Any]) -> GradientPathError:
        with intercept(self.quantum_layers if self.gradient else [], self.gradient):
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
                _checks.wrong_value(
                    "inputs", f"on the model's device, {devices.pop()}", formatted[0]
                )
        return formatted

    def _check_same_shapes(self, graph: _Graph) -> None:
        per_device: dict[torch.device, Any] = {}
        for call in graph.calls:
            shapes = [tuple(tensor.shape) for tensor in call.tensors]
            first = per_device.setdefault(call.device, shapes)
            if shapes != first:
                raise ValueError(
                    _checks.sentence(
                        "layer",
                        "one whose calls in a forward pass all give tensors of the same shape, so "
                        "that their maps add up",
                        f"a {type(self.layer).__name__} with shapes {first} and {shapes}",
                    )
                )

    def _check_single_tensor(self, graph: _Graph) -> None:
        if len(graph.calls[0].tensors) != 1:
            _checks.wrong_value(
                "layer",
                "one of a single tensor; for several, use attribute",
                f"{len(graph.calls[0].tensors)} tensors",
            )

    def _single_quantum_layer(self) -> nn.Module:
        if len(self.quantum_layers) != 1:
            raise ValueError(
                _checks.sentence(
                    "quantum_layer",
                    "given, or the only one of forward_func",
                    f"{len(self.quantum_layers)} quantum layers",
                )
            )
        return self.quantum_layers[0]

    def _score(self, graph: _Graph, target: Any) -> Tensor:
        _checks.check_target(target, graph.output)
        score: Tensor = _select_targets(graph.output, target)
        return score

    def _quantum_score(self, graph: _Graph, target: Any) -> Tensor:
        self._check_single_tensor(graph)
        score = self._score(graph, target).sum()
        if not score.requires_grad:
            raise GradientPathError
        if not graph.quantum_calls:
            _checks.wrong_value(
                "quantum_layer",
                "behind the layer, where a gradient passes it",
                self.quantum_layers[0],
            )
        return score

    def _gradients(self, graph: _Graph, score: Tensor, kwargs: dict[str, Any]) -> list[Grads]:
        """Gradients of the score by the layer's tensors, call by call."""
        if not score.requires_grad:
            raise GradientPathError
        outputs: Any = torch.unbind(score) if "grad_outputs" in kwargs else score.sum()
        try:
            return graph.regroup(torch.autograd.grad(outputs, graph.leaves, **kwargs))
        except RuntimeError as error:
            if "appears to not have been used" in str(error):
                raise GradientPathError from error
            raise

    def _pull(self, graph: _Graph, outputs: list[Tensor], grads: list[Tensor]) -> list[Grads]:
        return graph.regroup(
            torch.autograd.grad(outputs, graph.leaves, grads, retain_graph=True, allow_unused=True)
        )

    def _map(self, graph: _Graph, grads: list[Grads]) -> Tensor:
        """The signed map ``(batch, 1, *spatial)`` of a layer of one tensor."""
        maps = [
            (_grad_cam(own[0], call.activations[0]),)
            for own, call in zip(grads, graph.calls, strict=True)
        ]
        return self._gather(graph, maps)[0].detach()

    def _gather(self, graph: _Graph, values: Sequence[Grads]) -> Grads:
        """Adds up the calls on each device, then joins the devices along the batch."""
        sums: dict[torch.device, Grads] = {}
        for call, own in zip(graph.calls, values, strict=True):
            before = sums.get(call.device)
            sums[call.device] = (
                own if before is None else tuple(a + b for a, b in zip(before, own, strict=True))
            )
        device_ids = self.device_ids or getattr(self.forward_func, "device_ids", None)
        order = _sort_key_list(list(sums), device_ids)
        return tuple(
            torch.cat([sums[device][k].to(order[0]) for device in order])
            for k in range(len(sums[order[0]]))
        )


def _module_behind(forward_func: Callable[..., Any]) -> nn.Module | None:
    """The module whose parts forward_func calls, as far as that can be known."""
    if isinstance(forward_func, nn.Module):
        return forward_func
    owner = getattr(forward_func, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
