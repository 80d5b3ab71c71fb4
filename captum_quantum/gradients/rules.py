"""Derivative rules of a quantum layer."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit
from captum_quantum.circuit.gates import TWO_TERM, ShiftRule
from captum_quantum.gradients.errors import GradientRuleError
from captum_quantum.gradients.nodes import Pullback, unintercepted

RULES = ("adjoint", "backprop", "parameter-shift", "commutator", "finite-difference")
"""The names of the derivative rules."""

_STEP = 1e-5
_COARSE_STEP = 1e-2


@runtime_checkable
class CircuitLayer(Protocol):
    """A quantum layer that knows its circuit: what `VQCLayer` offers to the rules."""

    circuit: Circuit

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Inputs ``(batch, n_inputs)`` to every gate's angles ``(batch, n_angles)``."""

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """Normalised initial states ``(batch, 2**n)``, or None for ``|0...0>``."""

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Angles ``(batch, n_angles)`` to expectation values ``(batch, n_observables)``.

        With ``own_weights``, the columns that come from weights hold the layer's own in every row.
        """

    def adjoint_pullback(self, inputs: Tensor) -> "Pullback | None":
        """Adjoint differentiation by input angles, or by the inputs of amplitude encoding."""


Run = Callable[[Tensor], Tensor]


def _shifted_jacobian(
    run: Run, table: Tensor, columns: Sequence[int], terms: list[ShiftRule]
) -> Tensor:
    """Derivatives by columns of a table as weighted sums of shifted runs, all in one batch.

    Args:
        run (Callable): ``(many, n_columns) -> (many, n_outputs)``.
        table (Tensor): Shape ``(batch, n_columns)``.
        columns (Sequence[int]): The columns to differentiate by.
        terms (list): For each of them its pairs (shift, coefficient).

    Returns:
        Tensor: Shape ``(batch, n_outputs, len(columns))``.
    """
    where, shifts, weights = [], [], []
    for k, (column, rule) in enumerate(zip(columns, terms, strict=True)):
        for shift, weight in rule:
            where.append((k, column))
            shifts.append(shift)
            weights.append(weight)
    batch = table.shape[0]
    offsets = table.new_zeros(len(shifts), table.shape[1])
    for row, ((_, column), shift) in enumerate(zip(where, shifts, strict=True)):
        offsets[row, column] = shift
    with torch.no_grad():
        outputs = run((table.detach() + offsets[:, None]).reshape(-1, table.shape[1]))
    outputs = outputs.reshape(len(shifts), batch, -1)
    combine = outputs.new_zeros(len(shifts), len(columns))
    for row, ((k, _), weight) in enumerate(zip(where, weights, strict=True)):
        combine[row, k] = weight
    return torch.einsum("sbo,sk->bok", outputs, combine)


def _central(module: nn.Module, dtype: torch.dtype) -> ShiftRule:
    """Central differences; TorchQuantum computes in complex64, whatever the angles."""
    fine = dtype == torch.float64 and getattr(module, "simulator", None) != "torchquantum"
    step = _STEP if fine else _COARSE_STEP
    return ((step, 0.5 / step), (-step, -0.5 / step))


def _check_two_term(module: nn.Module, run: Run, table: Tensor) -> None:
    """Refuses parameter-shift for a foreign layer whose first sample contradicts the two-term rule.

    Where each input is the angle of one gate with two eigenvalues, f(x) + f(x + pi) equals
    f(x + pi/2) + f(x - pi/2). A layer that gives two values for one input (shots) is not asked.
    """
    sample, n = table[:1].detach(), table.shape[1]
    eye = torch.eye(n, dtype=sample.dtype, device=sample.device) * (torch.pi / 2)
    with torch.no_grad():
        values = run(torch.cat([sample, sample, sample + 2 * eye, sample + eye, sample - eye]))
    here, again = values[0], values[1]
    far, plus, minus = values[2:].reshape(3, n, -1)
    if not torch.equal(here, again):
        return
    wrong = ((here + far) - (plus + minus)).abs().amax(dim=1) > 1e-3 * (1 + values.abs().max())
    if bool(wrong.any()):
        raise GradientRuleError(
            f"rule 'parameter-shift' does not apply to {_checks.describe(module)}: inputs "
            f"{wrong.nonzero().flatten().tolist()} are not each the angle of a single Pauli "
            "rotation (f(x) + f(x + pi) differs from f(x + pi/2) + f(x - pi/2)); use "
            "'finite-difference'"
        )


def _shift_rules(circuit: Circuit, columns: Sequence[int]) -> list[ShiftRule]:
    rules = []
    for column in columns:
        gate, which, angle = circuit.angles[column]
        rule = gate.type.shifts[which]
        if rule is None:
            raise GradientRuleError(
                f"rule 'parameter-shift' does not apply to angle {which} ({angle}) of {gate}: its "
                "generator has neither two nor three equidistant eigenvalues; use 'backprop', "
                "'commutator' or 'finite-difference'"
            )
        rules.append(rule)
    return rules


def pullback(
    rule: str,
    module: nn.Module,
    table: Tensor,
    columns: Sequence[int] | None,
    amplitudes: Tensor | None = None,
) -> Pullback:
    """Returns the function that pulls an output gradient back to the columns of a table.

    Args:
        rule (str): One of ``RULES``.
        module (nn.Module): The quantum layer.
        table (Tensor): A circuit layer's angle table, shape ``(batch, n_angles)``; of a foreign
            layer its inputs, shape ``(batch, ...)``, with columns None.
        columns (Sequence[int], optional): The columns of the angle table to differentiate by.
        amplitudes (Tensor, optional): The circuit's initial states.

    Returns:
        Callable: ``(batch, n_outputs) -> (batch, n_columns)``. What it computes on its first call
        is kept for further calls.

    Raises:
        GradientRuleError: If the rule does not apply.
    """
    if columns is None:
        return _foreign_pullback(rule, module, table)
    assert isinstance(module, CircuitLayer)
    layer: CircuitLayer = module
    selected = list(columns)

    by_inputs = set(selected) <= set(layer.circuit.columns("input"))

    def run(angles: Tensor) -> Tensor:
        if amplitudes is None:
            return layer.run(angles, own_weights=by_inputs)
        return layer.run(angles, amplitudes.repeat(angles.shape[0] // amplitudes.shape[0], 1))

    if rule == "adjoint":
        return _adjoint(layer, table[:, selected])
    if rule == "backprop":
        return _BackpropPullback(run, table.detach(), selected)
    if rule == "parameter-shift":
        terms = _shift_rules(layer.circuit, selected)
        return _JacobianPullback(lambda: _shifted_jacobian(run, table, selected, terms))
    if rule == "finite-difference":
        terms = [_central(module, table.dtype)] * len(selected)
        return _JacobianPullback(lambda: _shifted_jacobian(run, table, selected, terms))

    def commutator() -> Tensor:
        from captum_quantum.simulate.density import commutator_jacobian

        return commutator_jacobian(layer.circuit, table, selected, amplitudes)

    return _JacobianPullback(commutator)


def _adjoint(module: Any, inputs: Tensor) -> Pullback:
    found = module.adjoint_pullback(inputs) if isinstance(module, CircuitLayer) else None
    if found is None:
        raise GradientRuleError(
            f"rule 'adjoint' needs a VQCLayer with simulator 'fused'; got "
            f"{_checks.describe(module)}"
        )
    return found


def _foreign_pullback(rule: str, module: nn.Module, inputs: Tensor) -> Pullback:
    """The same for a module that maps ``(batch, ...)`` to ``(batch, ...)`` and shows no circuit."""
    batch, shape = inputs.shape[0], inputs.shape[1:]
    flat = inputs.detach().reshape(batch, -1)

    def run(table: Tensor) -> Tensor:
        with unintercepted():
            outputs: Tensor = module(table.reshape(-1, *shape))
        return outputs.reshape(table.shape[0], -1)

    if rule == "adjoint":
        return _adjoint(module, inputs.detach())
    columns = list(range(flat.shape[1]))
    if rule == "backprop":
        return _BackpropPullback(run, flat, columns)
    if isinstance(module, CircuitLayer) and rule in ("parameter-shift", "commutator"):
        raise GradientRuleError(
            f"rule {rule!r} does not apply to the inputs of amplitude encoding, which are no "
            "angles of gates; use 'backprop' or 'finite-difference'"
        )
    if rule == "commutator":
        raise GradientRuleError(
            f"rule 'commutator' needs the gates of a circuit, which {_checks.describe(module)} "
            "does not show; use 'parameter-shift' or 'finite-difference'"
        )

    def jacobian() -> Tensor:
        if rule == "finite-difference":
            terms = [_central(module, flat.dtype)] * len(columns)
            return _shifted_jacobian(run, flat, columns, terms)
        _check_two_term(module, run, flat)
        return _shifted_jacobian(run, flat, columns, [TWO_TERM] * len(columns))

    return _JacobianPullback(jacobian)


class _JacobianPullback:
    """Computes a Jacobian ``(batch, n_outputs, n_columns)`` when first asked, then contracts it."""

    def __init__(self, jacobian: Callable[[], Tensor]) -> None:
        self._compute = jacobian
        self._jacobian: Tensor | None = None

    def __call__(self, grad: Tensor) -> Tensor:
        if self._jacobian is None:
            self._jacobian = self._compute()
        return torch.einsum("bo,bok->bk", grad, self._jacobian.to(grad.dtype))


class _BackpropPullback:
    """Runs the layer under autograd when first asked, then goes back through that graph."""

    def __init__(self, run: Run, table: Tensor, columns: list[int]) -> None:
        self._run, self._table, self._columns = run, table, columns
        self._graph: tuple[Tensor, Tensor] | None = None

    def __call__(self, grad: Tensor) -> Tensor:
        if self._graph is None:
            with torch.enable_grad():
                leaf = self._table.clone().requires_grad_()
                outputs = self._run(leaf)
            if not outputs.requires_grad:
                raise GradientRuleError(
                    "rule 'backprop' does not apply: the layer's outputs do not depend on its "
                    "inputs for autograd; use 'parameter-shift' or 'finite-difference'"
                )
            self._graph = (leaf, outputs)
        leaf, outputs = self._graph
        (result,) = torch.autograd.grad(
            outputs,
            leaf,
            grad.to(outputs.dtype),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return result[:, self._columns]
