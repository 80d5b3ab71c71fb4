"""Figures of interactions: shares of variance by order and by pairs."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_quantum import _checks
from captum_quantum.interactions import Interactions

_MOST_NUMBERS, _MOST_NAMES = 10, 32


def visualize_interactions(
    interactions: Interactions, names: Sequence[str] | None = None, *, title: str | None = None
) -> Figure:
    """Draws shares of variance: bars by the number of inputs in a term, and a matrix of pairs.

    Estimates have bars of one standard error.

    Args:
        interactions (Interactions): The shares, as ``layer.interactions()`` returns them.
        names (Sequence[str], optional): A name for each input. Default: ``x[0]``, ``x[1]``, ...
        title (str, optional): Text above the figure. Default: what the shares say.

    Returns:
        matplotlib.figure.Figure: The figure, 11 inches wide, not known to pyplot.

    Raises:
        TypeError: If ``interactions`` are no `Interactions`, or the names no strings.
        ValueError: If there is not one name for each input.

    Examples:
        >>> from captum_quantum import VQCLayer
        >>> from captum_quantum.visualization import visualize_interactions
        >>> figure = visualize_interactions(VQCLayer(3).interactions())
        >>> [axes.get_xlabel() for axes in figure.axes[:2]]
        ['angles in a term', 'angle j']
    """
    if not isinstance(interactions, Interactions):
        _checks.wrong_type("interactions", "Interactions, as layer.interactions()", interactions)
    n = len(interactions.mains)
    names = [f"x[{i}]" for i in range(n)] if names is None else names
    must = f"{n} names, one for each input"
    are_names = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    if not are_names or isinstance(names, str):
        _checks.wrong_type("names", must, names)
    if len(names) != n:
        _checks.wrong_value("names", must, names)
    figure = Figure(figsize=(11, 5.2), facecolor="white", layout="constrained")
    title = str(interactions).replace(". ", ".\n") if title is None else title
    figure.suptitle(title, fontsize=12)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _plot_orders(left, interactions)
    _plot_pairs(right, interactions, names)
    return figure


def _plot_orders(axes: Axes, interactions: Interactions) -> None:
    shares = (100 * interactions.orders).tolist()
    errors = (100 * interactions.errors).tolist()
    places = range(len(shares))
    axes.bar(places, shares, color=["#67001f", *["#6bacd1"] * (len(shares) - 1)], width=0.7)
    if not interactions.exact:
        axes.errorbar(places, shares, errors, fmt="none", ecolor="black", capsize=4)
    for place, share, error in zip(places, shares, errors, strict=True):
        if not math.isnan(share) and len(shares) <= _MOST_NUMBERS:
            top = max(share, 0.0) + (0 if interactions.exact else error)
            text = f"{round(share, 1) + 0.0:g} %"
            axes.annotate(
                text, (place, top), (0, 4), textcoords="offset points", ha="center", fontsize=10
            )
    noun = interactions.variables
    axes.set_xticks(places, interactions.labels)
    axes.set(axisbelow=True, xlabel=f"{noun} in a term", ylabel="share of the variance (%)")
    axes.set_title(f"How many {noun} act together", fontsize=12)
    axes.margins(y=0.12)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    if math.isnan(shares[0]):
        axes.set_ylim(0, 100)
        axes.text(0.5, 0.5, "undefined", ha="center", transform=axes.transAxes)
    axes.grid(axis="y", color="0.93")
    axes.spines[["top", "right"]].set_visible(False)


_LONGEST = 16
"""Letters of a name that are shown."""


def _plot_pairs(axes: Axes, interactions: Interactions, names: Sequence[str]) -> None:
    n = len(names)
    shares = 100 * interactions.pairs.clone().fill_diagonal_(math.nan)
    known = shares[shares.isfinite()]
    largest = max(float(known.max()), 1.0) if len(known) else 100.0
    axes.set_facecolor("0.92")
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=largest)
    if n <= _MOST_NUMBERS:
        for i in range(n):
            for j in range(n):
                share = float(shares[i, j])
                if not math.isnan(share):
                    color = "white" if share > 0.6 * largest else "black"
                    text = str(round(share))
                    axes.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
    step = math.ceil(n / _MOST_NAMES)
    # Longer ones would leave no room for the matrix.
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    longest = max(map(len, names[::step]))
    axes.set_xticks(range(0, n, step), names[::step], rotation=90 if n * longest > 40 else 0)
    axes.set_yticks(range(0, n, step), names[::step])
    axes.tick_params(length=0)
    noun = interactions.variables.removesuffix("s")
    axes.set(xlabel=f"{noun} j", ylabel=f"{noun} i")
    axes.set_title(f"Which {noun}s act together: all terms that hold i and j", fontsize=12)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label="share of the variance (%)", shrink=0.9)
