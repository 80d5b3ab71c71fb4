"""Maps of one image, and of many, for the demo and for one's own image."""

from typing import TYPE_CHECKING, cast

from captum_quantum.cli.output import percent

if TYPE_CHECKING:
    from torch import Tensor

    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.models import HybridClassifier
    from captum_quantum.visualization import Explanation

READING = (
    "Red areas raise the score of the class named above the map, blue areas lower it; black lines "
    "outline the digit."
)


def gradcam_maps(model: "HybridClassifier", images: "Tensor", target: "Tensor") -> "Tensor":
    """Maps of Captum's LayerGradCam at the backbone."""
    from captum.attr import LayerGradCam

    maps: Tensor = LayerGradCam(model, model.backbone).attribute(images, target)
    return maps.detach()


def maps_of_qubits(
    explainer: "QuantumLayerGradCam", images: "Tensor", target: "Tensor | int"
) -> "Tensor":
    """The qubits' shares of the maps: ``(batch, n_qubits, height, width)``."""
    return cast("Tensor", explainer.attribute_qubits(images, target))


def qubit_influence(qubit_maps: "Tensor") -> "Tensor":
    """Each qubit's share of all evidence, for or against: ``(batch, n_qubits)``, sums of 1."""
    strength = qubit_maps.abs().flatten(2).sum(dim=2)
    return strength / strength.sum(dim=1, keepdim=True).clamp_min(1e-30)


def explain_image(
    explainer: "QuantumLayerGradCam",
    image: "Tensor",
    title: str,
    targets: list[int],
    probabilities: "Tensor",
    compare_with: "HybridClassifier | None" = None,
) -> "Explanation":
    """Maps of one image for several classes, and the qubits' shares of the first.

    With a model to compare with, Captum's map of the first class comes last.
    """
    import torch

    from captum_quantum.visualization import Explanation

    maps = explainer.attribute_classes(image, targets)
    titles = [f"why {t}?   ({percent(probabilities[t])})" for t in targets]
    if compare_with is not None:
        first = torch.tensor(targets[:1], device=image.device)
        maps = torch.cat([maps, gradcam_maps(compare_with, image, first)], dim=1)
        titles.append(f"why {targets[0]}?")
    shares = maps_of_qubits(explainer, image, targets[0])
    return Explanation(image[0, 0], title, maps[0], titles, shares[0])


def closest_rival(probabilities: "Tensor", target: int) -> int:
    """The most probable class other than the target."""
    order: list[int] = probabilities.argsort(descending=True).tolist()
    return next(c for c in order if c != target)
