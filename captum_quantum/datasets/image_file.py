"""Image files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captum_quantum import _checks


def read_gray(path: Path) -> Tensor:
    """Reads an image file as gray values.

    Args:
        path (Path): The file. Transparent pixels count as white.

    Returns:
        Tensor: Shape ``(height, width)``, float32, in the file's own scale, such as 0..255.

    Raises:
        ValueError: If Pillow cannot read the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image)
            # Modes I and F hold 16 bits and more, which "L" would cut off.
            gray = image if image.mode.startswith(("I", "F")) else image.convert("L")
            return torch.from_numpy(np.array(gray, dtype=np.float32))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            _checks.sentence("path", "an image that Pillow reads", f"{str(path)!r} ({error})")
        ) from error
