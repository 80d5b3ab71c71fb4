"""How good a map is: plain functions on tensors and callables, batched on the device.

Every metric gives one number for each example, ``(batch,)`` (`agreement` and
`parameter_randomization` several of such, by name), and has the attribute
``higher_is_better``: True, False, or None where neither end is better. NaN stands for "undefined
for this example" and nothing else; each metric says where.
"""

from captum_quantum.metrics.faithfulness import (
    PixelCurves,
    average_drop,
    average_gain,
    average_increase,
    deletion,
    insertion,
)
from captum_quantum.metrics.form import Agreement, agreement, sparseness
from captum_quantum.metrics.localisation import (
    energy_pointing_game,
    grid_pointing_game,
    pointing_game,
)
from captum_quantum.metrics.perturbation import infidelity, sensitivity_max
from captum_quantum.metrics.sanity import MapSimilarity, parameter_randomization

__all__ = [
    "Agreement",
    "MapSimilarity",
    "PixelCurves",
    "agreement",
    "average_drop",
    "average_gain",
    "average_increase",
    "deletion",
    "energy_pointing_game",
    "grid_pointing_game",
    "infidelity",
    "insertion",
    "parameter_randomization",
    "pointing_game",
    "sensitivity_max",
    "sparseness",
]
