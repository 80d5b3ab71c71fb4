"""The private names of torch and Captum that this package needs, each in one place.

``tests/test_compat.py`` has a test for each, which names the version that has changed it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


def is_functorch_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is a wrapper of ``torch.func``, whose values cannot be read."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def in_functorch() -> bool:
    """Whether this code runs inside of a transform of ``torch.func``."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def outside_functorch() -> AbstractContextManager[Any]:
    """Leaves all transforms of ``torch.func`` for a block, as what is made there is kept."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


def is_replica(module: nn.Module) -> bool:
    """Whether a module is one of DataParallel's copies, which run in threads of its own."""
    return getattr(module, "_is_replica", False)


def run_forward(forward_func: Callable[..., Any], inputs: Any, arguments: Any) -> Any:
    """Calls a forward function with inputs and further arguments, as Captum's methods do."""
    from captum._utils.common import _format_additional_forward_args, _run_forward

    return _run_forward(forward_func, inputs, None, _format_additional_forward_args(arguments))


def select_targets(output: Tensor, target: Any) -> Tensor:
    """Selects each example's target from a model's output, as Captum's methods do."""
    from captum._utils.common import _select_targets

    selected: Tensor = _select_targets(output, target)
    return selected


def sort_devices(
    devices: Sequence[torch.device], device_ids: list[int] | None
) -> list[torch.device]:
    """Brings devices into DataParallel's order, as Captum's methods do."""
    from captum._utils.common import _sort_key_list

    ordered: list[torch.device] = _sort_key_list(list(devices), device_ids)
    return ordered
