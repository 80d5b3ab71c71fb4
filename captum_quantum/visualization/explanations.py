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
from torch import Tensor

from captum_quantum import _checks

COLORS = "RdBu_r"
"""Blue against, white neither, red for: told apart by the colour-blind too."""


@dataclass(frozen=True)
class Explanation:
    """An image and its maps: one row of `plot_explanations`.

    Args:
        image (Tensor): Shape ``(height, width)``.
        title (str): What stands above the image.
        maps (Tensor): Signed maps, shape ``(n_maps, map_height, map_width)``.
        map_titles (Sequence[str]): What stands above each map.
        qubit_maps (Tensor): The qubits' shares of the first map, shape ``(n_qubits, map_height,
            map_width)``, as `QuantumLayerGradCam.attribute_qubits` gives them.

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

    Maps are scaled up to the image's size (bilinear) under an outline of the image. All maps of a
    row share one symmetric colour scale, so that the qubits' maps are seen to add up.

    Args:
        explanations (Sequence[Explanation]): The rows, with the same numbers of maps and qubits.
        headers (Sequence[str]): What stands above the columns: image, each map, qubits.
        title (str): Above the figure.
        subtitle (str): Below the title.
        caption (str): How to read the figure, below it; may have several lines.

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
    sheet = _Sheet(
        n_rows=len(explanations),
        n_maps=len(explanations[0].maps),
        n_qubits=len(explanations[0].qubit_maps),
        top=0.15 + 0.45 * bool(title) + 0.35 * bool(subtitle),
        n_caption_lines=caption.count("\n") + 1 if caption else 0,
    )
    figure = Figure(figsize=(sheet.width, sheet.height), facecolor="white")
    if title:
        figure.text(0.5, 1 - 0.2 / sheet.height, title, ha="center", va="top", fontsize=20)
    if subtitle:
        y = 1 - (sheet.top - 0.3) / sheet.height
        figure.text(0.5, y, subtitle, ha="center", va="top", fontsize=14)
    for column, header in enumerate(headers):
        x, y = sheet.header(column)
        figure.text(x, y, header, ha="center", va="bottom", fontsize=13.5, fontweight="bold")
    for row, explanation in enumerate(explanations):
        _plot_row(figure, sheet, row, explanation)
    _plot_footer(figure, sheet, caption)
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


@dataclass(frozen=True)
class _Sheet:
    """Where everything is, in inches from the lower left corner.

    Every row has a large panel for the image and for each map, then two lines of small panels, one
    for each qubit, that together are as high as a large one.
    """

    n_rows: int
    n_maps: int
    n_qubits: int
    top: float
    n_caption_lines: int

    width = 16.0
    margin = 0.25
    gap = 0.2
    """Between large panels."""
    small_gap = 0.08
    title_height = 0.42
    """Of the titles of large panels."""
    small_title_height = 0.2
    header_height = 0.75

    @property
    def qubits_per_line(self) -> int:
        return -(-self.n_qubits // 2) if self.n_qubits > 1 else 1

    @property
    def side(self) -> float:
        """Side of a large panel."""
        n, k = self.n_maps + 1, self.qubits_per_line
        # width = 2 margins + n (side + gap) + gap + k small sides + (k - 1) small gaps
        fixed = 2 * self.margin + (n + 1) * self.gap + (k - 1) * self.small_gap
        half_title = (self.small_title_height + self.small_gap) / 2
        return min((self.width - fixed + k * half_title) / (n + k / 2), 3.2)

    @property
    def small_side(self) -> float:
        return (self.side - self.small_title_height - self.small_gap) / 2

    @property
    def left(self) -> float:
        """Left edge, such that everything is centred."""
        k = self.qubits_per_line
        used = (self.n_maps + 1) * (self.side + self.gap) + self.gap
        used += k * self.small_side + (k - 1) * self.small_gap
        return (self.width - used) / 2

    @property
    def row_height(self) -> float:
        return self.side + self.title_height + 0.1

    @property
    def footer_height(self) -> float:
        return 0.85 + 0.32 * self.n_caption_lines

    @property
    def height(self) -> float:
        return self.top + self.header_height + self.n_rows * self.row_height + self.footer_height

    def large(self, row: int, column: int) -> tuple[float, float, float]:
        """Left and lower edge and side of a large panel."""
        x = self.left + column * (self.side + self.gap)
        y = self.footer_height + (self.n_rows - 1 - row) * self.row_height
        return x, y, self.side

    def small(self, row: int, qubit: int) -> tuple[float, float, float]:
        """Left and lower edge and side of a qubit's panel."""
        line, column = divmod(qubit, self.qubits_per_line)
        x, y, _ = self.large(row, self.n_maps + 1)
        x += self.gap + column * (self.small_side + self.small_gap)
        if line == 0:
            y += self.small_side + self.small_title_height + self.small_gap
        return x, y, self.small_side

    def header(self, column: int) -> tuple[float, float]:
        """Middle of a column's header, in shares of the figure."""
        x, y, side = self.large(0, column)
        if column == self.n_maps + 1:
            k = self.qubits_per_line
            x, side = x + self.gap, k * self.small_side + (k - 1) * self.small_gap
        return (x + side / 2) / self.width, (y + self.row_height + 0.02) / self.height

    def axes(self, figure: Figure, place: tuple[float, float, float]) -> Axes:
        x, y, side = place
        axes = figure.add_axes(
            (x / self.width, y / self.height, side / self.width, side / self.height)
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("0.6")
        return axes


def _plot_row(figure: Figure, sheet: _Sheet, row: int, explanation: Explanation) -> None:
    image = explanation.image.detach().cpu().numpy()
    axes = sheet.axes(figure, sheet.large(row, 0))
    axes.imshow(image, cmap="gray")
    axes.set_title(explanation.title, fontsize=12)
    strongest = max(
        float(m.detach().abs().max()) for m in (explanation.maps, explanation.qubit_maps)
    )
    limit = strongest or 1.0
    for column, (values, title) in enumerate(
        zip(explanation.maps, explanation.map_titles, strict=True)
    ):
        axes = sheet.axes(figure, sheet.large(row, column + 1))
        _plot_map(axes, values, image, limit, outline=1.2)
        axes.set_title(title, fontsize=12)
    for qubit, values in enumerate(explanation.qubit_maps):
        axes = sheet.axes(figure, sheet.small(row, qubit))
        _plot_map(axes, values, image, limit, outline=0.6)
        axes.set_title(f"qubit {qubit}", fontsize=9, pad=3)


def _plot_map(
    axes: Axes, values: Tensor, image: npt.NDArray[Any], limit: float, outline: float
) -> None:
    height, width = image.shape
    scaled = LayerAttribution.interpolate(
        values.detach().cpu()[None, None], (height, width), interpolate_mode="bilinear"
    )
    axes.imshow(
        scaled[0, 0].numpy(), cmap=COLORS, vmin=-limit, vmax=limit, interpolation="bilinear"
    )
    half = (image.min() + image.max()) / 2
    axes.contour(image, levels=[half], colors="black", linewidths=outline)


def _plot_footer(figure: Figure, sheet: _Sheet, caption: str) -> None:
    bar_y = 0.32 * sheet.n_caption_lines + 0.3
    bar = figure.add_axes((0.39, bar_y / sheet.height, 0.22, 0.17 / sheet.height))
    figure.colorbar(
        ScalarMappable(Normalize(-1, 1), COLORS), cax=bar, orientation="horizontal", ticks=[]
    )
    y = (bar_y + 0.085) / sheet.height
    figure.text(0.38, y, "evidence against the class", ha="right", va="center", fontsize=13)
    figure.text(0.62, y, "evidence for the class", ha="left", va="center", fontsize=13)
    if caption:
        figure.text(0.5, 0.12 / sheet.height, caption, ha="center", va="bottom", fontsize=13)
