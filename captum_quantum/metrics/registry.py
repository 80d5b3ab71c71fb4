"""The registry of metrics: their data, and those that `compare` knows by name."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from captum_quantum import _checks

AnyMetric = TypeVar("AnyMetric", bound=Callable[..., Any])

ARGUMENTS = ("attribute", "attributions", "inputs", "masks", "model", "target")
"""What `compare` passes to a metric, by the names of its parameters."""

_NAMED: dict[str, Callable[..., Any]] = {}


def register_metric(
    *,
    higher_is_better: bool | None,
    rounding_scale: float = 0.0,
    name: str | None = None,
    named: bool = True,
) -> Callable[[AnyMetric], AnyMetric]:
    """Registers a metric, so that `compare` finds it by its name.

    The metric is a function that returns one number for each example, shape ``(batch,)``. `compare`
    passes arguments by the names of its parameters: ``model``, ``inputs``, ``attributions``,
    ``target`` (classes ``(batch,)``, or a function of the model's output), ``masks``, ``attribute``
    (a function ``(inputs, target) -> attributions``). Any other parameter needs a default.
    ``higher_is_better`` and ``rounding_scale`` become attributes of the function.

    Args:
        higher_is_better (bool or None): The metric's direction; None where neither end is better.
        rounding_scale (float): For a metric that is a difference: the size of the numbers that are
            subtracted, such as 100 for percentages. Reports count two values as equal if they
            differ by no more than the rounding of such numbers. Default: the values' own size.
        name (str, optional): The metric's name. Default: the name of the function.
        named (bool): False stores the two attributes only, for functions that return several
            numbers for each example.

    Returns:
        Callable: A decorator that returns the function itself.

    Raises:
        TypeError: If the metric is not a function, or has another parameter without default.
        ValueError: If the name is not an identifier, or another metric has it.

    Examples:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_quantum import compare
        >>> from captum_quantum.metrics import register_metric
        >>> @register_metric(higher_is_better=True)
        ... def energy_at_top(attributions):
        ...     energy = attributions.abs().flatten(2).sum(1)
        ...     return energy[:, :8].sum(1) / energy.sum(1)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> batches = [(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))]
        >>> methods = {"saliency": Saliency(model)}
        >>> report = compare(methods, batches, ["energy_at_top"], progress=False)
        >>> report.metrics
        {'energy_at_top': True}
    """

    def register(metric: AnyMetric) -> AnyMetric:
        if named:
            key = getattr(metric, "__name__", "") if name is None else name
            if not isinstance(key, str) or not key.isidentifier():
                _checks.wrong_value("name", "an identifier such as 'my_metric'", key)
            read_metric(key, metric, argument=f"metric {key!r}")
            # The same function again, as when a notebook's cell runs twice, replaces itself.
            if key in _NAMED and _origin(_NAMED[key]) != _origin(metric):
                _checks.wrong_value("name", "a name that no other metric has", key)
            _NAMED[key] = metric
        # Attributes of a function: Python's type system cannot express which it has.
        vars(metric).update(higher_is_better=higher_is_better, rounding_scale=rounding_scale)
        return metric

    return register


def _origin(metric: Any) -> tuple[Any, Any]:
    return getattr(metric, "__module__", None), getattr(metric, "__qualname__", None)


def named_metrics() -> dict[str, Callable[..., Any]]:
    """The metrics that `compare` knows by name.

    Those of `captum_quantum.metrics` that return one number for each example, and all that were
    registered with `register_metric`.

    Returns:
        dict[str, Callable]: The functions by name, in alphabetical order.

    Examples:
        >>> from captum_quantum.metrics import named_metrics
        >>> list(named_metrics())[:3]
        ['average_drop', 'average_gain', 'average_increase']
    """
    return dict(sorted(_NAMED.items()))


@dataclass(frozen=True)
class Metric:
    """A metric and its data, as `compare` uses them.

    Attributes:
        name (str): The metric's name in reports.
        function (Callable): The metric.
        arguments (frozenset[str]): Which of `ARGUMENTS` it gets.
        higher_is_better (bool or None): Its direction; None where there is none.
        rounding_scale (float): Size of the numbers that are subtracted; 0 for the values' own size.
    """

    name: str
    function: Callable[..., Any]
    arguments: frozenset[str]
    higher_is_better: bool | None
    rounding_scale: float


def read_metric(name: str, function: Any, *, argument: str) -> Metric:
    """Reads a function as a metric.

    Args:
        name (str): The metric's name in reports.
        function (Callable): The metric. A ``functools.partial`` has the attributes of its function.
        argument (str): The name of the function in errors.

    Returns:
        Metric: The metric and its data.

    Raises:
        TypeError: If it is not a function, or has a parameter without default that is not one of
            `ARGUMENTS`.
    """
    if not callable(function):
        _checks.wrong_type(argument, "a function", function)
    parameters = inspect.signature(function).parameters
    unknown = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in ARGUMENTS or p.kind is p.POSITIONAL_ONLY)
    ]
    if unknown:
        must = f"a function whose parameters without default are among {', '.join(ARGUMENTS)}"
        _checks.refuse(argument, must, f"one with {', '.join(unknown)}", TypeError)
    layers, bound = [function], set()
    while isinstance(layers[-1], functools.partial):
        bound |= set(layers[-1].keywords)
        layers.append(layers[-1].func)

    def data(key: str, default: Any) -> Any:
        return next((getattr(f, key) for f in layers if hasattr(f, key)), default)

    arguments = frozenset(parameters).intersection(ARGUMENTS) - bound
    direction = data("higher_is_better", None)
    return Metric(name, function, arguments, direction, data("rounding_scale", 0.0))


def needs_masks(function: Callable[..., Any]) -> bool:
    """Whether a metric requires masks.

    Args:
        function (Callable): The metric.

    Returns:
        bool: True if its parameter ``masks`` has no default.
    """
    parameter = inspect.signature(function).parameters.get("masks")
    return parameter is not None and parameter.default is parameter.empty
