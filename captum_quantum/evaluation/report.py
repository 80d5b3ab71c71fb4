"""The report of a comparison: scores, paired differences and the values of every sample."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_quantum import _files
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.statistics import Array, bootstrap_mean, find_ties, paired_p_value
from captum_quantum.evaluation.tables import ARROWS, Rows, Tables, number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    Attributes:
        methods (tuple[str, ...]): Names of the methods.
        metrics (dict[str, bool or None]): The metrics' directions by name; None: no direction.
        index (ndarray): Index of each sample in the data set, shape ``(n,)``, int64.
        labels (ndarray): True classes, shape ``(n,)``, int64.
        targets (ndarray): The classes that were explained, shape ``(n,)``, int64.
        values (dict[str, dict[str, ndarray]]): ``values[metric][method]`` has shape ``(n,)``,
            float64, NaN where undefined.
        scores (list[Score]): Mean and confidence interval for each metric and method.
        differences (list[Difference]): Paired difference for each metric and pair of methods.
        configuration (dict[str, Any]): What the values depend on.
        confidence (float): Confidence level of the intervals.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerGradCam
        >>> from captum_quantum import QuantumLayerGradCam, VQCLayer, compare
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
    ) -> None:
        self.methods = tuple(methods)
        self.metrics = dict(metrics)
        self.configuration = dict(configuration or {})
        self.confidence = confidence
        self._seed = seed
        self._rounding_scales = dict(rounding_scales or {})
        self._batches = sorted(batches, key=lambda batch: batch.number)
        sizes = [np.arange(b.start, b.start + len(b.labels)) for b in self._batches]
        self.index = np.concatenate(sizes)
        self.labels = np.concatenate([b.labels for b in self._batches])
        self.targets = np.concatenate([b.targets for b in self._batches])
        values = np.concatenate([b.values for b in self._batches], axis=1)
        self.values: dict[str, dict[str, Array]] = {
            metric: {method: values[i, :, k] for i, method in enumerate(self.methods)}
            for k, metric in enumerate(self.metrics)
        }

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.index)

    @cached_property
    def scores(self) -> list[Score]:
        """Mean and confidence interval for each metric and method."""
        return [self._score(metric, method) for metric in self.metrics for method in self.methods]

    @cached_property
    def differences(self) -> list[Difference]:
        """Paired difference for each metric and pair of methods."""
        return [
            self._difference(metric, first, second)
            for metric in self.metrics
            for first, second in combinations(self.methods, 2)
        ]

    def _score(self, metric: str, method: str) -> Score:
        values = self.values[metric][method]
        finite = values[np.isfinite(values)]
        interval = bootstrap_mean(finite, self.confidence, self._seed)
        mean = float(finite.mean()) if len(finite) else math.nan
        undefined = len(values) - len(finite)
        direction = self.metrics[metric]
        return Score(metric, method, direction, mean, *interval, len(finite), undefined)

    def _difference(self, metric: str, first: str, second: str) -> Difference:
        a, b = self.values[metric][first], self.values[metric][second]
        finite = np.isfinite(a) & np.isfinite(b)
        a, b = a[finite], b[finite]
        differences, n = a - b, len(a)
        ties = find_ties(a, b, self._rounding_scales.get(metric, 0.0))
        interval = bootstrap_mean(differences, self.confidence, self._seed)
        mean = float(differences.mean()) if n else math.nan
        p_value, n_ties = paired_p_value(differences, ties), int(ties.sum())
        undefined = len(finite) - n
        return Difference(metric, first, second, mean, *interval, p_value, n, undefined, n_ties)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, without the values of the samples.

        Returns:
            dict[str, Any]: Number of samples, confidence level, scores, differences, configuration;
            undefined numbers are NaN.
        """
        return {
            "n": len(self),
            "confidence": self.confidence,
            "scores": [asdict(score) for score in self.scores],
            "differences": [asdict(difference) for difference in self.differences],
            "configuration": self.configuration,
        }

    def __repr__(self) -> str:
        return (
            f"<Report: {len(self)} samples, methods {', '.join(self.methods)}, metrics "
            f"{', '.join(self.metrics)}>"
        )

    def _caption(self) -> str:
        percent = f"{100 * self.confidence:g} %"
        return (
            f"{len(self)} samples. Mean [{percent} confidence interval, bootstrap]; "
            "↑ higher is better, ↓ lower is better."
        )

    def _score_rows(self) -> Rows:
        rows = {metric: [metric, ARROWS[better]] for metric, better in self.metrics.items()}
        for score in self.scores:
            undefined = f" ({score.undefined} undefined)" if score.undefined else ""
            rows[score.metric].append(_interval(score) + undefined)
        return [["metric", "", *self.methods], *rows.values()]

    def _difference_rows(self) -> Rows:
        rows = [["metric", "difference", "mean", "p", "n", "ties"]]
        for d in self.differences:
            p_value = f"{d.p_value:.2g}" if d.p_value >= 1e-4 else "< 0.0001"
            if math.isnan(d.p_value):
                p_value = "-"
            pair = f"{d.first} - {d.second}"
            rows.append([d.metric, pair, _interval(d), p_value, str(d.n), str(d.ties)])
        return rows

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

        Existing files are replaced atomically. ``values.csv`` has a line for each sample and
        method.

        Args:
            folder (str or PathLike): The folder, created if it does not exist.

        Raises:
            FileExistsError: If the folder contains results of `compare` of another configuration.
            OSError: If a file cannot be written.
        """
        from captum_quantum.visualization import png

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        storage.refuse_other(folder, self.configuration)
        table = storage.Table(self.methods, tuple(self.metrics))
        _files.replace(folder / storage.VALUES, storage.csv_pieces(table, self._batches))
        _files.replace(folder / "report.json", _files.to_json(self.to_dict()))
        _files.replace(folder / "report.md", self.markdown())
        _files.replace(folder / "report.png", png(self.figure()))


def _interval(entry: Score | Difference) -> str:
    if math.isnan(entry.mean):
        return "-"
    mean, low, high = (number_text(value) for value in (entry.mean, entry.low, entry.high))
    return mean if math.isnan(entry.low) else f"{mean} [{low}, {high}]"
