"""What a comparison found: means with their uncertainty, and paired differences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import wilcoxon

from captum_quantum import _checks, _results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

N_RESAMPLES = 2000
ROUNDING = 1e-6
"""Differences up to this share of the values are rounding of float32 and count as ties.

Of the larger value of a pair, or of what a pair's larger value typically is (the median of those
that are not 0) if that is more: values near 0 are often small differences of large numbers.
"""
LEAST = {"average_drop": 100.0, "average_gain": 100.0}
"""Average drop and gain are differences of percentages, rounded as numbers of this size are."""

_ARROWS = {True: "↑", False: "↓", None: " "}


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


def bootstrap_mean(
    values: Array, confidence: float = 0.95, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    r"""Confidence interval of a mean by the bootstrap, bias-corrected and accelerated (BCa).

    With :math:`\bar x^*_b` the means of resamples, :math:`\Phi` the normal distribution function,
    :math:`z_0 = \Phi^{-1}(\text{share of } \bar x^*_b < \bar x)` (ties count half) and the
    acceleration :math:`a = \sum d_i^3 / (6 (\sum d_i^2)^{3/2})`, :math:`d_i = x_i - \bar x` (for a
    mean the jackknife needs no resampling), the ends are the quantiles of :math:`\bar x^*_b` at
    :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))`, :math:`z = \pm\Phi^{-1}((1 + c) / 2)` (Efron,
    Better bootstrap confidence intervals, JASA 82, 1987).

    Args:
        values (ndarray): Shape ``(n,)``, finite.
        confidence (float): The level c, in (0, 1).
        seed (int): Fixes the resamples.
        n_resamples (int): Their number.

    Returns:
        tuple[float, float]: The ends; NaN for less than two values, the value if all are the same.

    Examples:
        >>> import numpy as np
        >>> from captum_quantum._report import bootstrap_mean
        >>> low, high = bootstrap_mean(np.arange(100.0))
        >>> round(low), round(high)
        (44, 55)
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if (values == values[0]).all():
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    chunk = max(1, 2**21 // n)  # some 16 MB at a time, whatever the number of samples
    means = np.concatenate(
        [
            values[rng.integers(0, n, (min(chunk, n_resamples - done), n))].mean(axis=1)
            for done in range(0, n_resamples, chunk)
        ]
    )
    mean = values.mean()
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / n_resamples
    bias = ndtri(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    away = values - mean
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    shifted = bias + ndtri(np.array([1 - confidence, 1 + confidence]) / 2)
    low, high = np.quantile(means, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def _scale(a: Array, b: Array, least: float) -> Array:
    """What `ROUNDING` is a share of, for each pair."""
    larger = np.maximum(np.abs(a), np.abs(b))
    known = larger[larger > 0]
    return np.maximum(larger, max(least, np.median(known) if len(known) else 0.0))


def paired_p_value(differences: Array, ties: npt.NDArray[np.bool_]) -> float:
    """Wilcoxon's signed-rank test, two-sided; ties are left out (Wilcoxon's own treatment).

    Args:
        differences (ndarray): Shape ``(n,)``, finite.
        ties (ndarray): Which of them count as 0, bool, ``(n,)``.

    Returns:
        float: The p-value: NaN without differences, 1 if all are ties.
    """
    if not len(differences):
        return math.nan
    if ties.all():
        return 1.0
    return float(wilcoxon(differences[~ties]).pvalue)


class Report:
    """What `compare` has found: every sample's values, and what follows from them.

    Args:
        methods (Sequence[str]): Names of the methods.
        metrics (Mapping[str, bool or None]): Names of the metrics and their directions,
            ``higher_is_better``.
        batches (Iterable): The values, as `compare` gathers them.
        configuration (Mapping): What they were computed with.
        confidence (float): Level of the intervals.
        seed (int): Fixes the bootstrap.

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

    def __init__(
        self,
        methods: Sequence[str],
        metrics: Mapping[str, bool | None],
        batches: Iterable[_results.Batch],
        configuration: Mapping[str, Any] | None = None,
        *,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.methods = tuple(methods)
        self.metrics = dict(metrics)
        self.configuration = dict(configuration or {})
        self.confidence = confidence
        self._seed = seed
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
        ties = np.abs(away) <= ROUNDING * _scale(a, b, LEAST.get(metric, 0.0))
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

    def __str__(self) -> str:
        scores, differences = self._cells()
        lines = [self._caption(), "", *_aligned(scores)]
        if len(differences) > 1:
            lines += ["", _DIFFERENCES, "", *_aligned(differences)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<Report: {len(self)} samples, methods {', '.join(self.methods)}, metrics "
            f"{', '.join(self.metrics)}>"
        )

    def markdown(self) -> str:
        """The table and the differences in Markdown."""
        scores, differences = self._cells()
        lines = [self._caption(), "", *_piped(scores)]
        if len(differences) > 1:
            lines += ["", _DIFFERENCES, "", *_piped(differences)]
        return "\n".join(lines) + "\n"

    def _caption(self) -> str:
        percent = f"{100 * self.confidence:g} %"
        return (
            f"{len(self)} samples. Mean [{percent} confidence interval, bootstrap]; "
            "↑ higher is better, ↓ lower is better."
        )

    def _cells(self) -> tuple[list[list[str]], list[list[str]]]:
        scores = [["metric", "", *self.methods]]
        per_metric = {metric: [""] * len(self.methods) for metric in self.metrics}
        for score in self.scores:
            text = _interval(score)
            if score.undefined:
                text += f" ({score.undefined} undefined)"
            per_metric[score.metric][self.methods.index(score.method)] = text
        scores += [[m, _ARROWS[self.metrics[m]], *cells] for m, cells in per_metric.items()]
        differences = [["metric", "difference", "mean", "p", "n", "ties"]]
        for d in self.differences:
            p_value = f"{d.p_value:.2g}" if d.p_value >= 1e-4 else "< 0.0001"
            if math.isnan(d.p_value):
                p_value = "-"
            pair = f"{d.first} - {d.second}"
            differences.append([d.metric, pair, _interval(d), p_value, str(d.n), str(d.ties)])
        return scores, differences

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
        _results.refuse_other(folder, self.configuration)
        table = _results.Table(self.methods, tuple(self.metrics))
        _results.replace(folder / _results.VALUES, _results.csv_pieces(table, self._batches))
        _results.replace(folder / "report.json", _results.to_json(self.to_dict()))
        _results.replace(folder / "report.md", self.markdown())
        _results.replace(folder / "report.png", png(self.figure()))


@dataclass(frozen=True)
class Spread:
    """A quantity of several trainings.

    Attributes:
        metric (str): The metric.
        name (str): The method, or the pair ``first - second``.
        higher_is_better (bool or None): The metric's direction.
        mean (float): Mean over the seeds; NaN if one of them has no value.
        deviation (float): Standard deviation over the seeds (n - 1); NaN for a single one.
        per_seed (list[float]): Each seed's mean over the samples.
    """

    metric: str
    name: str
    higher_is_better: bool | None
    mean: float
    deviation: float
    per_seed: list[float]

    @classmethod
    def of(
        cls, metric: str, name: str, higher_is_better: bool | None, per_seed: list[float]
    ) -> "Spread":
        """Mean and deviation of the values."""
        deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else math.nan
        return cls(metric, name, higher_is_better, float(np.mean(per_seed)), deviation, per_seed)


@dataclass(frozen=True)
class SeedDifference(Spread):
    """How two methods differ over several trainings: the spread, and who is ahead how often.

    Attributes:
        above (int): Number of seeds whose mean difference is above 0.
        below (int): Number of seeds where it is below 0.
        tied (int): Number of seeds where all samples are ties: equal up to rounding, hence neither.
    """

    above: int
    below: int
    tied: int

    @classmethod
    def between(
        cls, higher_is_better: bool | None, per_seed: Sequence[Difference]
    ) -> "SeedDifference":
        """Sums up each seed's difference of the same two methods by the same metric."""
        pair = per_seed[0]
        name = f"{pair.first} - {pair.second}"
        means = [difference.mean for difference in per_seed]
        spread = Spread.of(pair.metric, name, higher_is_better, means)
        tied = [difference.n > 0 and difference.ties == difference.n for difference in per_seed]
        return cls(
            **vars(spread),
            above=sum(m > 0 and not tie for m, tie in zip(means, tied, strict=True)),
            below=sum(m < 0 and not tie for m, tie in zip(means, tied, strict=True)),
            tied=sum(tied),
        )


class SeedReport:
    """How methods do over several seeds, each with its own split and training.

    The samples of one training share its chance; what would come out of another shows only in the
    spread over seeds.

    Args:
        reports (Mapping[int, Sequence[Report]]): For each seed the reports, all of the same
            methods and metrics.

    Attributes:
        seeds (list[int]): The seeds.
        methods (tuple[str, ...]): Names of the methods.
        scores (list[Spread]): For each metric and method.
        differences (list[SeedDifference]): For each metric and pair of methods.
    """

    def __init__(self, reports: Mapping[int, Sequence[Report]]) -> None:
        self.seeds = list(reports)
        columns = list(zip(*reports.values(), strict=True))
        self.methods = columns[0][0].methods
        self.scores: list[Spread] = []
        self.differences: list[SeedDifference] = []
        for same in columns:
            for scores in zip(*(report.scores for report in same), strict=True):
                first = scores[0]
                self.scores.append(
                    Spread.of(
                        first.metric,
                        first.method,
                        first.higher_is_better,
                        [score.mean for score in scores],
                    )
                )
            for pairs in zip(*(report.differences for report in same), strict=True):
                direction = same[0].metrics[pairs[0].metric]
                self.differences.append(SeedDifference.between(direction, pairs))

    def to_dict(self) -> dict[str, Any]:
        """All that the table says, in plain types."""
        return {
            "seeds": self.seeds,
            "scores": [asdict(score) for score in self.scores],
            "differences": [asdict(difference) for difference in self.differences],
        }

    def __str__(self) -> str:
        scores, differences = self._cells()
        lines = [self._caption(), "", *_aligned(scores)]
        if len(differences) > 1:
            lines += ["", _SEED_DIFFERENCES, "", *_aligned(differences)]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The table and the differences in Markdown."""
        scores, differences = self._cells()
        lines = [self._caption(), "", *_piped(scores)]
        if len(differences) > 1:
            lines += ["", _SEED_DIFFERENCES, "", *_piped(differences)]
        return "\n".join(lines) + "\n"

    def _caption(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"Mean ± standard deviation over {len(self.seeds)} trainings (seeds {seeds}); "
            "↑ higher is better, ↓ lower is better."
        )

    def _cells(self) -> tuple[list[list[str]], list[list[str]]]:
        rows: dict[str, list[str]] = {}
        for score in self.scores:
            start = [score.metric, _ARROWS[score.higher_is_better]]
            rows.setdefault(score.metric, start).append(_spread(score))
        differences = [["metric", "difference", "mean", "seeds above 0", "below 0", "tied"]]
        differences += [
            [d.metric, d.name, _spread(d), str(d.above), str(d.below), str(d.tied)]
            for d in self.differences
        ]
        return [["metric", "", *self.methods], *rows.values()], differences

    def figure(self) -> "Figure":
        """Draws means and every seed, a panel for each metric.

        Returns:
            matplotlib.figure.Figure: See `captum_quantum.visualization.plot_seeds`.
        """
        from captum_quantum.visualization import plot_seeds

        return plot_seeds(self)


_SEED_DIFFERENCES = (
    "Differences of the means over the same samples, seed by seed; a seed is tied if all its "
    "samples are equal up to rounding."
)


def _spread(entry: Spread) -> str:
    if math.isnan(entry.mean):
        return "-"
    if math.isnan(entry.deviation):
        return _number(entry.mean)
    return f"{_number(entry.mean)} ± {_number(entry.deviation)}"


_DIFFERENCES = (
    "Paired differences on the same samples; p of Wilcoxon's signed-rank test, two-sided, not "
    "corrected for several tests; ties are equal up to rounding."
)


def _interval(entry: Score | Difference) -> str:
    if math.isnan(entry.mean):
        return "-"
    mean, low, high = (_number(value) for value in (entry.mean, entry.low, entry.high))
    return mean if math.isnan(entry.low) else f"{mean} [{low}, {high}]"


def _number(value: float) -> str:
    """Three digits or more, none of them an exponent's unless the number is tiny."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.{2 if abs(value) >= 10 else 3}f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _piped(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def png(figure: "Figure") -> bytes:
    """A figure as the content of a PNG file."""
    from io import BytesIO

    from captum_quantum.visualization import save_figure

    drawn = BytesIO()
    save_figure(figure, drawn)
    return drawn.getvalue()


def check_confidence(value: Any) -> float:
    """Returns a level if it is a number in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, float):
        _checks.wrong_type("confidence", "a number in (0, 1)", value)
    if not 0 < value < 1:
        _checks.wrong_value("confidence", "a number in (0, 1)", value)
    return value
