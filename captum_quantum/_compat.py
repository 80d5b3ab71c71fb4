"""The private names of torch and Captum that this package needs, each in one place.

``tests/test_compat.py`` has a test for each, which names the version that has changed it.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is a wrapper of ``torch.func`` or of autograd's batches of cotangents."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(
        tensor
    )


def in_functorch() -> bool:
    """Whether this code runs inside of a transform of ``torch.func``."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tensor carries a derivative in forward mode."""
    from torch.autograd import forward_ad

    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def in_transform() -> bool:
    """Whether operations are recorded, or tensors stand-ins: in torch.func, export, jit.trace.

    Other modes, such as those that count operations, see the values themselves.
    """
    core: Any = torch._C
    mode, modes = core._get_dispatch_mode, core._TorchDispatchModeKey
    return (
        in_functorch()
        or core._get_tracing_state() is not None
        or (
            core._len_torch_dispatch_stack() > 0
            and (mode(modes.FAKE) is not None or mode(modes.PROXY) is not None)
        )
    )


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Leaves torch.func, export and jit.trace for a block, as what is made there is kept."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch.utils._python_dispatch import _disable_current_modes

    core: Any = torch._C
    tracing = core._get_tracing_state()
    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        core._set_tracing_state(None)
        try:
            yield
        finally:
            core._set_tracing_state(tracing)


def uncompiled(function: Function) -> Function:
    """Keeps ``torch.compile`` out of a function, as ``torch.compiler.disable`` does.

    That one would import the compiler, which takes as long as the rest of torch.
    """
    frames = torch._C._dynamo.eval_frame

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        before = frames.set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            frames.set_eval_frame(before)

    marked: Any = called
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = "what it calls is compiled already"
    skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
    frames.set_code_exec_strategy(marked.__code__, skip)
    return cast("Function", called)


def is_replica(module: nn.Module) -> bool:
    """Whether a module is one of DataParallel's copies, which run in threads of its own."""
    return getattr(module, "_is_replica", False)


def logged(attribute: Function) -> Function:
    """Marks an explainer's ``attribute`` as Captum marks its own.

    Captum's methods around other methods, such as NoiseTunnel, call it as ``__wrapped__``, which
    this decorator sets, so that uses are logged once.
    """
    from captum.log import log_usage

    return cast("Function", log_usage(part_of_slo=True)(attribute))


def run_forward(forward_func: Callable[..., Any], inputs: Any, arguments: Any) -> Any:
    """Calls a forward function with inputs and further arguments, as Captum's methods do."""
    from captum._utils.common import _format_additional_forward_args, _run_forward

    return _run_forward(forward_func, inputs, None, _format_additional_forward_args(arguments))


def select_targets(output: Tensor, target: Any) -> Tensor:
    """Selects each example's target from a model's output, as Captum's methods do."""
    from captum._utils.common import _select_targets

    target = target.long() if isinstance(target, Tensor) else target
    selected: Tensor = _select_targets(output, target)
    return selected


def sort_devices(
    devices: Sequence[torch.device], device_ids: list[int] | None
) -> list[torch.device]:
    """Brings devices into DataParallel's order, as Captum's methods do."""
    from captum._utils.common import _sort_key_list

    ordered: list[torch.device] = _sort_key_list(list(devices), device_ids)
    return ordered


def module_versions(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """The versions of the modules that wrote a state_dict, by their names."""
    entries = getattr(state_dict, "_metadata", {}).items()
    return {name: entry["version"] for name, entry in entries if "version" in entry}


def with_module_versions(
    tensors: Mapping[str, Tensor], versions: Mapping[str, int] | None
) -> dict[str, Tensor]:
    """Returns a state_dict that says which versions of the modules wrote it, if that is known."""
    state_dict: Any = OrderedDict(tensors)
    if versions is not None:
        state_dict._metadata = {name: {"version": number} for name, number in versions.items()}
    return cast("dict[str, Tensor]", state_dict)
