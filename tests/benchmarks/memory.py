"""Peak memory of a step of one system, in a process of its own; prints one line of JSON.

Run by measure.py as ``python memory.py SYSTEM QUBITS LAYERS BATCH TRAIN THREADS DEVICE``.

Counted is what PyTorch allocates for tensors: on a CPU every allocation and release that its
profiler reports, on a CUDA device what its allocator has counted. The resident memory of the
process is not that: what the C library keeps of freed memory for later, in holes between what is
alive, counts there too, and differs from run to run. The results are

- ``peak_bytes``: the highest during the first step and two later ones, beyond what was there
  before, with the layer built. What a first step makes and keeps, tables and matrices, counts;
- ``kept_bytes``: what is still there after the first step;
- ``step_bytes``: what a later step takes at its highest beside what is kept.
"""

import gc
import json
import sys
from collections.abc import Callable
from typing import Any


def host_bytes(work: Callable[[], Any]) -> tuple[int, int]:
    """Highest and remaining bytes of tensors on the CPU, beyond those there before."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        work()
        gc.collect()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest, now


def cuda_bytes(work: Callable[[], Any]) -> tuple[int, int]:
    """The same on a CUDA device."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    highest = torch.cuda.max_memory_allocated() - before
    gc.collect()
    return highest, torch.cuda.memory_allocated() - before


def main(name: str, n: str, layers: str, batch: str, train: str, threads: str, device: str) -> None:
    """Measures and prints."""
    import torch

    torch.set_num_threads(int(threads))
    import systems

    count = cuda_bytes if device.startswith("cuda") else host_bytes
    system = next(system for system in systems.SYSTEMS if system.name == name)
    # What is made once for a process is not memory of the step.
    system(systems.make_work(2, 1, 2, train == "1", device)).step()
    made = system(systems.make_work(int(n), int(layers), int(batch), train == "1", device))
    first, kept = count(lambda: made.step() and None)
    later, _ = count(lambda: [made.step() and None for _ in range(2)])
    found = {
        "layers": int(layers),
        "peak_bytes": max(first, kept + later),
        "kept_bytes": kept,
        "step_bytes": later,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
