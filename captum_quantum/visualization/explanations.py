"""Figures of explanations: images and their maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
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
    _check_rows(explanations, headers)
    n_rows, n_large = len(explanations), len(explanations[0].maps) + 1
    n_qubits = len(explanations[0].qubit_maps)
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
    grid = figure.add_gridspec(
        n_rows,
        len(widths),
        width_ratios=widths,
        wspace=_GAP * len(widths) / sum(widths),
        hspace=_ROW_GAP / side,
        left=left / _WIDTH,
        right=1 - left / _WIDTH,
        bottom=footer / height,
        top=1 - top / height,
    )
    if title:
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="top", fontsize=20)
    if subtitle:
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
        _plot_row(
            explanation,
            [_panel(figure, grid[row, column]) for column in range(n_large)],
            [_panel(figure, lines[divmod(qubit, n_small)]) for qubit in range(n_qubits)],
        )
    bar = figure.add_axes((0.39, (footer - 0.55) / height, 0.22, 0.17 / height))
    scale = ScalarMappable(Normalize(-1, 1), COLORS)
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[])
    y = (footer - 0.55 + 0.17 / 2) / height
    figure.text(0.38, y, "evidence against the class", ha="right", va="center", fontsize=13)
    figure.text(0.62, y, "evidence for the class", ha="left", va="center", fontsize=13)
    figure.text(0.5, 0.12 / height, caption, ha="center", va="bottom", fontsize=13)
    return figure


def _check_rows(explanations: Sequence[Explanation], headers: Sequence[str]) -> None:
    if not explanations:
        _checks.wrong_value("explanations", "at least one row", list(explanations))
    sizes = {(len(e.maps), len(e.qubit_maps)) for e in explanations}
    if len(sizes) != 1:
        _checks.wrong_value(
            "explanations", "rows of the same numbers of maps and qubits", sorted(sizes)
        )
    n_columns = len(explanations[0].maps) + 2
    if len(headers) != n_columns:
        _checks.wrong_value("headers", f"{n_columns} headers, one for each column", list(headers))


def _panel(figure: Figure, spec: SubplotSpec) -> Axes:
    axes = figure.add_subplot(spec, xticks=[], yticks=[])
    axes.spines[:].set_color("0.6")
    return axes


def _plot_row(explanation: Explanation, large: Sequence[Axes], small: Sequence[Axes]) -> None:
    image = explanation.image.detach().cpu().numpy()
    large[0].imshow(image, cmap="gray")
    large[0].set_title(explanation.title, fontsize=12)
    maps, qubit_maps = explanation.maps.detach().cpu(), explanation.qubit_maps.detach().cpu()
    limit = max(float(maps.abs().max()), float(qubit_maps.abs().max())) or 1.0
    for axes, values, title in zip(large[1:], maps, explanation.map_titles, strict=True):
        _plot_map(axes, values, image, limit, outline=1.2)
        axes.set_title(title, fontsize=12)
    for qubit, (axes, values) in enumerate(zip(small, qubit_maps, strict=True)):
        _plot_map(axes, values, image, limit, outline=0.6)
        axes.set_title(f"qubit {qubit}", fontsize=9, pad=3)


def _plot_map(
    axes: Axes, values: Tensor, image: npt.NDArray[Any], limit: float, outline: float
) -> None:
    height, width = image.shape
    scaled = LayerAttribution.interpolate(
        values[None, None], (height, width), interpolate_mode="bilinear"
    )
    axes.imshow(
        scaled[0, 0].numpy(), cmap=COLORS, vmin=-limit, vmax=limit, interpolation="bilinear"
    )
    half = (image.min() + image.max()) / 2
    axes.contour(image, levels=[half], colors="black", linewidths=outline)
