"""What the models of an evaluation are: accuracy, size, and what is quantum about each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from captum_quantum import _state, models, training
from captum_quantum.interactions import sampled_interactions
from captum_quantum.layer import VQCLayer

_ROWS = {
    "accuracy": "test examples recognized, %",
    "n_parameters_of_the_circuit": "parameters of the circuit or its stand-in",
    "single_angle_share": "variance of the scores in single angles, %",
    "single_angle_share_uniform": "the same for angles that are uniform on the circle, %",
    "accuracy_without_entangling_gates": "recognized without entangling gates, %",
    "accuracy_with_a_new_head": "the same, with the linear layer trained anew, %",
}


def describe(model: models.HybridClassifier, data: Sequence[Tensor]) -> dict[str, Any]:
    """Measures a trained model.

    Args:
        model (HybridClassifier): The model.
        data (Sequence[Tensor]): Training inputs and labels, test inputs and labels.

    Returns:
        dict[str, Any]: Accuracy, numbers of parameters, and the share of the variance of the scores
        that is in single angles, for independent angles distributed as on the test set. For a
        circuit also this share for angles that are uniform on the circle, and what
        `captum_quantum.training.entanglement_test` finds. What is not defined is left out: shares
        of angles under amplitude encoding, the test where modules compute angles.
    """
    found: dict[str, Any] = {
        "accuracy": training.accuracy(model, data[2], data[3]),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_parameters_of_the_circuit": sum(p.numel() for p in model.vqc.parameters()),
    }
    vqc = model.vqc if isinstance(model.vqc, VQCLayer) else None
    if (share := single_angle_share(model, data[2])) is not None:
        found["single_angle_share"] = share
        if vqc is not None:
            found["single_angle_share_uniform"] = vqc.interactions(head=model.head).single
    if vqc is not None and not vqc.circuit.is_computed:
        train, test = (data[0], data[1]), (data[2], data[3])
        without = training.entanglement_test(model, train, test)
        found["accuracy_without_entangling_gates"] = without.removed
        found["accuracy_with_a_new_head"] = without.refitted
    return found


def single_angle_share(model: models.HybridClassifier, inputs: Tensor) -> float | None:
    """The share of the variance of a model's scores that is in single angles.

    None for a circuit whose inputs are amplitudes.

    Args:
        model (HybridClassifier): The model.
        inputs (Tensor): Shape ``(n, ...)``. The angles are independent of each other, each
            distributed as for these inputs.
    """
    if isinstance(model.vqc, VQCLayer) and model.vqc.circuit.amplitude_encoding:
        return None
    device = next(model.parameters()).device
    with torch.no_grad(), _state.evaluation_mode(model):
        angles = torch.cat([model.encode(part.to(device)) for part in inputs.split(256)])
        if isinstance(model.vqc, VQCLayer):
            return model.vqc.interactions(angles, model.head).single
        scores = nn.Sequential(model.vqc, model.head)
        return sampled_interactions(scores, angles, n_samples=20_000).single


def table(tested: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Formats what the models are as a table in Markdown.

    Args:
        tested (Sequence[Mapping]): For each seed, by the model's name, what `describe` returns.
    """
    rows = []
    for key, text in _ROWS.items():
        row = [text]
        for name in tested[0]:
            values = np.array([seed[name].get(key, np.nan) for seed in tested], dtype=float)
            row.append(_cell(values * (1 if key.startswith("n_") else 100), key))
        rows.append(row)
    return tabulate(rows, ["", *tested[0]], "github", disable_numparse=True)


def _cell(values: np.ndarray[Any, np.dtype[np.float64]], key: str) -> str:
    if np.isnan(values).any():
        return "-"
    if key.startswith("n_"):
        return f"{values[0]:.0f}"
    decimals = 0 if key.startswith("single") else 1  # some are estimates
    mean = f"{values.mean():.{decimals}f}"
    return f"{mean} ± {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else mean
