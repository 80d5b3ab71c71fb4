"""The systems that are compared, each in its own best form, on one piece of work.

The circuit is that of ``VQCLayer(n, layers)``: RY(x_i) on qubit i; then, in every layer, RX, RY and
RZ on every qubit and a CNOT ring; <Z> on every qubit is read. A step computes the values of a batch
and pulls one cotangent back to the inputs, and, in training, to the weights, which it then changes
in place, as gradient descent does: so nothing that depends on weights outlives a step.

What is best for each system was tried out on this circuit, on rows small and large:

- TorchQuantum: three forms are measured, see the classes.
- PennyLane, DeepQuantum, TensorCircuit: all <Z> as one product of the probabilities with the signs
  is as fast as or faster than each one's own expectation values.
- PennyLane's default.qubit: parameter broadcasting; and |0...0> as an explicit complex64 state, as
  it computes in complex128 otherwise, which takes nearly twice as long.
- PennyLane's lightning.qubit: complex64; the Jacobian of all values, as ``device_vjp`` takes twice
  as long, and ``batch_obs`` no less.
- DeepQuantum: ``encode=True`` and a batch of data (it maps over the batch with torch.vmap).
- TensorCircuit: ``vmap`` of its PyTorch backend, then one backward pass; its
  ``vectorized_value_and_grad`` takes longer. Its ``jit`` does nothing on this backend.
- FlagQuantum: ``fq.Module``, its documented path for training, which traces the circuit once; the
  batch is in the circuit (``bsz``). Building the circuit at every step takes up to twice as long.
  Its adjoint differentiation in C++ takes one sample and one scalar at a time; a loop of it over
  the batch takes 5 to 700 times as long.
- TensorCircuit on JAX: ``vmap`` and ``jit``, the arrays stay in JAX. Not a peer in PyTorch, shown
  for comparison.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
        n, layers, batch (int): Qubits, layers, samples.
        train (bool): Whether weights get gradients and are changed; else they are frozen.
        inputs (Tensor): ``(batch, n)``, radians.
        weights (Tensor): ``(layers, n, 3)``, radians; every system makes a copy.
        cotangent (Tensor): ``(batch, n)``, the gradient at the values.
    """

    n: int
    layers: int
    batch: int
    train: bool
    inputs: Tensor
    weights: Tensor
    cotangent: Tensor


def make_work(
    n: int, layers: int, batch: int, train: bool, device: torch.device | str = "cpu"
) -> Work:
    """Draws inputs, weights and cotangent, always the same for the same sizes."""
    random = torch.Generator().manual_seed(0)
    inputs = (torch.rand(batch, n, generator=random) * 2 - 1) * torch.pi
    weights = (torch.rand(layers, n, 3, generator=random) * 2 - 1) * torch.pi
    cotangent = torch.randn(batch, n, generator=random) / batch
    return Work(
        n, layers, batch, train, inputs.to(device), weights.to(device), cotangent.to(device)
    )


def z_signs(n: int) -> Tensor:
    """``(2**n, n)``: +1 where a qubit is 0 in a basis state, -1 where it is 1."""
    basis = torch.arange(2**n)[:, None]
    return 1.0 - 2.0 * (basis >> torch.arange(n - 1, -1, -1) & 1)


