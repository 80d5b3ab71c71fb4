"""What the model says about images: scores, probabilities, and what hides pixels from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.metrics._maps import check_index, gaussian_blur

Model = Callable[[Tensor], Tensor]
Probability = Callable[[Tensor], Tensor]

# The blur of RISE: 11 x 11 pixels, standard deviation 5.
_BLUR_SIGMA, _BLUR_RADIUS = 5.0, 5


class Answer(NamedTuple):
    """The target's probability, and that of all other classes: 1 - p without cancellation."""

    target: Tensor
    rest: Tensor

    def gain_over(self, before: "Answer") -> Tensor:
        """The difference of the target's probabilities, from the smaller numbers of the two."""
        return torch.where(
            before.target < 0.5, self.target - before.target, before.rest - self.rest
        )


def check_scores(model: Model, inputs: Tensor) -> Tensor:
    """The model's scores ``(batch, n_classes)``, checked, at least float32."""
    scores = model(inputs)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(inputs):
        _checks.wrong_value(
            "the model's output", f"scores of shape ({len(inputs)}, n_classes)", scores
        )
    _checks.check_real("the model's output", scores)
    _checks.check_finite("the model's output", scores)
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    return scores.to(inputs.device)


def read_target(target: Any, scores: Tensor) -> Tensor:
    """The target as an index for each example: ``(batch,)``, int64, not negative."""
    index = check_index(target, len(scores), scores.device)
    _checks.check_target(index, scores)
    return index % scores.shape[1]


def read_answer(scores: Tensor, target: Tensor, probability: Probability | None) -> Answer:
    column = target[:, None]
    if probability is None:
        if scores.shape[1] < 2:
            _checks.wrong_value(
                "the model's output",
                "scores of at least two classes (the softmax of a single one is always 1; for "
                "another meaning give probability)",
                scores,
            )
        shares = scores.softmax(dim=1)
        rest = shares.scatter(1, column, 0).sum(dim=1)
        return Answer(shares.gather(1, column)[:, 0], rest)
    shares = probability(scores)
    if not isinstance(shares, Tensor) or shares.shape != scores.shape:
        _checks.wrong_value("probability's result", f"of shape {tuple(scores.shape)}", shares)
    _checks.check_real("probability's result", shares)
    if not bool(((shares >= 0) & (shares <= 1)).all()):  # NaN is in no range
        low, high = float(shares.min()), float(shares.max())
        raise ValueError(
            _checks.sentence(
                "probability's result", "in [0, 1] everywhere", f"values from {low} to {high}"
            )
        )
    chosen = shares.gather(1, column)[:, 0]
    return Answer(chosen, 1 - chosen)


def read_baseline(baseline: Any, inputs: Tensor) -> Tensor:
    """What takes the place of hidden pixels, in the shape of the inputs."""
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
