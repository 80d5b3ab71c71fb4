"""Null maps: uninformative maps, whose values show what a metric gives to no explanation at all."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum._targets import TargetFunction
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.adapters import Method
from captum_quantum.evaluation.batches import Batch
from captum_quantum.metrics import _maps
from captum_quantum.metrics._noise import Noise
from captum_quantum.metrics.faithfulness.masking import make_masks
from captum_quantum.metrics.registry import Metric

_LARGEST_LOG_POWER = 23.0  # noise to this power is 0 but for its largest value
_BISECTIONS = 50


class Explained(NamedTuple):
    """A method's maps of a batch, and what null maps are made of.

    Attributes:
        method (Method): The method.
        batch (Batch): The batch, on the device of the method's model.
        target (Tensor or Callable): Classes, shape ``(batch,)``, or a function of the output.
        maps (Tensor): The method's maps, shape ``(batch, ...)``.
        following (Tensor or None): Its map of the sample that follows the batch, shape
            ``(1, ...)``, if a null map needs it.
        seed (int): Fixes random numbers.
    """

    method: Method
    batch: Batch
    target: Tensor | TargetFunction
    maps: Tensor
    following: Tensor | None
    seed: int


class Null(NamedTuple):
    """A kind of null map.

    Attributes:
        description (str): What it is, in a few words.
        make (Callable): ``(explained, rows)`` to the null maps of these samples of the batch, shape
            ``(rows, ...)``, the same however the batch is divided.
        needs_classes (bool): Whether the target must be a class.
        needs_images (bool): Whether inputs must have spatial dimensions.
        looks_ahead (bool): Whether it needs the sample that follows the batch.
    """

    description: str
    make: Callable[[Explained, slice], Tensor]
    needs_classes: bool = False
    needs_images: bool = False
    looks_ahead: bool = False


def read_nulls(
    nulls: Any, target: Any, methods: Sequence[Method], metrics: Sequence[Metric]
) -> tuple[str, ...]:
    """Reads the argument ``nulls`` of `compare`.

    Args:
        nulls (Iterable[str]): Names of null maps.
        target (Any): The argument ``target``.
        methods (Sequence[Method]): The methods.
        metrics (Sequence[Metric]): The metrics.

    Returns:
        tuple[str, ...]: The names, in the same order.

    Raises:
        TypeError, ValueError: If a name is wrong or given twice, a null map needs a class, no
            metric can measure null maps, or a method has the name of a method's null map.
    """
    if isinstance(nulls, str) or not isinstance(nulls, Iterable):
        _checks.wrong_type("nulls", "names of null maps, such as ('area-noise',)", nulls)
    names = tuple(nulls)
    for name in names:
        _checks.check_choice("nulls", name, NULLS)
        if callable(target) and NULLS[name].needs_classes:
            must = f"'label' or 'predicted' for the null {name!r}, which needs classes"
            _checks.wrong_value("target", must, target)
    if len(set(names)) < len(names):
        _checks.wrong_value("nulls", "different names", names)
    if names and not any(map(measures_nulls, metrics)):
        must = (
            "at least one with a direction that takes attributions and not attribute, for null maps"
        )
        _checks.wrong_value("metrics", must, [metric.name for metric in metrics])
    rows = storage.Table([method.name for method in methods], (), names).rows
    if len(set(rows)) < len(rows):
        twice = next(row for row in rows if rows.count(row) > 1)
        _checks.wrong_value("methods", "names that are not those of null maps", twice)
    return names


def check_inputs(nulls: Iterable[str], inputs: Tensor) -> None:
    """Raises ValueError if null maps cannot be made for inputs ``(batch, ...)``."""
    for name in nulls:
        if NULLS[name].needs_images:
            _maps.check_inputs(inputs, f"the loader's inputs, for the null {name!r},")


def measures_nulls(metric: Metric) -> bool:
    """Tells whether a metric measures null maps.

    One that calls ``attribute`` tests the method and not a map, and without a direction no map is
    better than another.

    Args:
        metric (Metric): The metric.
    """
    given = metric.arguments
    return (
        "attributions" in given and "attribute" not in given and metric.higher_is_better is not None
    )


def _area_noise(explained: Explained, rows: slice) -> Tensor:
    """Uniform noise, raised to the power that gives its mask the mean of the method's."""
    inputs, maps = explained.batch.inputs[rows], explained.maps[rows]
    finite = maps.flatten(1).isfinite().all(dim=1)
    maps = torch.where(finite.reshape(-1, *[1] * (maps.dim() - 1)), maps, 0)
    argument = f"what method {explained.method.name!r} returns"
    masks, defined = make_masks(_maps.read_maps(argument, maps, inputs), inputs.shape[2:])
    # Other numbers than those of metrics that draw noise for the same image.
    stream = np.random.SeedSequence([explained.seed, zlib.crc32(b"area-noise")])
    seed = int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1))
    drawn = Noise(inputs, seed).draw(len(inputs), masks[0].numel()).reshape(masks.shape)
    noise = make_masks(drawn, inputs.shape[2:])[0].flatten(1)
    powers = _find_powers(noise, masks.double().flatten(1).mean(dim=1))
    noise = noise ** torch.where(defined, powers, 1)[:, None]
    return noise.reshape(len(inputs), 1, *inputs.shape[2:]).to(inputs.dtype)


