"""Gradient rules of quantum layers, and quantum_gradient() which swaps them in.

Every rule gives the derivative of a layer's outputs by its inputs; autograd does the rest. To add a
rule, write one object and register it with :func:`register_rule`.
"""

from captum_quantum.gradients.function import (
    Angles,
    QuantumFunction,
    function_of_angles,
    function_of_inputs,
)
from captum_quantum.gradients.interception import QuantumCall, intercept, quantum_gradient
from captum_quantum.gradients.nodes import (
    GradientPathError,
    GradientRuleError,
    Pullback,
    attach,
    first_derivative,
    inputs_only,
    is_inputs_only,
)
from captum_quantum.gradients.rule import GradientRule, JacobianRule
from captum_quantum.gradients.shift import shifted_jacobian
from captum_quantum.gradients.table import RULES, register_rule, vjp_of

__all__ = [
    "RULES",
    "Angles",
    "GradientPathError",
    "GradientRule",
    "GradientRuleError",
    "JacobianRule",
    "Pullback",
    "QuantumCall",
    "QuantumFunction",
    "attach",
    "first_derivative",
    "function_of_angles",
    "function_of_inputs",
    "inputs_only",
    "intercept",
    "is_inputs_only",
    "quantum_gradient",
    "register_rule",
    "shifted_jacobian",
    "vjp_of",
]
