"""Peak memory of a step of one system, in a process of its own; prints one line of JSON.

Run by measure.py as ``python memory.py SYSTEM QUBITS LAYERS BATCH TRAIN THREADS DEVICE``.

On a CPU, resident memory is read: before the first step (after the imports, after a step of a tiny
circuit, and with the layer built, whose gates are Python objects: ``layer_bytes``), at its highest
during the first step, after it, and at its highest during two more steps. The results are

- ``peak_bytes``: the highest, minus that before the first step. What a first step makes and keeps,
  tables and matrices, counts;
- ``kept_bytes``: what is still there after the first step;
- ``step_bytes``: what a later step takes at its highest beside what is kept.

The C library is told to give freed memory back at once (ENVIRONMENT), for all systems, so that the
highest is that of tensors alive at the same time. On a CUDA device, all this is what PyTorch's
allocator has counted.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
"""Read by glibc at the start of a process: memory is given back as soon as it is freed."""


def _status(key: str) -> int:
    """A number of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


class _Host:
    """Resident memory of this process, bytes; where there is no /proc, the highest so far."""

    def __init__(self) -> None:
        self._linux = sys.platform.startswith("linux")

    def now(self) -> int:
        """With garbage collected and free memory given back."""
        gc.collect()
        if not self._linux:
            return self.highest()
        ctypes.CDLL(None).malloc_trim(0)
        return _status("VmRSS")

    def reset(self) -> None:
        """Forgets what was highest."""
        if self._linux:
            Path("/proc/self/clear_refs").write_text("5")

    def highest(self) -> int:
        """Since the last reset."""
        if self._linux:
            return _status("VmHWM")
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


class _Cuda:
    """The same of PyTorch's allocator."""

    def now(self) -> int:
        """With garbage collected."""
        import torch

        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def reset(self) -> None:
        """Forgets what was highest."""
        import torch

        torch.cuda.reset_peak_memory_stats()

    def highest(self) -> int:
        """Since the last reset."""
        import torch

        return torch.cuda.max_memory_allocated()


def main(name: str, n: str, layers: str, batch: str, train: str, threads: str, device: str) -> None:
    """Measures and prints."""
    import torch

    torch.set_num_threads(int(threads))
    import systems

    memory = _Cuda() if device.startswith("cuda") else _Host()
    system = next(system for system in systems.SYSTEMS if system.name == name)
    system(systems.make_work(2, 1, 2, train == "1", device)).step()
    work = systems.make_work(int(n), int(layers), int(batch), train == "1", device)
    before = memory.now()
    made = system(work)
    built = memory.now()
    memory.reset()
    made.step()
    first = memory.highest()
    kept = memory.now()
    memory.reset()
    for _ in range(2):
        made.step()
    later = memory.highest()
    found = {
        "layers": int(layers),
        "peak_bytes": max(first, later) - built,
        "kept_bytes": kept - built,
        "step_bytes": later - kept,
        "layer_bytes": built - before,
        "before_bytes": built,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
