"""Classical twins: hybrid models with classical layers instead of their quantum layers."""

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.models.hybrid import HybridClassifier
from captum_quantum.quantum_layer import as_quantum_layer, find_quantum_layers

Model = TypeVar("Model", bound=nn.Module)

_NOISE = 0.1
"""Standard deviation of parameters that start near the identity."""


class ClassicalLayer(nn.Module):
    r"""The layer of a classical twin instead of a quantum layer, with values in [-1, 1].

    A chain of blocks :math:`x \mapsto \tanh(W x + b)`, as few as possible for the number of
    parameters. If W has more entries than parameters are left, these lie on its diagonals, one
    diagonal after the other, so that every input and every output is connected; all other entries
    are 0.

    Like a circuit that measures <Z> on every qubit, the layer is bounded by 1 and has no
    bottleneck. A hidden layer with as few parameters would have two or three units, too few for ten
    classes.

    Args:
        n_inputs (int): Number of inputs.
        n_observables (int): Number of outputs.
        n_parameters (int): Number of parameters. If the blocks cannot have this number, they have
            the nearest one that is possible. They can for at least three inputs, three outputs and
            ``n_observables + max(n_inputs, n_observables)`` parameters.
        near_identity (bool): Whether every block starts near tanh of its inputs: weight 1 between
            inputs and outputs of the same number (modulo the smaller number of the two), and normal
            noise of standard deviation 0.1 on all parameters. Default: they start uniform with
            standard deviation 1 / sqrt(3 fan-in), as in `torch.nn.Linear`.
        seed (int): Fixes the initial weights. The global random state is not changed.

    Shape:
        - Input: ``(..., n_inputs)``, real, on the layer's device.
        - Output: ``(..., n_observables)``, in [-1, 1], in the input's dtype.

    Raises:
        TypeError, ValueError: If an argument or an input is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import ClassicalLayer
        >>> layer = ClassicalLayer(8, 8, 48)  # for VQCLayer(8, n_layers=2)
        >>> sum(p.numel() for p in layer.parameters())
        48
        >>> layer(torch.rand(5, 8)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        n_inputs: int,
        n_observables: int,
        n_parameters: int,
        *,
        near_identity: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_inputs = _checks.check_int("n_inputs", n_inputs, 1)
        self.n_observables = _checks.check_int("n_observables", n_observables, 1)
        _checks.check_int("n_parameters", n_parameters, 0)
        _checks.check_int("seed", seed, 0)
        _check_near_identity(near_identity)
        generator = torch.Generator().manual_seed(seed)
        self.blocks = nn.Sequential()
        for size in _block_sizes(n_inputs, n_observables, n_parameters):
            block = _ThinLinear(n_inputs, n_observables, size, near_identity, generator)
            self.blocks.append(block)
            n_inputs = n_observables

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes numbers in the range of expectation values.

        Args:
            inputs (Tensor): Shape ``(..., n_inputs)``, real.

        Returns:
            Tensor: Shape ``(..., n_observables)``, in [-1, 1], in the inputs' dtype; computed in
            the wider one of theirs and the weights', as a `VQCLayer` does.

        Raises:
            TypeError, ValueError: If the inputs are wrong.
        """
        _checks.check_real("inputs", inputs)
        if inputs.dim() == 0 or inputs.shape[-1] != self.n_inputs:
            _checks.wrong_value("inputs", f"of shape (..., {self.n_inputs})", inputs)
        values: Tensor = self.blocks(inputs)
        return values.to(inputs.dtype)


def _check_near_identity(near_identity: bool) -> None:
    if not isinstance(near_identity, bool):
        _checks.wrong_type("near_identity", "True or False", near_identity)


