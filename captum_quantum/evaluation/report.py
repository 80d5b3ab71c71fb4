"""The report of a comparison: scores, paired differences and the values of every sample."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from captum_quantum import _files
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.nulls import NULLS
from captum_quantum.evaluation.statistics import (
    Array,
    bootstrap_mean,
    count_wins,
    find_ties,
    paired_p_value,
    widen_certainty,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ARROWS = {True: "↑", False: "↓", None: " "}


@dataclass(frozen=True)
class Score:
    """The score of one method by one metric.

    Attributes:
        metric (str): Name of the metric.
        method (str): Name of the method.
        higher_is_better (bool or None): The metric's direction; None if it has none.
        mean (float): Mean over the samples with a finite value; NaN if there are none.
        low (float): Lower end of the mean's confidence interval; NaN for fewer than two values.
        high (float): Upper end of the mean's confidence interval; NaN for fewer than two values.
        n (int): Number of samples with a finite value.
        undefined (int): Number of samples whose value or attributions are NaN or infinite.
    """

    metric: str
    method: str
    higher_is_better: bool | None
    mean: float
    low: float
    high: float
    n: int
    undefined: int

    def cells(self) -> list[str]:
        """Returns what stands in the table of scores."""
        return [_interval(self) + (f" ({self.undefined} undefined)" if self.undefined else "")]


@dataclass(frozen=True)
class Difference:
    """The paired difference of two methods by one metric, on the same samples.

    Attributes:
        metric (str): Name of the metric.
        first (str): Name of the first method.
        second (str): Name of the second method, whose values are subtracted.
        mean (float): Mean difference over the samples on which both methods have a finite value;
            NaN if there are none.
        low (float): Lower end of its confidence interval; NaN for fewer than two samples.
        high (float): Upper end of its confidence interval; NaN for fewer than two samples.
        p_value (float): p-value of Wilcoxon's signed-rank test, two-sided, of the hypothesis that
            differences are symmetric about 0; 1 if all samples are ties, NaN if there are none. Not
            corrected for multiple tests.
        n (int): Number of samples on which both methods have a finite value.
        undefined (int): Number of the other samples.
        ties (int): Number of samples on which both values are equal up to rounding: within a
            millionth of the larger of the two values, of the median of the larger ones over the
            samples, or of the metric's ``rounding_scale`` (100 for average drop and gain, which are
            differences of percentages).
    """

    metric: str
    first: str
    second: str
    mean: float
    low: float
    high: float
    p_value: float
    n: int
    undefined: int
    ties: int

    def cells(self) -> list[str]:
        """Returns a row of the table of differences, without the metric."""
        p_value = "< 0.0001" if self.p_value < 1e-4 else f"{self.p_value:.2g}"
        if math.isnan(self.p_value):
            p_value = "-"
        pair = f"{self.first} - {self.second}"
        return [pair, _interval(self), p_value, str(self.n), str(self.ties)]


@dataclass(frozen=True)
class Wins:
    """How often a method's map is better by a metric than a null map of the same sample.

    Attributes:
        metric (str): Name of the metric.
        method (str): Name of the method.
        null (str): Name of the null map.
        rate (float): Share of the samples on which the method wins; ties, equal up to rounding as
            in `Difference`, count half. Where the method's value is undefined it loses; where only
            that of the null map is, it wins. A method that is no better than its null map has 0.5.
        low (float): Lower end of the rate's confidence interval, by a bootstrap; by the interval of
            Clopper and Pearson if all samples are won, or all are lost. NaN for fewer than two
            samples, or two seeds of a `SeedReport`.
        high (float): Upper end of the rate's confidence interval; NaN for fewer than two samples,
            or two seeds of a `SeedReport`.
        n (int): Number of samples.
    """

    metric: str
    method: str
    null: str
    rate: float
    low: float
    high: float
    n: int

    def cells(self) -> list[str]:
        """Returns what stands in the table of wins."""
        rate, low, high = (f"{x:.2f}".removeprefix("0") for x in (self.rate, self.low, self.high))
        return [rate if math.isnan(self.low) else f"{rate} [{low}, {high}]"]


class Tables:
    """A report that consists of tables of scores, of differences and, if there are nulls, of wins.

    Subclasses set what stands above the tables, and the columns of the table of differences. A
    score, a difference or an entry of wins gives its own cells.
    """

    methods: tuple[str, ...]
    nulls: tuple[str, ...]
    wins: Any
    scores: Any
    differences: Any
    _caption: str
    _differences_caption: str
    _wins_caption: str
    _columns: tuple[str, ...]

    def __str__(self) -> str:
        return self._format("simple", "left")

    def markdown(self) -> str:
        """Formats the tables in Markdown.

        Returns:
            str: Caption, scores and, if there are several methods, their differences; if there are
            null maps, how often each method beats them.
        """
        return self._format("github", None) + "\n"

    def _format(self, style: str, align: str | None) -> str:
        scores: dict[str, list[str]] = {}
        for score in self.scores:
            start = [score.metric, _ARROWS[score.higher_is_better]]
            scores.setdefault(score.metric, start).extend(score.cells())
        tables = {self._caption: [["metric", "", *self.methods], *scores.values()]}
        if self.differences:
            rows = [[d.metric, *d.cells()] for d in self.differences]
            tables[self._differences_caption] = [["metric", "difference", *self._columns], *rows]
        if self.nulls:
            lines: dict[tuple[str, str], list[str]] = {}
            for won in self.wins:
                lines.setdefault((won.metric, won.null), [won.metric, won.null]).extend(won.cells())
            known = "; ".join(f"{null}: {NULLS[null].description}" for null in self.nulls)
            caption = f"{self._wins_caption} Ties count half; .5 is chance. Null maps: {known}."
            tables[caption] = [["metric", "null map", *self.methods], *lines.values()]
        texts = (
            tabulate(rows, "firstrow", style, stralign=align, disable_numparse=True)
            for rows in tables.values()
        )
        return "\n\n".join(itertools.chain(*zip(tables, texts, strict=True)))

    def _entries(self) -> dict[str, Any]:
        """Scores, differences and, if there are null maps, wins as plain data."""
        names = ("scores", "differences", "wins") if self.nulls else ("scores", "differences")
        return {name: [asdict(e) for e in getattr(self, name)] for name in names}


class Report(Tables):
    """The results of `compare`: the values of every sample, and statistics of them.

    Args:
        methods (Sequence[str]): Names of the methods.
        metrics (Mapping[str, bool or None]): The metrics' directions, ``higher_is_better``, by
            name.
        batches (Iterable[BatchResult]): The results of each batch, in any order.
        configuration (Mapping[str, Any], optional): What the values depend on, as plain data for
            JSON. Default: not known.
        confidence (float): Confidence level of the intervals, in (0, 1).
        seed (int): Fixes the resamples of the bootstrap.
        rounding_scales (Mapping[str, float], optional): The size of the numbers whose difference a
            metric is, by the metric's name, see `captum_quantum.metrics.register_metric`. Default:
            the size of the values.
        nulls (Sequence[str]): Names of the null maps. The values of each batch have a row for each
            method, followed by one for each of its null maps.
        null_metrics (Sequence[str], optional): Names of the metrics, with a direction, that have
            measured the null maps. Default: all with a direction.

    Attributes:
        methods (tuple[str, ...]): Names of the methods.
        metrics (dict[str, bool or None]): The metrics' directions by name; None: no direction.
        index (ndarray): Index of each sample in the data set, shape ``(n,)``, int64.
        labels (ndarray): True classes, shape ``(n,)``, int64.
        targets (ndarray): The classes that were explained, shape ``(n,)``, int64; -1 where a
            function of the model's output was.
        values (dict[str, dict[str, ndarray]]): ``values[metric][method]`` has shape ``(n,)``,
            float64, NaN where undefined.
        scores (list[Score]): Mean and confidence interval for each metric and method.
        differences (list[Difference]): Paired difference for each metric and pair of methods.
        nulls (tuple[str, ...]): Names of the null maps.
        null_values (dict[str, dict]): ``null_values[metric][method][null]`` has shape ``(n,)``,
            float64, NaN where undefined, for the metrics that have measured null maps.
        wins (list[Wins]): How often the method beats the null map, with a confidence interval by
            the bootstrap over the samples (BCa), for each metric that has measured null maps, each
            null map and each method.
        configuration (dict[str, Any]): What the values depend on.
        confidence (float): Confidence level of the intervals.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerGradCam
        >>> from captum_quantum import QuantumLayerGradCam, VQCLayer, compare
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
        ... )
        >>> report = compare(
        ...     {"qgradcam": QuantumLayerGradCam(model, model[1]),
        ...      "gradcam": LayerGradCam(model, model[1])},
        ...     [(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)],
        ...     ["average_drop", "insertion"],
        ...     progress=False,
        ... )
        >>> report.values["insertion"]["qgradcam"].shape
        (8,)
        >>> [(d.metric, d.ties == d.n) for d in report.differences]  # the maps are equal
        [('average_drop', True), ('insertion', True)]
    """

    _differences_caption = (
        "Paired differences on the same samples; p of Wilcoxon's signed-rank test, two-sided, not "
        "corrected for several tests; ties are equal up to rounding."
    )
    _columns = ("mean", "p", "n", "ties")

    def __init__(
        self,
        methods: Sequence[str],
        metrics: Mapping[str, bool | None],
        batches: Iterable[storage.BatchResult],
        configuration: Mapping[str, Any] | None = None,
        *,
        confidence: float = 0.95,
        seed: int = 0,
        rounding_scales: Mapping[str, float] | None = None,
        nulls: Sequence[str] = (),
        null_metrics: Sequence[str] | None = None,
    ) -> None:
        self.methods = tuple(methods)
        self.metrics = dict(metrics)
        self.configuration = dict(configuration or {})
        self.confidence = confidence
        self._seed = seed
        self._rounding_scales = dict(rounding_scales or {})
        self._batches = batches = sorted(batches, key=lambda batch: batch.number)
        self.index = np.concatenate([b.start + np.arange(len(b.labels)) for b in batches])
        self.labels = np.concatenate([b.labels for b in batches])
        self.targets = np.concatenate([b.targets for b in batches])
        self.nulls = tuple(nulls)
        self._table = storage.Table(self.methods, tuple(self.metrics), self.nulls)
        values = np.concatenate([b.values for b in batches], axis=1)
        values = values.reshape(len(self.methods), 1 + len(self.nulls), *values.shape[1:])
        self.values: dict[str, dict[str, Array]] = {
            metric: {method: values[i, 0, :, k] for i, method in enumerate(self.methods)}
            for k, metric in enumerate(self.metrics)
        }
        measured = self.metrics if null_metrics is None else null_metrics
        self.null_values: dict[str, dict[str, dict[str, Array]]] = {
            metric: {
                method: {null: values[i, j, :, k] for j, null in enumerate(self.nulls, start=1)}
                for i, method in enumerate(self.methods)
            }
            for k, (metric, direction) in enumerate(self.metrics.items())
            if self.nulls and metric in measured and direction is not None
        }
        level = f"[{100 * confidence:g} % confidence interval, bootstrap]"
        self._caption = f"{len(self)} samples. Mean {level}; ↑ higher is better, ↓ lower is better."
        self._wins_caption = (
            "Share of the samples on which the method's map is better than a null map of the same "
            f"sample {level}."
        )

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.index)

    @cached_property
    def scores(self) -> list[Score]:
        """Mean and confidence interval for each metric and method."""
        scores = []
        for metric, direction in self.metrics.items():
            for method, values in self.values[metric].items():
                finite = values[np.isfinite(values)]
                n, undefined = len(finite), len(values) - len(finite)
                scores.append(Score(metric, method, direction, *self._mean(finite), n, undefined))
        return scores

    @cached_property
    def differences(self) -> list[Difference]:
        """Paired difference for each metric and pair of methods."""
        return [
            self._difference(metric, first, second)
            for metric in self.metrics
            for first, second in itertools.combinations(self.methods, 2)
        ]

    @cached_property
    def wins(self) -> list[Wins]:
        """How often each method beats its null maps, for each metric that has measured them."""
        return [
            self._wins(metric, method, null, outcomes)
            for metric in self.null_values
            for null in self.nulls
            for method in self.methods
            for outcomes in [self.outcomes(metric, method, null)]
        ]

    def _wins(self, metric: str, method: str, null: str, outcomes: Array) -> Wins:
        rate, *ends = self._mean(outcomes)
        low, high = widen_certainty(outcomes, (ends[0], ends[1]), self.confidence)
        return Wins(metric, method, null, rate, low, high, len(outcomes))

    def outcomes(self, metric: str, method: str, null: str) -> Array:
        """Tells for each sample whether a method beats its null map.

        Args:
            metric (str): Name of a metric that has measured null maps.
            method (str): Name of the method.
            null (str): Name of the null map.

        Returns:
            ndarray: Shape ``(n,)``: 1 where the method's value is better, 0.5 where both are equal
            up to rounding, else 0. An undefined value of the method counts 0; an undefined one of
            the null map only counts 1.
        """
        return count_wins(
            self.values[metric][method],
            self.null_values[metric][method][null],
            bool(self.metrics[metric]),
            self._rounding_scales.get(metric, 0.0),
        )

    def _difference(self, metric: str, first: str, second: str) -> Difference:
        a, b = self.values[metric][first], self.values[metric][second]
        finite = np.isfinite(a) & np.isfinite(b)
        a, b = a[finite], b[finite]
        ties = find_ties(a, b, self._rounding_scales.get(metric, 0.0))
        p_value, undefined = paired_p_value(a - b, ties), len(finite) - len(a)
        numbers = self._mean(a - b)
        n_ties = int(ties.sum())
        return Difference(metric, first, second, *numbers, p_value, len(a), undefined, n_ties)

    def _mean(self, values: Array) -> tuple[float, float, float]:
        """The mean and the ends of its confidence interval."""
        mean = float(values.mean()) if len(values) else math.nan
        return mean, *bootstrap_mean(values, self.confidence, self._seed)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, without the values of the samples.

        Returns:
            dict[str, Any]: Number of samples, confidence level, scores, differences, wins if there
            are null maps, configuration; undefined numbers are NaN.
        """
        return {
            "n": len(self),
            "confidence": self.confidence,
            **self._entries(),
            "configuration": self.configuration,
        }

    def __repr__(self) -> str:
        return (
            f"<Report: {len(self)} samples, methods {', '.join(self.methods)}, metrics "
            f"{', '.join(self.metrics)}>"
        )

    def figure(self) -> "Figure":
        """Draws means and confidence intervals, one panel for each metric.

        Returns:
            matplotlib.figure.Figure: The figure that
            `captum_quantum.visualization.plot_comparison` draws.
        """
        from captum_quantum.visualization import plot_comparison

        return plot_comparison([self])

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes ``values.csv``, ``report.json``, ``report.md`` and ``report.png``.

        If there are null maps, also ``wins.png``. Existing files are replaced atomically.
        ``values.csv`` has a line for each sample and method, and one for each sample and null map,
        named ``METHOD | NULL``.

        Args:
            folder (str or PathLike): The folder, created if it does not exist.

        Raises:
            FileExistsError: If the folder contains results of `compare` of another configuration.
            OSError: If a file cannot be written.
        """
        from captum_quantum.visualization import plot_wins, png

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        storage.refuse_other(folder, self.configuration)
        storage.write_values(folder, self._table, self._batches)
        _files.replace(folder / "report.json", _files.to_json(self.to_dict()))
        _files.replace(folder / "report.md", self.markdown())
        _files.replace(folder / "report.png", png(self.figure()))
        if self.nulls:
            _files.replace(folder / "wins.png", png(plot_wins(self)))


def _interval(entry: Score | Difference) -> str:
    if math.isnan(entry.mean):
        return "-"
    mean, low, high = (number_text(value) for value in (entry.mean, entry.low, entry.high))
    return mean if math.isnan(entry.low) else f"{mean} [{low}, {high}]"


def number_text(value: float) -> str:
    """Formats a number with three digits or more; with an exponent only if it is tiny."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.{2 if abs(value) >= 10 else 3}f}"
