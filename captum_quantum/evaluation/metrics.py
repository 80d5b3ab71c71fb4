"""Reads what a user gives as metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from captum_quantum import _checks
from captum_quantum.evaluation.adapters import check_name
from captum_quantum.evaluation.batches import Batch
from captum_quantum.metrics.registry import Metric, named_metrics, needs_masks, read_metric


def read_metrics(metrics: Any) -> list[Metric]:
    """Reads the argument ``metrics`` of `compare`.

    Args:
        metrics (Any): Names of registered metrics, or a mapping from names to functions.

    Returns:
        list[Metric]: The metrics, in the same order.

    Raises:
        TypeError, ValueError: If a name or a function is wrong, or there is none.
    """
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
    return [
        read_metric(check_name("metrics", name), function, argument=f"metrics[{name!r}]")
        for name, function in given.items()
    ]


def check_masks(metrics: Sequence[Metric], first: Batch) -> None:
    """Checks that the loader's batches have masks if a metric needs them.

    Args:
        metrics (Sequence[Metric]): The metrics.
        first (Batch): The loader's first batch.

    Raises:
        ValueError: If a metric needs masks and there are none.
    """
    for metric in metrics:
        if needs_masks(metric.function) and first.masks is None:
            _checks.wrong_value(
                "loader", f"one of batches (inputs, labels, masks), for {metric.name}", "no masks"
            )
