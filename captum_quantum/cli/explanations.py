"""Maps that explain single inputs, for the demo and for a user's own file."""

from typing import cast

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_quantum.attr import QuantumLayerGradCam
from captum_quantum.cli.output import percent
from captum_quantum.datasets import Dataset
from captum_quantum.models import HybridClassifier
from captum_quantum.visualization import Explanation


def caption(dataset: Dataset, scale: str) -> str:
    """Words how to read a figure; ``scale`` says which maps share one color scale."""
    return (
        "Red areas raise the score of the class named above the map, blue areas lower it; black "
        f"lines outline the {dataset.noun}.\nPercentages are the model's probabilities. {scale}"
    )


def gradcam_maps(model: HybridClassifier, inputs: Tensor, target: Tensor) -> Tensor:
    """Returns the maps of Captum's LayerGradCam at the backbone."""
    maps: Tensor = LayerGradCam(model, model.backbone).attribute(inputs, target)
    return maps.detach()


def qubit_influence(qubit_maps: Tensor) -> Tensor:
    """Returns each qubit's share of all evidence, for or against.

    Args:
        qubit_maps (Tensor): Shape ``(batch, n_qubits, ...)``.

    Returns:
        Tensor: Shape ``(batch, n_qubits)``, rows that sum to 1.
    """
    strength = qubit_maps.abs().flatten(2).sum(dim=2)
    return strength / strength.sum(dim=1, keepdim=True).clamp_min(1e-30)


def closest_rival(probabilities: Tensor, target: int) -> int:
    """Returns the most probable class other than the target."""
    order: list[int] = probabilities.argsort(descending=True).tolist()
    return next(c for c in order if c != target)


def explain_input(
    explainer: QuantumLayerGradCam,
    dataset: Dataset,
    single: Tensor,
    title: str,
    target: int,
    probabilities: Tensor,
    compare_with: HybridClassifier | None = None,
) -> Explanation:
    """Computes the maps of one input for a class and its closest rival, and the qubits' shares.

    Args:
        explainer (QuantumLayerGradCam): The method.
        dataset (Dataset): Names the classes.
        single (Tensor): The input, shape ``(1, channels, height, width)``.
        title (str): What stands above the image.
        target (int): The class to explain.
        probabilities (Tensor): Of the classes, shape ``(n_classes,)``.
        compare_with (HybridClassifier, optional): A model whose map for the target by Captum's
            LayerGradCam is added as the last one.

    Returns:
        Explanation: The image is the mean over the channels.
    """
    names = [*dataset.classes]
    targets = [target, closest_rival(probabilities, target)]
    maps = explainer.attribute_classes(single, targets)
    titles = [f"why {names[t]}?   ({percent(probabilities[t])})" for t in targets]
    if compare_with is not None:
        first = torch.tensor([target], device=single.device)
        maps = torch.cat([maps, gradcam_maps(compare_with, single, first)], dim=1)
        titles.append(f"why {names[target]}?")
    shares = cast("Tensor", explainer.attribute_qubits(single, target))
    return Explanation(single[0].mean(dim=0), title, maps[0], titles, shares[0])
