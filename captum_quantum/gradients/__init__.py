"""Derivative rules of quantum layers, and quantum_gradient() which swaps them in.

Every rule gives the derivatives of a layer's outputs by its inputs; autograd does the rest.
"""

from captum_quantum.gradients.errors import GradientPathError, GradientRuleError
from captum_quantum.gradients.interception import QuantumCall, intercept, quantum_gradient
from captum_quantum.gradients.nodes import (
    Pullback,
    attach,
    first_derivative,
    inputs_only,
    only_inputs,
)
from captum_quantum.gradients.rules import RULES, CircuitLayer, pullback

__all__ = [
    "RULES",
    "CircuitLayer",
    "GradientPathError",
    "GradientRuleError",
    "Pullback",
    "QuantumCall",
    "attach",
    "first_derivative",
    "inputs_only",
    "intercept",
    "only_inputs",
    "pullback",
    "quantum_gradient",
]