class System:
    """One way of doing the work; steps are what is timed.

    Subclasses set ``parameters``, the weights as the system holds them, and define ``values``.

    Attributes:
        name (str): Its key in the results.
        label (str): Its name in tables and figures.
        package (str): What has to be installed.
        in_torch (bool): Whether it takes and returns torch tensors.
    """

    name: str
    label: str
    package: str
    in_torch = True
    parameters: Sequence[Tensor]

    def __init__(self, work: Work) -> None:
        self.work = work

    @classmethod
    def why_not(cls, n: int, layers: int, train: bool, device: str) -> str | None:
        """Why the system is left out at a row; None if it is not."""
        return None

    def values(self, inputs: Tensor) -> Tensor:
        """``(batch, n)`` angles to ``(batch, n)`` expectation values."""
        raise NotImplementedError

    def step(self) -> tuple[Any, Any, Any]:
        """Values, gradient by inputs, and gradients by weights (None when they are frozen)."""
        inputs = self.work.inputs.detach().requires_grad_()
        values = self.values(inputs)
        leaves = [inputs, *self.parameters] if self.work.train else [inputs]
        by_inputs, *by_weights = torch.autograd.grad(
            values, leaves, self.work.cotangent.to(values.dtype)
        )
        if not self.work.train:
            return values, by_inputs, None
        with torch.no_grad():  # what torch.optim.SGD does, without its bookkeeping
            torch._foreach_add_(self.parameters, by_weights, alpha=-LEARNING_RATE)
        return values, by_inputs, by_weights

    def arrays(self, found: tuple[Any, Any, Any]) -> list[np.ndarray]:
        """What a step has returned as NumPy arrays, gradients by weights ``(layers, n, 3)``."""
        values, by_inputs, by_weights = found
        result = [values.detach().cpu().numpy(), by_inputs.cpu().numpy()]
        if by_weights is not None:
            flat = torch.cat([grad.reshape(-1) for grad in by_weights])
            result.append(flat.reshape(self.work.weights.shape).cpu().numpy())
        return result


class Fused(System):
    """This package."""

    name, label, package = "fused", "captum-quantum, fused", "captum_quantum"
    simulator = "fused"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        from captum_quantum import VQCLayer

        self.layer = VQCLayer(work.n, work.layers, simulator=self.simulator)
        self.layer = self.layer.to(work.inputs.device)
        own = self.layer.ansatz.weights
        with torch.no_grad():
            own.copy_(work.weights)
        self.layer.requires_grad_(work.train)
        self.parameters = [own]

    def values(self, inputs: Tensor) -> Tensor:
        """By adjoint differentiation."""
        values: Tensor = self.layer(inputs)
        return values


class TorchQuantumLayer(Fused):
    """TorchQuantum's own run of VQCLayer's modules; all <Z> are read in one product."""

    name, label, package = "torchquantum-layer", "TorchQuantum", "torchquantum"
    simulator = "torchquantum"


class TorchQuantumModules(System):
    """Written by hand as TorchQuantum's examples are: operator modules and MeasureAll."""

    name, label, package = "torchquantum-modules", "TorchQuantum (MeasureAll)", "torchquantum"
    static_wires: int | None = None

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import torchquantum as tq

        weights = work.weights.cpu()

        class Ansatz(tq.QuantumModule):
            def __init__(self) -> None:
                super().__init__()
                self.gates = tq.QuantumModuleList()
                for layer in range(work.layers):
                    for wire in range(work.n):
                        for k, gate in enumerate((tq.RX, tq.RY, tq.RZ)):
                            made = gate(has_params=True, trainable=True, wires=wire)
                            made.params.data.fill_(weights[layer, wire, k])
                            self.gates.append(made)
                    for wire in range(work.n):
                        self.gates.append(tq.CNOT(wires=[wire, (wire + 1) % work.n]))

            @tq.static_support
            def forward(self, qdev: Any) -> None:
                self.q_device = qdev
                for gate in self.gates:
                    gate(qdev, wires=gate.wires)

        self._tq = tq
        self._encoder = tq.GeneralEncoder(
            [{"input_idx": [wire], "func": "ry", "wires": [wire]} for wire in range(work.n)]
        )
        self._ansatz = Ansatz().to(work.inputs.device)
        self._ansatz.requires_grad_(work.train)
        if self.static_wires is not None:
            self._ansatz.static_on(wires_per_block=self.static_wires)
        self._measure = tq.MeasureAll(tq.PauliZ)
        self.parameters = list(self._ansatz.parameters())

    def values(self, inputs: Tensor) -> Tensor:
        """On a fresh device, as PyTorch differentiates it."""
        qdev = self._tq.QuantumDevice(
            n_wires=self.work.n, bsz=len(inputs), device=str(inputs.device)
        )
        self._encoder(qdev, inputs)
        self._ansatz(qdev)
        values: Tensor = self._measure(qdev)
        return values


