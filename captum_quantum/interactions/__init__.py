r"""How far inputs act one by one: functional ANOVA of expectation values.

Of independent inputs, a function is a sum of terms, one for each set S of inputs, that are
uncorrelated with each other (Hoeffding 1948, doi:10.1214/aoms/1177730196; Sobol 2001,
doi:10.1016/S0378-4754(00)00270-6). So its variance is a sum too:

.. math:: f(x) = \sum_S f_S(x_S), \qquad V = \sum_{S \ne \emptyset} V_S

The effect of a term of one input is the same wherever the other inputs are; that of a term of
several changes with the others, and a gradient knows it at one point only.
"""

from captum_quantum.interactions.function import Function
from captum_quantum.interactions.sampling import N_SAMPLES, sampled_interactions
from captum_quantum.interactions.shares import Interactions
from captum_quantum.interactions.trigonometric import circuit_interactions

__all__ = [
    "N_SAMPLES", "Function", "Interactions", "circuit_interactions", "sampled_interactions"
]  # fmt: skip
