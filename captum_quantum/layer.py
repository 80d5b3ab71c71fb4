"""VQCLayer: a variational quantum circuit as one PyTorch module."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat, _state
from captum_quantum.circuit import Circuit, read_observables, select
from captum_quantum.gradients import function, nodes, table
from captum_quantum.quantum_layer import CircuitModule
from captum_quantum.simulate import Simulator, protocol
from captum_quantum.simulate.arguments import normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_QUBITS = 24


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
            ``"amplitude"``, one of TorchQuantum's encoder lists by name, or a ``tq.Encoder``.
        ansatz (str or nn.Module): ``"rx_ry_rz_ring"``, ``"strongly_entangling"``,
            ``"real_amplitudes"``, ``"qcnn"``, one of TorchQuantum's layers by name, or a
            ``tq.QuantumModule``.
        reupload (bool): Whether to encode the inputs again before every layer of the ansatz.
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
        >>> VQCLayer(3, observables="probabilities")(torch.zeros(1, 3)).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        n_qubits: int,
        n_layers: int = 2,
        *,
        encoder: str | nn.Module = "ry",
        ansatz: str | nn.Module = "rx_ry_rz_ring",
        reupload: bool = False,
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
        from captum_quantum import tq

        self.encoder: nn.Module | None = tq.make_encoder(encoder, n_qubits)
        self.ansatz: nn.Module | None = tq.make_ansatz(ansatz, n_qubits, n_layers)
        has_layers = isinstance(getattr(self.ansatz, "n_layers", None), int)
        if reupload and not (has_layers and hasattr(self.ansatz, "layer")):
            must = "one with n_layers and layer(qdev, index), as captum_quantum.tq.LayeredAnsatz"
            _checks.wrong_type("ansatz", f"{must}, for reupload=True", self.ansatz)
        self.reupload = reupload
        self.circuit: Circuit = tq.trace(self.encoder, self.ansatz, n_qubits, read, reupload)
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
        layer.encoder = layer.ansatz = None
        layer.reupload, layer.circuit = False, circuit
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
        return self.circuit.n_qubits

    @property
    def n_inputs(self) -> int:
        """Number of input features."""
        return self.circuit.n_inputs

    @property
    def n_observables(self) -> int:
        """Number of expectation values."""
        return len(self.circuit.observables)

    @property
    def weights(self) -> Tensor:
        """All weights as they are now, in radians, flattened: shape ``(n_weights,)``."""
        flat = [read(self).reshape(-1) for read in self._weights]
        if not flat:
            return torch.zeros(0)
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Gathers every gate's angles.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``, radians.

        Returns:
            Tensor: Shape ``(batch, n_angles)``, radians, one column for each angle of each gate, on
            the inputs' device.
        """
        return self.circuit.angle_table(inputs, self.weights.to(inputs.device))

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """The initial states.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``.

        Returns:
            Tensor or None: Under amplitude encoding the inputs divided by their norm, shape
            ``(batch, 2**n_qubits)``; otherwise None.
        """
        return normalize(inputs) if self.circuit.amplitude_encoding else None

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
        inputs = select(angles, self.circuit.columns("input"), 1)
        if own_weights:
            weights = self._weight_angles()
        else:
            weights = select(angles, self.circuit.columns("weight"), 1)
        return self._simulate(inputs, weights, amplitudes, angles.dtype).to(angles.dtype)

    def _simulate(
        self, inputs: Tensor, weights: Tensor, initial: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        values: Tensor = self._simulator.expectations(
            self.circuit, inputs, weights, self._complex(dtype), initial=initial
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
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            initial = self.amplitudes(leaf)
        angles = leaf.detach() if initial is None else leaf.new_zeros(len(leaf), 0)
        given = self.circuit, angles, self._weight_angles().detach(), self._complex(leaf.dtype)
        needs = (initial is None, False, initial is not None)
        start = None if initial is None else initial.detach()
        _, simulators_pullback = self._simulator.vjp(*given, initial=start, needs=needs)

        def pullback(cotangent: Tensor) -> Tensor:
            by_inputs, _, by_initial = simulators_pullback(cotangent)
            if initial is None:
                result: Tensor = by_inputs
                return result
            cotangent = by_initial.to(initial.dtype)
            return torch.autograd.grad(initial, leaf, cotangent, retain_graph=True)[0]

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
        wide = dtype == torch.float64 and torch.complex128 in self._dtypes
        return torch.complex128 if wide else self.dtype

    def _weight_angles(self) -> Tensor:
        weights = self.weights
        # Weights that the model itself has computed may depend on what is explained.
        if nodes.is_inputs_only() and all(read(self).is_leaf for read in self._weights):
            weights = weights.detach()
        return select(weights, self.circuit.indices("weight"), 0)

    @_compat.uncompiled
    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the expectation values.

        Args:
            inputs (Tensor): Shape ``(..., n_inputs)``, real, radians (under amplitude encoding:
                numbers, in no row all zero), on the layer's device.

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
        shape = inputs.shape[:-1]
        is_table = len(shape) == 1  # a reshape that changes nothing is one more node of the graph
        rows = inputs if is_table else inputs.reshape(math.prod(shape), self.n_inputs)
        if rows.shape[0]:
            values = self._values(rows, transformed).to(rows.dtype)
        else:
            values = rows.new_zeros(0, self.n_observables) + rows.sum() + self.weights.sum()
        return values if is_table else values.reshape(*shape, self.n_observables)

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
            inputs, initial = self._angles(rows)
            weights, dtype = self._weight_angles(), self._complex(rows.dtype)
            return nodes.adjoint(self._simulator, self.circuit, inputs, weights, initial, dtype)
        with torch.no_grad():
            values = self._undifferentiated(rows)
        # Half precision would round weights too.
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        initial = self.amplitudes(rows)
        angles = self.angle_table(rows)
        if initial is not None and rows.requires_grad:
            of_inputs = function.function_of_inputs(self, self, rows, self._undifferentiated)
            pullback = table.vjp_of(self.gradient, of_inputs)
            values = nodes.attach(values, rows, pullback, angles)
        for source in ("input", "weight"):
            columns = self.circuit.columns(source)
            if columns and angles.requires_grad:
                of_angles = function.function_of_angles(self, self, angles, source, initial)
                pullback = table.vjp_of(self.gradient, of_angles)
                sources = (angles,) if initial is None else (angles, initial)
                values = nodes.attach(values, angles[:, columns], pullback, *sources)
        return values

    def _undifferentiated(self, rows: Tensor) -> Tensor:
        """The simulator's values; differentiable by autograd if the simulator is."""
        run_modules = getattr(self._simulator, "run_modules", None)
        if run_modules is not None and self.encoder is not None:
            values: Tensor = run_modules(
                self.encoder, self.ansatz, self.circuit, rows, self.reupload
            )
            return values
        inputs, initial = self._angles(rows)
        return self._simulate(inputs, self._weight_angles(), initial, rows.dtype)

    def _angles(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input angles, one column for each gate angle from an input, and initial states."""
        initial = self.amplitudes(rows)
        if initial is not None:  # no columns, and no node that autograd goes through
            return rows.new_zeros(rows.shape[0], 0), initial
        return select(rows, self.circuit.indices("input"), 1), None

    def _check_inputs(self, inputs: Tensor, transformed: bool) -> None:
        _checks.check_real("inputs", inputs)
        if inputs.dim() == 0 or inputs.shape[-1] != self.n_inputs:
            _checks.wrong_value("inputs", f"of shape (..., {self.n_inputs})", inputs)
        device = self._weights[0](self).device if self._weights else inputs.device
        if device != inputs.device:
            _checks.wrong_value("inputs", f"on the layer's device, {device}", inputs)
        if inputs.device.type == "cpu" and not transformed:
            _checks.check_finite("inputs", inputs.detach())
            if self.circuit.amplitude_encoding and bool((inputs == 0).all(dim=-1).any()):
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
            f"n_weights={self.circuit.n_weights}, n_observables={self.n_observables}, "
            f"simulator={self.simulator!r}, gradient={self.gradient!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"
