"""From inputs to the amplitudes of the initial state."""

import torch
from torch import Tensor


def rescale(rows: Tensor) -> Tensor:
    """Divides each row by its largest modulus: only ratios count, and squares stay in range."""
    return rows / rows.detach().abs().amax(dim=-1, keepdim=True)


def normalize(rows: Tensor) -> Tensor:
    """Divides each row by its norm: ``(batch, 2**n)`` numbers, not all zero, to amplitudes."""
    rows = rescale(rows)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norm
