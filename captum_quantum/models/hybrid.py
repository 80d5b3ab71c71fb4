"""Hybrid classifiers: backbone, reduction to angles, variational quantum circuit, linear layer."""

import copy
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum._state import (
    buffers_kept,
    evaluation_mode,
    full_precision,
    random_state_kept,
)


class GlobalAveragePool(nn.Module):
    """Averages every feature map: ``(batch, channels, *spatial)`` to ``(batch, channels)``."""

    def forward(self, maps: Tensor) -> Tensor:
        """Means over all dimensions after the second.

        Args:
            maps (Tensor): Shape ``(batch, channels, *spatial)``; without spatial dimensions it
                passes unchanged.

        Returns:
            Tensor: Shape ``(batch, channels)``.
        """
        if maps.dim() < 3:
            return maps
        pixels = maps.flatten(2)
        # The gradient of mean is a tensor of all pixels; that of sum is one number, expanded.
        return pixels.sum(2) / pixels.shape[2]


class HalfPiTanh(nn.Module):
    r"""Maps features to angles: :math:`x \mapsto \frac{\pi}{2} \tanh x`, any shape, radians.

    In an interval of length pi different angles encode different states.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Maps features to angles.

        Args:
            features (Tensor): Any shape.

        Returns:
            Tensor: Angles in radians, of the same shape.
        """
        return math.pi / 2 * torch.tanh(features)


