"""The fused simulator: neighboring gates become few large matrix products.

The state psi is a tensor ``(2**n, batch)``: reordering its rows copies whole rows, and a dense step
is one matrix product. On a CPU, a large batch runs in lanes, whose states follow each other,
``(lanes * 2**n, batch / lanes)``: as every operation is shared among threads by rows, a thread
finds the numbers that it needs where it wrote them.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._state import full_precision
from captum_quantum.circuit import Circuit, Gate, Observable, select
from captum_quantum.simulate.arguments import check_arguments
from captum_quantum.simulate.compiled import CompiledCircuit
from captum_quantum.simulate.plan import Plan

CACHED = 32
"""The most circuits that a simulator keeps compiled."""

Pullback = Callable[[Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]


class FusedSimulator:
    """An exact simulator of state vectors that compiles each circuit once.

    Compiled circuits are kept, the least recently used ones dropped; copies and pickles of the
    simulator carry none.

    Attributes:
        exact (bool): True.
        dtypes (tuple[torch.dtype, ...]): torch.complex64 and torch.complex128.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> circuit = VQCLayer(1, n_layers=1, ansatz="real_amplitudes").circuit
        >>> inputs, weights = torch.tensor([[0.0], [1.0]]), torch.zeros(2)
        >>> FusedSimulator().expectations(circuit, inputs, weights, torch.complex64)
        tensor([[1.0000],
                [0.5403]])
    """

    exact = True
    dtypes = (torch.complex64, torch.complex128)

    def __init__(self) -> None:
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start with nothing compiled."""
        return {name: v for name, v in vars(self).items() if name not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what a subclass keeps beside the compiled circuits."""
        vars(self).update(state)
        self._cache: OrderedDict[Any, tuple[Circuit, CompiledCircuit]] = OrderedDict()
        self._lock = Lock()

    def plan(self, circuit: Circuit, batch: int = 1) -> Plan:
        """What runs for a circuit on a CPU, unless derivatives of gradients are wanted.

        Args:
            circuit (Circuit): The circuit.
            batch (int): Number of samples: large batches run in lanes, for which other plans are
                best.

        Returns:
            Plan: ``print(plan)`` shows it.
        """
        return self._compiled(circuit).plan(batch, torch.device("cpu"))

    def expectations(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        initial: Tensor | None = None,
    ) -> Tensor:
        """Expectation values; where autograd is enabled, differentiable to any order.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): Angles that come from inputs, radians, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, radians, ``(n_weight_angles,)`` or
                ``(batch, n_weight_angles)``.
            dtype (torch.dtype): torch.complex64 or torch.complex128.
            initial (Tensor, optional): Normalized amplitudes, ``(batch, 2**n)``; given exactly if
                ``circuit.amplitude_encoding``.

        Returns:
            Tensor: Real, in ``dtype.to_real()``, ``(batch, n_observables)``.

        Raises:
            ValueError: If an argument is wrong.
        """
        check_arguments(self.dtypes, circuit, inputs, weights, dtype, initial)
        return self._run(circuit, "", inputs, weights, dtype, initial)

    def probabilities(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        initial: Tensor | None = None,
        bases: str | None = None,
    ) -> Tensor:
        """Probabilities of the outcomes when all wires are measured.

        Args:
            circuit (Circuit): The circuit; its observables do not matter.
            inputs (Tensor): Angles that come from inputs, radians, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, radians, ``(n_weight_angles,)`` or
                ``(batch, n_weight_angles)``.
            dtype (torch.dtype): torch.complex64 or torch.complex128.
            initial (Tensor, optional): Normalized amplitudes, ``(batch, 2**n)``; given exactly if
                ``circuit.amplitude_encoding``.
            bases (str, optional): For each wire ``"X"``, ``"Y"`` or ``"Z"``: the Pauli matrix in
                whose eigenbasis it is measured, outcome 0 for the eigenvalue 1. Default: all Z.

        Returns:
            Tensor: Real, in ``dtype.to_real()``, ``(batch, 2**n)``, wire 0 the most significant
            bit of the outcome; where autograd is enabled, differentiable to any order.

        Raises:
            TypeError, ValueError: If an argument is wrong.
        """
        check_arguments(self.dtypes, circuit, inputs, weights, dtype, initial)
        n = circuit.n_qubits
        if bases is None:
            bases = "Z" * n
        elif not isinstance(bases, str):
            _checks.wrong_type("bases", f"a string of {n} letters X, Y or Z", bases)
        elif len(bases) != n or not set(bases) <= set("XYZ"):
            _checks.wrong_value("bases", f"a string of {n} letters X, Y or Z", bases)
        return self._run(circuit, bases, inputs, weights, dtype, initial)

    def vjp(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        initial: Tensor | None = None,
        needs: tuple[bool, bool, bool] = (True, True, True),
    ) -> tuple[Tensor, Pullback]:
        """Expectation values and their vector-Jacobian product, by adjoint differentiation.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): Angles that come from inputs, radians, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, radians, ``(n_weight_angles,)``.
            dtype (torch.dtype): torch.complex64 or torch.complex128.
            initial (Tensor, optional): Normalized amplitudes, ``(batch, 2**n)``; given exactly if
                ``circuit.amplitude_encoding``.
            needs (tuple[bool, bool, bool]): Whether derivatives by inputs, weights and initial
                states will be wanted.

        Returns:
            tuple[Tensor, Callable]: Values ``(batch, n_observables)``, without a graph; and the
            pullback, which maps a cotangent ``(batch, n_observables)`` to the derivatives by
            inputs, weights and initial states, None where not wanted. It does not hold the values.

        Raises:
            ValueError: If an argument is wrong.
        """
        if torch.is_autocast_enabled(inputs.device.type):
            with full_precision(inputs.device):
                return self.vjp(circuit, inputs, weights, dtype, initial=initial, needs=needs)
        check_arguments(self.dtypes, circuit, inputs, weights, dtype, initial)
        if weights.dim() != 1:
            _checks.wrong_value("weights", "shared by the batch, with one dimension", weights)
        in_parts = initial is not None and initial.is_complex()
        compiled = self._compiled(circuit, in_parts=in_parts)
        wanted = needs[0] if initial is None else needs[0] or needs[2]
        given = join(inputs, initial)
        evaluation = compiled.evaluation(given, weights, dtype, (wanted, needs[1]))
        n_inputs, has_start = inputs.shape[1], initial is not None

        def pullback(cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            with full_precision(cotangent.device):
                by_given, by_weights = evaluation.pullback(cotangent)
            if by_given is None or not has_start:
                return by_given, by_weights, None
            by_inputs, by_initial = by_given[:, :n_inputs], by_given[:, n_inputs:]
            if in_parts:
                by_initial = torch.complex(*by_initial.chunk(2, dim=1))
            return by_inputs if needs[0] else None, by_weights, by_initial if needs[2] else None

        return evaluation.values(), pullback

    def _run(
        self,
        circuit: Circuit,
        bases: str,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        initial: Tensor | None,
    ) -> Tensor:
        """Expectation values, or with ``bases`` probabilities."""
        by_sample = weights.dim() == 2
        if by_sample and not weights.shape[1]:
            by_sample, weights = False, weights.new_zeros(0)
        if by_sample and initial is not None:
            # Samples of the same weights run together; each by itself where these get a gradient.
            group = torch.arange(len(weights), device=weights.device)
            if not (weights.requires_grad and torch.is_grad_enabled()):
                group = torch.unique(weights, dim=0, return_inverse=True)[1]
            order = torch.argsort(group)
            parts = [
                self._run(circuit, bases, inputs[part], weights[part[0]], dtype, initial[part])
                for part in order.split(torch.bincount(group).tolist())
            ]
            return torch.cat(parts)[torch.argsort(order)]
        in_parts = initial is not None and initial.is_complex()
        compiled = self._compiled(circuit, bases, by_sample, in_parts)
        given = join(inputs, initial)
        if by_sample:
            columns = circuit.columns("input") + circuit.columns("weight")
            back = sorted(range(len(columns)), key=columns.__getitem__)
            given, weights = select(torch.cat([inputs, weights], 1), back, 1), weights.new_zeros(0)
        with full_precision(given.device):
            compute = compiled.probabilities if bases else compiled.expectations
            return compute(given, weights, dtype)

    def _compiled(
        self,
        circuit: Circuit,
        bases: str = "",
        by_sample: bool = False,
        in_parts: bool = False,
    ) -> CompiledCircuit:
        """The circuit compiled, by identity: to hash its gates on every call would take too long.

        Args:
            circuit (Circuit): The circuit.
            bases (str): With a basis for each wire the circuit ends with the change to these, and
                all its gates are kept, whatever the observables.
            by_sample (bool): Whether the weights are taken as inputs.
            in_parts (bool): Whether the initial states are complex, given as real and imaginary
                parts.
        """
        key = (id(circuit), bases, by_sample, in_parts)
        with self._lock:
            known = self._cache.get(key)
            if known is not None and known[0] is circuit:
                self._cache.move_to_end(key)
                return known[1]
        compiled = CompiledCircuit(_variant(circuit, bases, by_sample), in_parts)
        with self._lock:
            self._cache[key] = (circuit, compiled)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return compiled


def join(inputs: Tensor, initial: Tensor | None) -> Tensor:
    """Input angles and initial states as one real tensor: what differs from sample to sample."""
    if initial is None:
        return inputs
    parts = [initial.real, initial.imag] if initial.is_complex() else [initial]
    if inputs.shape[1]:
        parts.insert(0, inputs)
    return torch.cat(parts, dim=1) if len(parts) > 1 else initial


def _variant(circuit: Circuit, bases: str, by_sample: bool) -> Circuit:
    if bases:
        change = {"X": ("hadamard",), "Y": ("sdg", "hadamard"), "Z": ()}
        gates = [Gate(name, (k,)) for k, basis in enumerate(bases) for name in change[basis]]
        everything = Observable.of("Z" * circuit.n_qubits)
        circuit = replace(circuit, gates=(*circuit.gates, *gates), observables=(everything,))
    return circuit.weights_as_inputs() if by_sample else circuit
