"""How good a map is: plain functions on tensors and callables, batched on the device.

Every metric gives one number for each example, ``(batch,)``, and has the attribute
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
from captum_quantum.metrics.localisation import (
    energy_pointing_game,
    grid_pointing_game,
    pointing_game,
)

__all__ = [
    "PixelCurves",
    "average_drop",
    "average_gain",
    "average_increase",
    "deletion",
    "energy_pointing_game",
    "grid_pointing_game",
    "insertion",
    "pointing_game",
]