class HybridClassifier(nn.Module):
    r"""A classifier whose decision passes through a quantum circuit.

    With feature maps :math:`A^k` from the backbone, the logits are

    .. math::
        z = W_h \, V\!\left(\tfrac{\pi}{2} \tanh(W_r \bar A + b_r)\right) + b_h, \qquad
        \bar A_k = \frac{1}{|S|} \sum_{s \in S} A^k_s

    with V the circuit's expectation values and S the spatial positions. The feature maps are
    averaged, not flattened, because the channel weights of Grad-CAM are averages of gradients over
    positions. They describe a model completely if it depends on the averages alone; otherwise many
    maps are empty. The layer to explain is the backbone:
    ``QuantumLayerGradCam(model, model.backbone)``. `from_backbone` replaces the last linear layer
    of a whole classification network; the layer to explain is then ``model.cam_layer``.

    Args:
        backbone (nn.Module): ``(batch, ...)`` to feature maps ``(batch, n_features, *spatial)``
            with any number of spatial dimensions, or none.
        vqc (nn.Module): Angles ``(batch, n_inputs)`` in radians to ``(batch, n_observables)``: a
            `VQCLayer` or any other module.
        n_features (int): Number of feature maps.
        n_classes (int): Number of classes.
        n_inputs (int, optional): Number of angles. Default: ``vqc.n_inputs``.
        n_observables (int, optional): Number of the circuit's outputs. Default:
            ``vqc.n_observables``.

    Shape:
        - Input: that of the backbone, ``(batch, ...)``.
        - Output: ``(batch, n_classes)``, logits, in the backbone's dtype.

    Attributes:
        backbone (nn.Module): Images to feature maps; the layer to explain.
        pool (GlobalAveragePool): Feature maps to their averages, ``(batch, n_features)``.
        reduction (nn.Linear): Averages to ``(batch, n_inputs)``.
        angles (HalfPiTanh): Reduced features to the angles ``(batch, n_inputs)`` in radians that
            the circuit encodes.
        vqc (nn.Module): The quantum circuit.
        head (nn.Linear): Expectation values to logits.
        config (dict, optional): The arguments of `digits_model`; None for other models.
        trained (dict, optional): How the model was trained, such as ``{"seed": 0, "epochs": 40}``.
            `fit` does not set it; `save_model` saves it. Default: None.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of range, or is missing because ``vqc`` has no such
            attribute.

    References:
        arXiv:2306.03741 for a classical backbone before a circuit, arXiv:2408.05899 for the map.

    Examples:
        >>> import torch
        >>> from captum_quantum import HybridClassifier, VQCLayer
        >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU())
        >>> model = HybridClassifier(backbone, VQCLayer(4), n_features=16, n_classes=2)
        >>> model(torch.rand(5, 3, 12, 12)).shape
        torch.Size([5, 2])
    """

    # The layer to explain, as a name in the backbone ("" is the backbone itself); or why none is.
    _cam_layer = ""
    _no_cam_layer = ""

    def __init__(
        self,
        backbone: nn.Module,
        vqc: nn.Module,
        n_features: int,
        n_classes: int,
        *,
        n_inputs: int | None = None,
        n_observables: int | None = None,
    ) -> None:
        super().__init__()
        n_inputs, n_observables = _check(backbone, vqc, n_classes, n_inputs, n_observables)
        _checks.check_int("n_features", n_features, 1)
        self.backbone = backbone
        self.pool = GlobalAveragePool()
        self.reduction = nn.Linear(n_features, n_inputs)
        self.angles = HalfPiTanh()
        self.vqc = vqc
        self.head = nn.Linear(n_observables, n_classes)
        self.config: dict[str, Any] | None = None
        self.trained: dict[str, int] | None = None

    @classmethod
    def from_backbone(
        cls,
        backbone: nn.Module,
        vqc: nn.Module,
        n_classes: int,
        *,
        example: Tensor | None = None,
        layer: str | None = None,
        freeze: bool = False,
        n_inputs: int | None = None,
        n_observables: int | None = None,
    ) -> "HybridClassifier":
        r"""Makes a hybrid classifier of a classification network, such as torchvision's.

        If the network's output is that of an ``nn.Linear``, this layer is removed: the features
        that it got, ``(batch, n_features)``, go through reduction, angles, circuit and head.
        Any other network is kept whole: its output, features ``(batch, n_features)`` or feature
        maps ``(batch, n_features, *spatial)``, goes there. To keep a last ``nn.Linear``, use the
        constructor.

        The network is copied by `copy.deepcopy`; it does not change. The copy runs once on an
        example, in evaluation mode, which tells the last layer and the one to explain; modes,
        buffers and random numbers are then restored. The circuit is not copied.

        GoogLeNet and Inception v3 need ``aux_logits=False``: they return tuples in training.

        Args:
            backbone (nn.Module): ``(batch, ...)`` to class scores, features ``(batch, n_features)``
                or feature maps ``(batch, n_features, *spatial)``.
            vqc (nn.Module): Angles ``(batch, n_inputs)`` in radians to ``(batch, n_observables)``:
                a `VQCLayer` or any other module.
            n_classes (int): Number of classes; of outputs for regression.
            example (Tensor, optional): A batch that the backbone takes; moved to its device.
                Where the last maps are a single position, earlier ones are explained: take inputs
                of their usual size. Default: two black RGB images of 224 x 224 pixels.
            layer (str, optional): The name of the layer to explain in
                ``backbone.named_modules()``. Default: that of the last feature maps, which
                `cam_layer` describes.
            freeze (bool): Whether the backbone's parameters do not require gradients and it is in
                evaluation mode. `fit` keeps it there, statistics of BatchNorm included; in a loop
                of your own call ``model.backbone.eval()`` after ``model.train()``.
            n_inputs (int, optional): Number of angles. Default: ``vqc.n_inputs``.
            n_observables (int, optional): Number of the circuit's outputs. Default:
                ``vqc.n_observables``.

        Returns:
            HybridClassifier: The model; reduction and head have new weights, on the backbone's
            device and in its dtype.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If a number is out of range or missing, the backbone does not take the
                example, its output has another shape or is a softmax, or there is no such layer.

        Examples:
            >>> import torch
            >>> from torchvision.models import resnet18
            >>> from captum_quantum import HybridClassifier, QuantumLayerGradCam, VQCLayer
            >>> model = HybridClassifier.from_backbone(resnet18(), VQCLayer(4), 2).eval()
            >>> model.reduction
            Linear(in_features=512, out_features=4, bias=True)
            >>> model.cam_layer is model.backbone.layer4
            True
            >>> images = torch.rand(2, 3, 64, 64)
            >>> QuantumLayerGradCam(model, model.cam_layer).attribute(images, target=1).shape
            torch.Size([2, 1, 2, 2])
        """
        sizes = _check(backbone, vqc, n_classes, n_inputs, n_observables)
        if any(isinstance(module, torch.jit.ScriptModule) for module in backbone.modules()):
            _checks.wrong_type("backbone", "without scripted modules", backbone)
        if layer is not None:
            _check_layer(backbone, layer)
        if not isinstance(freeze, bool):
            _checks.wrong_type("freeze", "True or False", freeze)
        if example is not None and (not isinstance(example, Tensor) or example.dim() == 0):
            _checks.wrong_type("example", "a tensor, a batch of inputs of the backbone", example)
        backbone = copy.deepcopy(backbone)
        calls = _run(backbone, example)
        n_features = calls[-1].output.shape[1]
        classifier = _find_classifier(calls)
        if classifier is not None:
            n_features = classifier.in_features
            backbone = _without(backbone, classifier)
        cam_layer, no_cam_layer = _find_cam_layer(calls, n_features, layer)
        if freeze:
            backbone.requires_grad_(False).eval()
        model = cls(backbone, vqc, n_features, n_classes, n_inputs=sizes[0], n_observables=sizes[1])
        for new in (model.reduction, model.head):
            new.to(calls[-1].output)
        model._cam_layer, model._no_cam_layer = cam_layer, no_cam_layer
        return model

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

    @property
    def cam_layer(self) -> nn.Module:
        """The layer to explain: ``QuantumLayerGradCam(model, model.cam_layer)``.

        The backbone, for models of the constructor. For those of `from_backbone` the given
        ``layer``, or else the last feature maps ``(batch, channels, *spatial)``: of the backbone's
        modules that run once in a pass and have such an output with more than one position, the one
        that ends last. Adaptive poolings are no candidates, as they belong to the classifier.

        Transformers whose last activations are ``(batch, tokens, dim)`` need a ``layer``, for
        example ``"encoder.layers.encoder_layer_11.ln_1"`` for torchvision's ``vit_b_16``, and
        `QuantumLayerGradCam` ``activation_transform=tokens_to_grid()``.

        Raises:
            ValueError: If the example's run has shown no feature maps.
        """
        if self._no_cam_layer:
            must = (
                "given to from_backbone, the name of the module to explain, as the backbone has no "
                "last feature maps (batch, channels, *spatial) (for tokens, see tokens_to_grid)"
            )
            _checks.refuse("layer", must, self._no_cam_layer)
        return self.backbone.get_submodule(self._cam_layer)

    def encode(self, inputs: Tensor) -> Tensor:
        """Computes the angles that the circuit encodes.

        Args:
            inputs (Tensor): What the backbone takes, ``(batch, ...)``.

        Returns:
            Tensor: Shape ``(batch, n_inputs)``, radians.
        """
        angles: Tensor = self.angles(self.reduction(self.pool(self.backbone(inputs))))
        return angles

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            inputs (Tensor): What the backbone takes, ``(batch, ...)``.

        Returns:
            Tensor: Logits, shape ``(batch, n_classes)``.
        """
        logits: Tensor = self.head(self.vqc(self.encode(inputs)))
        return logits


def _check(
    backbone: nn.Module,
    vqc: nn.Module,
    n_classes: int,
    n_inputs: int | None,
    n_observables: int | None,
) -> tuple[int, int]:
    """Checks the arguments of both constructors; returns the circuit's numbers."""
    for name, module in (("backbone", backbone), ("vqc", vqc)):
        if not isinstance(module, nn.Module):
            _checks.wrong_type(name, "an nn.Module", module)
    _checks.check_int("n_classes", n_classes, 1)
    return _size(vqc, "n_inputs", n_inputs), _size(vqc, "n_observables", n_observables)


