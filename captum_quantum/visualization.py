"""Figures of explanations: the only module that imports matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass

from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
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
            _checks.check_finite(name, value)
        if len(self.map_titles) != len(self.maps):
            _checks.wrong_value("map_titles", f"{len(self.maps)} titles", list(self.map_titles))


def plot_explanations(
    explanations: Sequence[Explanation],
    headers: Sequence[str],
    caption: str = "",
    title: str = "",
) -> Figure:
    """Draws images and their signed maps: a row for each image, small maps for the qubits.

    Maps are scaled up to the image's size (bilinear) under an outline of the image. All maps of a
    row share one symmetric colour scale, so that the qubits' maps are seen to add up.

    Args:
        explanations (Sequence[Explanation]): The rows, all with the same numbers of maps and qubits.
        headers (Sequence[str]): What stands above the columns: image, each map, qubits.
        caption (str): How to read the figure, below it.
        title (str): Above the figure.

    Returns:
        matplotlib.figure.Figure: The figure, 16 inches wide, not known to pyplot; save it with
        ``figure.savefig(path, dpi=100)``.

    Raises:
        ValueError: If there are no rows, rows of different numbers, or not one header a column.

    Examples:
        >>> import torch
        >>> from captum_quantum.visualization import Explanation, plot_explanations
        >>> row = Explanation(
        ...     torch.rand(32, 32), "a picture", torch.randn(1, 8, 8), ["why?"], torch.randn(4, 8, 8)
        ... )
        >>> figure = plot_explanations([row], ["image", "map", "qubits"])
        >>> len(figure.axes)
        7
    """
