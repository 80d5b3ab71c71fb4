"""What is timed, each system in a process of its own.

A user has one of these systems in a process, not ten: there, what others leave in the C library's
heap, in thread pools and in Python's garbage collector slows all of them, and not alike.
"""

import gc
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import systems
import torch
from systems import System, Work, make_work

Arrays = list[np.ndarray]


class Job(Protocol):
    """Something to be timed."""

    def step(self) -> Any:
        """Does the work once."""

    def arrays(self, found: Any) -> Arrays:
        """What a step has returned, to be compared with what other systems return."""


class JobError(RuntimeError):
    """A job failed in its process; ``out_of_memory`` says whether of that."""

    def __init__(self, message: str, out_of_memory: bool) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


def system_job(
    device: torch.device, name: str, n: int, layers: int, batch: int, train: bool
) -> Job:
    """A system on the circuit that all of them run."""
    system = next(system for system in systems.SYSTEMS if system.name == name)
    return system(make_work(n, layers, batch, train, device))


class LayerJob(System):
    """A step of any VQCLayer, with the sizes of its own circuit."""

    def __init__(self, work: Work, arguments: dict[str, Any], simulator: str) -> None:
        super().__init__(work)
        from captum_quantum import VQCLayer

        arguments = dict(arguments)
        angles = arguments.pop("modules", None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if angles is not None:
                arguments.update(systems.users_modules(work.n, arguments["n_layers"], angles))
            self.layer = VQCLayer(work.n, simulator=simulator, **arguments)
        self.layer = self.layer.to(work.inputs.device).requires_grad_(work.train)
        self.parameters = list(self.layer.parameters())

    def values(self, inputs: torch.Tensor) -> torch.Tensor:
        """By the layer's own rule."""
        values: torch.Tensor = self.layer(inputs)
        return values

    def arrays(self, found: tuple[Any, Any, Any]) -> Arrays:
        """Gradients by weights in their own shapes."""
        values, by_inputs, by_weights = found
        return [own.detach().cpu().numpy() for own in (values, by_inputs, *(by_weights or ()))]


def layer_job(
    device: torch.device,
    simulator: str,
    arguments: dict[str, Any],
    n: int,
    batch: int,
    train: bool,
) -> Job:
    """A VQCLayer on one of its simulators, with the same weights on both."""
    work = make_work(n, arguments["n_layers"], batch, train, device)
    return LayerJob(work, arguments, simulator)


class ExplainJob:
    """The maps of the demo's model for a batch of images.

    Args:
        device (torch.device): Where.
        simulator (str): The layer's; Captum's LayerGradCam explains it on TorchQuantum's.
        batch (int): Number of images.
        n_classes (int or None): Explain so many classes each; None for the predicted one.
    """

    def __init__(
        self, device: torch.device, simulator: str, batch: int, n_classes: int | None
    ) -> None:
        from captum.attr import LayerGradCam

        from captum_quantum import QuantumLayerGradCam, VQCLayer
        from captum_quantum.models import digits_model

        model = digits_model(seed=0).to(device).eval()
        random = torch.Generator().manual_seed(0)
        self._images = torch.rand(batch, 1, 32, 32, generator=random).to(device)
        with torch.no_grad():  # both explain the classes that the fused simulator finds
            self._targets = model(self._images).argmax(dim=1)
        self._classes = None if n_classes is None else list(range(n_classes))
        if simulator == "torchquantum":
            slow = VQCLayer(model.vqc.n_qubits, 2, simulator=simulator).to(device)
            slow.load_state_dict(model.vqc.state_dict())
            model.vqc = slow
        explainer = LayerGradCam if simulator == "torchquantum" else QuantumLayerGradCam
        self._explainer: Any = explainer(model, model.backbone)

    def step(self) -> torch.Tensor:
        """The maps."""
        maps: torch.Tensor
        if self._classes is None:
            maps = self._explainer.attribute(self._images, self._targets)
        else:
            maps = self._explainer.attribute_classes(self._images, self._classes)
        return maps

    def arrays(self, found: torch.Tensor) -> Arrays:
        """The maps."""
        return [found.detach().cpu().numpy()]


MAKERS: dict[str, Callable[..., Job]] = {
    "system": system_job,
    "layer": layer_job,
    "explain": ExplainJob,
}


WARM_S = 0.02
"""Untimed steps before a repetition: until the last one's threads sleep and caches are filled."""
LONG_S = 0.25
"""Steps as long as this are not warmed up: it would change little, and take as long again."""


def seconds(step: Callable[[], Any], calls: int, warm: bool, device: torch.device) -> float:
    """Time of a step, the mean of so many in a row, without garbage collection.

    What is frozen is not looked through by the collection before.
    """
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        while warm and time.perf_counter() - start < WARM_S:
            step()
        _wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            step()
        _wait(device)
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "resource_exhausted")
    )


def serve(pipe: Connection, device: str, threads: int) -> None:
    """The process: does what it is told until nobody is left to tell it."""
    systems.silence()
    torch.set_num_threads(threads)
    there = torch.device(device)
    job: Job | None = None
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        try:
            result: Any = None
            if command == "make":
                job = None
                gc.unfreeze()
                gc.collect()
                if there.type == "cuda":
                    torch.cuda.empty_cache()
                maker, *rest = arguments
                job = MAKERS[maker](there, *rest)
                result = job.arrays(job.step())
                job.step()
                gc.collect()
                gc.freeze()
            else:
                assert job is not None
                result = seconds(job.step, *arguments, there)
            pipe.send((True, result))
        except (RuntimeError, MemoryError) as error:  # whoever asked decides what it means
            kind = type(error).__name__
            first = (str(error).splitlines() or [""])[0]
            pipe.send((False, (f"{kind}: {first}", traceback.format_exc(), _out_of_memory(error))))


class Worker:
    """A process that makes and times jobs, one at a time.

    Args:
        device (torch.device): Where jobs run.
        threads (int): PyTorch's threads on the CPU.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, str(device), threads)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def _ask(self, command: str, arguments: Any) -> Any:
        self._pipe.send((command, arguments))
        try:
            fine, result = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"the process of a job ended with exit code {code}") from None
        if fine:
            return result
        message, trace, out_of_memory = result
        raise JobError(message, out_of_memory) from RuntimeError(trace)

    def make(self, maker: str, *arguments: Any) -> Arrays:
        """Makes a job in the place of the last one and runs it twice; what the first run found."""
        found: Arrays = self._ask("make", (maker, *arguments))
        return found

    def seconds(self, calls: int, warm: bool) -> float:
        """The job's time for a step, the mean of so many in a row, warmed up or not."""
        found: float = self._ask("seconds", (calls, warm))
        return found

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()
