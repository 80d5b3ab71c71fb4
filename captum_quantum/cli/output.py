"""What the commands show and write: explanations, versions and device, percentages, text."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_quantum import _versions, attr, datasets, models, visualization

WEIGHTS = "weights.safetensors"


def environment(device: torch.device) -> dict[str, Any]:
    """Returns device, number of threads and versions of packages, as they are now."""
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": _versions.versions(),
    }


def percent(share: Tensor | float) -> str:
    """Formats a share in [0, 1] as a percentage."""
    value = 100 * float(share)
    return "< 0.1 %" if 0 < value < 0.1 else f"{value:.1f} %"


def say(text: str) -> None:
    """Prints a text; characters that the terminal cannot show become question marks."""
    try:
        print(text)
    except UnicodeEncodeError:
        print(text.encode("ascii", "replace").decode())


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
    model: models.HybridClassifier,
    dataset: datasets.Dataset,
    single: Tensor,
    title: str,
    target: int,
    probabilities: Tensor,
    *,
    captum: bool = False,
) -> visualization.Explanation:
    """Computes maps of one input for a class and its closest rival, and the shares of the qubits.

    Args:
        model (HybridClassifier): The model.
        dataset (Dataset): The data set, for the names of the classes.
        single (Tensor): The input, shape ``(1, channels, height, width)``.
        title (str): The title of the image.
        target (int): The class to explain.
        probabilities (Tensor): The probabilities of the classes, shape ``(n_classes,)``.
        captum (bool): Whether to add the map of Captum's LayerGradCam for the target.

    Returns:
        Explanation: The maps. Its image is the mean of the input over the channels.
    """
    explainer, names = attr.QuantumLayerGradCam(model, model.backbone), [*dataset.classes]
    targets = [target, closest_rival(probabilities, target)]
    maps = explainer.attribute_classes(single, targets)
    titles = [f"why {names[t]}?   ({percent(probabilities[t])})" for t in targets]
    if captum:
        captum_map = LayerGradCam(model, model.backbone).attribute(single, target).detach()
        maps = torch.cat([maps, captum_map], dim=1)
        titles.append(f"why {names[target]}?")
    shares = cast("Tensor", explainer.attribute_qubits(single, target))
    return visualization.Explanation(single[0].mean(dim=0), title, maps[0], titles, shares[0])


def draw(
    path: Path,
    rows: Sequence[visualization.Explanation],
    noun: str,
    header: str,
    target: str,
    **titles: str,
) -> None:
    """Draws explanations and writes the figure.

    Args:
        path (Path): The PNG file.
        rows (Sequence[Explanation]): The rows of the figure.
        noun (str): What the inputs show, for the caption.
        header (str): The header of the column of images.
        target (str): Which class the first map explains, such as ``"this class"``.
        **titles (str): ``title`` and ``subtitle`` of the figure.
    """
    n_maps, n_qubits = len(rows[0].maps), len(rows[0].qubit_maps)
    headers = [
        header,
        f"QGrad-CAM: why\n{target}?",
        "QGrad-CAM: why\nthe closest rival?",
        *["Captum's LayerGradCam,\nto compare"] * (n_maps - 2),
        f"QGrad-CAM qubit by qubit:\nthe {n_qubits} maps add up to the first",
    ]
    caption = (
        "Red areas raise the score of the class named above the map, blue areas lower it; black "
        f"lines outline the {noun}.\nPercentages are the model's probabilities. The maps of a row "
        "share one color scale."
    )
    figure = visualization.plot_explanations(rows, headers, caption=caption, **titles)
    visualization.save_figure(figure, path)
