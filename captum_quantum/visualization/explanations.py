"""Figures of explanations: images and their maps."""

from collections.abc import Sequence
from dataclasses import dataclass

from captum.attr import LayerAttribution
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from torch import Tensor

from captum_quantum import _checks

COLORS = "RdBu_r"
"""Blue against, white neither, red for: color-blind readers can tell them apart, too."""

# Lengths in inches. A small panel, with its title and the gap above it, is half a large panel high.
_WIDTH, _MARGIN, _LARGEST_PANEL = 16.0, 0.25, 3.2
_GAP, _SMALL_GAP = 0.2, 0.08
_ROW_GAP, _LINE_GAP = 0.52, 0.28
_HEADER, _NARROWEST_HEADER, _CAPTION_LINE = 0.75, 3.4, 0.32


@dataclass(frozen=True)
class Explanation:
    """An image and its maps: one row of `plot_explanations`.

    Args:
        image (Tensor): Shape ``(height, width)``.
        title (str): Text above the image.
        maps (Tensor): Signed maps, shape ``(n_maps, map_height, map_width)``.
        map_titles (Sequence[str]): Text above each map.
        qubit_maps (Tensor): The qubits' shares of the first map, shape ``(n_qubits, map_height,
            map_width)``, as `QuantumLayerGradCam.attribute_qubits` returns them.

    Raises:
        TypeError, ValueError: If a shape or the number of titles is wrong.
    """

    image: Tensor
    title: str
    maps: Tensor
    map_titles: Sequence[str]
    qubit_maps: Tensor

    def __post_init__(self) -> None:
        for name, must in (
            ("image", "(height, width)"),
            ("maps", "(n_maps, map_height, map_width)"),
            ("qubit_maps", "(n_qubits, map_height, map_width)"),
        ):
            value = _checks.check_real(name, getattr(self, name))
            if value.dim() != must.count(",") + 1 or value.numel() == 0:
                _checks.wrong_value(name, f"of shape {must}, not empty", value)
            _checks.check_finite(name, value.detach())
        if len(self.map_titles) != len(self.maps):
            _checks.wrong_value("map_titles", f"{len(self.maps)} titles", list(self.map_titles))


