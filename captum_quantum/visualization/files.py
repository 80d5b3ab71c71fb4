"""Figures as PNG files."""

from io import BytesIO
from os import PathLike
from typing import BinaryIO

from matplotlib.figure import Figure
from PIL import Image


def save_figure(figure: Figure, path: str | PathLike[str] | BinaryIO, dpi: int = 100) -> None:
    r"""Writes a figure as a PNG file of 256 colors, a third of the size of one of all colors.

    Args:
        figure (matplotlib.figure.Figure): The figure.
        path (str, PathLike or BinaryIO): The file, replaced if it exists.
        dpi (int): Pixels per inch.

    Raises:
        OSError: If the file cannot be written.

    Examples:
        >>> from io import BytesIO
        >>> from matplotlib.figure import Figure
        >>> from captum_quantum.visualization import save_figure
        >>> file = BytesIO()
        >>> save_figure(Figure(), file)
        >>> file.getvalue()[:4]
        b'\x89PNG'
    """
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    with Image.open(file) as image:
        # Pillow's other methods turn white to gray or are far off for a few colors.
        few = image.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    few.save(path, format="PNG", optimize=True)


def png(figure: Figure) -> bytes:
    """Returns a figure as the content of a PNG file.

    Args:
        figure (matplotlib.figure.Figure): The figure.

    Returns:
        bytes: The content, 100 pixels per inch.
    """
    file = BytesIO()
    save_figure(figure, file)
    return file.getvalue()
