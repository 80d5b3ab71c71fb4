"""Randomization: does the map depend on what the model has learned?"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _state
from captum_quantum._targets import Target, read_classes
from captum_quantum.metrics import _maps, registry, similarity
from captum_quantum.quantum_layer import find_quantum_layers

Attribute = Callable[[Tensor, Any], Tensor]

PARTS = ("quantum", "classical", "cascade")
"""What `parameter_randomization` can randomize."""

# Without it, a model made with torch.manual_seed(0) would get its initial weights back.
_SEED_OFFSET = 0x5A17_C0DE

_SMALLEST = 3  # pixels, for the window of SSIM


class MapSimilarity(NamedTuple):
    """Similarity of the maps of the randomized model to those of the trained model.

    NaN where one of the two maps is constant.

    Attributes:
        rank_correlation (Tensor): Spearman's rank correlation, shape ``(batch,)``, in [-1, 1].
        ssim (Tensor): Structural similarity, shape ``(batch,)``, in [-1, 1].
    """

    rank_correlation: Tensor
    ssim: Tensor


@dataclass(frozen=True, eq=False)
class _Unit:
    """Modules that are randomized together: those of a quantum layer, or a single module.

    Attributes:
        name (str): The name in the model.
        modules (list[nn.Module]): The modules; of each only its direct parameters and buffers.
        quantum (bool): Whether it is a quantum layer.
        last_call (int): Position of its last call in the forward pass; -1 if it is not called.
    """

    name: str
    modules: list[nn.Module]
    quantum: bool
    last_call: int

    @torch.no_grad()
    def randomize(self) -> None:
        if self.quantum:
            for module in self.modules:
                for angles in module.parameters(recurse=False):
                    angles.uniform_(-math.pi, math.pi)
            return
        (module,) = self.modules
        parameters = dict(module.named_parameters(recurse=False))
        before = {name: p.detach().clone() for name, p in parameters.items()}
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        for name, parameter in parameters.items():
            new = module._parameters[name]
            if new is not None and new is not parameter:  # the reset made a new one
                parameter.copy_(new)
                module._parameters[name] = parameter
            is_new = not torch.equal(parameter, before[name])
            if is_new or not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            if float(parameter.max()) > float(parameter.min()):
                parameter.normal_(float(parameter.mean()), float(parameter.std()))


class _ModelState:
    """Every attribute of every module of a model, and the values of all its tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.attributes: list[tuple[nn.Module, dict[str, Any], list[dict[str, Any]]]] = []
        for module in model.modules():
            # The dicts of parameters, buffers and hooks remain the same objects.
            inner = [dict(v) for v in vars(module).values() if isinstance(v, dict)]
            self.attributes.append((module, dict(vars(module)), inner))
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self.values = [(t, t.detach().clone()) for t in tensors.values()]

    @torch.no_grad()
    def restore(self, keep: Iterable[Tensor] = ()) -> None:
        """Restores the state, except for the values of the tensors in ``keep``."""
        kept = {id(t) for t in keep}
        for tensor, value in self.values:
            if id(tensor) not in kept:
                tensor.copy_(value)
        for module, attributes, inner in self.attributes:
            vars(module).clear()
            vars(module).update(attributes)
            dicts = (v for v in attributes.values() if isinstance(v, dict))
            for target, content in zip(dicts, inner, strict=True):
                if {k: id(v) for k, v in target.items()} != {k: id(v) for k, v in content.items()}:
                    target.clear()
                    target.update(content)


@contextmanager
def _calls(model: nn.Module) -> Iterator[dict[int, int]]:
    """Records the position of the last call of each module, by the module's id."""
    times: dict[int, int] = {}
    clock = count()

    def called(key: int, *_: Any) -> None:  # the hook itself may get a replica of the module
        times[key] = next(clock)

    handles = [m.register_forward_hook(partial(called, id(m))) for m in model.modules()]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def _units(model: nn.Module, quantum_layers: list[nn.Module], times: dict[int, int]) -> list[_Unit]:
    """Returns the units that have parameters, from the output to the input."""
    inside = {id(m): layer for layer in quantum_layers for m in layer.modules()}
    parents = {id(c): m for m in model.modules() for c in m.children()}
    units: list[_Unit] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        layer = inside.get(id(module))
        modules = [module] if layer is None else list(layer.modules())
        new = {id(p) for m in modules for p in m.parameters(recurse=False)} - seen
        if not new:
            continue
        seen |= new
        # A module whose parameters are only read has the position of its parent.
        called = module
        while id(called) not in times and id(called) in parents:
            called = parents[id(called)]
        last_call = times.get(id(called), -1)
        units.append(_Unit(name or type(model).__name__, modules, layer is not None, last_call))
    return sorted(units, key=lambda unit: unit.last_call)[::-1]