def users_modules(n: int, layers: int, angles: str) -> dict[str, Any]:
    """The same circuit as encoder and ansatz of a user's own, which run at every call.

    Args:
        n (int): Number of qubits.
        layers (int): Number of layers.
        angles (str): ``"x"``, or ``"w x"`` for encoding angles that are computed.
    """
    import torchquantum as tq
    import torchquantum.functional as tqf

    class Encoder(tq.Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.rand(n)) if angles == "w x" else None

        def forward(self, qdev: Any, x: Tensor) -> None:
            for wire in range(n):
                angle = x[:, wire] if self.scale is None else self.scale[wire] * x[:, wire]
                tqf.ry(qdev, wires=wire, params=angle)

    class Ansatz(tq.QuantumModule):
        def __init__(self) -> None:
            super().__init__()
            self.gates = torch.nn.ModuleList(
                gate(has_params=True, trainable=True)
                for _ in range(layers * n)
                for gate in (tq.RX, tq.RY, tq.RZ)
            )

        def forward(self, qdev: Any) -> None:
            for layer in range(layers):
                for wire in range(n):
                    for k in range(3):
                        self.gates[3 * (layer * n + wire) + k](qdev, wires=wire)
                for wire in range(n):
                    tqf.cnot(qdev, wires=[wire, (wire + 1) % n])

    return {"encoder": Encoder(), "ansatz": Ansatz()}


class TorchQuantumStatic(TorchQuantumModules):
    """The same in static mode: TorchQuantum multiplies gates into blocks of four wires.

    It takes modules made of TorchQuantum's operators alone. Blocks of three wires take as long,
    smaller and larger ones longer.
    """

    name, label = "torchquantum-static", "TorchQuantum, static mode"
    static_wires = 4


class _PennyLane(System):
    package = "pennylane"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.parameters = [work.weights.clone().requires_grad_(work.train)]

    def _gates(self, inputs: Tensor, weights: Tensor) -> None:
        import pennylane as qml

        for wire in range(self.work.n):
            qml.RY(inputs[:, wire], wires=wire)
        for layer in range(self.work.layers):
            for wire in range(self.work.n):
                for k, gate in enumerate((qml.RX, qml.RY, qml.RZ)):
                    gate(weights[layer, wire, k], wires=wire)
            for wire in range(self.work.n):
                qml.CNOT(wires=[wire, (wire + 1) % self.work.n])


class PennyLaneBackprop(_PennyLane):
    """default.qubit, differentiated by PyTorch."""

    name, label = "pennylane", "PennyLane default.qubit"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import pennylane as qml

        start = torch.zeros(2**work.n, dtype=torch.complex64, device=work.inputs.device)
        start[0] = 1

        def probabilities(inputs: Tensor, weights: Tensor) -> Any:
            qml.StatePrep(start, wires=range(work.n))
            self._gates(inputs, weights)
            return qml.probs(wires=range(work.n))

        device = qml.device("default.qubit", wires=work.n)
        self._node = qml.QNode(probabilities, device, interface="torch", diff_method="backprop")
        self._signs = z_signs(work.n).to(work.inputs.device)

    def values(self, inputs: Tensor) -> Tensor:
        """From the probabilities of all basis states."""
        found: Tensor = self._node(inputs, *self.parameters)
        return found @ self._signs.to(found.dtype)