def _find_powers(noise: Tensor, means: Tensor) -> Tensor:
    """Finds p with the mean of noise**p equal to the given one, by bisection in log p.

    Args:
        noise (Tensor): Shape ``(batch, n)``, in [0, 1], float64.
        means (Tensor): Shape ``(batch,)``, float64.

    Returns:
        Tensor: Shape ``(batch,)``, positive.
    """
    logs = noise.log()
    low = torch.full_like(means, -_LARGEST_LOG_POWER)
    high = -low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = (middle.exp()[:, None] * logs).exp().mean(dim=1) > means
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return ((low + high) / 2).exp()


def _other_image(explained: Explained, rows: slice) -> Tensor:
    """The method's map of the next sample, for that sample's own target."""
    batch, maps, following = explained.batch, explained.maps, explained.following
    assert batch.following is not None
    assert following is not None
    argument = f"what method {explained.method.name!r} returns"
    for name, own, other in (
        ("the loader's inputs", batch.inputs, batch.following.inputs),
        (argument, maps, following),
    ):
        if other.dim() != own.dim() or other.shape[1:2] != own.shape[1:2]:
            must = f"of {own.dim()} dimensions"
            must += f" and {own.shape[1]} channels" if own.dim() > 1 else ""
            _checks.wrong_value(name, f"{must} in all batches, for the null 'other-image'", other)
    size = maps.shape[2:]
    resized = _maps.resize(following[0], size)[None] if following.shape[2:] != size else following
    return torch.cat([maps[rows][1:], maps[rows.stop : rows.stop + 1], resized])[: len(maps[rows])]


def _rival_class(explained: Explained, rows: slice) -> Tensor:
    """The method's map of the class with the highest score besides the target."""
    inputs, target = explained.batch.inputs[rows], explained.target
    assert isinstance(target, Tensor)
    target = target[rows]
    scores = explained.method.scores(inputs)
    if scores.shape[1] < 2:
        must = "scores of at least two classes, for the null 'rival-class'"
        argument = f"the output of the model of {explained.method.name!r}"
        _checks.wrong_value(argument, must, scores)
    _checks.check_target(target, scores)
    others = torch.arange(scores.shape[1] - 1, device=scores.device).expand(len(scores), -1)
    others = others + (others >= target[:, None]).long()  # all classes but the target
    best = scores.gather(1, others).argmax(dim=1, keepdim=True)
    return explained.method.attribute(inputs, others.gather(1, best)[:, 0])


NULLS = {
    "area-noise": Null(
        "noise that shows as much of the image as the method's map", _area_noise, needs_images=True
    ),
    "other-image": Null("the method's map of the next sample", _other_image, looks_ahead=True),
    "rival-class": Null(
        "the method's map of the other class with the highest score",
        _rival_class,
        needs_classes=True,
    ),
}
"""The null maps by name."""
