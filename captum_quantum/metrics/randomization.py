"""Randomization: does the map depend on what the model has learned?"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode, seeded
from captum_quantum.metrics._maps import (
    check_callable,
    check_index,
    check_inputs,
    is_constant,
    read_maps,
    resize,
)
from captum_quantum.metrics.registry import register_metric
from captum_quantum.metrics.similarity import rank_correlation, structural_similarity
from captum_quantum.quantum_layer import find_quantum_layers

Attribute = Callable[[Tensor, Tensor], Tensor]

PARTS = ("quantum", "classical", "cascade")
"""What :func:`parameter_randomization` can randomise."""

# So that a model made with torch.manual_seed(0) does not get back the weights it started from.
_OFFSET = 0x5A17_C0DE

_SMALLEST = 3  # pixels, for a window of SSIM


class MapSimilarity(NamedTuple):
    """How much the maps of the randomised model still resemble those of the trained one.

    Attributes:
        rank_correlation (Tensor): Spearman's, ``(batch,)`` in [-1, 1].
        ssim (Tensor): Structural similarity, ``(batch,)`` in [-1, 1].
    """

    rank_correlation: Tensor
    ssim: Tensor


@dataclass(frozen=True, eq=False)
class _Unit:
    """What is randomised at once: a quantum layer, or a module's own parameters."""

    name: str
    modules: list[nn.Module]
    quantum: bool
    position: int

    def tensors(self) -> Iterator[Tensor]:
        for module in self.modules:
            yield from module.parameters(recurse=False)
            yield from module.buffers(recurse=False)

    @torch.no_grad()
    def randomize(self) -> None:
        if self.quantum:
            for module in self.modules:
                for angles in module.parameters(recurse=False):
                    angles.uniform_(-math.pi, math.pi)
            return
        (module,) = self.modules
        olds = dict(module.named_parameters(recurse=False))
        before = {name: old.detach().clone() for name, old in olds.items()}
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        for name, old in olds.items():
            new = module._parameters[name]
            if new is not None and new is not old:
                old.copy_(new)
                module._parameters[name] = old
            if torch.equal(old, before[name]) and old.is_floating_point() and old.numel() > 1:
                mean, std = float(old.mean()), float(old.std())
                if float(old.max()) > float(old.min()):
                    old.normal_(mean, std)


@dataclass(frozen=True, eq=False)
class _Saved:
    """A model's state: every attribute of every module, and the values of all tensors."""

    attributes: list[tuple[nn.Module, dict[str, Any], list[dict[str, Any]]]] = field(
        default_factory=list
    )
    values: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module) -> "_Saved":
        saved = cls()
        for module in model.modules():
            # The dicts of parameters, buffers and hooks stay the same objects, with their contents.
            inner = [v for v in vars(module).values() if isinstance(v, dict)]
            saved.attributes.append((module, dict(vars(module)), [dict(d) for d in inner]))
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        saved.values.extend((t, t.detach().clone()) for t in tensors.values())
        return saved

    def changed(self) -> bool:
        """Whether a parameter has another value now."""
        return any(
            isinstance(tensor, nn.Parameter) and not torch.equal(tensor, value)
            for tensor, value in self.values
        )

    @torch.no_grad()
    def restore(self, keep: Iterable[Tensor] = ()) -> None:
        """Puts everything back; the values of the tensors in ``keep`` stay as they are."""
        kept = {id(t) for t in keep}
        for tensor, value in self.values:
            if id(tensor) not in kept:
                tensor.copy_(value)
        for module, attributes, inner in self.attributes:
            vars(module).clear()
            vars(module).update(attributes)
            for own, content in zip(
                (v for v in attributes.values() if isinstance(v, dict)), inner, strict=True
            ):
                if own.keys() != content.keys() or any(own[k] is not content[k] for k in own):
                    own.clear()
                    own.update(content)


@contextmanager
def _calls(model: nn.Module) -> Iterator[dict[int, int]]:
    """Records when each module of a model was last called: module number -> time."""
    times: dict[int, int] = {}
    clock = count()

    def watch(number: int) -> Callable[..., None]:
        def called(*_: Any) -> None:
            times[number] = next(clock)

        return called

    handles = [m.register_forward_hook(watch(i)) for i, m in enumerate(model.modules())]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def _units(model: nn.Module, quantum_layers: list[nn.Module], times: dict[int, int]) -> list[_Unit]:
    """The units that hold parameters, from the output back to the input."""
    inside = {id(m): layer for layer in quantum_layers for m in layer.modules()}
    parents = {id(c): m for m in model.modules() for c in m.children()}
    numbers = {id(m): number for number, m in enumerate(model.modules())}
    units: list[_Unit] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        layer = inside.get(id(module))
        modules = [module] if layer is None else list(layer.modules())
        own = [p for m in modules for p in m.parameters(recurse=False) if id(p) not in seen]
        if not own:
            continue
        seen.update(id(p) for p in own)
        # A module that is never called itself, only read, counts as its parent.
        called = module
        while numbers[id(called)] not in times and id(called) in parents:
            called = parents[id(called)]
        position = times.get(numbers[id(called)], -1)
        units.append(_Unit(name or type(model).__name__, modules, layer is not None, position))
    return sorted(units, key=lambda unit: unit.position)[::-1]


