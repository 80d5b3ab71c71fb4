"""Reads what a user gives as metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from captum_quantum import _checks
from captum_quantum.evaluation.adapters import check_name
from captum_quantum.evaluation.batches import Batch
from captum_quantum.metrics.registry import Metric, named_metrics, needs_masks, read_metric


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
    return [
        read_metric(check_name("metrics", name), function, argument=f"metrics[{name!r}]")
        for name, function in given.items()
    ]


def check_masks(metrics: Sequence[Metric], first: Batch) -> None:
    """Raises ValueError if a metric needs masks and the loader gives none."""
    for metric in metrics:
        if needs_masks(metric.function) and first.masks is None:
            _checks.wrong_value(
                "loader", f"one of batches (inputs, labels, masks), for {metric.name}", "no masks"
            )
