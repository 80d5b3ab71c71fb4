"""Explanations of single inputs: maps and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_quantum.attr import QuantumLayerGradCam
from captum_quantum.cli.output import percent
from captum_quantum.datasets import Dataset
from captum_quantum.models import HybridClassifier
from captum_quantum.visualization import Explanation, plot_explanations, save_figure


def gradcam_maps(model: HybridClassifier, inputs: Tensor, target: Tensor) -> Tensor:
    """Returns the maps of Captum's LayerGradCam at the backbone."""
    maps: Tensor = LayerGradCam(model, model.backbone).attribute(inputs, target)
    return maps.detach()


def qubit_influence(qubit_maps: Tensor) -> Tensor:
    """Returns each qubit's share of the evidence, for and against a class together.

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
    """Computes maps of one input for a class and its closest rival, and the shares of the qubits.

    Args:
        explainer (QuantumLayerGradCam): The attribution method.
        dataset (Dataset): The data set, for the names of the classes.
        single (Tensor): The input, shape ``(1, channels, height, width)``.
        title (str): The title of the image.
        target (int): The class to explain.
        probabilities (Tensor): The probabilities of the classes, shape ``(n_classes,)``.
        compare_with (HybridClassifier, optional): The model, if the map of Captum's LayerGradCam
            for the target should be added to compare with.

    Returns:
        Explanation: The maps. Its image is the mean of the input over the channels.
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


def draw(
    path: Path,
    explanations: Sequence[Explanation],
    dataset: Dataset,
    header: str,
    target: str,
    **titles: str,
) -> None:
    """Draws the explanations and saves the figure.

    Args:
        path (Path): The file.
        explanations (Sequence[Explanation]): The rows of the figure.
        dataset (Dataset): The data set, for the noun in the caption.
        header (str): The header of the column of images.
        target (str): Which class the first map explains, such as ``"this class"``.
        **titles (str): ``title`` and ``subtitle`` of the figure.
    """
    n_maps, n_qubits = len(explanations[0].maps), len(explanations[0].qubit_maps)
    headers = [
        header,
        f"QGrad-CAM: why\n{target}?",
        "QGrad-CAM: why\nthe closest rival?",
        *["Captum's LayerGradCam,\nto compare"] * (n_maps - 2),
        f"QGrad-CAM qubit by qubit:\nthe {n_qubits} maps add up to the first",
    ]
    caption = (
        "Red areas raise the score of the class named above the map, blue areas lower it; black "
        f"lines outline the {dataset.noun}.\nPercentages are the model's probabilities. The maps "
        "of a row share one color scale."
    )
    save_figure(plot_explanations(explanations, headers, caption=caption, **titles), path)