class PennyLaneLightning(_PennyLane):
    """lightning.qubit, adjoint differentiation in C++, sample by sample."""

    name, label = "lightning", "PennyLane lightning.qubit"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import pennylane as qml

        def expectations(inputs: Tensor, weights: Tensor) -> Any:
            self._gates(inputs, weights)
            return [qml.expval(qml.Z(wire)) for wire in range(work.n)]

        device = qml.device("lightning.qubit", wires=work.n, c_dtype=np.complex64)
        self._node = qml.QNode(expectations, device, interface="torch", diff_method="adjoint")

    @classmethod
    def why_not(cls, n: int, layers: int, train: bool, device: str) -> str | None:
        """It is a simulator for CPUs."""
        return None if device == "cpu" else "lightning.qubit runs on CPUs"

    def values(self, inputs: Tensor) -> Tensor:
        """One value for each qubit, stacked."""
        return torch.stack(tuple(self._node(inputs, *self.parameters)), dim=-1)


class DeepQuantum(System):
    """DeepQuantum's circuit, its data encoded in a batch."""

    name, label, package = "deepquantum", "DeepQuantum", "deepquantum"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import deepquantum as dq

        circuit = dq.QubitCircuit(work.n)
        for wire in range(work.n):
            circuit.ry(wire, encode=True)
        weights = []
        for layer in range(work.layers):
            for wire in range(work.n):
                for k, gate in enumerate((circuit.rx, circuit.ry, circuit.rz)):
                    gate(wire)
                    weights.append(circuit.operators[-1].theta)
                    weights[-1].data.fill_(work.weights[layer, wire, k].item())
            circuit.cnot_ring()
        self._circuit = circuit.to(work.inputs.device)
        self._circuit.requires_grad_(work.train)
        self._signs = z_signs(work.n).to(work.inputs.device)
        self.parameters = list(self._circuit.parameters())
        assert len(self.parameters) == len(weights)

    def values(self, inputs: Tensor) -> Tensor:
        """From the states."""
        state = self._circuit(data=inputs).squeeze(-1)
        values: Tensor = (state.real**2 + state.imag**2) @ self._signs
        return values


def _tensorcircuit(work: Work, inputs: Any, weights: Any) -> Any:
    """The final state of one sample, on whatever backend is set."""
    import tensorcircuit as tc

    circuit = tc.Circuit(work.n)
    for wire in range(work.n):
        circuit.ry(wire, theta=inputs[wire])
    for layer in range(work.layers):
        for wire in range(work.n):
            circuit.rx(wire, theta=weights[layer, wire, 0])
            circuit.ry(wire, theta=weights[layer, wire, 1])
            circuit.rz(wire, theta=weights[layer, wire, 2])
        for wire in range(work.n):
            circuit.cnot(wire, (wire + 1) % work.n)
    return circuit.state()


class TensorCircuit(System):
    """TensorCircuit-ng on its PyTorch backend."""

    name, label, package = "tensorcircuit", "TensorCircuit (torch)", "tensorcircuit"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import tensorcircuit as tc

        backend = tc.set_backend("pytorch")
        tc.set_dtype("complex64")
        signs = z_signs(work.n).to(work.inputs.device)

        def values(inputs: Tensor, weights: Tensor) -> Tensor:
            state = _tensorcircuit(work, inputs, weights)
            found: Tensor = (state.real**2 + state.imag**2) @ signs
            return found

        self._values: Callable[..., Tensor] = backend.vmap(values, vectorized_argnums=0)
        self.parameters = [work.weights.clone().requires_grad_(work.train)]

    def values(self, inputs: Tensor) -> Tensor:
        """From the states; constants are made on the inputs' device."""
        with torch.device(inputs.device):
            return self._values(inputs, *self.parameters)


