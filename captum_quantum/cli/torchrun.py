"""Processes that were started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from captum_quantum import _checks


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the process group of torchrun, if there is one; yields the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
        yield device
        return
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        n_devices = torch.cuda.device_count()
        if local >= n_devices:
            must = f"at most {n_devices}, the number of CUDA devices, or --device cpu"
            got = os.environ.get("LOCAL_WORLD_SIZE", str(local + 1))
            raise ValueError(_checks.sentence("--nproc-per-node", must, got))
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # The other processes wait while the first one trains, however long that takes.
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(days=30))
    try:
        yield device
    finally:
        distributed.destroy_process_group()
