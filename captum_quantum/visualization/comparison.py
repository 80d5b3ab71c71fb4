"""Figures of comparisons: attribution methods by metrics."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_quantum import _checks
from captum_quantum.evaluation.nulls import NULLS

if TYPE_CHECKING:
    from captum_quantum.evaluation import Report, Score, SeedReport, Spread, Wins

METHOD_COLORS = (
    "#67001f", "#053061", "#4a4a4a", "#e58267", "#6bacd1", "#9b9b9b", "#00441b", "#7fbf7b",
    "#40004b", "#af8dc3"
)  # fmt: skip
"""Colors of the methods: dark and light red, blue and gray, then dark and light green, purple."""


def plot_comparison(reports: Sequence["Report"], *, title: str = "", caption: str = "") -> Figure:
    """Draws a report: a panel for each metric, a line for each method.

    A point is a mean over the samples, the bar its confidence interval. The faint bar behind it
    goes from the first to the third quartile of the samples.

    Args:
        reports (Sequence[Report]): One or more reports of the same methods and different metrics.
        title (str): Text above the figure.
        caption (str): Text below the figure. Default: how to read it.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.

    Raises:
        ValueError: If there are no reports, or they have different methods.

    Examples:
        >>> import torch
        >>> from captum.attr import InputXGradient, Saliency
        >>> from captum_quantum import compare
        >>> from captum_quantum.visualization import plot_comparison
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> methods = {"saliency": Saliency(model), "input x gradient": InputXGradient(model)}
        >>> batches = [(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))]
        >>> report = compare(methods, batches, ["insertion", "sparseness"], progress=False)
        >>> len(plot_comparison([report]).axes)
        2
    """
    if not reports:
        _checks.wrong_value("reports", "at least one report", list(reports))
    methods = reports[0].methods
    for report in reports:
        if report.methods != methods:
            _checks.wrong_value("reports", f"of the same methods, {methods}", report.methods)
    level = f"{100 * reports[0].confidence:g} %"
    caption = caption or (
        f"Points: means with {level} confidence intervals (bootstrap). Faint bars: the middle half "
        "of the samples."
    )
    metrics = [item for report in reports for item in report.metrics.items()]
    figure, panels = _panels(metrics, methods, title, caption)
    for report in reports:
        for metric in report.metrics:
            scores = [score for score in report.scores if score.metric == metric]
            _plot_scores(next(panels), scores, report.values[metric])
    return figure


def plot_seeds(report: "SeedReport", *, title: str = "", caption: str = "") -> Figure:
    """Draws a report over several trainings: a panel for each metric, a line for each method.

    A large point is the mean over the trainings, a small point the mean of one training over its
    samples.

    Args:
        report (SeedReport): The report, as `SeedReport` makes it from the reports of each seed.
        title (str): Text above the figure.
        caption (str): Text below the figure. Default: how to read it.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.

    Examples:
        >>> import torch
        >>> from captum.attr import InputXGradient, Saliency
        >>> from captum_quantum import compare
        >>> from captum_quantum.evaluation import SeedReport
        >>> from captum_quantum.visualization import plot_seeds
        >>> batches = [(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))]
        >>> def report(model):
        ...     methods = {"saliency": Saliency(model), "input x gradient": InputXGradient(model)}
        ...     return compare(methods, batches, ["insertion", "sparseness"], progress=False)
        >>> models = [
        ...     torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)) for _ in range(2)
        ... ]
        >>> seeds = SeedReport({seed: [report(model)] for seed, model in enumerate(models)})
        >>> len(plot_seeds(seeds).axes)
        2
    """
    spreads: dict[str, list[Spread]] = {}
    for spread in report.scores:
        spreads.setdefault(spread.metric, []).append(spread)
    caption = caption or (
        f"Large points: means over {len(report.seeds)} trainings. Small points: the mean of each "
        "training over its test samples."
    )
    metrics = [(metric, lines[0].higher_is_better) for metric, lines in spreads.items()]
    figure, panels = _panels(metrics, report.methods, title, caption)
    for axes, lines in zip(panels, spreads.values(), strict=True):
        for line, spread in enumerate(lines):
            color = METHOD_COLORS[line % len(METHOD_COLORS)]
            known = [value for value in spread.per_seed if np.isfinite(value)]
            axes.plot(known, [line] * len(known), "o", color="0.75", markersize=5)
            if np.isfinite(spread.mean):
                axes.plot([spread.mean], [line], "o", color=color, markersize=8)
    return figure


def plot_wins(report: "Report | SeedReport", *, title: str = "", caption: str = "") -> Figure:
    """Draws how often each method beats each null map: a panel for each metric.

    A point is the share of the samples on which the method's map is better than the null map of the
    same sample, the bar its confidence interval. The line at 0.5 is chance.

    Args:
        report (Report or SeedReport): A report of methods that were compared with null maps.
        title (str): Text above the figure.
        caption (str): Text below the figure. Default: how to read it.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.

    Raises:
        ValueError: If the report has no null maps.

    Examples:
        >>> import torch
        >>> from captum.attr import InputXGradient, Saliency
        >>> from captum_quantum import compare
        >>> from captum_quantum.visualization import plot_wins
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> methods = {"saliency": Saliency(model), "input x gradient": InputXGradient(model)}
        >>> batches = [(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))]
        >>> report = compare(
        ...     methods, batches, ["insertion"], nulls=("area-noise",), progress=False
        ... )
        >>> len(plot_wins(report).axes)
        1
    """
    if not report.nulls:
        _checks.wrong_value("report", "one with null maps", report)
    metrics: dict[str, list[Wins]] = {}
    for wins in report.wins:
        metrics.setdefault(wins.metric, []).append(wins)
    descriptions = (f"{null}: {NULLS[null].description}." for null in report.nulls)
    level = f"{100 * report.confidence:g} %"
    caption = caption or "\n".join(
        [
            "Points: share of the samples on which the method's map is better than the null map, "
            f"by the metric, with {level} confidence intervals (bootstrap).",
            "Dashed line: chance, a method no better than its null map. Ties count half.",
            *descriptions,
        ]
    )
    lines = [f"{method} vs {null}" for null in report.nulls for method in report.methods]
    figure, panels = _panels([(metric, None) for metric in metrics], lines, title, caption)
    for axes, entries in zip(panels, metrics.values(), strict=True):
        axes.set(xlim=(-0.02, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.axvline(0.5, color="0.45", linestyle="--", linewidth=1)
        for line, wins in enumerate(entries):
            color = METHOD_COLORS[line % len(report.methods) % len(METHOD_COLORS)]
            _plot_mean(axes, line, wins.rate, (wins.low, wins.high), color)
            if line and not line % len(report.methods):
                axes.axhline(line - 0.5, color="0.85", linewidth=0.8)
    return figure


def _panels(
    metrics: Sequence[tuple[str, bool | None]], methods: Sequence[str], title: str, caption: str
) -> tuple[Figure, Iterator[Axes]]:
    """Returns a figure and its panels, which share the methods as lines from top to bottom."""
    n_columns = min(3, len(metrics))
    n_rows = -(-len(metrics) // n_columns)
    height = n_rows * (0.95 + 0.32 * len(methods)) + 0.6 + 0.5 * bool(title)
    figure = Figure(figsize=(12, height), facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, fontsize=16)
    grid = list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).flat)
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}
    for axes, (metric, higher_is_better) in zip(grid, metrics, strict=False):
        axes.set_title(metric.replace("_", " ") + better[higher_is_better], fontsize=11)
        axes.set_yticks(range(len(methods)), methods)
        axes.set(ylim=(len(methods) - 0.5, -0.5), axisbelow=True)
        axes.grid(axis="x", color="0.93")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(caption, fontsize=10)
    return figure, iter(grid[: len(metrics)])


def _plot_scores(axes: Axes, scores: "Sequence[Score]", values: dict[str, Any]) -> None:
    for line, score in enumerate(scores):
        color = METHOD_COLORS[line % len(METHOD_COLORS)]
        known = values[score.method][np.isfinite(values[score.method])]
        if not len(known):
            axes.text(0.02, line, "undefined", transform=axes.get_yaxis_transform(), va="center")
            continue
        low, high = np.quantile(known, [0.25, 0.75])
        axes.plot([low, high], [line, line], color="0.88", linewidth=9, solid_capstyle="butt")
        _plot_mean(axes, line, score.mean, (score.low, score.high), color)


def _plot_mean(
    axes: Axes, line: int, mean: float, interval: tuple[float, float], color: str
) -> None:
    """Draws a point and, if it is known, its confidence interval."""
    if np.isfinite(interval[0]):
        axes.plot(interval, [line, line], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.plot([mean], [line], "o", color=color, markersize=6)
