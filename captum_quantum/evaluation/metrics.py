"""Reads what a user gives as metrics."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit
from captum_quantum.evaluation.adapters import Attribute, check_name
from captum_quantum.evaluation.batches import Batch
from captum_quantum.evaluation.fingerprint import plain
from captum_quantum.metrics._maps import direction

GIVEN = ("attribute", "attributions", "inputs", "masks", "model", "target")
"""What a metric may ask for, by the names of its parameters."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric, and which of `GIVEN` it asks for."""

    name: str
    function: Callable[..., Any]
    asks_for: frozenset[str]
    higher_is_better: bool | None
    description: str


def read_metrics(metrics: Any) -> list[Metric]:
    """Reads the metrics of `compare`."""
    must = "names of metrics, or a mapping from names to functions"
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        _checks.wrong_type("metrics", must, metrics)
    if isinstance(metrics, Mapping):
        given = dict(metrics)
    else:
        named = named_metrics()
        given = {_checks.check_choice("metrics", name, named): named.get(name) for name in metrics}
    if not given:
        _checks.wrong_value("metrics", "at least one metric", metrics)
    return [_read_metric(check_name("metrics", n), function) for n, function in given.items()]


def named_metrics() -> dict[str, Callable[..., Any]]:
    """The metrics that `compare` knows by name: one map in, one number out.

    Those of `captum_quantum.metrics`, and of its ``parameter_randomization`` the rank correlation
    after randomising the quantum or the classical part alone, ``randomization_quantum`` and
    ``randomization_classical``.

    Returns:
        dict[str, Callable]: The functions by name.
    """
    from captum_quantum import metrics

    found = {
        name: getattr(metrics, name)
        for name in metrics.__all__
        if hasattr(getattr(metrics, name), "higher_is_better")
        and name != "parameter_randomization"
        and not _unknown_parameters(getattr(metrics, name))
    }
    for function in (randomization_quantum, randomization_classical):
        found[function.__name__] = function
    return found


def _randomization(part: str, model: nn.Module, *arguments: Any) -> Tensor:
    from captum_quantum.metrics import parameter_randomization

    similar = parameter_randomization(model, *arguments, parts=part)
    return similar[part].rank_correlation


@direction(higher_is_better=False)
def randomization_quantum(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Tensor
) -> Tensor:
    """Rank correlation of the maps before and after the quantum layers are randomised.

    Args:
        model (nn.Module): The model.
        attribute (Callable): ``(inputs, target)`` to maps.
        inputs (Tensor): Shape ``(batch, ...)``.
        target (Tensor): Shape ``(batch,)``.

    Returns:
        Tensor: Shape ``(batch,)``; NaN for a model without quantum layers. See
        `captum_quantum.metrics.parameter_randomization`.
    """
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "an nn.Module, for randomization_quantum", model)
    if not any(isinstance(getattr(m, "circuit", None), Circuit) for m in model.modules()):
        return torch.full((len(inputs),), torch.nan)
    return _randomization("quantum", model, attribute, inputs, target)


@direction(higher_is_better=False)
def randomization_classical(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Tensor
) -> Tensor:
    """Rank correlation of the maps before and after all other layers are randomised.

    Args:
        model: As in `randomization_quantum`.
        attribute: As in `randomization_quantum`.
        inputs: As in `randomization_quantum`.
        target: As in `randomization_quantum`.

    Returns:
        Tensor: Shape ``(batch,)``.
    """
    return _randomization("classical", model, attribute, inputs, target)


def _unknown_parameters(function: Callable[..., Any]) -> list[str]:
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in GIVEN or p.kind is p.POSITIONAL_ONLY)
    ]


def _read_metric(name: str, function: Any) -> Metric:
    argument = f"metrics[{name!r}]"
    if not callable(function):
        _checks.wrong_type(argument, "a function", function)
    if unknown := _unknown_parameters(function):
        raise TypeError(
            _checks.sentence(
                argument,
                f"a function whose parameters without default are among {', '.join(GIVEN)}",
                f"{plain(function)} with {', '.join(unknown)}",
            )
        )
    inner, bound = function, set()
    while isinstance(inner, functools.partial):
        bound |= set(inner.keywords)
        inner = inner.func
    asked = {n for n in inspect.signature(function).parameters if n in GIVEN} - bound
    direction = getattr(function, "higher_is_better", getattr(inner, "higher_is_better", None))
    return Metric(name, function, frozenset(asked), direction, plain(function))


def needs_masks(function: Callable[..., Any]) -> bool:
    """Whether a metric cannot do without masks."""
    parameter = inspect.signature(function).parameters.get("masks")
    return parameter is not None and parameter.default is parameter.empty


def check_masks(metrics: Sequence[Metric], first: Batch) -> None:
    """Raises ValueError if a metric needs masks and the loader gives none."""
    for metric in metrics:
        if needs_masks(metric.function) and first.masks is None:
            _checks.wrong_value(
                "loader", f"one of batches (inputs, labels, masks), for {metric.name}", "no masks"
            )
