"""VQCLayer: a variational quantum circuit as one PyTorch module."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat, _state
from captum_quantum.circuit import Circuit, Observable, Reading, read_observables, select
from captum_quantum.gradients import function, nodes, table
from captum_quantum.quantum_layer import CircuitModule
from captum_quantum.simulate import Simulator, protocol
from captum_quantum.simulate.arguments import normalize, rescale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_QUBITS = 24


def _read_shape(n_inputs: Any) -> tuple[int, ...] | None:
    """Reads the argument ``n_inputs``."""
    if n_inputs is None:
        return None
    if not isinstance(n_inputs, tuple):
        return (_checks.check_int("n_inputs", n_inputs, 0),)
    if not n_inputs:
        _checks.wrong_value("n_inputs", "a number or a shape with at least one dimension", n_inputs)
    return tuple(_checks.check_int("n_inputs", size, 1) for size in n_inputs)


def _warn_of_unused(features: Sequence[int], n_inputs: int) -> None:
    if features:
        warnings.warn(
            f"no angle depends on the input features {list(features)} of {n_inputs}: they never "
            "change the outputs",
            stacklevel=3,
        )


class BoundCircuit:
    """A layer as it is in one call, as a quantum layer: gradient rules read and run it.

    Args:
        layer (VQCLayer): The layer.
        reading (Reading): What its modules have done in the call.

    Attributes:
        circuit (Circuit): The circuit.
        gradient (str): The name of the layer's gradient rule.
        exact (bool): Whether values carry no noise.
    """

    def __init__(self, layer: "VQCLayer", reading: Reading) -> None:
        self._layer, self._reading = layer, reading
        self.circuit, self.gradient, self.exact = reading.circuit, layer.gradient, layer.exact
        self._weights = reading.weights.detach()

    def angle_table(self, inputs: Tensor | None = None) -> Tensor:
        """Every gate's angles.

        Args:
            inputs (Tensor, optional): Not used: the angles are those of the call.

        Returns:
            Tensor: Shape ``(batch, n_angles)``, radians; differentiable.
        """
        return self.circuit.scatter(self._reading.inputs, self._reading.weights)

    def amplitudes(self, inputs: Tensor | None = None) -> Tensor | None:
        """The initial states.

        Args:
            inputs (Tensor, optional): Not used: the states are those of the call.

        Returns:
            Tensor or None: Shape ``(batch, 2**n_qubits)``; None for ``|0...0>``.
        """
        return self._reading.initial

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Expectation values for given angles.

        Args:
            angles (Tensor): Shape ``(batch, n_angles)``, radians.
            amplitudes (Tensor, optional): Initial states, shape ``(batch, 2**n_qubits)``.
            own_weights (bool): Whether to use the weights of the call, whatever the columns that
                come from weights hold.

        Returns:
            Tensor: Shape ``(batch, n_observables)``.
        """
        inputs = select(angles, self.circuit.columns("input"), 1)
        weights = self._weights
        if not own_weights:
            weights = select(angles, self.circuit.columns("weight"), 1)
        given = inputs, weights, amplitudes
        return self._layer._simulate(self.circuit, *given, angles.dtype).to(angles.dtype)

    @property
    def vjp(self) -> Callable[[Tensor], nodes.Pullback] | None:
        """Adjoint differentiation by input angles; None where the simulator has no vjp."""
        if self._layer.vjp is None or self.circuit.amplitude_encoding:
            return None
        return lambda inputs: self._layer._vjp_by_angles(self.circuit, inputs, self._weights)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which values are computed.

        Args:
            dtype (torch.dtype): That of the inputs.

        Returns:
            torch.dtype: torch.float32 or torch.float64.
        """
        return self._layer.precision(dtype)


class VQCLayer(CircuitModule):
    r"""A variational quantum circuit: angles in, expectation values out.

    The inputs are encoded into a state, an ansatz with trainable weights acts on it, and
    expectation values of observables are read:

    .. math:: y_k = \langle 0 | E(x)^\dagger A(w)^\dagger O_k A(w) E(x) | 0 \rangle

    Encoder and ansatz are TorchQuantum modules, which own the gates and the weights. They are
    traced once into ``circuit``, so that every angle's source is known. The layer holds no quantum
    state. Defaults are the circuit of arXiv:2306.03741.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of a named ansatz.
        encoder (str or nn.Module): ``"ry"``, ``"rx"``, ``"rz_after_h"``, ``"ry_rz"``,
            ``"amplitude"``, ``"z_feature_map"``, ``"zz_feature_map"``, ``"pauli_feature_map"``,
            ``"iqp"``, one of TorchQuantum's encoder lists by name, or a ``tq.Encoder``.
        ansatz (str or nn.Module): ``"rx_ry_rz_ring"``, ``"strongly_entangling"``,
            ``"real_amplitudes"``, ``"qcnn"``, ``"basic_entangler"``,
            ``"simplified_two_design"``, ``"efficient_su2"``, ``"two_local"``, one of
            TorchQuantum's layers by name, or a ``tq.QuantumModule``.
        reupload (bool): Whether to encode the inputs again before every layer of the ansatz.
        observables (list, optional): What to read: Pauli strings such as ``"Z0"``, ``"X0 Z2"`` or
            ``"XIZ"``, or mappings from such to coefficients. Default: ``<Z>`` on every qubit.
        simulator (str or Simulator): ``"fused"``: neighboring gates become few large matrix
            products; ``"torchquantum"``: TorchQuantum's own run of the modules, in complex64. Both
            are exact. Or an object of one's own with ``exact`` and ``expectations``, see
            :class:`captum_quantum.simulate.Simulator`.
        gradient (str, optional): The derivative rule: ``"adjoint"``, ``"backprop"``,
            ``"parameter-shift"``, ``"commutator"`` or ``"finite-difference"``; see
            :func:`quantum_gradient`. Default: ``"adjoint"`` if the simulator has a vjp, like the
            fused one; ``"backprop"``, which gives derivatives of any order, if it has none and is
            exact; ``"parameter-shift"`` if its values carry noise.
        dtype (torch.dtype): torch.complex64 or torch.complex128: the least precision of the
            simulation; for float64 inputs the fused simulator takes complex128 in any case.

    Shape:
        - Input: ``(..., n_inputs)``, real, radians (amplitude encoding: numbers, not all zero).
        - Output: ``(..., n_observables)``, real, in the input's dtype and on its device.

    Attributes:
        encoder (nn.Module or None): The TorchQuantum encoder; None after `from_circuit`.
        ansatz (nn.Module or None): The TorchQuantum ansatz; None after `from_circuit`.
        circuit (Circuit): The traced circuit.
        simulator (str or Simulator): As it was given.
        gradient (str): The name of the layer's gradient rule.

    Raises:
        TypeError, ValueError: If an argument or an input is wrong.
        CircuitError: If the modules cannot be traced.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> layer = VQCLayer(4, n_layers=2)
        >>> layer(torch.rand(8, 4)).shape
        torch.Size([8, 4])
        >>> layer = VQCLayer(3, encoder="rx", ansatz="real_amplitudes", observables=["Z0 Z1"])
        >>> layer(torch.zeros(1, 3)).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        n_qubits: int,
        n_layers: int = 2,
        *,
        encoder: str | nn.Module | Sequence[Any] | None = "ry",
        ansatz: str | nn.Module | Sequence[Any] | None = "rx_ry_rz_ring",
        reupload: bool = False,
        n_inputs: int | tuple[int, ...] | None = None,
        observables: Sequence[Observable | str | Mapping[str, float]] | None = None,
        simulator: str | Simulator = "fused",
        gradient: str | None = None,
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        super().__init__()
        _checks.check_int("n_qubits", n_qubits, 1, _MAX_QUBITS)
        _checks.check_int("n_layers", n_layers, 1)
        if not isinstance(reupload, bool):
            _checks.wrong_type("reupload", "True or False", reupload)
        self._choose(simulator, gradient, dtype)
        read = read_observables(observables, n_qubits)
        shape = _read_shape(n_inputs)
        from captum_quantum import tq

        self.encoder: nn.Module | None = tq.make_encoder(encoder, n_qubits)
        self.ansatz: nn.Module | None = tq.make_ansatz(ansatz, n_qubits, n_layers)
        has_layers = isinstance(getattr(self.ansatz, "n_layers", None), int)
        if reupload and not (has_layers and hasattr(self.ansatz, "layer")):
            must = "one with n_layers and layer(qdev, index), as captum_quantum.tq.LayeredAnsatz"
            _checks.wrong_type("ansatz", f"{must}, for reupload=True", self.ansatz)
        self.reupload = reupload
        self._tracer: Any = tq.Tracer(n_qubits, read, reupload)
        probe = self._tracer.probe((self.encoder, self.ansatz), shape)
        _warn_of_unused(probe.unused, math.prod(probe.shape))
        self.input_shape: tuple[int, ...] = probe.shape
        self._circuit: Circuit = probe.circuit
        self._known = tq.known_gates(self.encoder, self.ansatz)
        self._weights = [attrgetter(name) for name in tq.weight_names(self.encoder, self.ansatz)]

    @classmethod
    def from_circuit(
        cls,
        circuit: Circuit,
        weights: Tensor | None = None,
        *,
        simulator: str | Simulator = "fused",
        gradient: str | None = None,
        dtype: torch.dtype = torch.complex64,
    ) -> "VQCLayer":
        """Makes a layer of a circuit that is given as data, without TorchQuantum modules.

        Args:
            circuit (Circuit): The circuit, of at most 24 qubits.
            weights (Tensor, optional): Its weights in radians, real, shape ``(n_weights,)``. An
                ``nn.Parameter`` becomes the layer's own parameter, so that it may be shared; the
                values of a tensor are copied. Default: uniform in [-pi, pi).
            simulator (str or Simulator): ``"fused"``; ``"torchquantum"``, which then runs the
                gates one by one; or an object of one's own with ``exact`` and ``expectations``.
            gradient (str, optional): The derivative rule: ``"adjoint"``, ``"backprop"``,
                ``"parameter-shift"``, ``"commutator"``, ``"finite-difference"`` or a registered
                one. Default: ``"adjoint"`` if the simulator has a vjp; else ``"backprop"`` if the
                simulator is exact; else ``"parameter-shift"``.
            dtype (torch.dtype): torch.complex64 or torch.complex128: the least precision of the
                simulation.

        Returns:
            VQCLayer: The layer. Its ``encoder`` and ``ansatz`` are None; its one parameter, if the
            circuit has weights, is ``circuit_weights``.

        Raises:
            TypeError, ValueError: If an argument is wrong.

        Examples:
            >>> import torch
            >>> from captum_quantum import Angle, Circuit, Gate, Observable, VQCLayer
            >>> gates = [Gate("ry", (0,), (Angle.of_input(0),)),
            ...          Gate("ry", (0,), (Angle.of_weight(0),))]
            >>> circuit = Circuit(1, gates, [Observable.of("Z0")], n_inputs=1, n_weights=1)
            >>> layer = VQCLayer.from_circuit(circuit, torch.tensor([0.5]))
            >>> layer(torch.tensor([[0.0], [0.5]]))  # cos 0.5, cos 1
            tensor([[0.8776],
                    [0.5403]], grad_fn=<_AdjointBackward>)
        """
        if not isinstance(circuit, Circuit):
            _checks.wrong_type("circuit", "a Circuit", circuit)
        if circuit.is_computed:
            must = "one whose angles are inputs, weights or constants"
            _checks.wrong_value("circuit", must, "one with angles that modules compute")
        used = set(circuit.indices("input"))
        if circuit.amplitude_encoding:
            most = 2**circuit.n_qubits
            if used or not 0 < circuit.n_inputs <= most:
                got = f"{circuit.n_inputs} inputs, {len(used)} of them used as angles"
                must = f"1 to {most} amplitudes and no angles"
                _checks.refuse("inputs of a circuit with amplitude encoding", must, got)
        else:
            _warn_of_unused(sorted(set(range(circuit.n_inputs)) - used), circuit.n_inputs)
        _checks.check_int("n_qubits of the circuit", circuit.n_qubits, 1, _MAX_QUBITS)
        if weights is None:
            weights = (torch.rand(circuit.n_weights) * 2 - 1) * math.pi
        _checks.check_real("weights", weights)
        if weights.shape != (circuit.n_weights,):
            _checks.wrong_value("weights", f"of shape ({circuit.n_weights},)", weights)
        _checks.check_finite("weights", weights.detach())
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._choose(simulator, gradient, dtype)
        layer.encoder = layer.ansatz = layer._tracer = None
        layer.reupload, layer._circuit = False, circuit
        layer.input_shape, layer._known = (circuit.n_inputs,), None
        layer._weights = []
        if circuit.n_weights:
            if not isinstance(weights, nn.Parameter):
                weights = nn.Parameter(weights.detach().clone())
            layer.circuit_weights = weights
            layer._weights = [attrgetter("circuit_weights")]
        return layer

    def _choose(self, simulator: str | Simulator, gradient: str | None, dtype: torch.dtype) -> None:
        """Reads the arguments that say how the circuit is run and differentiated."""
        self.simulator = simulator
        name = _checks.describe(simulator)
        if gradient is None:
            if self.vjp is not None:
                gradient = "adjoint"
            else:
                gradient = "backprop" if self.exact else "parameter-shift"
        self.gradient = _checks.check_choice("gradient", gradient, table.RULES)
        if gradient == "adjoint" and self.vjp is None:
            _checks.wrong_value(
                "gradient", f"another than 'adjoint' for simulator {name}, without a vjp", gradient
            )
        if dtype not in (torch.complex64, torch.complex128):
            _checks.wrong_value("dtype", "torch.complex64 or torch.complex128", dtype)
        if dtype not in self._dtypes:
            _checks.wrong_value("dtype", f"{self._dtypes[0]} for simulator {name}", dtype)
        self.dtype = dtype

    @property
    def simulator(self) -> str | Simulator:
        """The simulator as it was given: a name or an object; another one can be assigned."""
        return self._given_simulator

    @simulator.setter
    def simulator(self, simulator: str | Simulator) -> None:
        self._given_simulator = simulator
        self._simulator: Any = protocol.read_simulator(simulator)

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
            flat = [read(self).reshape(-1) for read in self._weights]
        else:
            from captum_quantum import tq

            flat = [tensor.reshape(-1) for tensor in tq.weight_tensors(self.encoder, self.ansatz)]
        if not flat:
            return torch.zeros(0)
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def _is_known(self) -> bool:
        """Whether the modules' gates are those of the circuit, without running them."""
        if self._tracer is None:
            return True
        if self._known is None:
            return False
        from captum_quantum import tq

        known: bool = tq.known_gates(self.encoder, self.ansatz) == self._known
        return known

    def _read(self, rows: Tensor) -> Reading:
        """The circuit and its angles for inputs ``(batch, n_inputs)``, differentiable."""
        circuit = self._circuit
        reading: Reading
        if not self._is_known():
            if self._given_amplitudes:
                initial = self._normalized(rows)
                modules, shape = (None, self.ansatz), (0,)
                reading = self._tracer.read(modules, rows.new_zeros(len(rows), 0), shape)
                circuit = replace(reading.circuit, n_inputs=self.n_inputs, amplitude_encoding=True)
                return reading._replace(circuit=circuit, initial=initial)
            reading = self._tracer.read((self.encoder, self.ansatz), rows, self.input_shape)
            return reading
        weights = select(self.weights, circuit.indices("weight"), 0)
        if circuit.amplitude_encoding:
            # No columns, and no node that autograd goes through.
            inputs = rows.new_zeros(rows.shape[0], 0, dtype=rows.dtype.to_real())
            return Reading(circuit, inputs, weights, self._normalized(rows), True)
        return Reading(circuit, select(rows, circuit.indices("input"), 1), weights, None, True)

    def _normalized(self, rows: Tensor) -> Tensor:
        """Inputs as amplitudes, filled up with zeros."""
        amplitudes, missing = normalize(rows), 2**self.n_qubits - self.n_inputs
        return nn.functional.pad(amplitudes, (0, missing)) if missing else amplitudes

    def recorded(self, inputs: Tensor) -> "BoundCircuit":
        """The layer as it is in one call.

        Args:
            inputs (Tensor): Shape ``(..., *input_shape)``.

        Returns:
            BoundCircuit: Its circuit, angles and initial states.
        """
        return BoundCircuit(self, self._read(self._wide(self._rows(inputs))))

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Every gate's angles.

        Args:
            inputs (Tensor): Shape ``(batch, *input_shape)``, radians.

        Returns:
            Tensor: Shape ``(batch, n_angles)``, radians, one column for each angle of each gate, on
            the inputs' device; differentiable.
        """
        return self.recorded(inputs).angle_table()

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """The initial states.

        Args:
            inputs (Tensor): Shape ``(batch, *input_shape)``.

        Returns:
            Tensor or None: Under amplitude encoding the inputs divided by their norm, filled up
            with zeros, shape ``(batch, 2**n_qubits)``, or what the encoder makes of them; otherwise
            None.
        """
        return self.recorded(inputs).amplitudes()

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Expectation values for every gate's angles given one by one.

        Args:
            angles (Tensor): Shape ``(batch, n_angles)``, radians, as `angle_table` gives them.
            amplitudes (Tensor, optional): Initial states, shape ``(batch, 2**n)``.
            own_weights (bool): Whether to use the layer's own weights, whatever the columns that
                come from weights hold; then the batch shares its matrices.

        Returns:
            Tensor: Shape ``(batch, n_observables)``, differentiable by autograd if the simulator
            is.
        """
        circuit = self.circuit
        inputs = select(angles, circuit.columns("input"), 1)
        if own_weights:
            weights = self._read(angles.new_zeros(1, self.n_inputs) + 1).weights
        else:
            weights = select(angles, circuit.columns("weight"), 1)
        values = self._simulate(circuit, inputs, weights, amplitudes, angles.dtype)
        return values.to(angles.dtype)

    def _simulate(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        initial: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        values: Tensor = self._simulator.expectations(
            circuit, inputs, weights, self._complex(dtype), initial=initial
        )
        argument, shape = "what the simulator returns", (inputs.shape[0], self.n_observables)
        if _checks.check_real(argument, values).shape != shape:
            _checks.wrong_value(argument, f"of shape {shape}", values)
        given = (inputs, weights, inputs if initial is None else initial)
        wanted = torch.is_grad_enabled() and any(t.requires_grad and t.numel() for t in given)
        # The values of a simulator with a vjp may be constants, without a graph.
        if wanted and not values.requires_grad and self.vjp is None:
            raise nodes.GradientRuleError(
                f"rule 'backprop' does not apply to {_checks.describe(self)}: autograd does not "
                "record what its simulator computes; use 'parameter-shift' or 'finite-difference'"
            )
        return values

    @property
    def exact(self) -> bool:
        """Whether the simulator's values carry no noise."""
        return bool(self._simulator.exact)

    @property
    def applies_rule(self) -> bool:
        """Whether autograd through the layer follows ``gradient``: unless forward is overridden."""
        return type(self).forward is VQCLayer.forward and "forward" not in vars(self)

    @property
    def vjp(self) -> Callable[[Tensor], nodes.Pullback] | None:
        """Adjoint differentiation by inputs; None where the simulator has no vjp.

        From input angles ``(batch, n)``, one column for each gate angle that comes from an input
        (under amplitude encoding: from the inputs ``(batch, 2**n_qubits)``), to the function that
        turns cotangents ``(batch, n_observables)`` into those of its argument.
        """
        return self._vjp if protocol.has_vjp(self._simulator) else None

    def _vjp(self, inputs: Tensor) -> nodes.Pullback:
        circuit = self.circuit
        if not circuit.amplitude_encoding:
            weights = self._read(inputs.new_zeros(1, self.n_inputs) + 1).weights.detach()
            return self._vjp_by_angles(circuit, inputs.detach(), weights)
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            reading = self._read(leaf)
        values, initial = (reading.inputs, reading.weights), reading.initial
        assert initial is not None
        angles, weights = (tensor.detach() for tensor in values)
        _, simulators_pullback = self._simulator.vjp(
            circuit, angles, weights, self._complex(leaf.dtype), initial=initial.detach(),
            needs=(angles.shape[1] > 0, False, True),
        )  # fmt: skip

        def pullback(cotangent: Tensor) -> Tensor:
            by_inputs, _, by_initial = simulators_pullback(cotangent)
            outputs, grads = [initial], [by_initial.to(initial.dtype)]
            if reading.inputs.requires_grad:
                outputs.append(reading.inputs)
                grads.append(by_inputs.to(reading.inputs.dtype))
            return torch.autograd.grad(outputs, leaf, grads, retain_graph=True)[0]

        return pullback

    def _vjp_by_angles(self, circuit: Circuit, inputs: Tensor, weights: Tensor) -> nodes.Pullback:
        needs = (True, False, False)
        dtype = self._complex(inputs.dtype)
        _, simulators_pullback = self._simulator.vjp(circuit, inputs, weights, dtype, needs=needs)

        def pullback(cotangent: Tensor) -> Tensor:
            by_inputs: Tensor = simulators_pullback(cotangent)[0]
            return by_inputs

        return pullback

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which values are computed.

        Args:
            dtype (torch.dtype): That of the inputs.

        Returns:
            torch.dtype: torch.float32 or torch.float64.
        """
        return self._complex(dtype).to_real()

    @property
    def _dtypes(self) -> tuple[torch.dtype, ...]:
        return getattr(self._simulator, "dtypes", (torch.complex64, torch.complex128))

    def _complex(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the simulation: that of the layer, or of float64 inputs."""
        wide = dtype.to_real() == torch.float64 and torch.complex128 in self._dtypes
        return torch.complex128 if wide else self.dtype

    def _shared(self, reading: Reading) -> Tensor:
        """The angles that come from weights; detached where these get no gradient anyway."""
        # Weights that the model itself has computed may depend on what is explained.
        frozen = nodes.is_inputs_only() and reading.plain
        if frozen and all(read(self).is_leaf for read in self._weights):
            return reading.weights.detach()
        return reading.weights

    @staticmethod
    def _wide(rows: Tensor) -> Tensor:
        """Rows in single precision at least: half precision would round weights too."""
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    @_compat.uncompiled
    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the expectation values.

        Args:
            inputs (Tensor): Shape ``(..., *input_shape)``, real, radians (under amplitude encoding:
                real or complex numbers, in no row all zero), on the layer's device.

        Returns:
            Tensor: Shape ``(..., n_observables)``, real, in the inputs' dtype.

        Raises:
            TypeError, ValueError: If the inputs are wrong.
        """
        transformed = _compat.in_transform()
        self._check_inputs(inputs, transformed)
        if torch.is_autocast_enabled(inputs.device.type):
            with _state.full_precision(inputs.device):
                return self.forward(inputs)
        shape = inputs.shape[: inputs.dim() - len(self.input_shape)]
        rows = self._rows(inputs)
        dtype = rows.dtype.to_real()
        if rows.shape[0]:
            values = self._values(rows, transformed).to(dtype)
        else:
            zeros = rows.new_zeros(0, self.n_observables, dtype=dtype)
            values = zeros + rows.sum().real + self.weights.sum()
        return values if len(shape) == 1 else values.reshape(*shape, self.n_observables)

    def _rows(self, inputs: Tensor) -> Tensor:
        """Inputs ``(..., *input_shape)`` as a row for each sample."""
        shape = inputs.shape[: inputs.dim() - len(self.input_shape)]
        if len(shape) == 1 == len(self.input_shape):
            return inputs  # a reshape that changes nothing is one more node of the graph
        return inputs.reshape(math.prod(shape), self.n_inputs)

    def _values(self, rows: Tensor, transformed: bool) -> Tensor:
        if self.gradient != "adjoint" and rows.requires_grad and not transformed:
            rows = rows.view_as(rows)
            rows.register_hook(lambda grad: None if grad is None else grad.contiguous())
        if self.gradient == "backprop" or not torch.is_grad_enabled():
            return self._undifferentiated(rows)
        if transformed:
            if self.gradient != "adjoint":
                raise nodes.GradientRuleError(
                    f"rule {self.gradient!r} does not apply in torch.func, torch.export and "
                    "torch.jit.trace; use gradient='backprop'"
                )
            return self._undifferentiated(rows)
        if self.gradient == "adjoint":
            reading, dtype = self._read(rows), self._complex(rows.dtype)
            given = reading.inputs, self._shared(reading), reading.initial
            return nodes.adjoint(self._simulator, reading.circuit, *given, dtype)
        return self._by_rule(rows)

    def _by_rule(self, rows: Tensor) -> Tensor:
        """The values, differentiated by a rule that runs the circuit again."""
        rows = self._wide(rows)
        reading = self._read(rows)
        circuit, initial, bound = reading.circuit, reading.initial, BoundCircuit(self, reading)
        with torch.no_grad():
            values = self._undifferentiated(rows, reading)
        angles = bound.angle_table()
        if initial is not None and initial.requires_grad:
            if not self._given_amplitudes or rows.is_complex():
                raise nodes.GradientRuleError(
                    f"rule {self.gradient!r} does not apply to amplitudes that are complex or that "
                    "modules compute; use 'adjoint' or 'backprop'"
                )
            of_inputs = function.function_of_inputs(self, self, rows, self._undifferentiated)
            pullback = table.vjp_of(self.gradient, of_inputs)
            values = nodes.attach(values, rows, pullback, angles)
        for source in ("input", "weight"):
            columns = circuit.columns(source)
            if columns and angles.requires_grad:
                of_angles = function.function_of_angles(self, bound, angles, source, initial)
                pullback = table.vjp_of(self.gradient, of_angles)
                sources = (angles,) if initial is None else (angles, initial)
                values = nodes.attach(values, angles[:, columns], pullback, *sources)
        return values

    def _undifferentiated(self, rows: Tensor, reading: Reading | None = None) -> Tensor:
        """The simulator's values; differentiable by autograd if the simulator is."""
        run_modules = getattr(self._simulator, "run_modules", None)
        if run_modules is not None and self._tracer is not None:
            rows = rescale(rows) if self._given_amplitudes else rows
            shaped = rows.reshape(len(rows), *self.input_shape)
            values: Tensor = run_modules(
                self.encoder, self.ansatz, self._circuit, shaped, self.reupload
            )
            return values
        reading = reading or self._read(rows)
        given = reading.inputs, self._shared(reading), reading.initial
        return self._simulate(reading.circuit, *given, rows.dtype)

    @property
    def _given_amplitudes(self) -> bool:
        """Whether the inputs, divided by their norm, are the amplitudes."""
        if self._tracer is None:
            return self._circuit.amplitude_encoding
        from captum_quantum import tq

        return tq.takes_amplitudes(self.encoder)

    def _check_inputs(self, inputs: Tensor, transformed: bool) -> None:
        amplitudes = self._circuit.amplitude_encoding
        if not amplitudes or not isinstance(inputs, Tensor) or not inputs.is_complex():
            _checks.check_real("inputs", inputs)
        shape = self.input_shape
        if inputs.dim() < len(shape) or inputs.shape[inputs.dim() - len(shape) :] != shape:
            of = ", ".join(map(str, ("...", *shape)))
            _checks.wrong_value("inputs", f"of shape ({of})", inputs)
        device = self._weights[0](self).device if self._weights else inputs.device
        if device != inputs.device:
            _checks.wrong_value("inputs", f"on the layer's device, {device}", inputs)
        if inputs.device.type == "cpu" and not transformed:
            _checks.check_finite("inputs", inputs.detach())
            if amplitudes and bool((inputs == 0).all(dim=-1).any()):
                _checks.refuse(
                    "inputs", "not all zero, to be normalized to amplitudes", "a row of zeros"
                )

    def draw(self, **kwargs: Any) -> "Figure":
        """Draws the circuit with Qiskit's drawer; x[i] are inputs, w[j] weights.

        Args:
            **kwargs: Passed to ``qiskit.QuantumCircuit.draw``, for example ``fold`` or ``scale``.

        Returns:
            matplotlib.figure.Figure: The figure.
        """
        from captum_quantum.visualization import draw_circuit

        return draw_circuit(self.circuit, **kwargs)

    def extra_repr(self) -> str:
        """The layer in one line."""
        return (
            f"n_qubits={self.n_qubits}, n_inputs={self.n_inputs}, "
            f"n_weights={self._circuit.n_weights}, n_observables={self.n_observables}, "
            f"simulator={self.simulator!r}, gradient={self.gradient!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"
