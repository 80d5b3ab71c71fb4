"""A module that holds a circuit: its TorchQuantum modules, its weights, how its inputs are read."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _state
from captum_quantum.circuit import Circuit, Reading, select
from captum_quantum.interactions import N_SAMPLES, Interactions, circuit_interactions
from captum_quantum.simulate import Simulator, expectation_values
from captum_quantum.simulate.arguments import normalize

Held = TypeVar("Held", bound="CircuitModule")


def read_shape(n_inputs: Any) -> tuple[int, ...] | None:
    """Reads the argument ``n_inputs``."""
    if n_inputs is None:
        return None
    if not isinstance(n_inputs, tuple):
        return (_checks.check_int("n_inputs", n_inputs, 0),)
    if not n_inputs:
        _checks.wrong_value("n_inputs", "a number or a shape with at least one dimension", n_inputs)
    return tuple(_checks.check_int("n_inputs", size, 1) for size in n_inputs)


def warn_of_unused(features: Sequence[int], n_inputs: int) -> None:
    """Warns of input features that change nothing."""
    if features:
        warnings.warn(
            f"no angle depends on the input features {list(features)} of {n_inputs}: they never "
            "change the outputs",
            stacklevel=3,
        )


class CircuitModule(nn.Module):
    """A module whose state_dict tells the circuit, so that no other takes its weights.

    It holds no quantum state. The circuit is either given as data, or it is what TorchQuantum
    modules do: then modules whose gates may change are run, on a device that records gates, at
    every call.

    Attributes:
        encoder (nn.Module or None): The TorchQuantum encoder.
        ansatz (nn.Module or None): The TorchQuantum ansatz.
        reupload (bool): Whether the inputs are encoded again before every layer of the ansatz.
        input_shape (tuple[int, ...]): The shape of one sample's inputs.
    """

    encoder: nn.Module | None
    ansatz: nn.Module | None
    reupload: bool
    input_shape: tuple[int, ...]
    _circuit: Circuit
    _weights: list[Callable[[Any], Tensor]]
    _tracer: Any
    _known: Any

    @classmethod
    def from_module(
        cls: type[Held],
        module: nn.Module,
        n_inputs: int | tuple[int, ...] | None = None,
        *,
        simulator: str | Simulator = "fused",
        gradient: str | None = None,
        dtype: torch.dtype = torch.complex64,
    ) -> Held:
        """Makes a layer of a module that makes its own device, encodes, runs and measures.

        The circuit is taken out of its ``forward(x)``, measurement included; it is run again at
        every call, so that the layer follows what it does. What it computes before the circuit, as
        a neural network, becomes a part of the angles. Its outputs must be expectation values of
        the last state, or linear in these: what follows belongs into a module of its own.

        Args:
            module (nn.Module): Called as ``module(x)``; at most 10 wires.
            n_inputs (int or tuple[int, ...], optional): The number of features, or the shape of one
                sample's inputs. Default: found by trying.
            simulator (str or Simulator): ``"fused"``; ``"torchquantum"``, which then runs the
                gates one by one; or an object of one's own with ``exact`` and ``expectations``.
            gradient (str, optional): The derivative rule: ``"adjoint"``, ``"backprop"``,
                ``"parameter-shift"``, ``"commutator"``, ``"finite-difference"`` or a registered
                one. Default: ``"adjoint"`` if the simulator has a vjp; else ``"backprop"`` if the
                simulator is exact; else ``"parameter-shift"``.
            dtype (torch.dtype): torch.complex64 or torch.complex128: the least precision of the
                simulation.

        Returns:
            VQCLayer: The layer. The module is its ``encoder``; its ``ansatz`` is None.

        Raises:
            TypeError, ValueError: If an argument is wrong.
            CircuitError: If the module cannot be traced, or computes something else than
                expectation values.

        Examples:
            >>> import torch
            >>> import torchquantum as tq
            >>> from captum_quantum import VQCLayer
            >>> class Circuit(tq.QuantumModule):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.gate = tq.RX(has_params=True, trainable=True)
            ...         self.measure = tq.MeasureAll(tq.PauliZ)
            ...     def forward(self, x):
            ...         qdev = tq.QuantumDevice(n_wires=2, bsz=x.shape[0], device=x.device)
            ...         qdev.ry(wires=0, params=x[:, 0])
            ...         self.gate(qdev, wires=1)
            ...         qdev.cnot(wires=[0, 1])
            ...         return self.measure(qdev)
            >>> layer = VQCLayer.from_module(Circuit())
            >>> layer(torch.rand(5, 1)).shape
            torch.Size([5, 2])
        """
        if not isinstance(module, nn.Module):
            _checks.wrong_type("module", "an nn.Module that makes a tq.QuantumDevice", module)
        shape = read_shape(n_inputs)
        from captum_quantum import tq

        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._choose(simulator, gradient, dtype)
        layer._hold_modules((module, None), tq.MeasuringTracer(expectation_values), shape)
        return layer

    def _choose(self, simulator: str | Simulator, gradient: str | None, dtype: torch.dtype) -> None:
        """Reads the arguments that say how the circuit is run and differentiated."""
        raise NotImplementedError

    def _hold_modules(
        self, modules: tuple[nn.Module | None, nn.Module | None], tracer: Any, shape: Any
    ) -> None:
        """Takes TorchQuantum modules.

        Args:
            modules (tuple): Encoder and ansatz.
            tracer (tq.Tracer): What runs them on a recorder.
            shape (tuple[int, ...], optional): The shape of one sample's inputs, if it is known.
        """
        from captum_quantum import tq

        self.encoder, self.ansatz = modules
        self.reupload, self._tracer = tracer.reupload, tracer
        probe = tracer.probe(modules, shape)
        warn_of_unused(probe.unused, math.prod(probe.shape))
        self.input_shape, self._circuit = probe.shape, probe.circuit
        self._known = tracer.known(modules)
        self._weights = [attrgetter(name) for name in tq.weight_names(*modules)]
        tq.leave_out_states(modules)

    def _hold_circuit(self, circuit: Circuit, weights: Tensor) -> None:
        """Takes a circuit as data, and its weights ``(n_weights,)``."""
        self.encoder = self.ansatz = self._tracer = self._known = None
        self.reupload, self._circuit, self.input_shape = False, circuit, (circuit.n_inputs,)
        self._weights = []
        if circuit.n_weights:
            if not isinstance(weights, nn.Parameter):
                weights = nn.Parameter(weights.detach().clone())
            self.circuit_weights = weights
            self._weights = [attrgetter("circuit_weights")]

    def interactions(
        self,
        x: Tensor | None = None,
        head: nn.Linear | Tensor | None = None,
        *,
        n_samples: int = N_SAMPLES,
        seed: int = 0,
    ) -> Interactions:
        r"""How much of the outputs' variance is in single inputs, in pairs, in larger groups.

        For independent inputs the variance of an output is a sum over sets S of inputs, of the
        variances of terms that depend on the inputs of S only:

        .. math:: y_k(x) = \sum_S y_{k,S}(x_S), \qquad V_k = \sum_{S \ne \emptyset} V_{k,S}

        The share of order m is the sum of all :math:`V_{k,S}` with m inputs in S over that of all
        :math:`V_k` (functional ANOVA: Hoeffding 1948, doi:10.1214/aoms/1177730196; Sobol 2001,
        doi:10.1016/S0378-4754(00)00270-6). A map such as Grad-CAM's stands on a gradient at one
        point: the effect of a single input is the same wherever the others are, but if most of the
        variance is in larger groups, the gradient says little about the score.

        The shares are exact where the angles are plain inputs of gates with shift rules, and 6561
        values of the circuit or fewer tell them: up to 8 angles, or more if inputs are uploaded
        again. Otherwise they are estimated, with standard errors.

        Args:
            x (Tensor, optional): Inputs in radians, real, shape ``(n, *input_shape)``, n >= 2. The
                inputs are then independent, each distributed as its column. Default: each is
                uniform on [-pi, pi), or on [-2 pi, 2 pi) if it is the angle of a controlled
                rotation, whose period that is.
            head (nn.Linear or Tensor, optional): What makes logits of the expectation values, or
                its weight, shape ``(n_outputs, n_observables)``: the shares are then those of the
                logits. Default: those of the expectation values.
            n_samples (int): Number of samples where the shares are estimated, at least 2; each
                takes ``2 + n_inputs * (n_inputs + 1)`` values of the circuit. The default takes
                about half a minute for 12 qubits in 2 layers on one core.
            seed (int): Seed of the samples, in [0, 2**64); the global random state stays the same.

        Returns:
            Interactions: ``orders``, ``mains``, ``pairs``, their errors, and a sentence as its
            text. All shares are NaN if no output varies.

        Raises:
            TypeError: If an argument is of another type, or the head is not linear.
            ValueError: If the circuit has no inputs or takes them as amplitudes, the simulator's
                values carry noise, x or the head is of another shape or not finite, or values
                differ from call to call.

        Examples:
            >>> from captum_quantum import VQCLayer
            >>> layer = VQCLayer(2, ansatz=None, observables=["Z0 Z1"])  # cos x[0] cos x[1]
            >>> layer.interactions().orders.round(decimals=6)
            tensor([0., 1.], dtype=torch.float64)
        """
        layer: Any = self
        if not layer.exact:
            must = "one without noise, which would count as interactions"
            _checks.wrong_value("simulator", must, layer.simulator)
        if isinstance(x, Tensor) and x.shape[1:] == self.input_shape:
            x = x.flatten(1)
        device = self._device or torch.device("cpu")

        def values(rows: Tensor) -> Tensor:
            # Without hooks: the user has not called the layer.
            outputs: Tensor = layer.forward(rows.to(device).view(-1, *self.input_shape))
            return outputs

        with torch.no_grad(), _state.random_state_kept(device), _state.buffers_kept(self):
            return circuit_interactions(
                self.circuit,
                values,
                x,
                head,
                precision=layer.precision,
                n_samples=n_samples,
                seed=seed,
            )

    def get_extra_state(self) -> Tensor:
        """What the state_dict holds beside the weights, to know the circuit that they belong to.

        Returns:
            Tensor: uint8, shape ``(16,)``; it depends on nothing but the circuit.
        """
        return torch.tensor([*bytes.fromhex(self.identity.digest)], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Checks that a state_dict is of this circuit.

        Args:
            state (Tensor): What `get_extra_state` has returned.

        Raises:
            RuntimeError: If it is of another circuit.
        """
        if state.is_floating_point():
            state = state.round().to(torch.uint8)  # of state_dicts that were averaged
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise RuntimeError(
                f"state_dict must be of the circuit of this {type(self).__name__} "
                f"({self.extra_repr()}); it is of other gates, encoding or observables, or its "
                "integers were averaged: average floating-point tensors only"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}_extra_state"
        if key in state_dict:
            self.set_extra_state(state_dict[key])
        else:
            warnings.warn(
                f"the state_dict does not tell the circuit of its weights ({key!r} is missing), as "
                "those of captum-quantum 0.1.0; they are taken to be of this one",
                stacklevel=2,
            )
            state_dict[key] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def n_qubits(self) -> int:
        """Number of qubits."""
        return self._circuit.n_qubits

    @property
    def n_inputs(self) -> int:
        """Number of input features, of all dimensions of ``input_shape``."""
        return self._circuit.n_inputs

    @property
    def n_observables(self) -> int:
        """Number of expectation values."""
        return len(self._circuit.observables)

    @property
    def circuit(self) -> Circuit:
        """The circuit as the modules are now.

        Modules whose gates may change are tried anew, on copies and made-up inputs: an angle that
        they compute is ``f(x)`` or ``f(w)`` in it.
        """
        if self._is_known():
            return self._circuit
        probe = self._tracer.probe((self.encoder, self.ansatz), self.input_shape)
        circuit: Circuit = probe.circuit
        return circuit

    @property
    def identity(self) -> Circuit:
        """The circuit as it was when the layer was made, which its state_dict tells."""
        return self._circuit

    @property
    def weights(self) -> Tensor:
        """All weights as they are now, in radians, flattened: shape ``(n_weights,)``."""
        if self._is_known():
            return self._joined([read(self) for read in self._weights])
        from captum_quantum import tq

        return self._joined(tq.weight_tensors(self.encoder, self.ansatz))

    @staticmethod
    def _joined(weights: Sequence[Tensor]) -> Tensor:
        flat = [weight.reshape(-1) for weight in weights]
        if not flat:
            return torch.zeros(0)
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def _is_known(self) -> bool:
        """Whether the modules' gates are those of the circuit, without running them."""
        if self._tracer is None:
            return True
        parts = self._modules  # quicker than attributes, and this is asked at every call
        modules = parts.get("encoder"), parts.get("ansatz")
        known: bool = self._tracer.is_known(modules, self._known)
        return known

    def _read(self, rows: Tensor) -> Reading:
        """The circuit and its angles for inputs ``(batch, n_inputs)``, differentiable."""
        circuit = self._circuit
        reading: Reading
        if not self._is_known():
            rows = self._wide(rows)
            if self._given_amplitudes:
                initial = self._normalized(rows)
                modules, shape = (None, self.ansatz), (0,)
                reading = self._tracer.read(modules, rows.new_zeros(len(rows), 0), shape)
                circuit = replace(reading.circuit, n_inputs=self.n_inputs, amplitude_encoding=True)
                return reading._replace(circuit=circuit, initial=initial)
            reading = self._tracer.read((self.encoder, self.ansatz), rows, self.input_shape)
            return reading
        weights = self._joined([read(self) for read in self._weights])
        weights = select(weights, circuit.indices("weight"), 0)
        if circuit.amplitude_encoding:
            # No columns, and no node that autograd goes through.
            inputs = rows.new_zeros(rows.shape[0], 0, dtype=rows.dtype.to_real())
            return Reading(circuit, inputs, weights, self._normalized(rows), True)
        return Reading(circuit, select(rows, circuit.indices("input"), 1), weights, None, True)

    def _wide(self, rows: Tensor) -> Tensor:
        """Rows in single precision at least, unless the modules compute in half precision."""
        half = rows.dtype in (torch.float16, torch.bfloat16)
        if not half or any(weight.dtype == rows.dtype for weight in self.parameters()):
            return rows
        return rows.float()

    def _normalized(self, rows: Tensor) -> Tensor:
        """Inputs as amplitudes, filled up with zeros."""
        amplitudes, missing = normalize(rows), 2**self.n_qubits - self.n_inputs
        return nn.functional.pad(amplitudes, (0, missing)) if missing else amplitudes

    def _rows(self, inputs: Tensor) -> Tensor:
        """Inputs ``(..., *input_shape)`` as a row for each sample."""
        shape = inputs.shape[: inputs.dim() - len(self.input_shape)]
        if len(shape) == 1 == len(self.input_shape):
            return inputs  # a reshape that changes nothing is one more node of the graph
        return inputs.reshape(math.prod(shape), self.n_inputs)

    @property
    def _runs_on_devices(self) -> bool:
        """Whether encoder and ansatz are called with a device."""
        from captum_quantum import tq

        return type(self._tracer) is tq.Tracer

    @property
    def _given_amplitudes(self) -> bool:
        """Whether the inputs, divided by their norm, are the amplitudes."""
        if self._tracer is None:
            return self._circuit.amplitude_encoding
        from captum_quantum import tq

        return tq.takes_amplitudes(self.encoder)

    @property
    def _device(self) -> torch.device | None:
        try:
            return self._weights[0](self).device if self._weights else None
        except AttributeError:  # the modules have been replaced
            return next((weight.device for weight in self.parameters()), None)

    def _check_inputs(self, inputs: Tensor, transformed: bool) -> None:
        amplitudes = self._circuit.amplitude_encoding
        if not amplitudes or not isinstance(inputs, Tensor) or not inputs.is_complex():
            _checks.check_real("inputs", inputs)
        shape = self.input_shape
        if inputs.dim() < len(shape) or inputs.shape[inputs.dim() - len(shape) :] != shape:
            of = ", ".join(map(str, ("...", *shape)))
            _checks.wrong_value("inputs", f"of shape ({of})", inputs)
        device = self._device or inputs.device
        if device != inputs.device:
            _checks.wrong_value("inputs", f"on the layer's device, {device}", inputs)
        if inputs.device.type == "cpu" and not transformed:
            _checks.check_finite("inputs", inputs.detach())
            if amplitudes and bool((inputs == 0).all(dim=-1).any()):
                _checks.refuse(
                    "inputs", "not all zero, to be normalized to amplitudes", "a row of zeros"
                )
