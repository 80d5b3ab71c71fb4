"""The fused simulator: runs a plan on a batch of states, and goes back through it for gradients.

The state psi is a tensor ``(2**n, batch)``: reordering its rows copies whole rows, and a dense step
is one matrix product. On a CPU, a large batch runs in lanes, whose states follow each other,
``(lanes * 2**n, batch / lanes)``: as every operation is shared among threads by rows, a thread
finds the numbers that it needs where it wrote them.

"""

from typing import Any

import torch
from torch import Tensor

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.call import FusedCall
from captum_quantum.simulate.plan import Plan
from captum_quantum.simulate.planner import FRONT, WHOLE, make_plan
from captum_quantum.simulate.program import Program

LANES, LANE = 4, 32
"""On a CPU a batch runs in so many lanes, if that leaves at least so many samples for each."""


class FusedSimulator:
    """Runs one circuit; made once, kept by the layer.

    Args:
        circuit (Circuit): The circuit.

    Attributes:
        plan (Plan): What it runs; ``print(simulator.plan)`` shows it. For batches that run in lanes
            see :meth:`plan_for`.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> simulator = FusedSimulator(VQCLayer(1, n_layers=1, ansatz="real_amplitudes").circuit)
        >>> angles, weights = torch.tensor([[0.0], [1.0]]), torch.zeros(2)
        >>> simulator.run(angles, weights, torch.complex64)  # cos(0), cos(1)
        tensor([[1.0000],
                [0.5403]])
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.plan: Plan = make_plan(circuit)
        self._in_lanes: Plan | None = None
        self._programs: dict[tuple[torch.device, torch.dtype, int], Program] = {}

    def __reduce__(self) -> Any:
        """Copies and pickles carry the circuit alone; tables are made anew."""
        return (type(self), (self.circuit,))

    def plan_for(self, batch: int) -> Plan:
        """What runs for so many samples on a CPU, while gradients need no derivatives themselves.

        A batch in lanes is many small products as it is; so its plan need not keep as many wires in
        front of a dense step's own, and has fewer reorderings.
        """
        if self._lanes(batch, torch.device("cpu")) == 1:
            return self.plan
        if self._in_lanes is None:
            self._in_lanes = make_plan(self.circuit, FRONT - (LANES.bit_length() - 1))
        return self._in_lanes

    def _lanes(self, batch: int, device: torch.device) -> int:
        fits = self.circuit.n_qubits > WHOLE and batch >= LANES * LANE and batch % LANES == 0
        return LANES if fits and device.type == "cpu" else 1

    def _program(self, device: torch.device, dtype: torch.dtype, batch: int = 1) -> Program:
        lanes = self._lanes(batch, device)
        key = (device, dtype, lanes)
        program = self._programs.get(key)
        if program is None:
            with torch.inference_mode(False):  # what is kept must serve training later
                plan = self.plan if lanes == 1 else self.plan_for(batch)
                program = self._programs[key] = Program(plan, device, dtype, lanes)
        return program

    def run(self, inputs: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Expectation values, recorded by autograd step by step: derivatives of any order.

        Args:
            inputs (Tensor): Input angles, one for each gate that takes one, ``(batch, n)``; under
                amplitude encoding the initial states, ``(batch, 2**n_qubits)``.
            weights (Tensor): Weight angles, one for each gate that takes one, ``(m,)``.
            dtype (torch.dtype): complex64 or complex128.

        Returns:
            Tensor: ``(batch, n_observables)``.
        """
        program = self._program(inputs.device, dtype)
        static = program.make_static(weights)
        batched = program.head.forward(inputs, static)
        return program.read(program.evolve(static, batched.state, batched))

    def call(
        self,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        needs: tuple[bool, bool] = (False, False),
    ) -> tuple[Tensor, FusedCall]:
        """Expectation values with adjoint differentiation.

        Args:
            inputs: As in :meth:`run`.
            weights: As in :meth:`run`.
            dtype: As in :meth:`run`.
            needs (tuple[bool, bool]): Whether derivatives by inputs and by weights will be wanted.

        Returns:
            tuple[Tensor, FusedCall]: Values ``(batch, n_observables)``, and the way back. The call
            does not hold the values: a graph whose node holds it would never be freed.
        """
        program = self._program(inputs.device, dtype)
        if needs[1] or not program.is_polynomial:
            program = self._program(inputs.device, dtype, len(inputs))
        call = FusedCall(program, inputs, weights, needs)
        return call.run(), call
