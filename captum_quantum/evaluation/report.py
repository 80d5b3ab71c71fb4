"""What a comparison has found: the table of methods and metrics, in numbers and in words."""

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
from captum_quantum.evaluation.statistics import (
    Array,
    bootstrap_mean,
    find_ties,
    paired_p_value,
)
from captum_quantum.evaluation.tables import ARROWS, Rows, Tables, number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Score:
    """How one method does by one metric.

    Attributes:
        metric (str): The metric.
        method (str): The method.
        higher_is_better (bool or None): The metric's direction; None where it has none.
        mean (float): Mean over the samples with a value; NaN if there are none.
        low, high (float): Ends of the confidence interval of the mean; NaN for less than two.
        n (int): Number of samples with a value.
        undefined (int): Number of samples without: the metric or the map is NaN or infinite.
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
    """How two methods differ by one metric on the same samples.

    Attributes:
        metric (str): The metric.
        first, second (str): The methods; the differences are first minus second.
        mean (float): Mean difference over the samples on which both have a value.
        low, high (float): Ends of its confidence interval; NaN for less than two.
        p_value (float): Of Wilcoxon's signed-rank test, two-sided, that differences are symmetric
            about 0; 1 if all are ties, NaN without samples. Not corrected for several tests.
        n (int): Number of samples on which both have a value.
        undefined (int): Number of the others.
        ties (int): Number of samples on which both are the same up to rounding: within a millionth
            of the larger of the two values, of the typical one (the median), or, of average drop
            and gain, of 100 percent.
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
    """What `compare` has found: every sample's values, and what follows from them.

    Args:
        methods (Sequence[str]): Names of the methods.
        metrics (Mapping[str, bool or None]): Names of the metrics and their directions,
            ``higher_is_better``.
        batches (Iterable): The values, as `compare` gathers them.
        configuration (Mapping): What they were computed with.
        confidence (float): Level of the intervals.
        seed (int): Fixes the bootstrap.
        rounding_scales (Mapping[str, float], optional): For each metric the size of the numbers
            whose rounding its values carry, see `captum_quantum.metrics.register_metric`. Default:
            the size of the values.

    Attributes:
        methods (tuple[str, ...]): Names of the methods.
        metrics (dict[str, bool or None]): The metrics' directions.
        index (ndarray): Each sample's place in the data, ``(n,)``, int64.
        labels (ndarray): True classes, ``(n,)``, int64.
        targets (ndarray): The classes that were explained, ``(n,)``, int64.
        values (dict[str, dict[str, ndarray]]): ``values[metric][method]``: float64, ``(n,)``, NaN
            where undefined.
        scores (list[Score]): The table: mean, interval, numbers, for each metric and method.
        differences (list[Difference]): For each metric and pair of methods.
        configuration (dict): What the values were computed with.

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
        >>> [(d.metric, d.ties == d.n) for d in report.differences]  # both are the same map
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
        """Number of samples."""
        return len(self.index)

    @cached_property
    def scores(self) -> list[Score]:
        """The table: one entry for each metric and method."""
        return [self._score(metric, method) for metric in self.metrics for method in self.methods]

    @cached_property
    def differences(self) -> list[Difference]:
        """Paired differences: one entry for each metric and pair of methods."""
        return [
            self._difference(metric, first, second)
            for metric in self.metrics
            for first, second in combinations(self.methods, 2)
        ]

    def _score(self, metric: str, method: str) -> Score:
        values = self.values[metric][method]
        known = values[np.isfinite(values)]
        low, high = bootstrap_mean(known, self.confidence, self._seed)
        mean = float(known.mean()) if len(known) else math.nan
        undefined = len(values) - len(known)
        direction = self.metrics[metric]
        return Score(metric, method, direction, mean, low, high, len(known), undefined)

    def _difference(self, metric: str, first: str, second: str) -> Difference:
        a, b = self.values[metric][first], self.values[metric][second]
        known = np.isfinite(a) & np.isfinite(b)
        a, b = a[known], b[known]
        away = a - b
        n = len(away)
        ties = find_ties(a, b, self._rounding_scales.get(metric, 0.0))
        low, high = bootstrap_mean(away, self.confidence, self._seed)
        mean = float(away.mean()) if n else math.nan
        p_value = paired_p_value(away, ties)
        undefined = len(known) - n
        return Difference(
            metric, first, second, mean, low, high, p_value, n, undefined, int(ties.sum())
        )

    def to_dict(self) -> dict[str, Any]:
        """All that the table says, in plain types; NaN where there is no number."""
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
        """Draws means and intervals, a panel for each metric.

        Returns:
            matplotlib.figure.Figure: See `captum_quantum.visualization.plot_comparison`.
        """
        from captum_quantum.visualization import plot_comparison

        return plot_comparison([self])

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes ``values.csv``, ``report.json``, ``report.md`` and ``report.png``.

        Each replaces an older one as a whole. ``values.csv`` has a line for each sample and method.

        Args:
            folder (str or PathLike): Made if need be.

        Raises:
            FileExistsError: If the folder holds results of `compare` of another configuration.
            OSError: If a file cannot be written.
        """
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


def png(figure: "Figure") -> bytes:
    """A figure as the content of a PNG file."""
    from io import BytesIO

    from captum_quantum.visualization import save_figure

    drawn = BytesIO()
    save_figure(figure, drawn)
    return drawn.getvalue()
