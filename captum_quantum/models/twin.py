"""Classical twins: hybrid classifiers with a classical layer instead of the circuit."""

import copy
import math

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.models.hybrid import HybridClassifier


class ClassicalLayer(nn.Module):
    r"""The layer of a classical twin instead of the circuit, with values in [-1, 1].

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
        seed (int): Fixes the initial weights, uniform with standard deviation 1 / sqrt(3 fan-in)
            as in `torch.nn.Linear`. The global random state is not changed.

    Shape:
        - Input: ``(batch, n_inputs)``.
        - Output: ``(batch, n_observables)``, in [-1, 1].

    Raises:
        TypeError, ValueError: If an argument is wrong.

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
        self, n_inputs: int, n_observables: int, n_parameters: int, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.n_inputs = _checks.check_int("n_inputs", n_inputs, 1)
        self.n_observables = _checks.check_int("n_observables", n_observables, 1)
        _checks.check_int("n_parameters", n_parameters, 0)
        _checks.check_int("seed", seed, 0)
        generator = torch.Generator().manual_seed(seed)
        self.blocks = nn.Sequential()
        for size in _block_sizes(n_inputs, n_observables, n_parameters):
            self.blocks.append(_ThinLinear(n_inputs, n_observables, size, generator))
            n_inputs = n_observables

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes numbers in the range of expectation values.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``.

        Returns:
            Tensor: Shape ``(batch, n_observables)``, in [-1, 1].
        """
        values: Tensor = self.blocks(inputs)
        return values


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
        self, n_inputs: int, n_outputs: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = (n_outputs, n_inputs)
        n_entries = size - n_outputs
        index = torch.arange(n_entries)
        columns = (index + index // math.lcm(n_inputs, n_outputs)) % n_inputs
        self.register_buffer("rows", index % n_outputs, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        bound = math.sqrt(n_outputs / n_entries)
        uniform = torch.rand(size, generator=generator) * 2 - 1
        self.weight = nn.Parameter(bound * uniform[:n_entries])
        self.bias = nn.Parameter(bound * uniform[n_entries:])

    def forward(self, inputs: Tensor) -> Tensor:
        entries = self.get_buffer("rows"), self.get_buffer("columns")
        matrix = self.weight.new_zeros(self.shape).index_put(entries, self.weight)
        return torch.tanh(nn.functional.linear(inputs, matrix, self.bias))


def classical_twin(model: HybridClassifier, *, seed: int = 0) -> HybridClassifier:
    """Returns a copy of a hybrid classifier with a classical layer instead of the circuit.

    The copy has the same weights elsewhere. The `ClassicalLayer` is untrained; it has the circuit's
    numbers of inputs and outputs, the nearest possible number of parameters, and values in [-1, 1].
    For a fair comparison, make the twin of an untrained model and train both in the same way.

    Args:
        model (HybridClassifier): The hybrid model; not changed.
        seed (int): Fixes the initial weights of the classical layer.

    Returns:
        HybridClassifier: The twin, on the model's device, in its dtype and mode.

    Raises:
        TypeError: If ``model`` is not a HybridClassifier.

    Examples:
        >>> from captum_quantum.models import classical_twin, digits_model
        >>> model = digits_model()
        >>> twin = classical_twin(model)
        >>> twin.vqc.n_inputs, twin.vqc.n_observables
        (8, 8)
        >>> [sum(p.numel() for p in m.parameters()) for m in (model, twin)]
        [12442, 12442]
    """
    if not isinstance(model, HybridClassifier):
        _checks.wrong_type("model", "a HybridClassifier", model)
    n_parameters = sum(p.numel() for p in model.vqc.parameters())
    layer = ClassicalLayer(
        model.reduction.out_features, model.head.in_features, n_parameters, seed=seed
    )
    layer.to(model.reduction.weight).train(model.vqc.training)
    twin = copy.deepcopy(model, {id(model.vqc): layer})
    twin.trained = None
    return twin
