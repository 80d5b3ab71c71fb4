"""Shares of variance of any function, estimated from samples."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _state
from captum_quantum.interactions.function import (
    Draw,
    Function,
    GivenFunction,
    check_sampling,
    draw_from_columns,
    read_columns,
)
from captum_quantum.interactions.shares import Interactions

N_SAMPLES = 2000
"""Default number of samples: 12 qubits in 2 layers take about half a minute on one core."""

TRIED = 16
"""The number of random rows on which functions are tried first."""

_ROWS = 1024


def sampled_interactions(
    function: nn.Module | Function, x: Tensor, *, n_samples: int = N_SAMPLES, seed: int = 0
) -> Interactions:
    r"""The interactions of any function's inputs, sampled.

    So a classical layer in a circuit's place can be measured as the circuit is. Let
    :math:`D_S f(x, x', z)` be the difference of f between the values x and x' of the inputs in S,
    one input after the other, where the other inputs are z. With independent copies x' and z',

    .. math:: V_i = E[D_i f(x, x', z) D_i f(x, x', z')] / 2

    .. math:: V_{ij} = E[D_{ij} f(x, x', z) D_{ij} f(x, x', z')] / 4

    are the variances of the terms of one and two inputs, and :math:`E[(D_{ij} f)^2] / 4` is that of
    all terms that hold i and j (Liu and Owen 2006, doi:10.1198/016214505000001410). Standard errors
    are by the delta method.

    Args:
        function (nn.Module or Callable): From ``(batch, n_inputs)`` to real ``(batch, n_outputs)``,
            each row by itself and the same at every call. It is called without gradients, in the
            mode it is in.
        x (Tensor): Inputs, real, shape ``(n, n_inputs)``, n >= 2. The inputs are taken to be
            independent, each distributed as its column. The function gets this dtype and device.
        n_samples (int): Number of samples, at least 2; each takes ``2 + n_inputs * (n_inputs + 1)``
            rows.
        seed (int): Seed of the samples, in [0, 2**64); the global random state stays the same.

    Returns:
        Interactions: The shares, with standard errors.

    Raises:
        TypeError: If an argument or the function's output is of another type.
        ValueError: If an argument or the function's output is of another shape or not finite, or
            the output for a row differs from call to call.

    Examples:
        >>> import torch
        >>> from captum_quantum.interactions import sampled_interactions
        >>> x = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
        >>> shares = sampled_interactions(lambda x: x.prod(dim=1, keepdim=True), x)
        >>> shares.labels
        ('1', '2', '3')
        >>> shares.errors.max() < 0.02
        tensor(True)
    """
    if not callable(function):
        _checks.wrong_type("function", "a module or a function", function)
    x = read_columns(x)
    check_sampling(n_samples, seed)
    kept = _state.buffers_kept(function) if isinstance(function, nn.Module) else nullcontext()
    given = GivenFunction(function, x.dtype, _ROWS)
    with torch.no_grad(), _state.random_state_kept(x.device), kept:
        return sampled(given, draw_from_columns(x, seed), n_samples, "inputs")


def sampled(given: GivenFunction, draw: Draw, n_samples: int, variables: str) -> Interactions:
    """Estimates the shares of any function.

    Two rows a, b of independent inputs make a sample. In both of them, each input and each pair of
    inputs is exchanged for the other row's. What is left of a and b are the independent z and z'.

    Args:
        given (GivenFunction): The function.
        draw (Callable): From a number to as many rows of independent inputs.
        n_samples (int): The number of samples.
        variables (str): What the text calls the inputs.
    """
    tried = draw(TRIED)
    given.check(tried)
    n = tried.shape[1]
    first, second = torch.triu_indices(n, n, 1)
    masks = torch.zeros(1 + n + len(first), n, dtype=torch.bool)  # none, each, each pair
    single, pair = torch.arange(1, 1 + n), torch.arange(1 + n, len(masks))
    masks[single, range(n)] = masks[pair, first] = masks[pair, second] = True
    union = torch.diag(single)  # the mask of i and j
    union[first, second] = union[second, first] = pair
    masks = masks.to(tried.device)
    sums, statistics = torch.zeros(()), []
    for size in torch.ones(n_samples).split(max(1, given.n_rows // (2 * len(masks)))):
        a, b = draw(2 * len(size)).view(2, -1, 1, n)
        rows = torch.stack([torch.where(masks, b, a), torch.where(masks, a, b)])
        values = given.values(rows.view(-1, n)).view(*rows.shape[:3], -1)
        # Exchanged in the same way, a and b are independent still.
        variance = (values[0] - values[1]).square().mean(1) / 2
        sums = sums + torch.stack([variance.sum(0), values.square().mean((0, 2)).sum(0)])
        # D_i, with j exchanged before; on the diagonal with none.
        before = values[:, :, None, 1 : n + 1].repeat(1, 1, n, 1, 1)
        before[:, :, range(n), range(n)] = values[:, :, :1]
        by_one = values[:, :, union] - before
        by_pair = by_one[:, :, first, second] - by_one[:, :, first, first]
        # In b, an input goes from x' to x: D_i changes its sign, D_ij does not.
        parts = [
            variance.sum(1, keepdim=True),
            -by_one.prod(0).mean(2).sum(-1) / 2,
            by_pair.prod(0).sum((1, 2))[:, None] / 4,
            by_pair.square().mean(0).sum(-1) / 4,
        ]
        statistics.append(torch.cat(parts, dim=1))
    variance, varies = given.without_rounding(*(sums / n_samples))
    total, mains, exactly_two, pairs = torch.cat(statistics).split([1, n, 1, len(first)], dim=1)
    orders = torch.cat([mains.sum(1, keepdim=True), exactly_two], dim=1)[:, : min(2, n - 1)]
    orders = torch.cat([orders, total - orders.sum(1, keepdim=True)], dim=1)
    total = total if varies else total * math.nan
    results = [_ratio(part, total) for part in (orders, mains, pairs)]

    def matrix(values: Tensor) -> Tensor:
        full = values.new_zeros(n, n)
        full[first, second] = full[second, first] = values
        return full

    return Interactions(
        orders=results[0][0],
        mains=results[1][0],
        pairs=matrix(results[2][0]),
        variance=variance,
        exact=False,
        errors=results[0][1],
        main_errors=results[1][1],
        pair_errors=matrix(results[2][1]),
        n_samples=n_samples,
        variables=variables,
    )


def _ratio(parts: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Ratios of means over samples, and their standard errors by the delta method.

    Args:
        parts (Tensor): Shape ``(n_samples, n)``.
        total (Tensor): Shape ``(n_samples, 1)``.
    """
    ratio = parts.mean(0) / total.mean()
    residuals = (parts - ratio * total) / total.mean()  # of mean 0
    return ratio, (residuals.square().mean(0) / (len(parts) - 1)).sqrt()
