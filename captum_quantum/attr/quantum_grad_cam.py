"""QGrad-CAM with Captum's API."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat
from captum_quantum.attr._explainer import LayerExplainer
from captum_quantum.attr._maps import channel_weights, membership, one_at_a_time, weighted_sum
from captum_quantum.attr._recording import Grads, RecordedGraph
from captum_quantum.gradients import GradientPathError
from captum_quantum.gradients.interception import QuantumCall
from captum_quantum.quantum_layer import as_quantum_layer


class QuantumLayerGradCam(LayerExplainer):
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
        gradient (str, optional): The gradient rule for them: ``"adjoint"``, ``"backprop"``,
            ``"parameter-shift"``, ``"commutator"``, ``"finite-difference"`` or a registered one;
            :func:`captum_quantum.quantum_gradient` describes them. Default: each layer's own rule.
        path_steps (int, optional): Number m of points over which the importance is averaged, for a
            layer that is called once in a forward pass. Default: the activations alone, Grad-CAM.
        activation_transform (Callable, optional): Brings activations of another layout into
            ``(batch, channels, *spatial)`` before the map is made, such as a transformer's tokens
            ``(batch, tokens, dim)`` by :func:`captum_quantum.tokens_to_grid`, or ``(batch, height,
            width, dim)`` by ``lambda t: t.permute(0, 3, 1, 2)``. It selects and reorders entries:
            derivatives are taken by the layer's own tensors, and their entries move as those of the
            activations do. Applied to each tensor of the layer. Default: activations as they are.
        check (bool): Whether to run a quantum layer without a circuit at five values of each input,
            at random points, once in a call, to see whether ``"parameter-shift"`` fits it; twice
            more where it seems not to. On hardware, where every value costs, it can be switched
            off.

    Raises:
        TypeError: If forward_func or activation_transform is not callable, or a layer is not a
            module.
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
        >>> margin = grad_cam.attribute(images, target=lambda output: output[:, 3] - output[:, 0])
        >>> torch.allclose(margin, maps - grad_cam.attribute(images, target=0), atol=1e-6)
        True
    """

    def channel_weights(self, grad: Tensor, activation: Tensor) -> Tensor:
        """The weights by which activations are summed up: override this for another CAM.

        Args:
            grad (Tensor): The gradient of the score by the activations, shape
                ``(batch, channels, *spatial)``.
            activation (Tensor): The activations, of the same shape.

        Returns:
            Tensor: Shape ``(batch, channels, 1, ...)``, one weight for each channel, or that of the
            activations. For shares that add up to the map, it must be linear in the gradient.
        """
        return channel_weights(grad)

    @_compat.logged
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
            target (int, tuple, Tensor, list or Callable, optional): Which output is explained: an
                index for all examples, or one for each; tuples index outputs of several dimensions.
                Or a function of the output ``(batch, ...)`` that returns one value for each
                example, ``(batch,)``, differentiable: a margin, a log-probability, a region. None
                for an output of one number for each example.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.
            relu_attributions (bool): Whether to set negative values to zero.
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

        def maps_of(graph: RecordedGraph) -> Grads:
            gradients = self._gradients(graph, self._score(graph, target), kwargs)
            maps = []
            for grads, call in zip(gradients, graph.calls, strict=True):
                pairs = zip(grads, call.activations, strict=True)
                maps.append(tuple(self._map(*pair, attr_dim_summation) for pair in pairs))
            return graph.gather(maps, self._device_ids)

        given = inputs, additional_forward_args, attribute_to_layer_input
        maps = self._explained(maps_of, *given, cut=not kwargs.get("create_graph", False))
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
            inputs (Tensor or tuple[Tensor, ...]): The model's inputs, examples along dimension 0.
            target (int, tuple, Tensor, list or Callable, optional): Which output is explained: an
                index for all examples, or one for each; tuples index outputs of several dimensions.
                Or a function of the output ``(batch, ...)`` that returns one value for each
                example, ``(batch,)``, differentiable: a margin, a log-probability, a region. None
                for an output of one number for each example.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.

        Returns:
            Tensor: Shape ``(batch, channels)``.

        Raises:
            TypeError, ValueError: If an argument is wrong, the layer is never called, its calls
                give tensors of different shapes, or it has several tensors.
            GradientPathError: If no gradient reaches the layer; names the module that breaks it.
            GradientRuleError: If the gradient rule does not apply.
        """

        def weights_of(graph: RecordedGraph) -> Grads:
            self._check_single_tensor(graph)
            grads = self._gradients(graph, self._score(graph, target), {})
            weights = [(channel_weights(grad).flatten(1),) for (grad,) in grads]
            return graph.gather(weights, self._device_ids)

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
            inputs (Tensor or tuple[Tensor, ...]): The model's inputs, examples along dimension 0.
            targets (Sequence): Several targets, for example ``range(10)``, each an index for all
                examples, or one for each, or a function of the output ``(batch, ...)`` that returns
                one value for each example, ``(batch,)``, differentiable.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.
            relu_attributions (bool): Whether to set negative values to zero.

        Returns:
            Tensor: Shape ``(batch, len(targets), *spatial)``; one column equals
            ``attribute(inputs, target)``.

        Raises:
            TypeError, ValueError: If an argument is wrong, the layer is never called, its calls
                give tensors of different shapes, or it has several tensors.
            GradientPathError: If no gradient reaches the layer; names the module that breaks it.
            GradientRuleError: If the gradient rule does not apply.
        """
        if isinstance(targets, (str, Tensor)) or not isinstance(targets, Sequence):
            _checks.wrong_type("targets", "a sequence of targets", targets)
        if not targets:
            _checks.wrong_value("targets", "a sequence of at least one target", targets)

        def maps_of(graph: RecordedGraph) -> Grads:
            self._check_single_tensor(graph)
            scores = [self._score(graph, target) for target in targets]
            keep = {"retain_graph": True}
            maps = [
                self._joined_map(graph, self._gradients(graph, score, keep)) for score in scores
            ]
            return (torch.cat(maps, dim=1),)

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
            inputs (Tensor or tuple[Tensor, ...]): The model's inputs, examples along dimension 0.
            target (int, tuple, Tensor, list or Callable, optional): Which output is explained: an
                index for all examples, or one for each; tuples index outputs of several dimensions.
                Or a function of the output ``(batch, ...)`` that returns one value for each
                example, ``(batch,)``, differentiable: a margin, a log-probability, a region. None
                for an output of one number for each example.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.
            input_wires (Sequence[int], optional): For a quantum layer that shows no circuit, the
                qubit of each of its inputs. Default: input i belongs to qubit i.
            return_direct (bool): Whether to return the direct part too.

        Returns:
            Tensor or tuple[Tensor, Tensor]: Shares, shape ``(batch, n_qubits, *spatial)``, and with
            ``return_direct`` the direct part, shape ``(batch, 1, *spatial)``.

        Raises:
            TypeError, ValueError: If an argument is wrong, the layer is never called or has several
                tensors, there is no single quantum layer behind it, or the quantum layer's encoding
                has no angles on qubits, as amplitude encoding.
            GradientPathError: If no gradient reaches the layer; names the module that breaks it.
            GradientRuleError: If the gradient rule does not apply.
        """
        module = self._single_quantum_layer()
        layer = as_quantum_layer(module)
        circuit = None if layer is None else layer.circuit
        if circuit is not None and circuit.amplitude_encoding:
            must = "one whose inputs are angles on qubits: amplitude encoding has no qubit shares"
            _checks.wrong_value("quantum_layer", must, module)

        def parts(call: QuantumCall, cotangent: Tensor) -> Iterable[Tensor]:
            shares = membership(call.circuit, input_wires, cotangent)
            return [cotangent * share for share in shares]

        def shares_of(graph: RecordedGraph) -> Grads:
            return self._shares(graph, target, lambda call: call.angles, parts)

        given = inputs, additional_forward_args, attribute_to_layer_input
        shares, direct = self._explained(shares_of, *given, shares=True)
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

        With :math:`E_o` the quantum layer's expectation values, :math:`\partial y / \partial A =
        D + \sum_o (\partial y / \partial E_o) (\partial E_o / \partial A)`, where the direct part
        D takes all paths past the quantum layer. Observable o's map is Grad-CAM with its term
        alone. Shares and direct part add up to the signed map. Of a layer called several times,
        each path counts at its first call.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): The model's inputs, examples along dimension 0.
            target (int, tuple, Tensor, list or Callable, optional): Which output is explained: an
                index for all examples, or one for each; tuples index outputs of several dimensions.
                Or a function of the output ``(batch, ...)`` that returns one value for each
                example, ``(batch,)``, differentiable: a margin, a log-probability, a region. None
                for an output of one number for each example.
            additional_forward_args (Any, optional): Further arguments of forward_func.
            attribute_to_layer_input (bool): Whether to explain the layer's input instead of its
                output.
            return_direct (bool): Whether to return the direct part too.

        Returns:
            Tensor or tuple[Tensor, Tensor]: Shares, shape ``(batch, n_observables, *spatial)``, and
            with ``return_direct`` the direct part, shape ``(batch, 1, *spatial)``.

        Raises:
            TypeError, ValueError: If an argument is wrong, the layer is never called or has several
                tensors, or there is no single quantum layer behind it.
            GradientPathError: If no gradient reaches the layer; names the module that breaks it.
            GradientRuleError: If the gradient rule does not apply.
        """
        by_last_dim = as_quantum_layer(self._single_quantum_layer()) is not None

        def shares_of(graph: RecordedGraph) -> Grads:
            def parts(call: QuantumCall, cotangent: Tensor) -> Iterable[Tensor]:
                return one_at_a_time(cotangent, by_last_dim)

            return self._shares(graph, target, lambda call: call.outputs, parts)

        given = inputs, additional_forward_args, attribute_to_layer_input
        shares, direct = self._explained(shares_of, *given, shares=True)
        return (shares, direct) if return_direct else shares

    def _shares(
        self,
        graph: RecordedGraph,
        target: Any,
        cut: Callable[[QuantumCall], Tensor],
        parts: Callable[[QuantumCall, Tensor], Iterable[Tensor]],
    ) -> Grads:
        """The shares of the map that pass parts of a tensor of every quantum call, and the rest.

        Args:
            graph (RecordedGraph): The recorded forward pass.
            target (Any): The target.
            cut (Callable): From a quantum call to the tensor at which paths are told apart.
            parts (Callable): From a call and that tensor's cotangent to the parts that it is split
                into.

        Returns:
            tuple[Tensor, Tensor]: ``(batch, n_parts, *spatial)`` and ``(batch, 1, *spatial)``.
        """
        score = self._quantum_score(graph, target)
        tensors = [cut(call) for call in graph.quantum_calls]
        cotangents = torch.autograd.grad(
            score, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        # From here on gradients pass only one quantum call: every path counts at its first one.
        for call in graph.quantum_calls:
            call.let_gradients_pass(False)
        shares: list[Tensor] = []
        for call, tensor, cotangent in zip(graph.quantum_calls, tensors, cotangents, strict=True):
            call.let_gradients_pass(True)
            maps = [self._part(graph, tensor, part) for part in parts(call, cotangent)]
            call.let_gradients_pass(False)
            shares.append(torch.cat(maps, dim=1))
        total = shares[0] if len(shares) == 1 else torch.stack(shares).sum(dim=0)
        return total, self._part(graph, score, torch.ones_like(score))

    def _part(self, graph: RecordedGraph, output: Tensor, cotangent: Tensor) -> Tensor:
        grads = graph.gradients([output], [cotangent], retain_graph=True)
        return self._joined_map(graph, grads)

    def _single_quantum_layer(self) -> nn.Module:
        if len(self.quantum_layers) != 1:
            got = f"{len(self.quantum_layers)} quantum layers"
            _checks.refuse("quantum_layer", "given, or the only one of forward_func", got)
        return self.quantum_layers[0]

    def _quantum_score(self, graph: RecordedGraph, target: Any) -> Tensor:
        self._check_single_tensor(graph)
        score = self._score(graph, target).sum()
        if not score.requires_grad:
            raise GradientPathError
        if not graph.quantum_calls:
            must = "behind the layer, where a gradient passes it"
            _checks.wrong_value("quantum_layer", must, self.quantum_layers[0])
        return score

    def _gradients(
        self, graph: RecordedGraph, score: Tensor, kwargs: dict[str, Any]
    ) -> list[Grads]:
        """Gradients of the score by the layer's tensors, call by call."""
        if not score.requires_grad:
            raise GradientPathError
        outputs: Any = torch.unbind(score) if "grad_outputs" in kwargs else score.sum()
        return graph.gradients(outputs, needed=True, **kwargs)

    def _map(self, grad: Tensor, activation: Tensor, sum_channels: bool = True) -> Tensor:
        weights = self.channel_weights(grad, activation)
        return weighted_sum(weights, activation) if sum_channels else weights * activation

    def _joined_map(self, graph: RecordedGraph, grads: list[Grads]) -> Tensor:
        """The signed map ``(batch, 1, *spatial)`` of a layer of one tensor."""
        maps = [
            (self._map(grad, call.activations[0]),)
            for (grad,), call in zip(grads, graph.calls, strict=True)
        ]
        return graph.gather(maps, self._device_ids)[0].detach()

    @property
    def _device_ids(self) -> list[int] | None:
        return self.device_ids or getattr(self.forward_func, "device_ids", None)
