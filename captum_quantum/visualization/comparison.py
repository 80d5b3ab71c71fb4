"""Figures of comparisons of attribution methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_quantum import _checks

if TYPE_CHECKING:
    from captum_quantum.evaluation import Report, Score, SeedReport, Spread

METHOD_COLORS = ("#67001f", "#053061", "#4a4a4a", "#e58267", "#6bacd1", "#9b9b9b")
"""Of the methods in `plot_comparison`: dark and light red, blue and gray."""


def plot_comparison(reports: Sequence["Report"], *, title: str = "", caption: str = "") -> Figure:
    """Draws how methods do: a panel for each metric, a line for each method.

    The point is the mean, the bar its confidence interval, and the faint bar behind it holds the
    middle half of the samples' values.

    Args:
        reports (Sequence[Report]): One or more, of the same methods and different metrics.
        title (str): Above the figure.
        caption (str): Below the figure, instead of how to read it.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.

    Raises:
        ValueError: If there are no reports, or of different methods.
    """
    if not reports:
        _checks.wrong_value("reports", "at least one report", list(reports))
    methods = reports[0].methods
    for report in reports:
        if report.methods != methods:
            _checks.wrong_value("reports", f"of the same methods, {methods}", report.methods)
    panels = [(report, metric) for report in reports for metric in report.metrics]
    level = f"{100 * reports[0].confidence:g} %"
    reading = (
        f"Points: means with {level} confidence intervals (bootstrap). Faint bars: the middle half "
        "of the samples."
    )
    figure, all_axes = _panels(len(panels), methods, title, caption or reading)
    for axes, (report, metric) in zip(all_axes, panels, strict=True):
        scores = [score for score in report.scores if score.metric == metric]
        _title_metric(axes, metric, report.metrics[metric])
        _plot_scores(axes, scores, report.values[metric])
    return figure


def plot_seeds(report: "SeedReport", *, title: str = "", caption: str = "") -> Figure:
    """Draws how methods do over several trainings: a panel for each metric.

    Args:
        report (SeedReport): The trainings' means.
        title (str): Above the figure.
        caption (str): Below the figure, instead of how to read it.

    Returns:
        matplotlib.figure.Figure: The figure, not known to pyplot.
    """
    spreads: dict[str, list[Spread]] = {}
    for spread in report.scores:
        spreads.setdefault(spread.metric, []).append(spread)
    reading = (
        f"Large points: means over {len(report.seeds)} trainings. Small points: every training's "
        "mean over its test samples."
    )
    figure, all_axes = _panels(len(spreads), report.methods, title, caption or reading)
    for axes, (metric, lines) in zip(all_axes, spreads.items(), strict=True):
        _title_metric(axes, metric, lines[0].higher_is_better)
        for line, spread in enumerate(lines):
            color = METHOD_COLORS[line % len(METHOD_COLORS)]
            known = [value for value in spread.per_seed if np.isfinite(value)]
            axes.plot(known, [line] * len(known), "o", color="0.75", markersize=5)
            if np.isfinite(spread.mean):
                axes.plot([spread.mean], [line], "o", color=color, markersize=8)
    return figure


def _panels(
    n_panels: int, methods: Sequence[str], title: str, caption: str
) -> tuple[Figure, list[Axes]]:
    """A figure of panels that share the methods as their lines, from the top down."""
    n_columns = min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    height = n_rows * (0.95 + 0.32 * len(methods)) + 0.6 + 0.5 * bool(title)
    figure = Figure(figsize=(12, height), facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, fontsize=16)
    grid = list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).flat)
    for axes in grid[n_panels:]:
        axes.set_axis_off()
    for axes in grid[:n_panels]:
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(axis="x", color="0.93")
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(caption, fontsize=10)
    return figure, grid[:n_panels]


def _title_metric(axes: Axes, metric: str, higher_is_better: bool | None) -> None:
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}
    axes.set_title(metric.replace("_", " ") + better[higher_is_better], fontsize=11)


def _plot_scores(axes: Axes, scores: "Sequence[Score]", values: dict[str, Any]) -> None:
    for line, score in enumerate(scores):
        color = METHOD_COLORS[line % len(METHOD_COLORS)]
        known = values[score.method][np.isfinite(values[score.method])]
        if not len(known):
            axes.text(0.02, line, "undefined", transform=axes.get_yaxis_transform(), va="center")
            continue
        low, high = np.quantile(known, [0.25, 0.75])
        axes.plot([low, high], [line, line], color="0.88", linewidth=9, solid_capstyle="butt")
        if np.isfinite(score.low):
            ends = [score.low, score.high]
            axes.plot(ends, [line, line], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([score.mean], [line], "o", color=color, markersize=6)
