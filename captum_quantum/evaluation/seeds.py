"""How methods do over several trainings."""

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


class SeedReport(Tables):
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

    _differences_caption = (
        "Differences of the means over the same samples, seed by seed; a seed is tied if all its "
        "samples are equal up to rounding."
    )

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
        """Draws means and every seed, a panel for each metric.

        Returns:
            matplotlib.figure.Figure: See `captum_quantum.visualization.plot_seeds`.
        """
        from captum_quantum.visualization import plot_seeds

        return plot_seeds(self)


def _spread(entry: Spread) -> str:
    if math.isnan(entry.mean):
        return "-"
    if math.isnan(entry.deviation):
        return number_text(entry.mean)
    return f"{number_text(entry.mean)} ± {number_text(entry.deviation)}"
