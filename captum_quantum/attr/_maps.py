"""From gradients and activations to maps."""

import torch
from torch import Tensor


def channel_weights(grad: Tensor) -> Tensor:
    """Averages a gradient over all dimensions behind the channels, which stay with size 1."""
    return grad.mean(dim=tuple(range(2, grad.dim())), keepdim=True) if grad.dim() > 2 else grad


def weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
    """The sum of activations ``(batch, channels, *spatial)`` over the channels, times weights.

    Args:
        weights (Tensor): Shape ``(batch, channels, 1, ...)``, or that of the activations.
        activation (Tensor): Shape ``(batch, channels, *spatial)``.

    Returns:
        Tensor: Shape ``(batch, 1, *spatial)``.
    """
    if activation.dim() < 3 or weights.shape[2:].numel() > 1:
        return (weights * activation).sum(dim=1, keepdim=True)
    # A product of matrices, as all scaled channels would take as much memory as the activations.
    summed = torch.bmm(weights.flatten(1)[:, None], activation.flatten(2))
    return summed.reshape(len(activation), 1, *activation.shape[2:])
