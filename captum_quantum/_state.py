"""What is changed for a while and restored afterwards, also after exceptions.

Mode, seeds, ``.grad``, buffers, autocast and the number of threads.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def _modes_restored(models: Iterable[Any]) -> Iterator[list[nn.Module]]:
    """Yields all submodules of the models and restores their modes."""
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    before = [module.training for module in modules]
    try:
        yield modules
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


@contextmanager
def evaluation_mode(*models: Any) -> Iterator[None]:
    """Sets every submodule to evaluation mode and restores the mode of each.

    Args:
        *models (Any): The models; functions and other objects that are no modules are ignored.
    """
    with _modes_restored(models) as modules:
        for module in modules:
            module.training = False
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Sets a model to training mode and restores the mode of every submodule.

    A submodule whose parameters are all frozen is set to evaluation mode, so that the statistics of
    a frozen BatchNorm are frozen too.

    Args:
        model (nn.Module): The model.
    """
    with _modes_restored([model]) as modules:
        model.train()
        for module in modules:
            trainable = [p.requires_grad for p in module.parameters()]
            if trainable and not any(trainable):
                module.eval()
        yield


def seed_generators(seed: int, *devices: Tensor | torch.device) -> None:
    """Seeds the generators of the CPU and of the CUDA devices among the given ones.

    ``torch.manual_seed`` would seed all devices, also those whose state is not restored.

    Args:
        seed (int): The seed, in [0, 2**64).
        *devices (Tensor or torch.device): Devices, or tensors on them.
    """
    torch.default_generator.manual_seed(seed)
    for index in _cuda_indices(devices):
        with torch.cuda.device(index):
            torch.cuda.manual_seed(seed)


def random_state_kept(*devices: Tensor | torch.device) -> AbstractContextManager[None]:
    """Restores the generators of the CPU and of the CUDA devices among the given ones.

    Args:
        *devices (Tensor or torch.device): Devices, or tensors on them.
    """
    return torch.random.fork_rng(devices=_cuda_indices(devices))


@contextmanager
def seeded(seed: int, *devices: Tensor | torch.device) -> Iterator[None]:
    """Seeds the generators of the CPU and of the given CUDA devices, and restores them.

    Args:
        seed (int): The seed, in [0, 2**64).
        *devices (Tensor or torch.device): Devices, or tensors on them.
    """
    with random_state_kept(*devices):
        seed_generators(seed, *devices)
        yield


def _cuda_indices(devices: Iterable[Tensor | torch.device]) -> list[int]:
    unique = {device.device if isinstance(device, Tensor) else device for device in devices}
    cuda = [device.index for device in unique if device.type == "cuda"]
    return sorted({torch.cuda.current_device() if index is None else index for index in cuda})


_NOTHING = nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Computes in the tensors' own precision for a block, also inside of ``torch.autocast``.

    Args:
        device (torch.device): Where.
    """
    if not torch.is_autocast_enabled(device.type):
        return _NOTHING
    return torch.autocast(device.type, enabled=False)


@contextmanager
def grads_kept(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Sets ``.grad`` of the parameters to None and restores it.

    Args:
        parameters (Iterable[Tensor]): The parameters.
    """
    before = [(parameter, parameter.grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in before:
            parameter.grad = grad


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restores the values of buffers that a module changes, unless autograd records what it does.

    Args:
        module (nn.Module): The module.
    """
    before = [(b, b._version, b.detach().clone()) for b in module.buffers() if not b.is_inference()]
    try:
        yield
    finally:
        if not torch.is_grad_enabled():
            for buffer, version, value in before:
                # BatchNorm changes its statistics without a new version.
                if buffer._version != version or not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Sets the number of CPU threads of PyTorch's operators and restores it.

    Args:
        number (int): The number of threads, at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