class FlagQuantum(System):
    """FlagQuantum's module: the batch in one circuit, differentiated by PyTorch."""

    name, label, package = "flagquantum", "FlagQuantum", "flagquantum"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import flagquantum as fq

        def build(flat: Tensor, inputs: Tensor) -> Any:
            circuit = fq.Circuit(work.n, bsz=work.batch, dtype=torch.complex64, device=flat.device)
            weights = flat.reshape(work.weights.shape)
            for wire in range(work.n):
                circuit.ry(wire, inputs[:, wire])
            for layer in range(work.layers):
                for wire in range(work.n):
                    circuit.rx(wire, weights[layer, wire, 0])
                    circuit.ry(wire, weights[layer, wire, 1])
                    circuit.rz(wire, weights[layer, wire, 2])
                for wire in range(work.n):
                    circuit.cx(wire, (wire + 1) % work.n)
            return circuit

        policy = fq.RuntimePolicy(observable="z", observable_qubits=tuple(range(work.n)))
        flat = work.weights.cpu().reshape(-1).clone()  # the module keeps what it is given
        self._module = fq.Module(build, len(flat), policy=policy, init=flat)
        self._module.to(work.inputs.device).requires_grad_(work.train)
        self.parameters = list(self._module.parameters())

    def values(self, inputs: Tensor) -> Tensor:
        """All <Z> of the module."""
        values: Tensor = self._module(inputs)
        return values


class TensorCircuitJax(System):
    """TensorCircuit-ng on JAX, compiled; JAX takes as many threads as the machine has cores."""

    name, label, package = "tensorcircuit-jax", "TensorCircuit (JAX, jit; not torch)", "jax"
    in_torch = False

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import jax
        import tensorcircuit as tc

        def step(inputs: Any, weights: Any, cotangent: Any, signs: Any) -> Any:
            def values(inputs: Any, weights: Any) -> Any:
                state = _tensorcircuit(work, inputs, weights)
                return (state.real**2 + state.imag**2) @ signs

            batched = jax.vmap(values, (0, None))
            if not work.train:
                found, pull = jax.vjp(lambda inputs: batched(inputs, weights), inputs)
                return found, pull(cotangent)[0], None, weights
            found, pull = jax.vjp(batched, inputs, weights)
            by_inputs, by_weights = pull(cotangent)
            return found, by_inputs, by_weights, weights - LEARNING_RATE * by_weights

        given = (work.inputs, work.weights, work.cotangent, z_signs(work.n))
        self._inputs, self._weights, *self._rest = (
            jax.numpy.asarray(tensor.cpu().numpy()) for tensor in given
        )
        with tc.runtime_backend("jax"), tc.runtime_dtype("complex64"):
            self._step = jax.jit(step).lower(self._inputs, self._weights, *self._rest).compile()
        self._wait = jax.block_until_ready

    @classmethod
    def why_not(cls, n: int, layers: int, train: bool, device: str) -> str | None:
        """Compilation is not timed, but someone has to wait for it."""
        if device != "cpu":
            return "the extra has JAX for CPUs"
        if train and n * layers > 32:
            return "compiling it takes minutes"
        return None

    def step(self) -> tuple[Any, Any, Any]:
        """As for the others, in JAX's arrays."""
        *found, self._weights = self._wait(self._step(self._inputs, self._weights, *self._rest))
        return found[0], found[1], found[2]

    def arrays(self, found: tuple[Any, Any, Any]) -> list[np.ndarray]:
        """As for the others."""
        return [np.asarray(array) for array in found if array is not None]


SYSTEMS: tuple[type[System], ...] = (
    Fused,
    TorchQuantumLayer,
    TorchQuantumModules,
    TorchQuantumStatic,
    PennyLaneBackprop,
    PennyLaneLightning,
    DeepQuantum,
    TensorCircuit,
    FlagQuantum,
    TensorCircuitJax,
)


def installed() -> list[type[System]]:
    """The systems whose packages are there."""
    return [system for system in SYSTEMS if find_spec(system.package) is not None]


def silence() -> None:
    """Peers warn, at each step, of what is nothing to be done about here."""
    warnings.filterwarnings(
        "ignore", module="(pennylane|deepquantum|flagquantum|tensorcircuit|torchquantum)"
    )
