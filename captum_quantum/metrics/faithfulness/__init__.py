"""Faithfulness: does the map show what the model's score depends on?

The model runs on images that are masked by the map, or perturbed.
"""

from captum_quantum.metrics.faithfulness.masking import (
    average_drop,
    average_gain,
    average_increase,
)
from captum_quantum.metrics.faithfulness.perturbation import infidelity
from captum_quantum.metrics.faithfulness.pixel_curves import PixelCurves, deletion, insertion

__all__ = [
    "PixelCurves",
    "average_drop",
    "average_gain",
    "average_increase",
    "deletion",
    "infidelity",
    "insertion",
]
