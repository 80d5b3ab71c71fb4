"""The report of several trainings with different seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_quantum.evaluation.report import Difference, Report
from captum_quantum.evaluation.tables import ARROWS, Rows, Tables, number_text

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

    @classmethod
    def of(
        cls, metric: str, name: str, higher_is_better: bool | None, per_seed: list[float]
    ) -> "Spread":
        """Computes mean and deviation.

        Args:
            metric (str): Name of the metric.
            name (str): Name of the method, or the pair ``first - second``.
            higher_is_better (bool or None): The metric's direction; None if it has none.
            per_seed (list[float]): Mean over the samples for each seed.
        """
        deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else math.nan
        return cls(metric, name, higher_is_better, float(np.mean(per_seed)), deviation, per_seed)


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

    @classmethod
    def between(
        cls, higher_is_better: bool | None, per_seed: Sequence[Difference]
    ) -> "SeedDifference":
        """Summarizes the differences of the same two methods by the same metric.

        Args:
            higher_is_better (bool or None): The metric's direction; None if it has none.
            per_seed (Sequence[Difference]): The difference for each seed.
        """
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


class SeedReport(Tables):
    """Scores and differences over several seeds, each with its own data split and training.

    A single training is one random outcome that all its samples share, so confidence intervals over
    samples do not cover it. The spread over seeds does.

    Args:
        reports (Mapping[int, Sequence[Report]]): The reports by seed: for each seed the same number
            of reports, with the same methods and metrics.

    Attributes:
        seeds (list[int]): The seeds.
        methods (tuple[str, ...]): Names of the methods.
        scores (list[Spread]): Mean and deviation for each metric and method.
        differences (list[SeedDifference]): The same of differences, for each metric and pair of
            methods.
    """

    _differences_caption = (
        "Differences of the means over the same samples, seed by seed; a seed is tied if all its "
        "samples are equal up to rounding."
    )

    def __init__(self, reports: Mapping[int, Sequence[Report]]) -> None:
        self.seeds = list(reports)
        parts = list(zip(*reports.values(), strict=True))
        self.methods = parts[0][0].methods
        self.scores: list[Spread] = []
        self.differences: list[SeedDifference] = []
        for part in parts:
            for scores in zip(*(report.scores for report in part), strict=True):
                first, means = scores[0], [score.mean for score in scores]
                self.scores.append(
                    Spread.of(first.metric, first.method, first.higher_is_better, means)
                )
            for pairs in zip(*(report.differences for report in part), strict=True):
                direction = part[0].metrics[pairs[0].metric]
                self.differences.append(SeedDifference.between(direction, pairs))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data.

        Returns:
            dict[str, Any]: Seeds, scores, differences; undefined numbers are NaN.
        """
        return {
            "seeds": self.seeds,
            "scores": [asdict(score) for score in self.scores],
            "differences": [asdict(difference) for difference in self.differences],
        }

    def _caption(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"Mean ± standard deviation over {len(self.seeds)} trainings (seeds {seeds}); "
            "↑ higher is better, ↓ lower is better."
        )

    def _score_rows(self) -> Rows:
        rows: dict[str, list[str]] = {}
        for score in self.scores:
            start = [score.metric, ARROWS[score.higher_is_better]]
            rows.setdefault(score.metric, start).append(_spread(score))
        return [["metric", "", *self.methods], *rows.values()]

    def _difference_rows(self) -> Rows:
        header = ["metric", "difference", "mean", "seeds above 0", "below 0", "tied"]
        return [header] + [
            [d.metric, d.name, _spread(d), str(d.above), str(d.below), str(d.tied)]
            for d in self.differences
        ]

    def figure(self) -> "Figure":
        """Draws means and the value of every seed, one panel for each metric.

        Returns:
            matplotlib.figure.Figure: The figure that `captum_quantum.visualization.plot_seeds`
            draws.
        """
        from captum_quantum.visualization import plot_seeds

        return plot_seeds(self)


def _spread(entry: Spread) -> str:
    if math.isnan(entry.mean):
        return "-"
    if math.isnan(entry.deviation):
        return number_text(entry.mean)
    return f"{number_text(entry.mean)} ± {number_text(entry.deviation)}"
