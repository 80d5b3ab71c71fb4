"""Hybrid classifiers: backbone, reduction to angles, variational quantum circuit, linear layer."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks


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
    ``QuantumLayerGradCam(model, model.backbone)``.

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
        for name, module in (("backbone", backbone), ("vqc", vqc)):
            if not isinstance(module, nn.Module):
                _checks.wrong_type(name, "an nn.Module", module)
        _checks.check_int("n_features", n_features, 1)
        _checks.check_int("n_classes", n_classes, 1)
        n_inputs = _size(vqc, "n_inputs", n_inputs)
        n_observables = _size(vqc, "n_observables", n_observables)
        self.backbone = backbone
        self.pool = GlobalAveragePool()
        self.reduction = nn.Linear(n_features, n_inputs)
        self.angles = HalfPiTanh()
        self.vqc = vqc
        self.head = nn.Linear(n_observables, n_classes)
        self.config: dict[str, Any] | None = None
        self.trained: dict[str, int] | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

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


def _size(vqc: nn.Module, name: str, given: int | None) -> int:
    """Returns the given number, or else the circuit's attribute of that name."""
    if given is None:
        given = getattr(vqc, name, None)
    if given is None:
        _checks.refuse(name, f"given for a vqc that has no attribute {name!r}", "None")
    return _checks.check_int(name, given, 1)
