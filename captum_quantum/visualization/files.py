"""Figures as image files."""

from io import BytesIO
from os import PathLike
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from captum_quantum.visualization.explanations import COLORS


def save_figure(figure: Figure, path: str | PathLike[str] | BinaryIO, dpi: int = 100) -> None:
    """Writes a figure as a PNG file of 256 colours, which takes less than half the space.

    Args:
        figure (matplotlib.figure.Figure): The figure.
        path (str, PathLike or BinaryIO): The file, replaced if it exists.
        dpi (int): Pixels per inch.

    Raises:
        OSError: If the file cannot be written.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    # Pillow's own quantisation cuts the ends of the colour scale, or makes white gray.
    packed = pixels @ np.array([1 << 16, 1 << 8, 1])
    colors, places = np.unique(packed, return_inverse=True)
    unpacked = np.stack([colors >> 16, (colors >> 8) & 255, colors & 255], axis=1)
    palette = _palette()
    distances = ((unpacked[:, None] - palette.astype(np.int64)) ** 2).sum(axis=2)
    indices = distances.argmin(axis=1).astype(np.uint8)[places.reshape(packed.shape)]
    few = Image.fromarray(indices).convert("P")
    few.putpalette(palette.tobytes())
    few.save(path, format="PNG", optimize=True)


def _palette() -> npt.NDArray[np.uint8]:
    """The colours of `plot_explanations`: half of them its colour scale, half black to white."""
    scale = colormaps[COLORS](np.linspace(0, 1, 128), bytes=True)[:, :3]
    grays = np.linspace(0, 255, 128).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    return np.concatenate([np.asarray(scale, dtype=np.uint8), grays])
