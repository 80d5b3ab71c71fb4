"""Models: training, and reading of weights files."""

from pathlib import Path

import torch
from torch import Tensor

from captum_quantum import _checks, training
from captum_quantum.cli.options import Options
from captum_quantum.datasets import Dataset
from captum_quantum.models import HybridClassifier, load_model


def train(
    model: HybridClassifier, inputs: Tensor, labels: Tensor, options: Options, seed: int
) -> list[float]:
    """Trains a model on the device and stores seed and epochs in ``model.trained``.

    Returns:
        list[float]: The mean training loss of each epoch.
    """
    model.to(options.device)
    losses = training.fit(model, inputs, labels, **options.training, seed=seed, progress=True)
    model.trained = {"seed": seed, "epochs": options.training["epochs"]}
    return losses


def load_weights(path: Path, dataset: Dataset, device: str | torch.device) -> HybridClassifier:
    """Reads a weights file and checks that the model has as many classes as the data set."""
    model, n_classes = load_model(path, device=device), len(dataset.classes)
    if model.n_classes != n_classes:
        must = f"a model with {n_classes} classes, as {dataset.name} has"
        got = f"{str(path)!r}, a model with {model.n_classes}"
        raise ValueError(_checks.sentence("--weights", must, got))
    return model
