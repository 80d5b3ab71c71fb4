"""The processes that torchrun starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def processes(device: "torch.device") -> Iterator["torch.device"]:
    """Joins the processes that torchrun has started, if it has; yields this one's device."""
    import os
    from datetime import timedelta

    import torch
    from torch import distributed

    from captum_quantum import _checks

    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
        yield device
        return
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                _checks.sentence(
                    "--nproc-per-node",
                    f"at most {torch.cuda.device_count()}, the number of CUDA devices, or --device "
                    "cpu",
                    os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)),
                )
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # The others wait while the first one trains, however long.
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30)
    )
    try:
        yield device
    finally:
        distributed.destroy_process_group()