def _block_sizes(n_inputs: int, n_outputs: int, wanted: int) -> list[int]:
    """Returns the numbers of parameters of the blocks; their sum is nearest to the wanted one."""
    # Fewest parameters (all biases, every input and output connected) and most of a block.
    first = n_outputs + max(n_inputs, n_outputs), n_outputs * (n_inputs + 1)
    other = 2 * n_outputs, n_outputs * (n_outputs + 1)
    enough = max(1, 1 - (first[1] - wanted) // other[1])  # the fewest blocks with so many entries

    def total(n_blocks: int) -> int:
        least, most = (first[k] + (n_blocks - 1) * other[k] for k in (0, 1))
        return min(max(wanted, least), most)

    n_blocks = min(range(max(1, enough - 1), enough + 1), key=lambda n: abs(total(n) - wanted))
    rest, sizes = total(n_blocks), []
    for block in range(n_blocks):
        left = n_blocks - block - 1
        least, most = other if block else first
        # An even share, within what the remaining blocks can complement.
        low, high = max(least, rest - left * other[1]), min(most, rest - left * other[0])
        sizes.append(min(max(rest // (left + 1), low), high))
        rest -= sizes[-1]
    return sizes


class _ThinLinear(nn.Module):
    """tanh(W x + b) with ``size`` parameters: b, and entries on the diagonals of W."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        size: int,
        near_identity: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shape = (n_outputs, n_inputs)
        n_entries = size - n_outputs
        index = torch.arange(n_entries)
        columns = (index + index // math.lcm(n_inputs, n_outputs)) % n_inputs
        self.register_buffer("rows", index % n_outputs, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        if near_identity:
            initial = _NOISE * torch.randn(size, generator=generator)
            initial[:n_entries] += columns % n_outputs == index % n_outputs % n_inputs
        else:
            bound = math.sqrt(n_outputs / n_entries)
            initial = bound * (torch.rand(size, generator=generator) * 2 - 1)
        self.weight = nn.Parameter(initial[:n_entries].clone())
        self.bias = nn.Parameter(initial[n_entries:].clone())

    def forward(self, inputs: Tensor) -> Tensor:
        entries = self.get_buffer("rows"), self.get_buffer("columns")
        matrix = self.weight.new_zeros(self.shape).index_put(entries, self.weight)
        dtype = torch.promote_types(inputs.dtype, matrix.dtype)
        values = nn.functional.linear(inputs.to(dtype), matrix.to(dtype), self.bias.to(dtype))
        return torch.tanh(values)


def classical_twin(
    model: Model,
    *,
    quantum_layer: nn.Module | Sequence[nn.Module] | None = None,
    near_identity: bool = False,
    seed: int = 0,
) -> Model:
    """Returns a copy of a hybrid model with classical layers instead of its quantum layers.

    The copy has the same weights elsewhere. Each quantum layer becomes an untrained
    `ClassicalLayer` of the same numbers of inputs and outputs (under amplitude encoding 2**n
    inputs) and the nearest possible number of parameters, on the quantum layer's device, in its
    dtype and mode, frozen if all its weights are. For a fair comparison, make the twin of an
    untrained model and train both in the same way.

    A quantum layer that is used at several places is one classical layer there. Weights that
    several quantum layers share are counted in each. Whatever the observables are, values of the
    classical layer are in [-1, 1]: coefficients larger than 1 are left to the layer behind it.

    The copy is made by `copy.deepcopy`: lists, dictionaries and ``functools.partial`` objects of
    the model that hold a quantum layer then hold the classical one, but functions that captured the
    model in a closure still call the model. Hooks on the quantum layers themselves are not copied.

    Args:
        model (nn.Module): The hybrid model; not changed.
        quantum_layer (nn.Module or sequence, optional): The quantum layers, modules of the model
            that show a circuit or have the attributes ``n_inputs`` and ``n_observables``. Default:
            every module that shows a circuit, and the ``vqc`` of a `HybridClassifier` as a whole,
            whatever it is.
        near_identity (bool): Whether every block of the classical layers starts near tanh of its
            inputs: weight 1 between inputs and outputs of the same number (modulo the smaller
            number of the two), and normal noise of standard deviation 0.1 on all parameters.
            Default: they start as those of `torch.nn.Linear`.
        seed (int): Fixes the initial weights of the classical layers, which differ from layer to
            layer.

    Returns:
        nn.Module: The twin, of the model's own type; the `ClassicalLayer` if the model itself is
        the quantum layer. ``trained`` of a `HybridClassifier` is None.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model has no quantum layer, a given one is not one of its modules, or one
            does not tell its numbers of inputs and outputs.

    Examples:
        >>> from torch import nn
        >>> from captum_quantum import VQCLayer, classical_twin
        >>> model = nn.Sequential(nn.Linear(5, 4), VQCLayer(4, n_layers=2), nn.Linear(4, 3))
        >>> twin = classical_twin(model)
        >>> twin[1].n_inputs, twin[1].n_observables
        (4, 4)
        >>> [sum(p.numel() for p in m.parameters()) for m in (model, twin)]
        [63, 63]
    """
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "an nn.Module", model)
    _checks.check_int("seed", seed, 0)
    _check_near_identity(near_identity)
    if quantum_layer is None and isinstance(model, HybridClassifier):
        inside = set(model.vqc.modules())
        others = [layer for layer in find_quantum_layers(model) if layer not in inside]
        layers = [*others, model.vqc]
    else:
        layers = list(dict.fromkeys(find_quantum_layers(model, quantum_layer)))
    if not layers:
        must = "a module with a quantum layer, found in it or given as quantum_layer"
        _checks.wrong_value("model", must, model)
    # The first layer has the seed itself, as a HybridClassifier's only one always had.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2**62, (len(layers) - 1,), generator=generator).tolist()
    memo: dict[int, nn.Module] = {
        id(layer): _classical(layer, model, near_identity, own)
        for layer, own in zip(layers, [seed, *drawn], strict=True)
    }
    twin = copy.deepcopy(model, memo)
    if isinstance(twin, HybridClassifier):
        twin.trained = None
    return twin


def _classical(
    layer: nn.Module, model: nn.Module, near_identity: bool, seed: int
) -> ClassicalLayer:
    """Returns the classical layer that stands for one of a model's quantum layers."""
    if isinstance(model, HybridClassifier) and layer is model.vqc:
        n_inputs, n_observables = model.reduction.out_features, model.head.in_features
    else:
        n_inputs, n_observables = _sizes(layer)
    parameters = list(layer.parameters())
    n_parameters = sum(p.numel() for p in parameters)
    sizes = n_inputs, n_observables, n_parameters
    twin = ClassicalLayer(*sizes, near_identity=near_identity, seed=seed)
    twin.train(layer.training)
    twin.requires_grad_(not parameters or any(p.requires_grad for p in parameters))
    # A circuit may have no weights: then the model's first ones say where it is.
    for parameter in [*parameters, *model.parameters()]:
        if parameter.is_floating_point():
            return twin.to(parameter.device, parameter.dtype)
    return twin


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Returns the numbers of inputs and outputs of a quantum layer."""
    n_inputs, n_observables = (getattr(layer, name, None) for name in ("n_inputs", "n_observables"))
    if n_inputs is not None and n_observables is not None:
        return n_inputs, n_observables
    shown = as_quantum_layer(layer)
    if shown is None:
        must = "a module that shows a circuit, or has attributes n_inputs and n_observables"
        _checks.wrong_value("quantum_layer", must, layer)
    return shown.circuit.n_inputs, len(shown.circuit.observables)