def _read_parts(parts: Any, quantum: set[bool]) -> list[str]:
    exists = {"quantum": True in quantum, "classical": False in quantum, "cascade": bool(quantum)}
    if not exists["cascade"]:
        _checks.refuse("model", "a module with parameters to randomize", "one without")
    if parts is None:
        return [part for part in PARTS if exists[part]]
    listed = [parts] if isinstance(parts, str) else parts
    if not isinstance(listed, Sequence) or not listed:
        _checks.wrong_type("parts", f"some of {', '.join(PARTS)}", parts)
    for part in listed:
        _checks.check_choice("parts", part, PARTS)
        if not exists[part]:
            _checks.refuse("parts", f"parts that the model has; it has no {part} one", part)
    return list(dict.fromkeys(listed))


@registry.register_metric(higher_is_better=False, named=False)
def parameter_randomization(
    model: nn.Module,
    attribute: Attribute,
    inputs: Tensor,
    target: Target,
    *,
    parts: str | Sequence[str] | None = None,
    quantum_layer: nn.Module | Sequence[nn.Module] | None = None,
    seed: int = 0,
) -> dict[str, MapSimilarity]:
    r"""Parameter randomization: how similar the maps remain when the model forgets what it learned.

    The sanity check of arXiv:1810.03292. The maps of the trained model are compared with those of
    the same model with random parameters, by Spearman's rank correlation and by the structural
    similarity (SSIM, doi:10.1109/TIP.2003.819861). A map that stays the same shows the image, not
    the model, so lower is better. Three parts of the model can be randomized:

    - ``"quantum"``: the parameters of the quantum layers, as angles uniform in [-pi, pi);
    - ``"classical"``: all other parameters, by ``reset_parameters`` of their modules (which also
      resets the statistics of BatchNorm); without it, from a normal distribution with the mean and
      standard deviation of the parameter;
    - ``"cascade"``: one layer after the other, from the last to the first that is called, each in
      addition to those before; a quantum layer counts as one layer.

    Maps are summed over their channels, scaled to the size of the inputs (bilinear) and divided by
    their largest magnitude for SSIM, which has a Gaussian window of 11 pixels. The model runs in
    evaluation mode and with the same random numbers each time. Its parameters, buffers, mode and
    hooks and the global random state are restored, also after errors.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Maps images and a target, classes ``(batch,)`` or the function, to
            maps ``(batch, channels, *spatial)`` of this model, as the ``attribute`` of Captum's
            methods does.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions of at least 3 pixels.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``. ``attribute`` gets it.
        parts (str or sequence, optional): Some of the three parts. Default: all that the model has.
        quantum_layer (nn.Module or sequence, optional): The quantum layers. Default: all modules
            that show a circuit, such as `VQCLayer`.
        seed (int): Fixes the random parameters.

    Returns:
        dict[str, MapSimilarity]: Keys ``"quantum"``, ``"classical"`` and, for each layer from the
        last to the first, ``"cascade: <name of the layer>"``. Values are two tensors ``(batch,)``
        on the inputs' device, without gradient; NaN where one of the two maps is constant.

    Raises:
        TypeError, ValueError: If an argument is wrong, the model has no such part, ``attribute``
            never calls the model, a part cannot be randomized because its parameters are constant,
            or a map is not finite.

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
    _maps.check_callable("attribute", attribute)
    inputs = _maps.check_inputs(inputs)
    index = read_classes(target, len(inputs), inputs.device)
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    if min(inputs.shape[2:]) < _SMALLEST:
        _checks.wrong_value("inputs", f"of at least {_SMALLEST} pixels on each side", inputs)
    layers = find_quantum_layers(model, quantum_layer)
    chosen = _read_parts(parts, {unit.quantum for unit in _units(model, layers, {})})

    def explain(argument: str) -> Tensor:
        with _state.seeded(seed, inputs, *model.parameters()):
            maps = attribute(inputs, index)
        return _maps.read_maps(argument, maps, inputs)

    results: dict[str, MapSimilarity] = {}
    with _state.evaluation_mode(model):
        saved = _ModelState(model)
        try:
            with _calls(model) as times:
                original = explain("attribute's maps")
            if not times:
                got = "one that never calls it, so its parameters cannot matter"
                _checks.refuse("attribute", "a function that explains model", got)
            units = _units(model, layers, times)
            for part in chosen:
                saved.restore()
                with _state.seeded((seed + _SEED_OFFSET) % 2**63, inputs, *model.parameters()):
                    for key in _randomized(part, units, saved):
                        maps = explain(f"attribute's maps after randomizing {key!r}")
                        results[key] = _similarity(original, maps, inputs.shape[2:])
        finally:
            saved.restore()
    return results


@registry.register_metric(higher_is_better=False)
def randomization_quantum(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Target
) -> Tensor:
    r"""Rank correlation of the maps before and after the quantum layers are randomized.

    .. math:: \rho(\Phi(x; \theta, \varphi), \Phi(x; \theta, \varphi'))

    with :math:`\rho` Spearman's rank correlation over the pixels, :math:`\Phi` the map,
    :math:`\theta` the classical parameters and :math:`\varphi` those of the quantum layers,
    :math:`\varphi'` uniform in [-pi, pi) (arXiv:1810.03292). A map that stays the same does not
    depend on what the quantum layers have learned, so lower is better. It is the part
    ``"quantum"`` of `parameter_randomization`, with seed 0.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Maps images and a target, classes ``(batch,)`` or the function, to
            maps ``(batch, channels, *spatial)`` of this model, as the ``attribute`` of Captum's
            methods does.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions of at least 3 pixels.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``. ``attribute`` gets it.

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1], on the inputs' device, without gradient. NaN where
        one of the two maps is constant, and for a model without quantum layers.

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


@registry.register_metric(higher_is_better=False)
def randomization_classical(
    model: nn.Module, attribute: Attribute, inputs: Tensor, target: Target
) -> Tensor:
    r"""Rank correlation of the maps before and after the classical layers are randomized.

    .. math:: \rho(\Phi(x; \theta, \varphi), \Phi(x; \theta', \varphi))

    with :math:`\rho` Spearman's rank correlation over the pixels, :math:`\Phi` the map,
    :math:`\varphi` the parameters of the quantum layers and :math:`\theta` all others,
    :math:`\theta'` from ``reset_parameters`` of their modules (arXiv:1810.03292). A map that stays
    the same does not depend on what the classical layers have learned, so lower is better. It is
    the part ``"classical"`` of `parameter_randomization`, with seed 0.

    Args:
        model (nn.Module): The model that ``attribute`` explains.
        attribute (Callable): Maps images and a target, classes ``(batch,)`` or the function, to
            maps ``(batch, channels, *spatial)`` of this model, as the ``attribute`` of Captum's
            methods does.
        inputs (Tensor): The images, shape ``(batch, channels, *spatial)``, 1 to 3 spatial
            dimensions of at least 3 pixels.
        target (int, Tensor or Callable): The explained class, or one for each example, shape
            ``(batch,)``; or a function of the model's output that returns one value for each
            example, ``(batch,)``. ``attribute`` gets it.

    Returns:
        Tensor: Shape ``(batch,)``, in [-1, 1], on the inputs' device, without gradient. NaN where
        one of the two maps is constant.

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


def _randomized(part: str, units: list[_Unit], saved: _ModelState) -> Iterator[str]:
    """Randomizes a part, at once or layer by layer; yields the name of each step."""
    if part == "cascade":
        steps = {f"cascade: {unit.name}": [unit] for unit in units}
    else:
        steps = {part: [unit for unit in units if unit.quantum == (part == "quantum")]}
    done: list[Tensor] = []
    for number, (key, step) in enumerate(steps.items(), start=1):
        for unit in step:
            unit.randomize()
            for module in unit.modules:
                done.extend((*module.parameters(recurse=False), *module.buffers(recurse=False)))
        saved.restore(keep=done)  # a reset may change other modules, too
        unchanged = (torch.equal(t, v) for t, v in saved.values if isinstance(t, nn.Parameter))
        if number == len(steps) and all(unchanged):
            got = (
                f"{part!r}, whose parameters stay the same: all are constant, and their "
                "modules have no reset_parameters that changes them"
            )
            _checks.refuse("parts", "parts that can be randomized", got)
        yield key


def _similarity(original: Tensor, maps: Tensor, size: torch.Size) -> MapSimilarity:
    undefined = _maps.is_constant(original) | _maps.is_constant(maps)
    a, b = (_maps.resize(m, size) for m in (original, maps))
    ranks = similarity.rank_correlation(a.flatten(1), b.flatten(1))
    dims = tuple(range(1, a.dim()))
    ssim = similarity.structural_similarity(*(m / m.abs().amax(dims, True) for m in (a, b)))
    return MapSimilarity(*(torch.where(undefined, torch.nan, value) for value in (ranks, ssim)))
