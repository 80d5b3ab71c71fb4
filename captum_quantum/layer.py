"""VQCLayer: a variational quantum circuit as one PyTorch module."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat, _state
from captum_quantum.circuit import Circuit, Reading, read_observables, select
from captum_quantum.circuit_module import CircuitModule, read_shape, warn_of_unused
from captum_quantum.gradients import function, nodes, table
from captum_quantum.gradients.bound import BoundCircuit, CircuitRunner
from captum_quantum.simulate import Simulator, protocol
from captum_quantum.simulate.arguments import rescale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_QUBITS = 24


def _single(rows: Tensor) -> Tensor:
    """Rows in single precision at least: half precision would round weights too."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


class VQCLayer(CircuitModule):
    r"""A variational quantum circuit: angles in, expectation values out.

    The inputs are encoded into a state, an ansatz with trainable weights acts on it, and
    expectation values of observables are read:

    .. math:: y_k = \langle 0 | E(x)^\dagger A(w)^\dagger O_k A(w) E(x) | 0 \rangle

    Encoder and ansatz are TorchQuantum modules, which own the gates and the weights. Modules of
    one's own run at every call, on a device that records gates and simulates nothing: angles may be
    any function of inputs and weights, and the layer follows what the modules become (training and
    evaluation, pruning, replaced gates). The layer holds no quantum state. Defaults are the circuit
    of arXiv:2306.03741.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of a named ansatz.
        encoder (str, nn.Module, list or None): ``"ry"``, ``"rx"``, ``"rz_after_h"``, ``"ry_rz"``,
            ``"amplitude"``, ``"z_feature_map"``, ``"zz_feature_map"``, ``"pauli_feature_map"``,
            ``"iqp"``, one of TorchQuantum's encoder lists by name; a ``tq.Encoder``; a list of
            gates as ``tq.GeneralEncoder`` takes it; None for a circuit without inputs.
        ansatz (str, nn.Module, list or None): ``"rx_ry_rz_ring"``, ``"strongly_entangling"``,
            ``"real_amplitudes"``, ``"qcnn"``, ``"basic_entangler"``,
            ``"simplified_two_design"``, ``"efficient_su2"``, ``"two_local"``,
            ``"u3cu3"``, one of TorchQuantum's layers by name; a ``tq.QuantumModule``; operators in
            turn, as a list, ``nn.Sequential`` or ``nn.ModuleList``; None for no gates.
        reupload (bool): Whether to encode the inputs again before every layer of the ansatz.
        n_inputs (int or tuple[int, ...], optional): The number of features, or the shape of one
            sample's inputs, for encoders that do not show it. Under amplitude encoding there may be
            fewer than ``2**n_qubits``; the other amplitudes are 0. Default: found by trying.
        observables (list or str, optional): What to read, each an expectation value: Pauli strings
            such as ``"Z0"``, ``"X0 Z2"`` or ``"XIZ"``, mappings from such to coefficients,
            ``Observable.projector("01", wires=(0, 2))``, ``Observable.hermitian(matrix, wires)``,
            observables of Qiskit, TorchQuantum or PennyLane, or sequences of these such as
            ``Observable.probabilities([1, 2])``. ``"probabilities"``: those of all outcomes of all
            wires, at most 16. Default: ``<Z>`` on every qubit.
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
        - Input: ``(..., n_inputs)``, or ``(..., *input_shape)`` for an encoder that takes inputs of
          several dimensions; real, radians (amplitude encoding: real or complex, not all zero).
        - Output: ``(..., n_observables)``, real, in the input's dtype and on its device.

    Attributes:
        encoder (nn.Module or None): The TorchQuantum encoder; None after `from_circuit`.
        ansatz (nn.Module or None): The TorchQuantum ansatz; None after `from_circuit`.
        circuit (Circuit): The circuit as the modules are now.
        input_shape (tuple[int, ...]): The shape of one sample's inputs.
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
        >>> VQCLayer(3, observables="probabilities")(torch.zeros(1, 3)).shape
        torch.Size([1, 8])
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
        observables: Sequence[Any] | str | None = None,
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
        shape = read_shape(n_inputs)
        from captum_quantum import tq

        modules = tq.make_encoder(encoder, n_qubits), tq.make_ansatz(ansatz, n_qubits, n_layers)
        has_layers = isinstance(getattr(modules[1], "n_layers", None), int)
        if reupload and not (has_layers and hasattr(modules[1], "layer")):
            must = "one with n_layers and layer(qdev, index), as captum_quantum.tq.LayeredAnsatz"
            _checks.wrong_type("ansatz", f"{must}, for reupload=True", modules[1])
        self._hold_modules(modules, tq.Tracer(n_qubits, read, reupload), shape)

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
            warn_of_unused(sorted(set(range(circuit.n_inputs)) - used), circuit.n_inputs)
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
        layer._hold_circuit(circuit, weights)
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
        self.dtype = dtype
        dtypes = self._runner.dtypes
        if dtype not in dtypes:
            _checks.wrong_value("dtype", f"{dtypes[0]} for simulator {name}", dtype)

    @property
    def simulator(self) -> str | Simulator:
        """The simulator as it was given: a name or an object; another one can be assigned."""
        return self._given_simulator

    @simulator.setter
    def simulator(self, simulator: str | Simulator) -> None:
        self._given_simulator = simulator
        self._simulator: Any = protocol.read_simulator(simulator)

    @property
    def exact(self) -> bool:
        """Whether the simulator's values carry no noise."""
        return bool(self._simulator.exact)

    @property
    def applies_rule(self) -> bool:
        """Whether autograd through the layer follows ``gradient``: unless forward is overridden."""
        return type(self).forward is VQCLayer.forward and "forward" not in vars(self)

    def _shared(self, reading: Reading) -> Tensor:
        """The angles that come from weights; detached where these get no gradient anyway."""
        # Weights that the model itself has computed may depend on what is explained.
        if nodes.is_inputs_only() and reading.plain:
            is_recorded = reading.circuit is not self._circuit  # its parameters are leaves
            if is_recorded or all(read(self).is_leaf for read in self._weights):
                return reading.weights.detach()
        return reading.weights

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

    def recorded(self, inputs: Tensor) -> "BoundCircuit":
        """The layer as it is in one call.

        Args:
            inputs (Tensor): Shape ``(..., *input_shape)``.

        Returns:
            BoundCircuit: Its circuit, angles and initial states.
        """
        reading = self._read(_single(self._rows(inputs)))
        return BoundCircuit(self._runner, reading, self.gradient)

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
            weights = self._read(angles.new_ones(1, self.n_inputs)).weights
        else:
            weights = select(angles, circuit.columns("weight"), 1)
        values = self._runner.expectations(circuit, inputs, weights, amplitudes, angles.dtype)
        return values.to(angles.dtype)

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
            weights = self._read(inputs.new_ones(1, self.n_inputs)).weights.detach()
            return self._runner.vjp(circuit, inputs.detach(), weights)
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            reading = self._read(leaf)
        values, initial = (reading.inputs, reading.weights), reading.initial
        assert initial is not None
        angles, weights = (tensor.detach() for tensor in values)
        _, simulators_pullback = self._simulator.vjp(
            circuit, angles, weights, self._runner.dtype(leaf.dtype), initial=initial.detach(),
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

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which values are computed.

        Args:
            dtype (torch.dtype): That of the inputs.

        Returns:
            torch.dtype: torch.float32 or torch.float64.
        """
        return self._runner.dtype(dtype).to_real()

    @property
    def _runner(self) -> CircuitRunner:
        return CircuitRunner(self._simulator, self.dtype, _checks.describe(self))

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
            reading, dtype = self._read(rows), self._runner.dtype(rows.dtype)
            given = reading.inputs, self._shared(reading), reading.initial
            return nodes.adjoint(self._simulator, reading.circuit, *given, dtype)
        return self._by_rule(rows)

    def _by_rule(self, rows: Tensor) -> Tensor:
        """The values, differentiated by a rule that runs the circuit again."""
        rows = _single(rows)
        reading = self._read(rows)
        circuit, initial = reading.circuit, reading.initial
        bound = BoundCircuit(self._runner, reading, self.gradient)
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
        if run_modules is not None and self._runs_on_devices:
            rows = rescale(rows) if self._given_amplitudes else rows
            shaped = rows.reshape(len(rows), *self.input_shape)
            values: Tensor = run_modules(
                self.encoder, self.ansatz, self._circuit, shaped, self.reupload
            )
            return values
        reading = reading or self._read(rows)
        given = reading.inputs, self._shared(reading), reading.initial
        return self._runner.expectations(reading.circuit, *given, rows.dtype)

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
