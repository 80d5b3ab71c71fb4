"""The one place where a target is read: indices, as in Captum, or a function of the output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks, _compat

TargetFunction = Callable[[Tensor], Tensor]
Target = int | Tensor | TargetFunction


def target_scores(output: Tensor, target: Any) -> Tensor:
    """Returns each example's score, checked: an entry of the output, or a function's value of it.

    Args:
        output (Tensor): The model's output, shape ``(batch, ...)``.
        target (int, tuple, Tensor, list, Callable or None): Captum's target, or a function of the
            output that returns one value for each example, ``(batch,)`` or ``(batch, 1)``.

    Returns:
        Tensor: Shape ``(batch,)``; without a target the output itself.

    Raises:
        TypeError, ValueError: If the target is wrong, or the function returns something else.
    """
    if not callable(target):
        _checks.check_target(target, output)
        return _compat.select_targets(output, target)
    _checks.check_rows(output)
    # A copy, as the function may change it in place and the output is read again.
    values = _checks.check_real("target's values", target(output.clone()))
    n = len(output)
    if values.shape not in ((n,), (n, 1)):
        _checks.wrong_value("target's values", f"of shape ({n},), one for each example", values)
    return values.reshape(n)


def read_classes(target: Any, batch: int, device: torch.device) -> Tensor | TargetFunction:
    """Returns the target as a class for each example, ``(batch,)``, int64; a function as it is."""
    if callable(target):
        function: TargetFunction = target
        return function
    must = f"a class, or one for each of {batch} examples, or a function of the output"
    if isinstance(target, (int, list)) and not isinstance(target, bool):
        target = torch.tensor(target)
    if not isinstance(target, Tensor):
        _checks.wrong_type("target", must, target)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        _checks.wrong_type("target", must, target)
    if target.numel() != 1 and target.shape != (batch,):
        _checks.wrong_value("target", must, target)
    return target.to(device, torch.int64).reshape(-1).expand(batch)


def of_examples(target: Any, rows: Tensor | slice) -> Any:
    """The target of some examples: their classes; a function is that of all."""
    return target if callable(target) else target[rows]
