"""How good a map is: plain functions on tensors and callables, batched on the device.

Every metric gives one number for each example, ``(batch,)`` (`agreement` and
`parameter_randomization` several of such, by name), and has the attribute
``higher_is_better``: True, False, or None where neither end is better. NaN stands for "undefined
for this example" and nothing else; each metric says where.

What is a map worth that says nothing? Faithfulness has no value for it: it would measure the
baseline image alone. A map that is constant orders nothing: NaN from `insertion`, `deletion`,
`agreement` and `parameter_randomization`. One that is constant or nowhere positive shows nothing:
NaN from `average_drop`, `average_gain` and `average_increase`. Where a metric's own definition
gives such a map a value, it gets that: it points nowhere, a miss (`pointing_game`); no evidence
lies on the object, a share of 0 (`energy_pointing_game` and `grid_pointing_game`, if it is nowhere
positive); it predicts no change (`infidelity`, if it is zero). Maps with NaN or infinite values are
an error; `compare` counts them as undefined. Means over the others favour methods that are silent
where it is hard: so reports say how many are undefined, and pair only what both methods answer.
"""

from captum_quantum.metrics.complexity import sparseness
from captum_quantum.metrics.faithfulness import (
    PixelCurves,
    average_drop,
    average_gain,
    average_increase,
    deletion,
    infidelity,
    insertion,
)
from captum_quantum.metrics.localization import (
    energy_pointing_game,
    grid_pointing_game,
    pointing_game,
)
from captum_quantum.metrics.randomization import (
    MapSimilarity,
    parameter_randomization,
    randomization_classical,
    randomization_quantum,
)
from captum_quantum.metrics.registry import named_metrics, register_metric
from captum_quantum.metrics.robustness import sensitivity_max
from captum_quantum.metrics.similarity import Agreement, agreement

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
    "named_metrics",
    "parameter_randomization",
    "pointing_game",
    "randomization_classical",
    "randomization_quantum",
    "register_metric",
    "sensitivity_max",
    "sparseness",
]
