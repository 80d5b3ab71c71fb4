"""Metrics: how good an attribution map is, as plain functions on tensors and callables.

Every metric returns one number for each example, shape ``(batch,)``; only `agreement` and
`parameter_randomization` return several, by name. Its attribute ``higher_is_better`` is True,
False, or None where neither end is better.

NaN means that the metric is undefined for an example. Maps without information have these values:

- A constant map does not rank the pixels: NaN from `insertion`, `deletion`, `insertion_deletion`,
  `road`, `agreement`, `parameter_randomization`, `randomization_quantum` and
  `randomization_classical`.
- A map whose positive part is constant, for example zero, prefers no pixel: NaN from
  `average_drop`, `average_gain` and `average_increase`, 0 from `pointing_game`.
- A map that is nowhere positive has no share on the object: 0 from `energy_pointing_game` and
  `grid_pointing_game`.
- A map of zeros has no relative change and no distribution: NaN from `sensitivity_max` and
  `sparseness`. It predicts no change of the score: `infidelity` has a value.

What the metrics can and cannot tell was measured with the demo's model, trained five times on the
digits (seeds 0 to 4): how often Grad-CAM's map has a better value than a null map of `compare`,
where 0.5 is chance.

| Grad-CAM's map is better than | noise of the same area | another image's map | the rival's map |
|---|---|---|---|
| `insertion_deletion` | 0.90 | 0.70 | 0.83 |
| `road` | 0.90 | 0.70 | 0.79 |
| `average_drop` | 0.70 | 0.57 | 0.70 |
| `infidelity` | 0.53 | 0.62 | 0.88 |
| `average_gain`, `average_increase` | 0.50 | 0.50 | 0.50 |

- Trust `insertion_deletion` with the mean training image as baseline, `road`, and
  `grid_pointing_game` on mosaics. The first two judge the order of the pixels, the last the place.
- `insertion` and `deletion` alone also depend on how sure the model is; take their difference.
- `average_drop` measures mainly how much of the image the mask shows: Grad-CAM's mask shows 17 to
  30 % of a digit, depending on the model, uniform noise 50 %. So noise has a drop as low as the
  maps (71 and 71), and a lower one with blurred images as baseline. With noise brought to the same
  area the order is right: a drop of 71 for the maps, 85 for noise.
- `average_gain` and `average_increase` carry no information there. `infidelity` does not tell maps
  from noise.
- `energy_pointing_game` and `pointing_game` tell whether the map is where the annotation is, which
  need not be where the model looks.
- `sensitivity_max` tells whether the map is stable, the randomization metrics whether it depends on
  the weights; `sparseness` and `agreement` describe maps. None of them tells whether a map is
  right.

Maps with NaN or infinite values are an error; `compare` counts them as undefined. Means over the
defined examples favor methods that are undefined for difficult examples. Reports therefore tell how
many are undefined, and compare two methods on the examples for which both are defined.
"""

from captum_quantum.metrics.complexity import sparseness
from captum_quantum.metrics.faithfulness.masking import average_drop, average_gain, average_increase
from captum_quantum.metrics.faithfulness.perturbation import infidelity
from captum_quantum.metrics.faithfulness.pixel_curves import (
    PixelCurves,
    deletion,
    insertion,
    insertion_deletion,
)
from captum_quantum.metrics.faithfulness.road import road
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
    "Agreement", "MapSimilarity", "PixelCurves", "agreement", "average_drop", "average_gain",
    "average_increase", "deletion", "energy_pointing_game", "grid_pointing_game", "infidelity",
    "insertion", "insertion_deletion", "named_metrics", "parameter_randomization",
    "pointing_game", "randomization_classical", "randomization_quantum", "register_metric", "road",
    "sensitivity_max", "sparseness"
]  # fmt: skip
