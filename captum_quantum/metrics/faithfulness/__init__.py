"""Faithfulness: does the map show what the model's score depends on?

The model is asked again about images from which the map chose what stays, or that were perturbed.
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
