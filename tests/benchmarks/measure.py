"""The measurements: every table's rows, as plain data.

A repetition of a system is as many steps in a row as fill a few milliseconds, and at least one.
Repetitions of all the systems of a row alternate (A, B, C, A, B, C, ...), so that what the machine
does meanwhile hits all of them; each starts with some untimed steps. Medians and quartiles of the
repetitions are kept. Every system lives in a process of its own, see jobs.py.
"""

import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jobs
import memory
import numpy as np
import systems
import torch
from jobs import JobError, Worker
from systems import Fused, TorchQuantumLayer, make_work
from tqdm import tqdm

from captum_quantum.simulate import FusedSimulator

OWN = ("captum_quantum", "torchquantum")
"""What must not fail on a GPU; of a peer that does, the error is reported."""

Timer = Callable[[int, bool], float]
"""So many steps in a row, after untimed ones or not, to the seconds that one takes."""
Row = tuple[int, int, int]
"""Qubits, layers, batch."""

ROWS: tuple[Row, ...] = (
    *((4, 2, 64), (4, 2, 1024), (6, 3, 256), (8, 2, 64), (8, 4, 256)),
    *((10, 4, 64), (10, 4, 256), (12, 4, 32), (14, 4, 16), (16, 4, 8)),
)
CUDA_ROWS: tuple[Row, ...] = (
    *((4, 2, 65536), (6, 3, 65536), (8, 2, 65536), (8, 4, 16384)),
    *((10, 4, 4096), (12, 4, 1024), (14, 4, 256), (16, 4, 64)),
)
ANSAETZE: dict[str, dict[str, Any]] = {
    "strongly entangling": {"ansatz": "strongly_entangling", "n_layers": 4},
    "real amplitudes": {"ansatz": "real_amplitudes", "n_layers": 4},
    "QCNN": {"ansatz": "qcnn", "n_layers": 3},
    "re-uploading": {"reupload": True, "n_layers": 4},
    "a user's modules": {"modules": "x", "n_layers": 4},
    "a user's modules, angles w x": {"modules": "w x", "n_layers": 4},
}


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rows (tuple): Of the tables of all systems.
        repetitions (int): Of every system at every row ...
        budget_s (float): ... unless they take longer than this: then fewer, but at least 3 ...
        slow_s (float): ... or 1 where a single step takes longer than this.
        fill_s (float): How long a repetition is at least.
        memory (tuple): Qubits, batch, few and many layers.
        growth (tuple): Numbers of qubits, at 4 layers and batch 1.
        circuits (tuple): Qubits and batch of the other circuits.
        explain_batch (int): Images that are explained.
        limit (tuple): Rows compared with what the machine can do.
        matrix (int): Side of the largest matrix of which the machine's rate is measured.
        stream_bytes (int): Size of the large buffer of which the bandwidth is measured.
    """

    rows: tuple[Row, ...] = ROWS
    repetitions: int = 11
    budget_s: float = 3.0
    slow_s: float = 20.0
    fill_s: float = 0.02
    memory: tuple[int, int, int, int] = (12, 32, 4, 64)
    growth: tuple[int, ...] = tuple(range(10, 21))
    circuits: tuple[int, int] = (8, 256)
    explain_batch: int = 256
    limit: tuple[Row, ...] = ((12, 4, 32), (16, 4, 8))
    matrix: int = 2048
    stream_bytes: int = 2**28


FULL = Settings()
CUDA = Settings(
    rows=ROWS + CUDA_ROWS, limit=((12, 4, 1024), (16, 4, 64)), matrix=8192, stream_bytes=2**31
)
QUICK = Settings(
    rows=((3, 2, 4),),
    repetitions=2,
    budget_s=0.0,
    fill_s=0.0,
    memory=(4, 2, 1, 2),
    growth=(2, 3),
    circuits=(3, 2),
    explain_batch=2,
    limit=((3, 1, 2),),
    matrix=64,
    stream_bytes=2**16,
)


class Measurement:
    """All measurements on one device.

    Args:
        settings (Settings): How much is measured.
        device (torch.device): Where.
        threads (int): PyTorch's threads on the CPU.
    """

    def __init__(self, settings: Settings, device: torch.device, threads: int) -> None:
        self.settings, self.device, self.threads = settings, device, threads
        self.workers: dict[str, Worker] = {}
        self.sections: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "input_gradient": lambda: self._systems(train=False),
            "training_step": lambda: self._systems(train=True),
            "circuits": self._circuits,
            "explaining": self._explaining,
            "growth": self._growth,
            "limit": self._limit,
            "memory": self._memory,
        }

    def run(
        self, only: list[str] | None = None, minutes: float | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Measures the sections named, or all, until the time is over: section -> rows."""
        end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        names = list(self.sections) if only is None else only
        sizes = {
            "input_gradient": len(self.settings.rows),
            "training_step": len(self.settings.rows),
            "circuits": 2 * len(ANSAETZE),
            "explaining": 2,
            "growth": 1,
            "limit": 2 * len(self.settings.limit),
            "memory": 2,
        }
        tables: dict[str, list[dict[str, Any]]] = {}
        try:
            with tqdm(total=sum(sizes[name] for name in names), unit="row") as bar:
                for name in names:
                    if time.monotonic() > end:
                        break
                    if name in ("growth", "limit", "memory"):  # without others in memory
                        self._end_workers()
                    bar.set_description(name.replace("_", " "))
                    tables[name] = []
                    for row in self.sections[name]():
                        tables[name].append(row)
                        bar.update()
                        if time.monotonic() > end:
                            break
        finally:
            self._end_workers()
        return tables

    def _end_workers(self) -> None:
        while self.workers:
            self.workers.popitem()[1].close()

    def _worker(self, name: str) -> Worker:
        """The process of a system, for all rows of all tables."""
        if name not in self.workers:
            self.workers[name] = Worker(self.device, self.threads)
        return self.workers[name]

    # -- timing ----------------------------------------------------------------------------------

    def _alternate(self, timers: Mapping[str, Timer]) -> dict[str, dict[str, Any]]:
        """Times steps that have been warmed up: name -> milliseconds and how they were taken."""
        own = self.settings
        calls, warm, left, times = {}, {}, {}, {name: [] for name in timers}
        for name, timer in timers.items():
            once = timer(1, False)
            if once < 1:
                once = min(once, timer(1, False))
            warm[name] = once < jobs.LONG_S
            calls[name] = max(1, math.ceil(own.fill_s / once))
            least = 1 if once > own.slow_s else min(3, own.repetitions)
            affordable = int(own.budget_s / (once * (calls[name] + warm[name])))
            left[name] = min(own.repetitions, max(least, affordable))
        gc.collect()
        gc.freeze()
        for _ in range(own.repetitions):
            for name, timer in timers.items():
                if left[name]:
                    left[name] -= 1
                    times[name].append(1e3 * timer(calls[name], warm[name]))
        gc.unfreeze()
        return {name: _summary(times[name], calls[name]) for name in timers}

    def _here(self, step: Callable[[], Any]) -> Timer:
        """The timer of a step in this process."""
        return lambda calls, warm: jobs.seconds(step, calls, warm, self.device)

    # -- all systems on the same circuit ---------------------------------------------------------

    def _systems(self, train: bool) -> Iterator[dict[str, Any]]:
        there = systems.installed()
        for n, layers, batch in self.settings.rows:
            left_out: dict[str, str] = {}
            timers: dict[str, Timer] = {}
            differences: dict[str, float] = {}
            expected: list[np.ndarray] = []
            for system in systems.SYSTEMS:
                reason = system.why_not(n, layers, train, self.device.type)
                if reason is None and system not in there:
                    reason = "not installed"
                if reason is None:
                    worker = self._worker(system.name)
                    try:
                        found = worker.make("system", system.name, n, layers, batch, train)
                    except JobError as error:
                        peer_on_gpu = self.device.type == "cuda" and system.package not in OWN
                        if system is not Fused and error.out_of_memory:
                            reason = "out of memory"
                        elif peer_on_gpu:
                            reason = f"fails on a GPU: {error}"
                        else:
                            raise
                if reason is not None:
                    left_out[system.name] = reason
                    continue
                expected = expected or found
                differences[system.name] = _check(system.name, found, expected)
                timers[system.name] = worker.seconds
            timed = self._alternate(timers)
            for name, own in timed.items():
                own["largest_difference"] = differences[name]
            yield {"n": n, "layers": layers, "batch": batch, "systems": timed, "left_out": left_out}

    # -- other circuits --------------------------------------------------------------------------

    def _circuits(self) -> Iterator[dict[str, Any]]:
        n, batch = self.settings.circuits
        pair = {"fused": "fused", "torchquantum-layer": "torchquantum"}
        for train in (False, True):
            for name, arguments in ANSAETZE.items():
                arguments = dict(arguments)
                if n < 8 and arguments.get("ansatz") == "qcnn":
                    arguments["n_layers"] = int(math.log2(n))
                found = {
                    key: self._worker(key).make("layer", simulator, arguments, n, batch, train)
                    for key, simulator in pair.items()
                }
                difference = _check(name, found["torchquantum-layer"], found["fused"])
                timed = self._alternate({key: self._worker(key).seconds for key in pair})
                timed["torchquantum-layer"]["largest_difference"] = difference
                yield {
                    "circuit": name,
                    "n": n,
                    "layers": arguments["n_layers"],
                    "batch": batch,
                    "train": train,
                    "systems": timed,
                }

    # -- explaining ------------------------------------------------------------------------------

    def _explaining(self) -> Iterator[dict[str, Any]]:
        batch = self.settings.explain_batch
        # Name: its process, the simulator, the number of classes.
        tables: dict[str, dict[str, tuple[str, str, int | None]]] = {
            "attribute": {
                "QuantumLayerGradCam, fused": ("fused", "fused", None),
                "LayerGradCam, TorchQuantum": ("torchquantum-layer", "torchquantum", None),
            },
            "attribute_classes": {
                "1 class": ("fused", "fused", 1),
                "10 classes": ("fused, once more", "fused", 10),
            },
        }
        for what, steps in tables.items():
            maps = [
                self._worker(worker).make("explain", simulator, batch, n_classes)
                for worker, simulator, n_classes in steps.values()
            ]
            difference = _check(what, [own[:, :1] for own in maps[1]], maps[0])
            timed = self._alternate(
                {name: self._worker(worker).seconds for name, (worker, _, _) in steps.items()}
            )
            yield {
                "what": what,
                "batch": batch,
                "systems": timed,
                "largest_difference": difference,
            }

    # -- growth with the number of qubits --------------------------------------------------------

    def _growth(self) -> Iterator[dict[str, Any]]:
        made = {n: Fused(make_work(n, 4, 1, False, self.device)) for n in self.settings.growth}
        for system in made.values():
            system.step()
        timed = self._alternate({str(n): self._here(system.step) for n, system in made.items()})
        per_amplitude = {n: 1e6 * own["median_ms"] / 2 ** int(n) for n, own in timed.items()}
        yield {"layers": 4, "batch": 1, "systems": timed, "ns_per_amplitude": per_amplitude}

    # -- what the machine could do ---------------------------------------------------------------

    def _limit(self) -> Iterator[dict[str, Any]]:
        for n, layers, batch in self.settings.limit:
            for train in (False, True):
                system = Fused(make_work(n, layers, batch, train, self.device))
                system.step()
                passes = plan_passes(
                    FusedSimulator().plan(system.layer.circuit, batch), batch, train
                )
                machine = self._machine_steps(2**n * batch * 8)
                for _, step in machine.values():
                    step()
                steps = {name: self._here(step) for name, (_, step) in machine.items()}
                timed = self._alternate({"fused": self._here(system.step), **steps})
                rates = {  # operations or bytes each second
                    name: amount / (timed[name]["median_ms"] / 1e3)
                    for name, (amount, _) in machine.items()
                }
                flops = max(rate for name, rate in rates.items() if name.startswith("matmul"))
                stream = max(rate for name, rate in rates.items() if name.startswith("copy"))
                by_flops = [1e3 * own / flops for own, _ in passes]
                by_bytes = [1e3 * own / stream for _, own in passes]
                least = sum(map(max, by_flops, by_bytes))
                yield {
                    "n": n,
                    "layers": layers,
                    "batch": batch,
                    "train": train,
                    "flops": sum(own for own, _ in passes),
                    "bytes": sum(own for _, own in passes),
                    "passes": len(passes),
                    "flops_per_s": flops,
                    "bytes_per_s": stream,
                    "rates": rates,
                    "flops_ms": sum(by_flops),
                    "bytes_ms": sum(by_bytes),
                    "limit_ms": least,
                    "systems": timed,
                    "share": least / timed["fused"]["median_ms"],
                }

    def _machine_steps(self, state_bytes: int) -> dict[str, tuple[float, Callable[[], Any]]]:
        """Real float32 matrix products and copies: name -> (operations or bytes, step)."""
        result: dict[str, tuple[float, Callable[[], Any]]] = {}
        side = self.settings.matrix
        for own in (side // 4, side // 2, side):
            a, b, out = (torch.rand(own, own, device=self.device) for _ in range(3))
            result[f"matmul {own}"] = (2 * own**3, _matmul(a, b, out))
        for size in (state_bytes, self.settings.stream_bytes):
            source = torch.rand(size // 4, device=self.device)
            result[f"copy {size} bytes"] = (2 * size, _copy(source, torch.empty_like(source)))
        return result

    # -- memory ----------------------------------------------------------------------------------

    def _memory(self) -> Iterator[dict[str, Any]]:
        n, batch, few, many = self.settings.memory
        script = memory.__file__
        for train in (False, True):
            row: dict[str, Any] = {"n": n, "batch": batch, "train": train, "layers": [few, many]}
            row["systems"] = {}
            for system in (Fused, TorchQuantumLayer):
                found = []
                for layers in (few, many):
                    numbers = map(str, (n, layers, batch, int(train), self.threads))
                    command = [sys.executable, script, system.name, *numbers]
                    command += [self.device.type]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                row["systems"][system.name] = found
            yield row


def _matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Callable[[], Any]:
    return lambda: torch.matmul(a, b, out=out)


def _copy(source: torch.Tensor, target: torch.Tensor) -> Callable[[], Any]:
    return lambda: target.copy_(source)


def _summary(times: list[float], calls: int) -> dict[str, Any]:
    q1, median, q3 = np.percentile(times, [25, 50, 75])
    return {
        "median_ms": float(median),
        "q1_ms": float(q1),
        "q3_ms": float(q3),
        "repetitions": len(times),
        "steps_each": calls,
        "times_ms": times,
    }


def _check(name: str, found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference from ours, relative to the largest entry: the same work was done."""
    differences = []
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        differences.append(float(np.abs(one - other).max()) / scale)
    worst = float(np.max(differences))  # NaN, if there is one
    if not worst < 1e-4:
        raise RuntimeError(f"{name} does other work: it differs by {worst:.1e}")
    return worst


def plan_passes(plan: Any, batch: int, train: bool) -> list[tuple[float, float]]:
    """Floating-point operations and bytes of every pass over the state that a step asks for.

    A pass reads or writes whole states, complex64: ``2**n * batch`` numbers of 8 bytes. A complex
    product and sum is 8 operations. Counted is what the plan asks for at the least, each pass
    reading its operands from memory once and writing its result once; matrices are small beside
    states and not counted. Forwards: the head writes the state, every step maps it, the readout
    reads it. Backwards: the readout's gradient, the steps' adjoints on it, and the head reads it;
    where matrices get gradients, because weights are trained or the step depends on the inputs,
    the state goes back too, and its products with the gradient are summed.

    Args:
        plan (Plan): The plan.
        batch (int): Number of samples.
        train (bool): Whether weights get gradients.

    Returns:
        list[tuple[float, float]]: For every pass, operations and bytes.
    """
    n = plan.circuit.n_qubits
    numbers = 2**n * batch
    size = 8 * numbers
    follow = train or any(type(step).__name__ == "InputPhases" for step in plan.steps)
    n_observables = len(plan.circuit.observables)
    passes: list[tuple[float, float]] = []

    def add(operations: float, states: float) -> None:
        passes.append((operations, states * size))

    add(6 * numbers, 1)  # head
    for step in plan.steps:
        kind = type(step).__name__
        if kind == "Dense":
            product = 8 * 2 ** len(step.wires) * numbers
            add(product, 2)  # forwards
            add(product, 2)  # the gradient, backwards
            if follow:
                add(product, 2)  # the state, backwards
            if train:
                add(product, 2)  # the matrix's gradient: reads both
        elif kind == "Monomial":
            times = 6 * numbers if step.phases else 0
            add(times, 2)
            add(times, 2)
            if follow:
                add(times, 2)
            if step.phases and train:
                add(times, 2)
        elif kind == "InputPhases":
            # The phases of either half of the bits, then those of each factor on several wires.
            factors = step.multiplications
            for _ in range(3):  # forwards, the gradient, the state
                add(6 * factors * numbers, 2 * factors)
            add(8 * numbers, 2)  # the gradient by the phases: reads both
        else:
            raise TypeError(f"plan_passes does not know what a step of kind {kind} costs")
    add(3 * numbers + 2 * n_observables * numbers, 1)  # readout
    add(2 * n_observables * numbers + 2 * numbers, 2)  # its gradient: reads and writes
    add(8 * numbers, 1)  # head, backwards
    return passes


def settings_dict(settings: Settings) -> dict[str, Any]:
    """For the results."""
    return asdict(settings)