def plot_explanations(
    explanations: Sequence[Explanation],
    headers: Sequence[str],
    *,
    title: str = "",
    subtitle: str = "",
    caption: str = "",
) -> Figure:
    """Draws images and their signed maps: a row for each image, small maps for the qubits.

    Maps are scaled up to the size of the image (bilinear), under an outline of the image. All maps
    of a row share one symmetric color scale, so that one can see that the qubits' maps add up.

    Args:
        explanations (Sequence[Explanation]): The rows, with the same numbers of maps and qubits.
        headers (Sequence[str]): Text above the columns: image, each map, qubits.
        title (str): Text above the figure.
        subtitle (str): Text below the title.
        caption (str): Text below the figure, such as how to read it; may have several lines.

    Returns:
        matplotlib.figure.Figure: The figure, 16 inches wide, not known to pyplot.

    Raises:
        ValueError: If there are no rows, rows of different numbers, or not one header a column.

    Examples:
        >>> import torch
        >>> from captum_quantum.visualization import Explanation, plot_explanations
        >>> maps, shares = torch.randn(1, 8, 8), torch.randn(4, 8, 8)
        >>> row = Explanation(torch.rand(32, 32), "a picture", maps, ["why?"], shares)
        >>> figure = plot_explanations([row], ["image", "map", "qubits"])
        >>> len(figure.axes)
        7
    """
    if not explanations:
        _checks.wrong_value("explanations", "at least one row", list(explanations))
    sizes = {(len(e.maps), len(e.qubit_maps)) for e in explanations}
    if len(sizes) != 1:
        must = "rows of the same numbers of maps and qubits"
        _checks.wrong_value("explanations", must, sorted(sizes))
    n_maps, n_qubits = sizes.pop()
    if len(headers) != n_maps + 2:
        must = f"{n_maps + 2} headers, one for each column"
        _checks.wrong_value("headers", must, list(headers))
    n_rows, n_large = len(explanations), n_maps + 1
    n_small = -(-n_qubits // 2)  # in each of two lines
    gaps, small_gaps = (n_large + 1) * _GAP, (n_small - 1) * _SMALL_GAP
    free = _WIDTH - 2 * _MARGIN - gaps
    side = min(
        (free - small_gaps + n_small * _LINE_GAP / 2) / (n_large + n_small / 2),
        (free - _NARROWEST_HEADER) / n_large,
        _LARGEST_PANEL,
    )
    small = (side - _LINE_GAP) / 2
    # The column without width doubles the gap before the qubits.
    widths = [side] * n_large + [0, max(n_small * small + small_gaps, _NARROWEST_HEADER)]
    left = (_WIDTH - sum(widths) - gaps) / 2
    top = 0.15 + 0.45 * bool(title) + 0.35 * bool(subtitle) + _HEADER + _ROW_GAP
    footer = 0.85 + _CAPTION_LINE * (caption.count("\n") + 1 if caption else 0)
    height = top + n_rows * side + (n_rows - 1) * _ROW_GAP + footer

    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    figure.subplots_adjust(left / _WIDTH, footer / height, 1 - left / _WIDTH, 1 - top / height)
    wspace, hspace = _GAP * len(widths) / sum(widths), _ROW_GAP / side
    grid = figure.add_gridspec(
        n_rows, len(widths), width_ratios=widths, wspace=wspace, hspace=hspace
    )
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="top", fontsize=20)
    y = 1 - (0.3 + 0.35 * bool(title)) / height
    figure.text(0.5, y, subtitle, ha="center", va="top", fontsize=14)
    for column, header in zip([*range(n_large), -1], headers, strict=True):
        box = grid[0, column].get_position(figure)
        x, y = (box.x0 + box.x1) / 2, box.y1 + (_ROW_GAP + 0.02) / height
        figure.text(x, y, header, ha="center", va="bottom", fontsize=13.5, fontweight="bold")
    for row, explanation in enumerate(explanations):
        lines = grid[row, -1].subgridspec(
            2, n_small, wspace=_SMALL_GAP / small, hspace=_LINE_GAP / small
        )
        cells = [lines[divmod(qubit, n_small)] for qubit in range(n_qubits)]
        _plot_row(figure, explanation, [grid[row, column] for column in range(n_large)], cells)
    bar = figure.add_axes((0.39, (footer - 0.55) / height, 0.22, 0.17 / height))
    scale = cm.ScalarMappable(colors.Normalize(-1, 1), COLORS)
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[])
    y = (footer - 0.55 + 0.17 / 2) / height
    figure.text(0.38, y, "evidence against the class", ha="right", va="center", fontsize=13)
    figure.text(0.62, y, "evidence for the class", ha="left", va="center", fontsize=13)
    figure.text(0.5, 0.12 / height, caption, ha="center", va="bottom", fontsize=13)
    return figure


def _plot_row(
    figure: Figure, row: Explanation, large: Sequence[SubplotSpec], small: Sequence[SubplotSpec]
) -> None:
    image, maps, qubit_maps = (t.detach().cpu() for t in (row.image, row.maps, row.qubit_maps))
    limit = max(float(maps.abs().max()), float(qubit_maps.abs().max())) or 1.0
    _panel(figure, large[0], row.title, fontsize=12).imshow(image.numpy(), cmap="gray")
    for cell, values, title in zip(large[1:], maps, row.map_titles, strict=True):
        _plot_map(_panel(figure, cell, title, fontsize=12), values, image, limit, outline=1.2)
    for qubit, (cell, values) in enumerate(zip(small, qubit_maps, strict=True)):
        axes = _panel(figure, cell, f"qubit {qubit}", fontsize=9, pad=3)
        _plot_map(axes, values, image, limit, outline=0.6)


def _panel(
    figure: Figure, cell: SubplotSpec, title: str, fontsize: float, pad: float | None = None
) -> Axes:
    axes = figure.add_subplot(cell, xticks=[], yticks=[])
    axes.spines[:].set_color("0.6")
    axes.set_title(title, fontsize=fontsize, pad=pad)
    return axes


def _plot_map(axes: Axes, values: Tensor, image: Tensor, limit: float, outline: float) -> None:
    scaled = LayerAttribution.interpolate(values[None, None], image.shape, "bilinear")[0, 0]
    axes.imshow(scaled.numpy(), cmap=COLORS, vmin=-limit, vmax=limit, interpolation="bilinear")
    half = float(image.min() + image.max()) / 2
    axes.contour(image.numpy(), levels=[half], colors="black", linewidths=outline)
