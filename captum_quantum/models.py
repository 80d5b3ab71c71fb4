"""Hybrid classifiers: backbone, reduction to angles, variational quantum circuit, linear head."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum._results import replace
from captum_quantum._state import seeded
from captum_quantum.layer import VQCLayer

IMAGE_SIZE = 32
"""Height and width of the images that `digits_model` is made for, in pixels."""

_METADATA_KEY = "captum_quantum"
_KINDS = ("digits", "digits, classical twin")
_CONFIG = ("ansatz", "channels", "encoder", "n_classes", "n_layers", "n_qubits")


class GlobalAveragePool(nn.Module):
    """Averages every feature map: ``(batch, channels, *spatial)`` to ``(batch, channels)``."""

    def forward(self, maps: Tensor) -> Tensor:
        """Means over all dimensions after the second; two-dimensional input passes unchanged."""
        if maps.dim() < 3:
            return maps
        pixels = maps.flatten(2)
        # On the way back, mean would write a gradient for every pixel; sum only repeats one number.
        return pixels.sum(2) / pixels.shape[2]


class HalfPiTanh(nn.Module):
    r"""Squashes numbers to angles: :math:`x \mapsto \frac{\pi}{2} \tanh x`, any shape, radians.

    Angles within half a turn keep different features different states.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Angles in radians, in the shape of the features."""
        return math.pi / 2 * torch.tanh(features)


class HybridClassifier(nn.Module):
    r"""A classifier whose decision passes through a quantum circuit.

    With feature maps :math:`A^k` from the backbone, the logits are

    .. math::
        z = W_h \, V\!\left(\tfrac{\pi}{2} \tanh(W_r \bar A + b_r)\right) + b_h, \qquad
        \bar A_k = \frac{1}{|S|} \sum_{s \in S} A^k_s

    with V the circuit's expectation values and S the spatial positions. The feature maps are
    averaged and not flattened because Grad-CAM's channel weights are averages of gradients over
    positions: they describe a model fully if it sees nothing but the averages, and leave many maps
    empty otherwise. The backbone's output is the layer to explain:
    ``QuantumLayerGradCam(model, model.backbone)``.

    Args:
        backbone (nn.Module): ``(batch, ...)`` to feature maps ``(batch, n_features, *spatial)``
            with any number of spatial dimensions, or none.
        vqc (nn.Module): Angles ``(batch, n_inputs)`` in radians to ``(batch, n_observables)``: a
            `VQCLayer`, or any other module of that kind.
        n_features (int): Number of feature maps.
        n_classes (int): Number of classes.
        n_inputs (int, optional): Number of angles. Default: ``vqc.n_inputs``.
        n_observables (int, optional): Number of the circuit's outputs. Default:
            ``vqc.n_observables``.

    Shape:
        - Input: whatever the backbone takes, ``(batch, ...)``.
        - Output: ``(batch, n_classes)``, logits, in the backbone's dtype.

    Attributes:
        backbone (nn.Module): Images to feature maps; the layer to explain.
        pool (GlobalAveragePool): Feature maps to their averages, ``(batch, n_features)``.
        reduction (nn.Linear): Averages to ``(batch, n_inputs)``.
        angles (HalfPiTanh): Its output, ``(batch, n_inputs)`` in radians, is what the circuit
            encodes.
        vqc (nn.Module): The quantum circuit.
        head (nn.Linear): Expectation values to logits.
        config (dict, optional): What `digits_model` was called with; None for other models.
        trained (dict, optional): How the model was trained, such as ``{"seed": 0, "epochs": 40}``,
            where whoever trained it has noted that here; None otherwise. `save_model` keeps it.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of range, or is missing because ``vqc`` does not tell it.

    References:
        arXiv:2306.03741 for the transfer from a classical backbone to a circuit, arXiv:2408.05899
        for the map.

    Examples:
        >>> import torch
        >>> from captum_quantum import HybridClassifier, VQCLayer
        >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU())
        >>> model = HybridClassifier(backbone, VQCLayer(4), n_features=16, n_classes=2)
        >>> model(torch.rand(5, 3, 12, 12)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        vqc: nn.Module,
        n_features: int,
        n_classes: int,
        *,
        n_inputs: int | None = None,
        n_observables: int | None = None,
    ) -> None:
        super().__init__()
        for name, module in (("backbone", backbone), ("vqc", vqc)):
            if not isinstance(module, nn.Module):
                _checks.wrong_type(name, "an nn.Module", module)
        _checks.check_int("n_features", n_features, 1)
        _checks.check_int("n_classes", n_classes, 1)
        n_inputs = _size(vqc, "n_inputs", n_inputs)
        n_observables = _size(vqc, "n_observables", n_observables)
        self.backbone = backbone
        self.pool = GlobalAveragePool()
        self.reduction = nn.Linear(n_features, n_inputs)
        self.angles = HalfPiTanh()
        self.vqc = vqc
        self.head = nn.Linear(n_observables, n_classes)
        self.config: dict[str, Any] | None = None
        self.trained: dict[str, int] | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape ``(batch, n_classes)``."""
        features = self.pool(self.backbone(inputs))
        logits: Tensor = self.head(self.vqc(self.angles(self.reduction(features))))
        return logits


def _size(vqc: nn.Module, name: str, given: int | None) -> int:
    """Returns the given number, or what the circuit says of itself."""
    if given is None:
        given = getattr(vqc, name, None)
    if given is None:
        raise ValueError(
            _checks.sentence(name, f"given for a vqc that has no attribute {name!r}", "None")
        )
    return _checks.check_int(name, given, 1)


class SmallCNN(nn.Module):
    """Three convolutions: images ``(batch, 1, 32, 32)`` to maps ``(batch, channels, 8, 8)``.

    Each has padding, batch normalisation and a ReLU; the first two are 5 x 5 in strides of 2, the
    third is 3 x 3. A position of the last maps so sees 21 x 21 pixels, most of a digit. Images of
    another size give maps of a quarter of it: the same weights also take a mosaic of images.

    Args:
        in_channels (int): Number of channels of the images.
        channels (Sequence[int]): Number of feature maps after each of the three convolutions.

    Attributes:
        conv1, conv2, conv3 (nn.Conv2d): The convolutions, to name them as layers to explain.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import SmallCNN
        >>> SmallCNN()(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = (8, 24, 32)) -> None:
        super().__init__()
        _checks.check_int("in_channels", in_channels, 1)
        first, second, third = _check_channels(channels)
        # The normalisation that follows each convolution has the bias.
        self.conv1 = nn.Conv2d(in_channels, first, 5, stride=2, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(third)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps, shape ``(batch, channels[2], height / 4, width / 4)``, none negative."""
        maps = self.relu1(self.norm1(self.conv1(images)))
        maps = self.relu2(self.norm2(self.conv2(maps)))
        last: Tensor = self.relu3(self.norm3(self.conv3(maps)))
        return last


def _check_channels(channels: Any) -> tuple[int, int, int]:
    if not isinstance(channels, Sequence) or isinstance(channels, str) or len(channels) != 3:
        _checks.wrong_type("channels", "three integers", channels)
    first, second, third = (_checks.check_int("channels", c, 1, 4096) for c in channels)
    return first, second, third


def digits_model(
    n_qubits: int = 8,
    n_layers: int = 2,
    *,
    channels: Sequence[int] = (8, 24, 32),
    encoder: str = "ry",
    ansatz: str = "rx_ry_rz_ring",
    n_classes: int = 10,
    seed: int = 0,
) -> HybridClassifier:
    """The model of the demo: `SmallCNN`, a `VQCLayer` and a linear head, freshly initialised.

    Only names and numbers describe it, so that `save_model` can write it to a file that runs no
    code when it is loaded.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of the ansatz, at most 100.
        channels (Sequence[int]): Number of feature maps after each of the three convolutions.
        encoder (str): Name of the encoder.
        ansatz (str): Name of the ansatz.
        n_classes (int): Number of classes.
        seed (int): Fixes the initial weights; the global random state is left as it was.

    Returns:
        HybridClassifier: ``(batch, 1, 32, 32)`` images in [0, 1] to ``(batch, n_classes)`` logits,
        float32, on the CPU.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import digits_model
        >>> model = digits_model(n_qubits=4)
        >>> model(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 10])
    """
    for name, value in (("encoder", encoder), ("ansatz", ansatz)):
        if not isinstance(value, str):
            _checks.wrong_type(name, "a name", value)
    _checks.check_int("n_layers", n_layers, 1, 100)
    _checks.check_int("n_classes", n_classes, 2, 100_000)
    channels = _check_channels(channels)
    _checks.check_int("seed", seed, 0)
    with seeded(seed):
        vqc = VQCLayer(n_qubits, n_layers, encoder=encoder, ansatz=ansatz)
        model = HybridClassifier(SmallCNN(1, channels), vqc, channels[-1], n_classes)
        # Expectation values stay within [-1, 1] and begin near 0; with the usual small weights the
        # logits would take dozens of epochs to grow to a scale at which softmax can be sure.
        nn.init.normal_(model.head.weight)
    model.config = {
        "n_qubits": n_qubits,
        "n_layers": n_layers,
        "channels": list(channels),
        "encoder": encoder,
        "ansatz": ansatz,
        "n_classes": n_classes,
    }
    return model


class ClassicalLayer(nn.Module):
    r"""What takes a circuit's place in a classical twin: numbers in, numbers in [-1, 1] out.

    A chain of blocks :math:`x \mapsto \tanh(W x + b)`, as few as can hold the wanted number of
    parameters. Where fewer entries of W are wanted than it has, they lie on its diagonals, one
    after the other, so that every input and every output is connected; the others are 0.

    Like a circuit that measures <Z> on every qubit, it is bounded by 1 and narrows nothing: a
    hidden layer with as few parameters would have two or three units, through which no ten classes
    pass.

    Args:
        n_inputs (int): Number of inputs.
        n_observables (int): Number of outputs.
        n_parameters (int): Wanted number of parameters; the nearest possible is taken, which is
            this one from three inputs, three outputs and
            ``n_observables + max(n_inputs, n_observables)`` parameters on.
        seed (int): Fixes the initial weights, uniform with standard deviation 1 / sqrt(3 fan-in)
            as those of `torch.nn.Linear`; the global random state is left as it was.

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
        sizes = _block_sizes(n_inputs, n_observables, n_parameters)
        self.blocks = nn.Sequential(
            *(
                _ThinLinear(n_inputs if i == 0 else n_observables, n_observables, size, generator)
                for i, size in enumerate(sizes)
            )
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers in [-1, 1], shape ``(batch, n_observables)``."""
        values: Tensor = self.blocks(inputs)
        return values


def _block_sizes(n_inputs: int, n_outputs: int, wanted: int) -> list[int]:
    """Numbers of parameters of the blocks whose sum is nearest to the wanted one."""
    # All biases, and enough entries to touch every input and output; all entries.
    first = n_outputs + max(n_inputs, n_outputs), n_outputs * (n_inputs + 1)
    other = 2 * n_outputs, n_outputs * (n_outputs + 1)
    enough = max(1, 1 - (first[1] - wanted) // other[1])  # the fewest blocks that can hold them

    def total(n_blocks: int) -> int:
        least, most = (first[k] + (n_blocks - 1) * other[k] for k in (0, 1))
        return min(max(wanted, least), most)

    n_blocks = min(range(max(1, enough - 1), enough + 1), key=lambda n: abs(total(n) - wanted))
    rest, sizes = total(n_blocks), []
    for block in range(n_blocks):
        left = n_blocks - block - 1
        least, most = other if block else first
        # An even share, as far as the blocks that follow can then hold the rest.
        low, high = max(least, rest - left * other[1]), min(most, rest - left * other[0])
        sizes.append(min(max(rest // (left + 1), low), high))
        rest -= sizes[-1]
    return sizes


class _ThinLinear(nn.Module):
    """tanh(W x + b) with ``size`` parameters: all of b, and entries on the diagonals of W."""

    def __init__(
        self, n_inputs: int, n_outputs: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = (n_outputs, n_inputs)
        n_entries = size - n_outputs
        place = torch.arange(n_entries)
        rows = place % n_outputs
        columns = (place + place // math.lcm(n_inputs, n_outputs)) % n_inputs
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        bound = math.sqrt(n_outputs / n_entries)
        uniform = torch.rand(size, generator=generator) * 2 - 1
        self.weight = nn.Parameter(bound * uniform[:n_entries])
        self.bias = nn.Parameter(bound * uniform[n_entries:])

    def forward(self, inputs: Tensor) -> Tensor:
        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        zeros = self.weight.new_zeros(self.shape)
        matrix = zeros.index_put((rows, columns), self.weight)
        return torch.tanh(nn.functional.linear(inputs, matrix, self.bias))


def classical_twin(model: HybridClassifier, *, seed: int = 0) -> HybridClassifier:
    """The same classifier with a classical layer in the place of the circuit.

    Everything else is copied, weights included; the new `ClassicalLayer` is untrained and has as
    many parameters as the circuit, as nearly as possible, the same inputs and as many outputs in
    [-1, 1]. For a fair comparison make the twin of an untrained model and train both alike.

    Args:
        model (HybridClassifier): The hybrid model, left as it is.
        seed (int): Fixes the initial weights of the new layer.

    Returns:
        HybridClassifier: The twin, on the model's device, in its dtype and mode.

    Raises:
        TypeError: If model is no HybridClassifier.

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


def save_model(model: HybridClassifier, path: str | PathLike[str]) -> None:
    """Writes a model of `digits_model`, or its classical twin, as a safetensors file.

    Its configuration, and how it was trained if that is known, go into the file's metadata.

    Args:
        model (HybridClassifier): The model.
        path (str or PathLike): The file, replaced as a whole if it exists.

    Raises:
        ValueError: If the model has no configuration, so that a file could not describe it.
        OSError: If the file cannot be written.
    """
    from safetensors.torch import save

    if getattr(model, "config", None) is None:
        _checks.wrong_value("model", "one made by digits_model, for save_model", model)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    kind = _KINDS[isinstance(model.vqc, ClassicalLayer)]
    content: dict[str, Any] = {"model": kind, "config": model.config}
    if model.trained is not None:
        content["trained"] = model.trained
    description = json.dumps(content, sort_keys=True)
    # Through bytes: Python words what is wrong with a path, and raises OSError for it.
    replace(Path(path), save(tensors, metadata={_METADATA_KEY: description}))


def load_model(
    path: str | PathLike[str], *, device: str | torch.device = "cpu"
) -> HybridClassifier:
    """Reads a model that `save_model` has written. Runs no code from the file.

    Args:
        path (str or PathLike): The file.
        device (str or torch.device): Where the model shall be.

    Returns:
        HybridClassifier: The model with the file's weights, bit for bit, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no safetensors file, lacks the description of a
            model, describes a wrong one, or holds weights of another shape or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            _checks.sentence("path", "a weights file", f"{str(path)!r}, which does not exist")
        )
    tensors, metadata = _read_safetensors(path)
    kind, config, trained = _read_description(path, metadata)
    try:
        model = digits_model(**config)
    except (TypeError, ValueError) as error:
        _not_weights(path, f"with the description of a model, but {error}")
    if kind == _KINDS[1]:
        model = classical_twin(model)
    _check_weights(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    model.trained = trained
    return model.to(device).eval()


def _not_weights(path: Path, got: str) -> NoReturn:
    """Raises ValueError for a file that does not hold what it should."""
    raise ValueError(
        _checks.sentence("path", "a file that save_model has written", f"{str(path)!r}: {got}")
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        _not_weights(path, f"not a whole safetensors file ({error})")


def _read_description(
    path: Path, metadata: Mapping[str, str]
) -> tuple[str, dict[str, Any], dict[str, int] | None]:
    """The kind of model, arguments for `digits_model`, checked for their names only, training."""
    if _METADATA_KEY not in metadata:
        _not_weights(path, f"without a model's description ({_METADATA_KEY!r}) in its metadata")
    try:
        description = json.loads(metadata[_METADATA_KEY])
    except json.JSONDecodeError as error:
        _not_weights(path, f"with a description that is not JSON ({error})")
    if not isinstance(description, dict) or description.get("model") not in _KINDS:
        _not_weights(path, "with the description of something else than a digits model")
    config = description.get("config")
    if not isinstance(config, dict) or sorted(config) != list(_CONFIG):
        _not_weights(path, f"with a configuration that does not name {', '.join(_CONFIG)}")
    trained = description.get("trained")
    if trained is not None and (
        not isinstance(trained, dict) or not all(type(number) is int for number in trained.values())
    ):
        _not_weights(path, "with a description of its training that is not made of integers")
    return description["model"], config, trained


def _check_weights(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Compares names, shapes and dtypes with those of the model that the file describes."""
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unknown:
        _not_weights(path, f"weights missing: {missing or 'none'}, unknown: {unknown or 'none'}")
    for name, value in tensors.items():
        here, there = expected[name], value
        if here.shape != there.shape or here.dtype != there.dtype:
            _not_weights(
                path,
                f"{name!r} is {_checks.describe(there)}, the described model needs "
                f"{_checks.describe(here)}",
            )
        _checks.check_finite(f"{name!r} in {str(path)!r}", value)