def _size(vqc: nn.Module, name: str, given: int | None) -> int:
    """Returns the given number, or else the circuit's attribute of that name."""
    if given is None:
        given = getattr(vqc, name, None)
    if given is None:
        _checks.refuse(name, f"given for a vqc that has no attribute {name!r}", "None")
    return _checks.check_int(name, given, 1)


_ADAPTIVE = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """What one call of a module returned; ``version`` tells whether it was changed in place."""

    name: str
    module: nn.Module
    output: Tensor
    version: int


def _check_layer(backbone: nn.Module, layer: str) -> None:
    must = "the name of one of the backbone's modules"
    if not isinstance(layer, str):
        _checks.wrong_type("layer", must, layer)
    names = [name for name, _ in backbone.named_modules()]
    if layer not in names:
        got = _checks.describe(layer) + _checks.near_miss(layer, names)
        _checks.refuse("layer", must, got)


def _run(backbone: nn.Module, example: Tensor | None) -> list[_Call]:
    """Runs a backbone once; returns the calls of its modules in the order in which they end."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    place = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    example = place.new_zeros(2, 3, 224, 224) if example is None else example.to(place.device)
    calls: list[_Call] = []
    compiled: list[bool] = []

    def record(name: str, module: nn.Module, _: Any, output: Any) -> None:
        compiled.append(torch.compiler.is_compiling())
        if isinstance(output, Tensor):
            calls.append(_Call(name, module, output, output._version))

    modules = list(backbone.named_modules())
    handles = [m.register_forward_hook(partial(record, name)) for name, m in modules]
    try:
        with (
            torch.no_grad(),
            full_precision(place.device),
            evaluation_mode(backbone),
            buffers_kept(backbone),
            random_state_kept(place.device),
        ):
            output = backbone(example)
    # The user's own forward runs here: there is no list of what it may raise for inputs that do not
    # fit. Whatever it is stays the cause of an error that names the argument.
    except Exception as error:
        must = "a batch of inputs that the backbone takes (see the error above)"
        raise ValueError(_checks.sentence("example", must, _checks.describe(example))) from error
    finally:
        for handle in handles:
            handle.remove()
    shown = isinstance(output, Tensor) and output.dim() >= 2 and len(output) == len(example)
    if not shown or 0 in output.shape:
        must = "of shape (batch, n_features) or (batch, n_features, *spatial), not empty"
        _checks.wrong_value("backbone's output", must, output)
    _checks.check_real("backbone's output", output)
    if any(compiled):  # the layers' outputs are then not the tensors that the backbone returns
        must = "without compiled modules (compile the hybrid model instead)"
        _checks.wrong_value("backbone", must, backbone)
    return calls


def _find_classifier(calls: list[_Call]) -> nn.Linear | None:
    """Finds the linear layer whose output is the backbone's."""
    output = calls[-1].output
    for call in calls:
        linear, same = call.module, call.output is output and call.version == output._version
        if isinstance(linear, nn.Linear) and same:
            if output.dim() != 2:
                must = "of shape (batch, n_classes) where the last module is nn.Linear"
                _checks.wrong_value("backbone's output", must, output)
            if sum(other.module is linear for other in calls) > 1:
                must = f"a module that calls its last layer, {call.name!r}, once"
                _checks.refuse("backbone", must, "several calls")
            return linear
    if output.dim() == 2 and output.shape[1] > 1:
        values = output.double()
        sums = (values if bool((values >= 0).all()) else values.exp()).sum(1)
        if torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-3):
            must = "class scores or features, without the softmax at the end"
            _checks.refuse("backbone's output", must, "values that sum to 1")
    return None


