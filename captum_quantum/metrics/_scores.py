"""What faithfulness shares: scores and probabilities of the model, and baselines."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode
from captum_quantum._targets import TargetFunction, of_examples, read_classes, target_scores
from captum_quantum.metrics._maps import check_callable, gaussian_blur

Model = Callable[[Tensor], Tensor]
Probability = Callable[[Tensor], Tensor]
Baseline = float | Tensor | Literal["blur"]

# The blur of RISE, arXiv:1806.07421: 11 x 11 pixels, standard deviation 5.
_BLUR_SIGMA, _BLUR_RADIUS = 5.0, 5


class Probabilities(NamedTuple):
    """Probabilities of the target and of all other classes: 1 - p without cancellation.

    For a target that is a function its values, and 1 minus its values.

    Attributes:
        target (Tensor): Shape ``(batch,)``.
        rest (Tensor): Shape ``(batch,)``.
    """

    target: Tensor
    rest: Tensor

    def gain_over(self, other: "Probabilities") -> Tensor:
        """Differences of the target's probabilities, from the smaller numbers of the two."""
        return torch.where(other.target < 0.5, self.target - other.target, other.rest - self.rest)


def check_scores(model: Model, inputs: Tensor, target: Any) -> Tensor:
    """Runs the model; returns what the target is read from, finite and at least float32.

    Args:
        model (Callable): The model.
        inputs (Tensor): Shape ``(batch, ...)``.
        target (Any): The target.

    Returns:
        Tensor: The model's scores, shape ``(batch, n_classes)``; for a target that is a function,
        its values, shape ``(batch,)``.
    """
    output, n, name = model(inputs), len(inputs), "the model's output"
    if callable(target):
        if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != n:
            _checks.wrong_value(name, f"a tensor of {n} rows, one for each example", output)
        output, name = target_scores(output, target), "target's values"
    elif not isinstance(output, Tensor) or output.dim() != 2 or len(output) != n:
        _checks.wrong_value(name, f"scores of shape ({n}, n_classes)", output)
    _checks.check_real(name, output)
    _checks.check_finite(name, output)
    if output.dtype not in (torch.float32, torch.float64):
        output = output.float()
    return output.to(inputs.device)


def read_target(target: Any, scores: Tensor) -> Tensor | TargetFunction:
    """Returns the target as a class for each example, ``(batch,)``, int64, not negative.

    A function is returned as it is.
    """
    index = read_classes(target, len(scores), scores.device)
    if callable(index):
        return index
    _checks.check_target(index, scores)
    return index % scores.shape[1]


def check_probability(target: Any, probability: Any) -> None:
    """Raises TypeError if a probability cannot be called, ValueError if one is beside a function.

    The values of a target that is a function are taken as they are.
    """
    if probability is None:
        return
    check_callable("probability", probability)
    if callable(target):
        must = "None for a target that is a function, whose values take the probability's place"
        _checks.wrong_value("probability", must, probability)


def target_probabilities(
    scores: Tensor, target: Tensor | TargetFunction, probability: Probability | None
) -> Probabilities:
    """Returns the probabilities of the target; for a function its values as they are.

    Args:
        scores (Tensor): What `check_scores` returns for the target.
        target (Tensor or Callable): Classes, shape ``(batch,)``, int64, or a function.
        probability (Callable, optional): Scores to probabilities. Default: softmax.
    """
    if callable(target):
        return Probabilities(scores, 1 - scores)
    column = target[:, None]
    if probability is None:
        if scores.shape[1] < 2:
            must = (
                "scores of at least two classes (the softmax of a single one is always 1; for "
                "another meaning give probability)"
            )
            _checks.wrong_value("the model's output", must, scores)
        softmax = scores.softmax(dim=1)
        rest = softmax.scatter(1, column, 0).sum(dim=1)
        return Probabilities(softmax.gather(1, column)[:, 0], rest)
    result = probability(scores)
    if not isinstance(result, Tensor) or result.shape != scores.shape:
        _checks.wrong_value("probability's result", f"of shape {tuple(scores.shape)}", result)
    _checks.check_real("probability's result", result)
    if not bool(((result >= 0) & (result <= 1)).all()):  # NaN is in no range
        got = f"values from {float(result.min())} to {float(result.max())}"
        _checks.refuse("probability's result", "in [0, 1] everywhere", got)
    p = result.gather(1, column)[:, 0]
    return Probabilities(p, 1 - p)


def perturbed_probabilities(
    model: Model,
    inputs: Tensor,
    target: Any,
    probability: Probability | None,
    perturb: Callable[[Tensor, Tensor], Tensor],
    n_variants: int,
    max_batch: int,
) -> Tensor:
    """Returns the target's probabilities for perturbed images, in chunks of the same size.

    Args:
        model (Callable): The model.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``.
        target (Any): The target.
        probability (Callable, optional): Scores to probabilities. Default: softmax.
        perturb (Callable): Maps numbers of variants and of examples, each ``(rows,)``, to the
            perturbed images, shape ``(rows, channels, *spatial)``.
        n_variants (int): Number of variants of each image.
        max_batch (int): Largest number of rows.

    Returns:
        Tensor: Shape ``(n_variants, batch)``.
    """
    batch, chunks = len(inputs), []
    with torch.no_grad(), evaluation_mode(model):
        scores = check_scores(model, inputs[:1], target)
        index = read_target(target, scores.expand(batch, -1))
        # Variant by variant, all images of each.
        for rows in torch.arange(n_variants * batch, device=inputs.device).split(max_batch):
            example = rows % batch
            scores = check_scores(model, perturb(rows // batch, example), target)
            chosen = of_examples(index, example)
            chunks.append(target_probabilities(scores, chosen, probability).target)
    return torch.cat(chunks).reshape(n_variants, batch)


def read_baseline(baseline: Any, inputs: Tensor) -> Tensor:
    """Returns the values of hidden pixels in the shape of the inputs."""
    must = f"'blur', a number, or a tensor that broadcasts to {tuple(inputs.shape)}"
    if isinstance(baseline, str):
        if baseline != "blur":
            _checks.wrong_value("baseline", must, baseline)
        return gaussian_blur(inputs, _BLUR_SIGMA, _BLUR_RADIUS)
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        _checks.wrong_type("baseline", must, baseline)
    values = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).detach()
    _checks.check_finite("baseline", values)
    try:
        return values.expand(inputs.shape)
    except RuntimeError:
        _checks.wrong_value("baseline", must, baseline)
