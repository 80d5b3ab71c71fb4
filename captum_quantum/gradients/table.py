"""The table of gradient rules."""

from captum_quantum import _checks
from captum_quantum.gradients.commutator import Commutator
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.nodes import GradientRuleError, Pullback
from captum_quantum.gradients.rule import Adjoint, Backprop, GradientRule
from captum_quantum.gradients.shift import FiniteDifference, ParameterShift

RULES: dict[str, GradientRule] = {
    rule.name: rule
    for rule in (Adjoint(), Backprop(), ParameterShift(), Commutator(), FiniteDifference())
}
"""The gradient rules by name."""


def register_rule(rule: GradientRule) -> GradientRule:
    """Adds a gradient rule to those that users can choose by name.

    It then works in `quantum_gradient`, ``VQCLayer(gradient=...)`` and
    ``QuantumLayerGradCam(gradient=...)``.

    Args:
        rule (GradientRule): An object with ``name``, ``why_not(function)`` and ``vjp(function)``;
            a `JacobianRule` needs ``name`` and ``jacobian(function)`` only.

    Returns:
        GradientRule: The rule.

    Raises:
        TypeError: If the rule lacks one of these.
        ValueError: If there is a rule of this name.

    Examples:
        >>> from captum_quantum import quantum_gradient
        >>> from captum_quantum.gradients import JacobianRule, register_rule, shifted_jacobian
        >>> class ForwardDifference(JacobianRule):
        ...     name = "forward-difference"
        ...     def jacobian(self, function):
        ...         terms = ((1e-2, 1e2), (0.0, -1e2))  # pairs of shift and coefficient
        ...         return shifted_jacobian(function, [terms] * function.variables.shape[1])
        >>> rule = register_rule(ForwardDifference())  # doctest: +SKIP
    """
    is_rule = isinstance(rule, GradientRule) and not isinstance(rule, type)
    if not is_rule or not isinstance(rule.name, str) or not rule.name:
        _checks.wrong_type("rule", "an object with name, why_not and vjp", rule)
    if rule.name in RULES:
        _checks.wrong_value("rule", f"of another name than {', '.join(RULES)}", rule.name)
    RULES[rule.name] = rule
    return rule


def vjp_of(rule: str, function: QuantumFunction) -> Pullback:
    """Returns the vector-Jacobian product of a function by a rule.

    Args:
        rule (str): The name of a rule.
        function (QuantumFunction): What is to be differentiated.

    Returns:
        Callable: Cotangents ``(batch, n_outputs)`` to ``(batch, n_variables)``.

    Raises:
        ValueError: If there is no rule of this name.
        GradientRuleError: If the rule does not apply; with the reason.
    """
    chosen = RULES[_checks.check_choice("gradient rule", rule, RULES)]
    reason = chosen.why_not(function)
    if reason is not None:
        raise GradientRuleError(f"rule {rule!r} {reason}")
    return chosen.vjp(function)
