"""A device that records gates with their live angles, and simulates nothing.

TorchQuantum applies nearly every gate through one function, ``gate_wrapper``, which its modules
hold by name. Here it is replaced, once and for all devices: given a `Recorder` it appends the gate
to a list, given any other device it calls the original. The same holds for the ``forward`` of
operators, which writes the angles of a call to the operator itself, and of matrix exponentials.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torchquantum as tq
from torch import Tensor, nn
from torchquantum.functional.gate_wrapper import gate_wrapper as _original_wrapper

from captum_quantum.circuit import CircuitError


class Features(tuple[int, ...]):
    """Which input features a gate takes as angles, instead of their values."""


class Entry(NamedTuple):
    """A gate as it was applied.

    Attributes:
        name (str): TorchQuantum's name.
        wires (Any): A wire or a list of wires, as given.
        params (Any): None, numbers or a tensor, as given.
        inverse (bool): Whether the adjoint is applied.
        generator (Any): Of a matrix exponential, its ``tq.Hamiltonian``; else None.
    """

    name: str
    wires: Any
    params: Any
    inverse: bool
    generator: Any = None


class Recorder(tq.QuantumDevice):
    """A `tq.QuantumDevice` without a state.

    Attributes:
        entries (list[Entry]): The gates so far.
        versions (list[int]): The version of every gate's angles when the gate was applied.
        initial (Tensor or None): States that were written before the first gate.
        read (Callable or None): What gives the states to those who read them; None for nothing but
            their shape.
        copies (bool): Whether angles are copied as they come.
        cut (int): How many gates autograd does not see, as a gate behind them, or the last of them,
            was applied where gradients are off.

    Args:
        n_wires (int): Number of wires.
        device_name (str): Not used.
        bsz (int): Number of samples.
        device (torch.device or str): Where modules shall put their angles.
        record_op (bool): Not used.
    """

    def __init__(
        self,
        n_wires: int,
        device_name: str = "default",
        bsz: int = 1,
        device: torch.device | str = "cpu",
        record_op: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(
            n_wires=n_wires, bsz=bsz, device=device, device_name="default", record_op=False,
            op_history=[], entries=[], initial=None, operators={}, on_gate=None, copies=False,
            versions=[], read=None, cut=0, tracked=torch.is_grad_enabled(),
        )  # fmt: skip
        if _expected is not None:
            _expected.take(self)

    def clear(self) -> None:
        """Drops what was recorded: the user's modules may keep the device."""
        self.__dict__.update(
            entries=[], initial=None, operators={}, on_gate=None, versions=[], read=None
        )

    def add(self, entry: Entry) -> None:
        """Appends a gate."""
        if self.on_gate is not None:
            self.on_gate(entry)
        params = entry.params
        if isinstance(params, Tensor):
            if self.copies:
                entry = entry._replace(params=params.clone())
            self.versions.append(-1 if self.copies else params._version)
        else:
            self.versions.append(-1)
        self.entries.append(entry)
        if self.tracked and not torch.is_grad_enabled():
            self.__dict__["cut"] = len(self.entries)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the states."""
        return (self.bsz, *[2] * self.n_wires)

    @property
    def states(self) -> Tensor:
        """The states: there are none, but their shape is known."""
        if self.read is None:
            return torch.empty(self.shape, dtype=torch.complex64, device="meta")
        states: Tensor = self.read(self)
        return states.reshape(self.shape)

    @states.setter
    def states(self, states: Tensor) -> None:
        if self.entries or states.is_meta:
            raise CircuitError(
                f"after {len(self.entries)} gates the state is written directly (by reset, "
                "set_states or an encoding of amplitudes), which is not a gate; only before the "
                "first gate it sets the initial amplitudes"
            )
        size = 2**self.n_wires
        if states.dim() == 0 or states.numel() != states.shape[0] * size:
            shape = tuple(states.shape)
            raise CircuitError(f"the states written must hold {size} amplitudes each; got {shape}")
        self.__dict__["initial"] = states.reshape(-1, size)

    @property
    def state(self) -> Tensor:
        """The state of one sample: as `states`."""
        return torch.empty([2] * self.n_wires, dtype=torch.complex64, device="meta")

    @state.setter
    def state(self, state: Tensor) -> None:
        raise CircuitError("the modules write qdev.state, which is not a gate")

    def reset_states(self, bsz: int) -> None:
        """Restarts from |0...0>, as TorchQuantum does."""
        self.__dict__.update(entries=[], initial=None, versions=[], bsz=bsz, cut=0)

    def reset_all_eq_states(self, bsz: int) -> None:
        """Starts from the equal superposition; TorchQuantum's amplitudes, with their phase."""
        value = 0.5 ** (self.n_wires / 2 + 0.5)
        self.states = torch.full(
            (1, 2**self.n_wires), complex(value, value), dtype=torch.complex64, device=self.device
        )

    def reset_identity_states(self) -> None:
        """Starts from all basis states, one a sample."""
        self.states = torch.eye(2**self.n_wires, dtype=torch.complex64, device=self.device)

    def __repr__(self) -> str:
        return f"Recorder(n_wires={self.n_wires}, bsz={self.bsz})"


