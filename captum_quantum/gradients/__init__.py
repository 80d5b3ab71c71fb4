"""Gradient rules of quantum layers, and quantum_gradient() which swaps them in.

Every rule gives the derivative of a layer's outputs by its inputs; autograd does the rest. To add a
rule, write one object and register it with :func:`register_rule`.
"""

from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.interception import quantum_gradient
from captum_quantum.gradients.nodes import GradientPathError, GradientRuleError
from captum_quantum.gradients.rule import GradientRule, JacobianRule
from captum_quantum.gradients.shift import shifted_jacobian
from captum_quantum.gradients.table import RULES, register_rule

__all__ = [
    "RULES", "GradientPathError", "GradientRule", "GradientRuleError", "JacobianRule",
    "QuantumFunction", "quantum_gradient", "register_rule", "shifted_jacobian"
]  # fmt: skip
