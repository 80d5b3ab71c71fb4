"""Figures of comparisons: attribution methods by metrics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_quantum import _checks

if TYPE_CHECKING:
    from captum_quantum.evaluation import Report, Score, SeedReport, Spread

METHOD_COLORS = ("#67001f", "#053061", "#4a4a4a", "#e58267", "#6bacd1", "#9b9b9b")
"""Colors of the methods: dark and light red, blue and gray."""


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
    reading = (
        f"Large points: means over {len(report.seeds)} trainings. Small points: the mean of each "
        "training over its test samples."
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
    """Returns a figure and its panels, which share the methods as lines from top to bottom."""
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