def _read_parts(parts: Any, quantum: bool, classical: bool) -> list[str]:
    there = {"quantum": quantum, "classical": classical, "cascade": quantum or classical}
    if not there["cascade"]:
        raise ValueError(
            _checks.sentence("model", "a module with parameters to randomise", "one without")
        )
    if parts is None:
        return [part for part in PARTS if there[part]]
    listed = [parts] if isinstance(parts, str) else parts
    if not isinstance(listed, Sequence) or not listed:
        _checks.wrong_type("parts", f"some of {', '.join(PARTS)}", parts)
    for part in listed:
        _checks.check_choice("parts", part, PARTS)
        if not there[part]:
            raise ValueError(
                _checks.sentence("parts", f"parts that the model has; it has no {part} one", part)
            )
    return list(dict.fromkeys(listed))


@register_metric(higher_is_better=False, named=False)
def parameter_randomization(
    model: nn.Module,
    attribute: Attribute,
    inputs: Tensor,
    target: int | Tensor,
    *,
    parts: str | Sequence[str] | None = None,
    quantum_layer: nn.Module | Sequence[nn.Module] | None = None,
    seed: int = 0,
) -> dict[str, MapSimilarity]:
    r"""Parameter randomisation: whether the map changes when the model forgets what it learned.

    The sanity check of arXiv:1810.03292. The maps of the trained model are compared with those of
    the same model with random parameters, by Spearman's rank correlation and by SSIM: a map that
    stays the same shows the image, not the model, so lower is better. Three parts are randomised:

    - ``"quantum"``: the quantum layers alone, angles uniform in [-pi, pi);
    - ``"classical"``: everything else alone, by each module's own ``reset_parameters`` (which makes
      BatchNorm's statistics new too); parameters that have none are drawn from a normal
      distribution of their own mean and standard deviation;
    - ``"cascade"``: one layer after the other from the output back to the input, in the order in
      which they are called, each on top of those before; a quantum layer counts as one.

    Maps are summed over their channels, scaled to the inputs' size (bilinear) and divided by their
    largest magnitude, which SSIM needs (Gaussian window of 11 pixels). Where one of the two maps
    is constant, both numbers are NaN. The model comes back as it was: parameters, buffers, mode,
    hooks and the global random state, after errors too. It is explained in evaluation mode, with
    the same random numbers each time.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Images and targets ``(batch,)`` to maps ``(batch, channels,
            *spatial)`` of this very model: a method's ``attribute``.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        target (int or Tensor): The class, or one for each example, ``(batch,)``.
        parts (str or sequence, optional): Some of the three. Default: all that the model has.
        quantum_layer (nn.Module or sequence, optional): The quantum layers. Default: every module
            that has a :class:`~captum_quantum.Circuit`, such as ``VQCLayer``.
        seed (int): Fixes the random parameters.

    Returns:
        dict[str, MapSimilarity]: Keys ``"quantum"``, ``"classical"`` and, for each layer from the
        output back, ``"cascade: <name of the layer>"``; values are pairs of tensors ``(batch,)`` on
        the inputs' device.

    Raises:
        TypeError, ValueError: If an argument is wrong, the model has no such part, ``attribute``
            never calls the model, randomising a part leaves it as it was, or a map is not finite.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from captum_quantum import QuantumLayerGradCam, VQCLayer
        >>> from captum_quantum.metrics import parameter_randomization
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
        ... )
        >>> grad_cam = QuantumLayerGradCam(model, model[1])
        >>> images = torch.rand(2, 1, 12, 12)
        >>> similar = parameter_randomization(model, grad_cam.attribute, images, target=0)
        >>> list(similar)
        ['quantum', 'classical', 'cascade: 4', 'cascade: 0']
        >>> similar["quantum"].ssim.shape
        torch.Size([2])
    """
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "a module", model)
    check_callable("attribute", attribute)
    inputs = check_inputs(inputs)
    index = check_index(target, len(inputs), inputs.device)
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    if min(inputs.shape[2:]) < _SMALLEST:
        _checks.wrong_value("inputs", f"of at least {_SMALLEST} pixels on each side", inputs)
    layers = find_quantum_layers(model, quantum_layer)
    units = _units(model, layers, {})
    chosen = _read_parts(
        parts, any(unit.quantum for unit in units), any(not unit.quantum for unit in units)
    )

    def explain(what: str) -> Tensor:
        with seeded(seed, inputs, *model.parameters()):
            maps = attribute(inputs, index)
        return read_maps(what, maps, inputs)

    results: dict[str, MapSimilarity] = {}
    with evaluation_mode(model):
        saved = _Saved.of(model)
        try:
            with _calls(model) as times:
                original = explain("attribute's maps")
            if not times:
                raise ValueError(
                    _checks.sentence(
                        "attribute",
                        "a function that explains model",
                        "one that never calls it, so its parameters cannot matter",
                    )
                )
            units = _units(model, layers, times)
            for part in chosen:
                saved.restore()
                with seeded((seed + _OFFSET) % 2**63, inputs, *model.parameters()):
                    for key in _randomized(part, units, saved):
                        maps = explain(f"attribute's maps after randomising {key!r}")
                        results[key] = _similarity(original, maps, inputs.shape[2:])
        finally:
            saved.restore()
    return results