def _gate_wrapper(
    name: str,
    mat: Any,
    method: str,
    q_device: Any,
    wires: Any,
    params: Any = None,
    n_wires: int | None = None,
    static: bool = False,
    parent_graph: Any = None,
    inverse: bool = False,
) -> None:
    """Records a gate, or applies it by TorchQuantum's own function."""
    if type(q_device) is Recorder:
        # A matrix given with its gate, as for controlled unitaries, is a parameter by another name.
        if params is None and isinstance(mat, Tensor) and name.startswith("qubitunitary"):
            params = mat
        q_device.add(Entry(name, wires, params, inverse))
        return
    _original_wrapper(
        name, mat, method, q_device, wires, params, n_wires, static, parent_graph, inverse
    )


def _operator_forward(
    self: Any, q_device: Any, wires: Any = None, params: Any = None, inverse: Any = None
) -> Any:
    """Applies an operator; on a `Recorder` without writing to the operator."""
    special = self.noise_model_tq is not None or self.clifford_quantization
    if type(q_device) is not Recorder or special:
        return _original_forward(self, q_device, wires, params, inverse)
    # TorchQuantum keeps what was given for the operator's next call.
    if wires is None and params is None and inverse is None:
        known = q_device.operators.get(id(self)) if q_device.operators else None
    else:
        known = q_device.operators.setdefault(id(self), {})
        given = (("wires", wires), ("params", params), ("inverse", inverse))
        known.update({name: value for name, value in given if value is not None})
    if known:
        wires, params = known.get("wires", self.wires), known.get("params", self.params)
        inverse = known.get("inverse", self.inverse)
    else:
        wires, params, inverse = self.wires, self.params, self.inverse
    arguments: dict[str, Any] = {"inverse": inverse}
    if params is not None:
        arguments["params"] = params
    if self.n_wires is not None:
        arguments["n_wires"] = self.n_wires
    return self.func(q_device, wires, **arguments)


def _exponential_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, qdev: Any, wires: Any) -> Any:
        if type(qdev) is not Recorder:
            return original(self, qdev, wires)
        return qdev.add(Entry("exp", wires, self.theta, False, self.hamil))

    return forward


_original_forward: Callable[..., Any] = tq.Operator.forward


class _Expected:
    """The device that a module makes, or keeps, and that shall be a recorder."""

    def __init__(self, made: list[Recorder], options: dict[str, Any]) -> None:
        self.made, self._options = made, options

    def take(self, recorder: Recorder) -> None:
        """Sets the recorder up, if it is the first."""
        if not self.made:
            recorder.__dict__.update(self._options)
            self.made.append(recorder)


_expected: _Expected | None = None


def _new_device(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Makes a device, or a recorder where one is expected."""
    wanted = _expected is not None and not _expected.made and cls is tq.QuantumDevice
    return object.__new__(Recorder if wanted else cls)


@contextmanager
def recorders_made(
    made: list[Recorder], module: nn.Module, batch: int, **options: Any
) -> Iterator[None]:
    """The first device that is made in this block is a recorder, or one that the module keeps.

    Args:
        made (list[Recorder]): Receives it.
        module (nn.Module): The module that runs in the block.
        batch (int): Number of samples.
        **options: Attributes of the recorder.
    """
    global _expected
    before, _expected = _expected, _Expected(made, options)
    kept = [
        (part, name, child)
        for part in module.modules()
        for name, child in part._modules.items()
        if type(child) is tq.QuantumDevice
    ]
    try:
        for part, name, child in kept:
            held: Any = child
            part._modules[name] = made[0] if made else Recorder(
                held.n_wires, bsz=batch, device=held.device
            )  # fmt: skip
        yield
    finally:
        _expected = before
        for part, name, child in kept:
            part._modules[name] = child


def _device_state(self: Any) -> dict[str, Any]:
    """What copies and pickles of a device hold: its states, without the graph of autograd."""
    state = dict(self.__dict__)
    state["_buffers"] = {name: value.detach() for name, value in self._buffers.items()}
    for name, value in self.__dict__.items():
        if isinstance(value, Tensor):
            state[name] = value.detach()
    return state


def install() -> None:
    """Puts the functions above into TorchQuantum's modules; a second call does nothing."""
    if tq.Operator.forward is _operator_forward:
        return
    for name, module in list(sys.modules.items()):
        own = name.split(".")[0] == "torchquantum"
        if own and vars(module).get("gate_wrapper") is _original_wrapper:
            vars(module)["gate_wrapper"] = _gate_wrapper
    tq.Operator.forward = _operator_forward
    tq.QuantumDevice.__new__ = staticmethod(_new_device)
    tq.QuantumDevice.__getstate__ = _device_state
    for kind in (tq.OpHamilExp, tq.OpPauliExp):
        kind.forward = _exponential_forward(kind.forward)
