"""Rules that run the layer at shifted values: parameter-shift and finite differences."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.gates import TWO_TERM, ShiftRule
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.nodes import GradientRuleError
from captum_quantum.gradients.rule import JacobianRule


def shifted_jacobian(function: QuantumFunction, terms: Sequence[ShiftRule]) -> Tensor:
    """Derivatives as weighted sums of runs at shifted values, all in one batch.

    Args:
        function (QuantumFunction): What is to be differentiated.
        terms (Sequence): For each variable its pairs (shift, coefficient), shifts in the unit of
            the variable.

    Returns:
        Tensor: Shape ``(batch, n_outputs, n_variables)``.
    """
    variables = function.variables
    batch, n_variables = variables.shape
    shifts = [(k, shift, weight) for k, rule in enumerate(terms) for shift, weight in rule]
    rows = list(range(len(shifts)))
    columns = [k for k, _, _ in shifts]
    offsets = variables.new_zeros(len(shifts), n_variables)
    offsets[rows, columns] = offsets.new_tensor([shift for _, shift, _ in shifts])
    with torch.no_grad():
        outputs = function.run((variables + offsets[:, None]).reshape(-1, n_variables))
    outputs = outputs.reshape(len(shifts), batch, -1)
    combine = outputs.new_zeros(len(shifts), n_variables)
    combine[rows, columns] = combine.new_tensor([weight for _, _, weight in shifts])
    return torch.einsum("sbo,sv->bov", outputs, combine)


class ParameterShift(JacobianRule):
    """The parameter-shift rule (arXiv:1811.11184), of four terms for controlled rotations."""

    name = "parameter-shift"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Needs angles of gates whose generators have two or three equidistant eigenvalues."""
        if function.angles is None:
            if function.layer is None:
                return None
            return (
                "does not apply to the inputs of amplitude encoding, which are no angles of gates; "
                "use 'backprop' or 'finite-difference'"
            )
        for gate, which in function.angles.gates:
            if gate.type.shifts[which] is None:
                return (
                    f"does not apply to angle {which} ({gate.angles[which]}) of {gate}: its "
                    "generator has neither two nor three equidistant eigenvalues; use 'backprop', "
                    "'commutator' or 'finite-difference'"
                )
        return None

    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Each variable's derivative from the shifts of its gate."""
        if function.angles is None:
            _check_two_term(function)
            return shifted_jacobian(function, [TWO_TERM] * function.variables.shape[1])
        rules = [gate.type.shifts[which] for gate, which in function.angles.gates]
        return shifted_jacobian(function, [rule for rule in rules if rule is not None])


def _check_two_term(function: QuantumFunction) -> None:
    """Refuses the rule for a layer without a circuit whose first sample contradicts it.

    Where each input is the angle of one gate with two eigenvalues, f(x) + f(x + pi) equals
    f(x + pi/2) + f(x - pi/2). A layer that gives two values for one input (shots) is not checked.
    """
    sample, n = function.variables[:1], function.variables.shape[1]
    eye = torch.eye(n, dtype=sample.dtype, device=sample.device) * (torch.pi / 2)
    with torch.no_grad():
        values = function.run(
            torch.cat([sample, sample, sample + 2 * eye, sample + eye, sample - eye])
        )
    here, again = values[0], values[1]
    far, plus, minus = values[2:].reshape(3, n, -1)
    if not torch.equal(here, again):
        return
    wrong = ((here + far) - (plus + minus)).abs().amax(dim=1) > 1e-3 * (1 + values.abs().max())
    if bool(wrong.any()):
        raise GradientRuleError(
            f"rule 'parameter-shift' does not apply to {_checks.describe(function.module)}: inputs "
            f"{wrong.nonzero().flatten().tolist()} are not each the angle of a single Pauli "
            "rotation (f(x) + f(x + pi) differs from f(x + pi/2) + f(x - pi/2)); use "
            "'finite-difference'"
        )


class FiniteDifference(JacobianRule):
    """Central differences: steps of 1e-5 in float64, of 1e-2 otherwise."""

    name = "finite-difference"

    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Differences of runs on both sides of every variable."""
        step = 1e-5 if function.precision == torch.float64 else 1e-2
        central = ((step, 0.5 / step), (-step, -0.5 / step))
        return shifted_jacobian(function, [central] * function.variables.shape[1])
