"""Devices and modes of models during an evaluation."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from captum_quantum import _checks, _state
from captum_quantum.evaluation.processes import World


def read_device(device: Any) -> torch.device | None:
    """Reads the argument ``device`` of `compare`.

    Args:
        device (Any): The device. ``"cuda"`` means the GPU of this process under ``torchrun``.

    Returns:
        torch.device or None: The device, a GPU with its index; None for the default.

    Raises:
        TypeError, ValueError: If it is not a device that PyTorch can use.
    """
    if device is None:
        return None
    must = "a device that torch knows, for example 'cpu' or 'cuda:0'"
    if not isinstance(device, (str, torch.device)):
        _checks.wrong_type("device", must, device)
    try:
        read = torch.device(device)
        if read == torch.device("cuda") and World().size > 1 and "LOCAL_RANK" in os.environ:
            read = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=read)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            _checks.sentence("device", must, f"{str(device)!r} ({str(error).splitlines()[0]})")
        ) from error
    if read.type == "cuda" and read.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return read


@contextmanager
def prepared(modules: Sequence[nn.Module], device: torch.device | None) -> Iterator[None]:
    """Prepares models for evaluation and restores everything that evaluating may change.

    Models are in evaluation mode, without ``.grad``, on the given device; cuDNN is deterministic.

    Args:
        modules (Sequence[nn.Module]): The models.
        device (torch.device, optional): Where to move them. Default: they stay where they are.
    """
    submodules = {id(module): module for root in modules for module in root.modules()}.values()
    parameters = {id(p): p for root in modules for p in root.parameters()}.values()
    buffers = [
        (module, name, buffer)
        for module in submodules
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    tensors = [*parameters, *(buffer for _, _, buffer in buffers)]
    values = [(parameter, parameter.data) for parameter in parameters]
    cudnn = torch.backends.cudnn
    with (
        _state.random_state_kept(*tensors, *([] if device is None else [device])),
        _state.evaluation_mode(*modules),
        # Other packages add to the gradients, or set them to zero in place.
        _state.grads_kept(parameters),
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=False,
            deterministic=True,
            allow_tf32=cudnn.allow_tf32,
        ),
    ):
        try:
            if device is not None:
                for parameter in parameters:
                    parameter.data = parameter.data.to(device)
                for module, name, buffer in buffers:
                    setattr(module, name, buffer.to(device))
            yield
        finally:
            for parameter, data in values:
                parameter.grad = None  # it may be on another device
                parameter.data = data
            for module, name, buffer in buffers:
                setattr(module, name, buffer)
