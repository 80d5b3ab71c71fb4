"""One circuit, compiled: its plans, and its programs by device, precision and number of lanes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.evaluation import Evaluation, split
from captum_quantum.simulate.plan import Plan
from captum_quantum.simulate.planner import FRONT, WHOLE, make_plan
from captum_quantum.simulate.program import Program

LANES, LANE = 4, 32
"""On a CPU a batch runs in so many lanes, if that leaves at least so many samples for each."""


@contextmanager
def _to_keep() -> Iterator[None]:
    """What is made here must serve later calls: outside inference mode and ``torch.func``."""
    with torch.inference_mode(False), temporarily_clear_interpreter_stack():
        yield


class CompiledCircuit:
    """Runs one circuit; plans and tables are made when first needed, and kept.

    Throughout, ``given`` stands for the input angles, one column for each gate angle that comes
    from an input, ``(batch, n)``, or, under amplitude encoding, for the initial states,
    ``(batch, 2**n_qubits)``; ``weights`` for the weight angles, one for each gate angle that comes
    from a weight, ``(m,)``.

    Args:
        circuit (Circuit): The circuit.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.programs: dict[tuple[torch.device, torch.dtype, int], Program] = {}

    @cached_property
    def _plan(self) -> Plan:
        with _to_keep():
            return make_plan(self.circuit)

    @cached_property
    def _plan_in_lanes(self) -> Plan:
        # A batch in lanes is many small products as it is; so its plan need not keep as many wires
        # in front of a dense step's own, and has fewer reorderings.
        with _to_keep():
            return make_plan(self.circuit, FRONT - (LANES.bit_length() - 1))

    def plan(self, batch: int, device: torch.device) -> Plan:
        """What runs for so many samples."""
        return self._plan if self.lanes(batch, device) == 1 else self._plan_in_lanes

    def lanes(self, batch: int, device: torch.device) -> int:
        """The number of lanes that so many samples run in."""
        fits = self.circuit.n_qubits > WHOLE and batch >= LANES * LANE and batch % LANES == 0
        return LANES if fits and device.type == "cpu" else 1

    def program(self, device: torch.device, dtype: torch.dtype, batch: int = 1) -> Program:
        """The program for so many samples."""
        lanes = self.lanes(batch, device)
        key = (device, dtype, lanes)
        program = self.programs.get(key)
        if program is None:
            with _to_keep():
                program = Program(self.plan(batch, device), device, dtype, lanes)
            self.programs[key] = program
        return program

    def expectations(self, given: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Expectation values, ``(batch, n_observables)``.

        Where autograd is enabled it records them step by step: derivatives of any order.
        """
        if not torch.is_grad_enabled():
            return self.evaluation(given, weights, dtype, (False, False)).values()
        return self.program(given.device, dtype).run(given, weights)

    def evaluation(
        self, given: Tensor, weights: Tensor, dtype: torch.dtype, needs: tuple[bool, bool]
    ) -> Evaluation:
        """Values with adjoint differentiation.

        Args:
            given (Tensor): See the class.
            weights (Tensor): See the class.
            dtype (torch.dtype): complex64 or complex128.
            needs (tuple[bool, bool]): Whether derivatives by ``given`` and by ``weights`` will be
                wanted.
        """
        program = self.program(given.device, dtype)
        if needs[1] or not program.has_polynomial:
            program = self.program(given.device, dtype, len(given))
        return Evaluation(program, given, weights, needs)

    def probabilities(self, given: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """The probability of each basis state, ``(batch, 2**n_qubits)``; differentiable."""
        program = self.program(given.device, dtype)
        with_graph = torch.is_grad_enabled()
        matrices = (program.make_matrices if with_graph else program.matrices)(weights)
        parts = []
        for part in split(given, program):
            prepared = program.preparation.forward(part, matrices)
            state = program.evolve(prepared.state, matrices, prepared)
            parts.append(program.probabilities(state))
        return torch.cat(parts)
