"""A circuit as one call of a layer found it, as a quantum layer: gradient rules read and run it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, Reading, select
from captum_quantum.gradients.nodes import GradientRuleError, Pullback
from captum_quantum.simulate import protocol


class CircuitRunner:
    """Runs circuits on a simulator, in the precision that a layer and its inputs ask for.

    Args:
        simulator (Simulator): The simulator.
        least (torch.dtype): torch.complex64 or torch.complex128: the least precision.
        owner (str): Whose simulator it is, for error messages.

    Attributes:
        simulator (Simulator): The simulator.
        dtypes (tuple[torch.dtype, ...]): The precisions that it computes in.
    """

    def __init__(self, simulator: Any, least: torch.dtype, owner: str) -> None:
        self.simulator, self._least, self._owner = simulator, least, owner
        self.dtypes = getattr(simulator, "dtypes", (torch.complex64, torch.complex128))

    def dtype(self, given: torch.dtype) -> torch.dtype:
        """The precision of the simulation: the least one, or that of inputs in double precision."""
        wide = given.to_real() == torch.float64 and torch.complex128 in self.dtypes
        return torch.complex128 if wide else self._least

    def expectations(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        initial: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Expectation values, checked.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): Angles that come from inputs, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, ``(n_weight_angles,)`` or
                ``(batch, n_weight_angles)``.
            initial (Tensor, optional): Initial states, ``(batch, 2**n_qubits)``.
            dtype (torch.dtype): That of the layer's inputs.

        Returns:
            Tensor: Shape ``(batch, n_observables)``.
        """
        values: Tensor = self.simulator.expectations(
            circuit, inputs, weights, self.dtype(dtype), initial=initial
        )
        argument, shape = "what the simulator returns", (inputs.shape[0], len(circuit.observables))
        if _checks.check_real(argument, values).shape != shape:
            _checks.wrong_value(argument, f"of shape {shape}", values)
        given = (inputs, weights, inputs if initial is None else initial)
        wanted = torch.is_grad_enabled() and any(t.requires_grad and t.numel() for t in given)
        # The values of a simulator with a vjp may be constants, without a graph.
        if wanted and not values.requires_grad and not protocol.has_vjp(self.simulator):
            raise GradientRuleError(
                f"rule 'backprop' does not apply to {self._owner}: autograd does not record what "
                "its simulator computes; use 'parameter-shift' or 'finite-difference'"
            )
        return values

    def vjp(self, circuit: Circuit, inputs: Tensor, weights: Tensor) -> Pullback:
        """Adjoint differentiation by input angles.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): Angles that come from inputs, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, ``(n_weight_angles,)``.

        Returns:
            Callable: Cotangents ``(batch, n_observables)`` to ``(batch, n_input_angles)``.
        """
        dtype, needs = self.dtype(inputs.dtype), (True, False, False)
        _, simulators_pullback = self.simulator.vjp(circuit, inputs, weights, dtype, needs=needs)

        def pullback(cotangent: Tensor) -> Tensor:
            by_inputs: Tensor = simulators_pullback(cotangent)[0]
            return by_inputs

        return pullback


class BoundCircuit:
    """A layer as it is in one call, as a quantum layer: gradient rules read and run it.

    Args:
        runner (CircuitRunner): What runs it.
        reading (Reading): What the layer's modules have done in the call.
        gradient (str): The name of the layer's gradient rule.

    Attributes:
        circuit (Circuit): The circuit.
        gradient (str): The name of the layer's gradient rule.
        exact (bool): Whether values carry no noise.
    """

    def __init__(self, runner: CircuitRunner, reading: Reading, gradient: str) -> None:
        self._runner, self._reading = runner, reading
        self.circuit, self.gradient = reading.circuit, gradient
        self.exact = bool(runner.simulator.exact)
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
        return self._runner.expectations(self.circuit, *given, angles.dtype).to(angles.dtype)

    @property
    def vjp(self) -> Callable[[Tensor], Pullback] | None:
        """Adjoint differentiation by input angles; None where the simulator has no vjp."""
        if self.circuit.amplitude_encoding or not protocol.has_vjp(self._runner.simulator):
            return None
        return lambda inputs: self._runner.vjp(self.circuit, inputs, self._weights)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which values are computed.

        Args:
            dtype (torch.dtype): That of the inputs.

        Returns:
            torch.dtype: torch.float32 or torch.float64.
        """
        return self._runner.dtype(dtype).to_real()
