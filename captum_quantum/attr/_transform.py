"""Activations of another layout, such as the tokens of a transformer, as feature maps."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from captum_quantum import _checks

Transform = Callable[[Tensor], Tensor]


def tokens_to_grid(class_tokens: int = 1, grid: Sequence[int] | None = None) -> Transform:
    """Makes an ``activation_transform`` for vision transformers: tokens as an image.

    The function that it returns drops the class tokens, which come first, and folds the others row
    by row: ``(batch, class_tokens + height * width, dim)`` becomes ``(batch, dim, height, width)``.

    Where the model reads the class token alone, the other tokens behind the last attention get no
    gradient, and their map is zero: explain a layer before it, such as the last block's first norm.

    Args:
        class_tokens (int): Number of tokens at the start that stand for no patch, at least 0.
        grid (Sequence[int], optional): Height and width in patches. Default: a square.

    Returns:
        Callable: For ``activation_transform`` of `QuantumLayerGradCam`. It raises ValueError if the
        activations are not ``(batch, tokens, dim)`` with that number of tokens.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum import tokens_to_grid
        >>> tokens = torch.rand(2, 1 + 16, 8)
        >>> tokens_to_grid()(tokens).shape, tokens_to_grid(grid=(2, 8))(tokens).shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 8, 2, 8]))
        >>> tokens_to_grid()(tokens)[0, :, 0, 1].equal(tokens[0, 2])  # first row, second patch
        True
    """
    _checks.check_int("class_tokens", class_tokens, 0)
    if grid is not None:
        must = "two integers, height and width in patches"
        if isinstance(grid, str) or not isinstance(grid, Sequence):
            _checks.wrong_type("grid", must, grid)
        if len(grid) != 2:
            _checks.wrong_value("grid", must, grid)
        for side in grid:
            _checks.check_int("grid", side, 1)
    return partial(_fold, class_tokens=class_tokens, grid=grid and tuple(grid))


def _fold(tokens: Tensor, *, class_tokens: int, grid: Sequence[int] | None) -> Tensor:
    argument = "the layer's activations"
    if tokens.dim() != 3:
        _checks.wrong_value(argument, "of shape (batch, tokens, dim)", tokens)
    n = tokens.shape[1] - class_tokens
    height, width = grid or [math.isqrt(max(n, 1))] * 2
    if height * width != n:
        patches = "a square number of patches" if grid is None else f"{height} x {width} patches"
        must = f"{class_tokens} class tokens and {patches}"
        _checks.refuse(argument, must, f"{tokens.shape[1]} tokens")
    return tokens[:, class_tokens:].mT.reshape(len(tokens), -1, height, width)


def find_entries(transform: Transform, activation: Tensor) -> Tensor:
    """Finds out which entry of an activation each entry of its transformation is.

    The transformation of the entries' numbers tells. It is checked on the activation itself, so
    that a function that changes values is never taken for one that moves them.

    Args:
        transform (Callable): Selects and reorders entries.
        activation (Tensor): The layer's activation, of any layout.

    Returns:
        Tensor: Positions in the flattened activation, shape ``(batch, channels, *spatial)``, int64.

    Raises:
        TypeError, ValueError: If the function does anything else.
    """
    shape, size = activation.shape, activation.numel()
    numbers = torch.arange(size, dtype=torch.float64, device=activation.device).reshape(shape)
    with torch.no_grad():  # copies, as the function may work in place
        moved, numbered = transform(activation.clone()), transform(numbers.clone())
    argument = "activation_transform's result"
    _checks.check_real(argument, moved)
    if moved.dim() < 3 or moved.numel() == 0:
        must = "of shape (batch, channels, *spatial), at least 3 dimensions, none empty"
        _checks.wrong_value(argument, must, moved)
    moved, numbered = moved.to(activation), numbered.to(numbers)
    entries = numbered.long().clamp(0, size - 1)
    same = numbered.shape == moved.shape and bool((entries == numbered).all())
    if not same or not torch.allclose(activation.take(entries), moved, 0, 0, equal_nan=True):
        must = (
            "a function that selects and reorders entries, as the gradient takes the same way; "
            "one that computes belongs into the model, as a module to explain"
        )
        _checks.refuse("activation_transform", must, "one that changes values")
    # Row i of the result is example i: one of the activation's dimensions counts the examples.
    row = torch.arange(len(moved), device=moved.device).reshape(-1, *[1] * (moved.dim() - 1))
    numbers_of_dim = (entries // math.prod(shape[d + 1 :]) % shape[d] for d in range(len(shape)))
    if not any(bool((number == row).all()) for number in numbers_of_dim):
        got = f"{len(moved)} rows of a layer's activation of shape {tuple(shape)}"
        _checks.refuse(argument, "one row for each example, of its own entries", got)
    return entries
