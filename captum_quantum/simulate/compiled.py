"""One circuit, compiled; and one evaluation of a batch, with its vector-Jacobian product."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _compat
from captum_quantum.circuit import Circuit
from captum_quantum.simulate.adjoint import AdjointRun
from captum_quantum.simulate.plan import Plan
from captum_quantum.simulate.planner import FRONT, WHOLE, make_plan
from captum_quantum.simulate.polynomial import Polynomial
from captum_quantum.simulate.program import Program

BUDGET = 2**26
"""Bytes that one state of a batch may take; larger batches are cut into parts."""
LANES, LANE = 4, 32
"""Number of lanes on a CPU, and the fewest samples in one; smaller batches have a single lane."""


def split(given: Tensor, program: Program) -> tuple[Tensor, ...]:
    """Cuts a batch into parts whose states fit into `BUDGET`, whole lanes each."""
    size = program.lanes * max(1, BUDGET // program.row_bytes // program.lanes)
    return given.split(size) if given.shape[0] > size else (given,)


class Evaluation:
    """One evaluation of a batch, cut into parts where memory asks for it.

    Args:
        program (Program): What runs.
        given (Tensor): Input angles or amplitudes, ``(batch, n)``.
        weights (Tensor): Weight angles, ``(m,)``.
        needs (tuple[bool, bool]): Whether derivatives by ``given`` and ``weights`` will be wanted.
    """

    def __init__(
        self, program: Program, given: Tensor, weights: Tensor, needs: tuple[bool, bool]
    ) -> None:
        self._needs = needs
        matrices = program.matrices(weights.detach())
        self._run: Polynomial | AdjointRun
        if program.has_polynomial and not needs[1]:
            self._run = program.polynomial(matrices)
        else:
            self._run = AdjointRun(program, matrices, needs)
        given = given.detach()
        self._parts = split(given, program)
        if any(needs) and (len(self._parts) > 1 or program.keeps_given):
            # A copy, as the user may change the inputs in place before the pullback reads them.
            self._parts = split(given.clone(), program)
        # A batch in one part keeps this for the pullback; else each part runs once more.
        self._kept: Any = None

    def values(self) -> Tensor:
        """Expectation values, ``(batch, n_observables)``; not held here."""
        values = []
        with torch.no_grad():
            for part in self._parts:
                kept: Any = self._run.forward(part, self._needs[0])
                values.append(self._run.values(kept))
        if len(values) > 1:
            return torch.cat(values)
        if any(self._needs):
            self._kept = kept
        return values[0].contiguous()

    def pullback(self, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The vector-Jacobian product.

        Args:
            cotangent (Tensor): ``(batch, n_observables)``.

        Returns:
            tuple: Derivatives by ``given``, ``(batch, n)``, and by ``weights``, ``(m,)``; None
            where not wanted.
        """
        with torch.no_grad():
            if self._kept is not None:
                by_given, by_weights = self._run.vjp(self._kept, cotangent)
                return None if by_given is None else by_given.contiguous(), by_weights
            cotangents = cotangent.split([len(part) for part in self._parts])
            derivatives = []
            for given, of_part in zip(self._parts, cotangents, strict=True):
                kept: Any = self._run.forward(given)
                derivatives.append(self._run.vjp(kept, of_part))
        of_given, of_weights = zip(*derivatives, strict=True)
        return (
            torch.cat(of_given) if self._needs[0] else None,
            sum(of_weights) if self._needs[1] else None,
        )


class CompiledCircuit:
    """Runs one circuit; plans and tables are made when first needed, and kept.

    Throughout, ``given`` stands for the input angles, one column for each gate angle that comes
    from an input, ``(batch, n)``, followed, under amplitude encoding, by the initial states,
    ``(batch, 2**n_qubits)``, or by their real and then their imaginary parts; ``weights`` for the
    weight angles, one for each gate angle that comes from a weight, ``(m,)``.

    Args:
        circuit (Circuit): The circuit.
        in_parts (bool): Whether the initial states are complex.
    """

    def __init__(self, circuit: Circuit, in_parts: bool = False) -> None:
        self.circuit, self._in_parts = circuit, in_parts
        self.programs: dict[tuple[torch.device, torch.dtype, int], Program] = {}

    @cached_property
    def _plan(self) -> Plan:
        with _compat.outside_transforms():
            return make_plan(self.circuit)

    @cached_property
    def _plan_in_lanes(self) -> Plan:
        # A batch in lanes is many small products as it is; so its plan need not keep as many wires
        # in front of a dense step's own, and has fewer reorderings.
        with _compat.outside_transforms():
            return make_plan(self.circuit, FRONT - (LANES.bit_length() - 1))

    def plan(self, batch: int, device: torch.device) -> Plan:
        """The plan for a batch of this size."""
        return self._plan if self.lanes(batch, device) == 1 else self._plan_in_lanes

    def lanes(self, batch: int, device: torch.device) -> int:
        """The number of lanes that a batch of this size runs in."""
        fits = self.circuit.n_qubits > WHOLE and batch >= LANES * LANE and batch % LANES == 0
        return LANES if fits and device.type == "cpu" else 1

    def program(self, device: torch.device, dtype: torch.dtype, batch: int = 1) -> Program:
        """The program for a batch of this size."""
        lanes = self.lanes(batch, device)
        key = (device, dtype, lanes)
        program = self.programs.get(key)
        if program is None:
            # It must serve later calls, training too.
            with torch.inference_mode(False), _compat.outside_transforms():
                program = Program(self.plan(batch, device), device, dtype, lanes, self._in_parts)
            self.programs[key] = program
        return program

    def expectations(self, given: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Expectation values, ``(batch, n_observables)``.

        Where autograd or a transform records them, it does so step by step: derivatives of any
        order.
        """
        if not (torch.is_grad_enabled() or _compat.in_transform()):
            return self.evaluation(given, weights, dtype, (False, False)).values()
        return self.program(given.device, dtype).run(given, weights).contiguous()

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
            parts.append(program.measurement.probabilities(state))
        return torch.cat(parts)