def _without(backbone: nn.Module, classifier: nn.Linear) -> nn.Module:
    """Replaces a layer by the identity everywhere in a backbone."""
    if backbone is classifier:
        return nn.Identity()
    for name, module in list(backbone.named_modules(remove_duplicate=False)):
        if module is classifier:
            backbone.set_submodule(name, nn.Identity())
    return backbone


def _find_cam_layer(calls: list[_Call], n_features: int, layer: str | None) -> tuple[str, str]:
    """Returns the name of the layer to explain, or else what there is instead of maps."""
    times = Counter(call.name for call in calls)
    batch = len(calls[-1].output)
    outputs = [call for call in calls if call.output.dim() > 2 and len(call.output) == batch]
    if layer is not None:
        if times[layer] != 1 or layer not in [call.name for call in outputs]:
            must = "a module that runs once in a pass, with an output of at least 3 dimensions"
            _checks.wrong_value("layer", must, layer)
        return layer, ""
    maps = [
        call
        for call in outputs
        if times[call.name] == 1
        and max(call.output.shape[2:]) > 1
        and not isinstance(call.module, _ADAPTIVE)
    ]
    if not maps:
        return "", "a backbone without maps of more than one position on the example"
    last = maps[-1]
    shape = tuple(last.output.shape)
    # Not by isinstance: torchvision's LayerNorm2d is a LayerNorm of channels in front.
    by_token = {id(call.output) for call in calls if type(call.module) in (nn.LayerNorm, nn.Linear)}
    if id(last.output) in by_token or shape[-1] == n_features != shape[1]:
        return "", f"activations of shape {shape} of {last.name!r}, whose channels are last"
    return last.name, ""
