"""The report of several trainings with different seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_quantum.evaluation.report import Difference, Report, Tables, Wins, number_text
from captum_quantum.evaluation.statistics import bootstrap_clusters, widen_certainty

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a quantity over several trainings.

    Attributes:
        metric (str): Name of the metric.
        name (str): Name of the method, or the pair ``first - second``.
        higher_is_better (bool or None): The metric's direction; None if it has none.
        mean (float): Mean over the seeds; NaN if a seed has no value.
        deviation (float): Standard deviation over the seeds, with n - 1 degrees of freedom; NaN for
            a single seed.
        per_seed (list[float]): Mean over the samples for each seed.
    """

    metric: str
    name: str
    higher_is_better: bool | None
    mean: float
    deviation: float
    per_seed: list[float]

    def cells(self) -> list[str]:
        """Returns what stands in the table of scores."""
        if math.isnan(self.mean):
            return ["-"]
        if math.isnan(self.deviation):
            return [number_text(self.mean)]
        return [f"{number_text(self.mean)} ± {number_text(self.deviation)}"]


@dataclass(frozen=True)
class SeedDifference(Spread):
    """The difference of two methods over several trainings.

    Attributes:
        above (int): Number of seeds whose mean difference is above 0.
        below (int): Number of seeds whose mean difference is below 0.
        tied (int): Number of seeds with ties only: all samples are equal up to rounding. They count
            neither as above nor as below.
    """

    above: int
    below: int
    tied: int

    def cells(self) -> list[str]:
        """Returns a row of the table of differences, without the metric."""
        return [self.name, *super().cells(), str(self.above), str(self.below), str(self.tied)]


class SeedReport(Tables):
    """Scores and differences over several seeds, each with its own data split and training.

    A single training is one random outcome that all its samples share, so confidence intervals over
    samples do not cover it. The spread over seeds does.

    Args:
        reports (Mapping[int, Sequence[Report]]): The reports by seed: for each seed the same number
            of reports, with the same methods, metrics and null maps.

    Attributes:
        seeds (list[int]): The seeds.
        methods (tuple[str, ...]): Names of the methods.
        scores (list[Spread]): Mean and deviation for each metric and method.
        differences (list[SeedDifference]): The same of differences, for each metric and pair of
            methods.
        nulls (tuple[str, ...]): Names of the null maps.
        wins (list[Wins]): How often a method beats a null map, over all samples of all seeds, for
            each metric that has measured null maps, each null map and each method. The confidence
            interval is that of `captum_quantum.evaluation.statistics.bootstrap_clusters`, which
            resamples the seeds and then the samples of each; NaN for a single seed.
        confidence (float): Confidence level of these intervals, that of the reports.
    """

    _differences_caption = (
        "Differences of the means over the same samples, seed by seed; a seed is tied if all its "
        "samples are equal up to rounding."
    )

    _columns = ("mean", "seeds above 0", "below 0", "tied")

    def __init__(self, reports: Mapping[int, Sequence[Report]]) -> None:
        self.seeds = list(reports)
        parts = list(zip(*reports.values(), strict=True))
        self.methods = parts[0][0].methods
        self.nulls = tuple(dict.fromkeys(null for part in parts for null in part[0].nulls))
        self.confidence = parts[0][0].confidence
        self.wins: list[Wins] = []
        self.scores: list[Spread] = []
        self.differences: list[SeedDifference] = []
        for part in parts:
            for scores in zip(*(report.scores for report in part), strict=True):
                one, numbers = scores[0], _spread([score.mean for score in scores])
                self.scores.append(Spread(one.metric, one.method, one.higher_is_better, *numbers))
            for pairs in zip(*(report.differences for report in part), strict=True):
                self.differences.append(_compare(part[0].metrics[pairs[0].metric], pairs))
            for wins in zip(*(report.wins for report in part), strict=True):
                self.wins.append(self._pool(part, wins[0]))
        self._caption = (
            f"Mean ± standard deviation over {len(self.seeds)} trainings (seeds "
            f"{', '.join(map(str, self.seeds))}); ↑ higher is better, ↓ lower is better."
        )

        self._wins_caption = (
            f"Share of the samples of all {len(self.seeds)} trainings on which the method's map is "
            f"better than a null map of the same sample [{100 * self.confidence:g} % confidence "
            "interval, bootstrap over trainings and their samples]."
        )

    def _pool(self, reports: Sequence[Report], one: Wins) -> Wins:
        """The wins of a method over a null map by a metric in the reports of all seeds."""
        outcomes = [report.outcomes(one.metric, one.method, one.null) for report in reports]
        every = np.concatenate(outcomes)
        ends = bootstrap_clusters(outcomes, self.confidence)
        ends = widen_certainty(every, ends, self.confidence)
        return Wins(one.metric, one.method, one.null, float(every.mean()), *ends, len(every))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data.

        Returns:
            dict[str, Any]: Seeds, confidence level, scores, differences, wins if there are null
            maps; undefined numbers are NaN.
        """
        return {"seeds": self.seeds, "confidence": self.confidence, **self._entries()}

    def figure(self) -> "Figure":
        """Draws means and the value of every seed, one panel for each metric.

        Returns:
            matplotlib.figure.Figure: The figure that `captum_quantum.visualization.plot_seeds`
            draws.
        """
        from captum_quantum.visualization import plot_seeds

        return plot_seeds(self)


def _spread(per_seed: list[float]) -> tuple[float, float, list[float]]:
    """Mean, standard deviation, and the values that they are of."""
    deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else math.nan
    return float(np.mean(per_seed)), deviation, per_seed


def _compare(higher_is_better: bool | None, pairs: Sequence[Difference]) -> SeedDifference:
    """Summarizes the differences, seed by seed, of the same two methods by the same metric."""
    means, ties = [d.mean for d in pairs], [0 < d.n == d.ties for d in pairs]
    signs = [0.0 if tie else mean for mean, tie in zip(means, ties, strict=True)]
    counts = (sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs), sum(ties))
    name = f"{pairs[0].first} - {pairs[0].second}"
    return SeedDifference(pairs[0].metric, name, higher_is_better, *_spread(means), *counts)