@register_metric(higher_is_better=False)
def randomization_quantum(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: int | Tensor
) -> Tensor:
    """Rank correlation of the maps before and after the quantum layers are randomized.

    The part ``"quantum"`` of `parameter_randomization` as one number for each example.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Images and targets ``(batch,)`` to maps ``(batch, channels,
            *spatial)`` of this very model: a method's ``attribute``.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        target (int or Tensor): The class, or one for each example, ``(batch,)``.

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1], on the inputs' device. NaN where one of the two maps
        is constant, and for a model without quantum layers.

    Raises:
        TypeError, ValueError: If an argument is wrong, ``attribute`` never calls the model, or a
            map is not finite.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from captum_quantum import QuantumLayerGradCam, VQCLayer
        >>> from captum_quantum.metrics import randomization_quantum
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), VQCLayer(4)
        ... )
        >>> grad_cam = QuantumLayerGradCam(model, model[1])
        >>> randomization_quantum(model, grad_cam.attribute, torch.rand(2, 1, 12, 12), 0).shape
        torch.Size([2])
    """
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "an nn.Module, for randomization_quantum", model)
    if not find_quantum_layers(model):
        return torch.full((len(inputs),), torch.nan, device=inputs.device)
    similar = parameter_randomization(model, attribute, inputs, target, parts="quantum")
    return similar["quantum"].rank_correlation


@register_metric(higher_is_better=False)
def randomization_classical(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: int | Tensor
) -> Tensor:
    """Rank correlation of the maps before and after all other layers are randomized.

    The part ``"classical"`` of `parameter_randomization` as one number for each example.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Images and targets ``(batch,)`` to maps ``(batch, channels,
            *spatial)`` of this very model: a method's ``attribute``.
        inputs (Tensor): The images, ``(batch, channels, *spatial)``.
        target (int or Tensor): The class, or one for each example, ``(batch,)``.

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1], on the inputs' device. NaN where one of the two maps
        is constant.

    Raises:
        TypeError, ValueError: If an argument is wrong, the model has no classical layers with
            parameters, ``attribute`` never calls the model, or a map is not finite.

    Examples:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_quantum.metrics import randomization_classical
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> images = torch.rand(2, 1, 8, 8, requires_grad=True)
        >>> randomization_classical(model, Saliency(model).attribute, images, target=0).shape
        torch.Size([2])
    """
    similar = parameter_randomization(model, attribute, inputs, target, parts="classical")
    return similar["classical"].rank_correlation


def _randomized(part: str, units: list[_Unit], saved: _Saved) -> Iterator[str]:
    """Randomises a part, in one step or layer by layer; yields each step's name."""
    if part == "cascade":
        steps = {f"cascade: {unit.name}": [unit] for unit in units}
    else:
        steps = {part: [unit for unit in units if unit.quantum == (part == "quantum")]}
    done: list[Tensor] = []
    for number, (key, step) in enumerate(steps.items(), start=1):
        for unit in step:
            unit.randomize()
            done.extend(unit.tensors())
        saved.restore(keep=done)  # what a module's reset did to others
        if number == len(steps) and not saved.changed():
            raise ValueError(
                _checks.sentence(
                    "parts",
                    "parts that can be randomised",
                    f"{part!r}, whose parameters stay the same: all are constant, and their "
                    "modules have no reset_parameters that changes them",
                )
            )
        yield key


def _similarity(original: Tensor, maps: Tensor, size: torch.Size) -> MapSimilarity:
    undefined = is_constant(original) | is_constant(maps)
    a, b = (resize(m, size) for m in (original, maps))
    dims = tuple(range(1, a.dim()))
    values = (
        rank_correlation(a.flatten(1), b.flatten(1)),
        structural_similarity(*(m / m.abs().amax(dims, keepdim=True) for m in (a, b))),
    )
    return MapSimilarity(*(torch.where(undefined, torch.nan, value) for value in values))
