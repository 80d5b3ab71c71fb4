"""Weights files: the state_dict of any model as safetensors, with what its circuits are.

The metadata hold one JSON object under the key ``captum_quantum``:

- ``format``, ``version``: of the file's format and of captum-quantum; files of 0.1.0 have neither;
- ``circuits``: from the name of each quantum layer to the digest of its circuit;
- ``tied``: from each name whose tensor is saved under another name to that name;
- ``complex``: from the name of each complex tensor, which is saved as a real one with a last
  dimension of 2, to its dtype, as not every version of safetensors knows them;
- ``modules``: versions of the modules, for those that can read state_dicts of their older ones.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from captum_quantum import __version__, _checks, _compat, _files
from captum_quantum.circuit import Circuit
from captum_quantum.circuit_module import CircuitModule
from captum_quantum.quantum_layer import QuantumLayer, as_quantum_layer, find_quantum_layers

Model = TypeVar("Model", bound=nn.Module)

_METADATA_KEY = "captum_quantum"
_FORMAT = 1
# Those that every version of safetensors knows, and complex ones.
_DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool
)  # fmt: skip
_EXTRA_STATE = "_extra_state"
_LONGEST_LIST = 8


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        path (Path): Where it is.
        must (str): What the file must be, for the errors.
        tensors (dict): The tensors by their names in the state_dict, on the CPU.
        description (dict): What the metadata say; empty for files of other programs.
    """

    path: Path
    must: str
    tensors: dict[str, Tensor]
    description: dict[str, Any]

    def refuse(self, got: str) -> NoReturn:
        """Raises ValueError for what is wrong with the file."""
        _checks.refuse("path", self.must, f"{str(self.path)!r}: {got}")


def save_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Writes the weights of any model as a safetensors file, which holds no code.

    The file holds the model's state_dict (parameters, persistent buffers, and the circuits of
    quantum layers), bit for bit. Tied weights are saved once.

    Args:
        model (nn.Module): The model, with any number of quantum layers.
        path (str or PathLike): The file; an existing one is replaced as a whole.

    Raises:
        TypeError: If the state_dict holds something else than dense tensors, or an argument is of
            the wrong type.
        ValueError: If a lazy module has not been initialized by a first call.
        OSError: If the file cannot be written; an existing one is then unchanged.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> from captum_quantum.models import load_weights, save_weights
        >>> make = lambda: torch.nn.Sequential(VQCLayer(4), torch.nn.Linear(4, 3))
        >>> model = make()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(model, f"{folder}/weights.safetensors")
        ...     same = load_weights(make(), f"{folder}/weights.safetensors")
        >>> angles = torch.rand(2, 4)
        >>> torch.equal(same(angles), model(angles))
        True
    """
    write(model, path, {})


def load_weights(model: Model, path: str | PathLike[str]) -> Model:
    """Reads a file of `save_weights` or `save_model` into a model of the same architecture.

    Runs no code from the file. The model keeps its device, its dtypes, to which the weights are
    converted, and its mode. If loading fails, the model is as it was. Files that other programs
    wrote by safetensors are read too, if their names are those of the state_dict.

    Args:
        model (nn.Module): The model, which gets the weights.
        path (str or PathLike): The file.

    Returns:
        nn.Module: The model itself.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the state_dict of the model holds something else than dense tensors, or an
            argument is of the wrong type.
        ValueError: If the file is truncated or is not a safetensors file, its weights are of other
            names, shapes or circuits, or a lazy module of the model has not been initialized.

    Examples:
        >>> import tempfile
        >>> from captum_quantum import VQCLayer
        >>> from captum_quantum.models import load_weights, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(VQCLayer(2, observables=["Z0"]), f"{folder}/weights.safetensors")
        ...     load_weights(VQCLayer(2, observables=["X0"]), f"{folder}/weights.safetensors")
        Traceback (most recent call last):
            ...
        ValueError: path must be a file that save_weights has written for such a model; got ...
    """
    _read_state(model)
    fill(model, read(path, "a file that save_weights has written for such a model"))
    return model


def write(model: nn.Module, path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes a weights file.

    Args:
        model (nn.Module): The model.
        path (str or PathLike): The file; an existing one is replaced as a whole.
        content (Mapping): What its description says besides, as JSON can.

    Raises:
        TypeError, ValueError, OSError: As for `save_weights`.
    """
    from safetensors.torch import save

    state, path = _read_state(model), _read_path(path)
    first: dict[Any, str] = {}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, value in state.items():
        saved = first.setdefault(_memory(value), name)
        if saved != name:
            tied[name] = saved
            continue
        plain = value.detach().resolve_conj()
        plain = torch.view_as_real(plain) if plain.is_complex() else plain
        # A copy, as safetensors refuses tensors that share memory, such as two views of one.
        tensors[name] = plain.cpu().clone(memory_format=torch.contiguous_format)
    description = {
        "format": _FORMAT,
        "version": __version__,
        "circuits": _circuits(model),
        "tied": tied,
        "complex": {n: str(state[n].dtype) for n in tensors if state[n].is_complex()},
        "modules": _compat.module_versions(state),
        **content,
    }
    # Not safetensors' own save_file, which raises its own type of error for a wrong path.
    metadata = {_METADATA_KEY: json.dumps(description, sort_keys=True)}
    _files.replace(path, save(tensors, metadata=metadata))


def read(path: str | PathLike[str], must: str) -> WeightsFile:
    """Reads a weights file.

    Args:
        path (str or PathLike): The file.
        must (str): What the file must be, for the errors.

    Returns:
        WeightsFile: Its content. Of the description, what `write` makes is checked.

    Raises:
        TypeError: If ``path`` is no path.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or is not a safetensors file, or its description is
            wrong or of a later format.
    """
    from safetensors import SafetensorError, safe_open

    path = _read_path(path)
    if not path.is_file():
        got = f"{str(path)!r}, which does not exist or is no file"
        _checks.refuse("path", "a weights file", got, FileNotFoundError)
    content = WeightsFile(path, must, {}, {})
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            content.tensors.update((name, file.get_tensor(name)) for name in names)
    except SafetensorError as error:
        content.refuse(f"not a whole safetensors file ({error}); save or copy it again")
    try:
        description = json.loads(metadata.get(_METADATA_KEY, "{}"))
    except json.JSONDecodeError as error:
        content.refuse(f"with a description that is not JSON ({error})")
    if not isinstance(description, dict):
        content.refuse("with the description of something else than a model")
    content.description.update(description)
    _check_description(content)
    for name in description.get("complex", {}):
        content.tensors[name] = torch.view_as_complex(content.tensors[name])
    for name, saved in description.get("tied", {}).items():
        content.tensors[name] = content.tensors[saved]
    return content


def _check_description(file: WeightsFile) -> None:
    """Checks what `write` says of the tensors."""
    number = file.description.get("format", _FORMAT)
    if type(number) is not int or number > _FORMAT:
        version = file.description.get("version")
        file.refuse(
            f"of format {number}, written by captum-quantum {version}; this version reads formats "
            f"up to {_FORMAT}: update captum-quantum"
        )
    types = {"circuits": str, "complex": str, "modules": int, "tied": str}
    for key, kind in types.items():
        table = file.description.get(key, {})
        right = isinstance(table, dict) and all(type(value) is kind for value in table.values())
        if right and key == "complex":
            right = all(_is_pairs(file.tensors.get(name)) for name in table)
        if right and key == "tied":
            right = file.tensors.keys() >= set(table.values())
            right &= file.tensors.keys().isdisjoint(table)
        if not right:
            file.refuse(f"with a description whose {key!r} do not fit its tensors")


def _is_pairs(tensor: Tensor | None) -> bool:
    """Whether a tensor can be viewed as complex numbers."""
    floats = torch.float32, torch.float64
    return tensor is not None and tensor.dtype in floats and tensor.shape[-1:] == (2,)


def fill(model: nn.Module, file: WeightsFile) -> None:
    """Loads the content of a file into a model, which stays as it was if that fails.

    Args:
        model (nn.Module): The model.
        file (WeightsFile): What `read` returned.

    Raises:
        TypeError, ValueError: As for `load_weights`.
    """
    state = _read_state(model)
    _check_names(model, state, file)
    _check_circuits(model, file)
    for name, needed in state.items():
        if not _is_extra(name) and not _fits(file.tensors[name], needed):
            came = _checks.describe(file.tensors[name])
            file.refuse(f"{name!r} is {came}, the model needs {_checks.describe(needed)}")
    before = {name: value.clone() for name, value in state.items()}
    tensors = _compat.with_module_versions(file.tensors, file.description.get("modules"))
    try:
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            file.refuse(f"weights that do not fit the model ({error})")
        _check_shared(state, file)
    except BaseException:
        _restore(model, state, before)
        raise


def _restore(model: nn.Module, state: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Gives a model the weights and extra states back that it had before."""
    for name, value in before.items():
        if not _is_extra(name) and not _same(state[name], value):
            state[name].copy_(value)
    for name, module in model.named_modules():
        key = _key_of_extra(name)
        if key in before:
            module.set_extra_state(before[key])


def _check_names(model: nn.Module, state: Mapping[str, Tensor], file: WeightsFile) -> None:
    """Checks that the file has the names of the state_dict."""
    optional: set[str] = set()
    if "format" not in file.description:  # files of 0.1.0 do not tell the circuit; the layer warns
        optional = {key for key, _ in _circuit_modules(model)}
    missing = sorted(state.keys() - file.tensors.keys() - optional)
    unknown = sorted(file.tensors.keys() - state.keys())
    if missing or unknown:
        file.refuse(f"weights missing: {_listed(missing)}, unknown: {_listed(unknown)}")


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    rest = len(names) - _LONGEST_LIST
    return f"{names[:_LONGEST_LIST]}{f' and {rest} more' if rest > 0 else ''}"


def _check_circuits(model: nn.Module, file: WeightsFile) -> None:
    """Checks that the weights of quantum layers are of the circuits of the model."""
    told = file.description.get("circuits", {})
    other = [name for name, digest in _circuits(model).items() if told.get(name, digest) != digest]
    for key, module in _circuit_modules(model):
        if key in file.tensors:
            try:
                module.set_extra_state(file.tensors[key])
            except RuntimeError:
                other.append(key.removesuffix(_EXTRA_STATE).removesuffix("."))
    if other:
        layer = _checks.describe(model.get_submodule(other[0]))
        place = f"{other[0]!r}, {layer}" if other[0] else layer
        file.refuse(
            f"weights of another circuit for {place}: of other gates, encoding or observables"
        )


def _circuit_modules(model: nn.Module) -> list[tuple[str, CircuitModule]]:
    """The modules whose state_dict tells the circuit, by the key of what tells it."""
    return [
        (_key_of_extra(name), module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, CircuitModule)
    ]


def _circuits(model: nn.Module) -> dict[str, str]:
    """The digests of the circuits of all quantum layers, by the layers' names."""
    names = {module: name for name, module in model.named_modules()}
    shown = {names[module]: as_quantum_layer(module) for module in find_quantum_layers(model)}
    return {name: _identity(layer).digest for name, layer in shown.items() if layer is not None}


def _identity(layer: QuantumLayer) -> Circuit:
    """The circuit that tells a layer's weights from others: later changes of structure apart."""
    circuit: Circuit = getattr(layer, "identity", layer.circuit)
    return circuit


def _check_shared(state: Mapping[str, Tensor], file: WeightsFile) -> None:
    """Checks that tensors that share memory got the values of the file, each of them."""

    def storage(tensor: Tensor) -> tuple[torch.device, int]:
        return tensor.device, tensor.untyped_storage().data_ptr()

    users = Counter(storage(value) for value in state.values())
    for name, value in state.items():
        if users[storage(value)] > 1 and not _is_extra(name):
            came = file.tensors[name].to(value.device, value.dtype)
            if not _same(value, came):
                file.refuse(f"{name!r} shares memory with other weights of the model, not here")


def _read_state(model: Any) -> dict[str, Tensor]:
    """Returns the state_dict of a model, checked."""
    if not isinstance(model, nn.Module):
        _checks.wrong_type("model", "an nn.Module", model)
    state: dict[str, Any] = model.state_dict()
    for name, value in state.items():
        if isinstance(value, Tensor) and is_lazy(value):
            must = "initialized by a first call of its lazy modules"
            _checks.refuse("model", must, f"{name!r}, which has no shape yet")
        must = "a module whose state_dict holds dense tensors of numbers only"
        if not isinstance(value, Tensor):
            got = f"{name!r}, which is {_checks.describe(value)}"
            _checks.refuse("model", must, got, TypeError)
        if value.layout != torch.strided or value.is_meta or value.dtype not in _DTYPES:
            got = f"{name!r}, which is {_checks.describe(value)} with layout {value.layout}"
            _checks.refuse("model", must, got, TypeError)
    return state


def _read_path(path: Any) -> Path:
    if not isinstance(path, (str, PathLike)):
        _checks.wrong_type("path", "the path of a file", path)
    return Path(path)


def _key_of_extra(module: str) -> str:
    """The name in the state_dict of the extra state of a module of that name."""
    return f"{module}.{_EXTRA_STATE}" if module else _EXTRA_STATE


def _is_extra(name: str) -> bool:
    """Whether a name of a state_dict is that of a module's extra state, which it checks itself."""
    return name.rpartition(".")[2] == _EXTRA_STATE


def _fits(value: Tensor, needed: Tensor) -> bool:
    """Whether a tensor can be loaded: precision may be lost, but no integers or imaginary parts."""
    real_or_complex = needed.is_floating_point() or needed.is_complex()
    return value.shape == needed.shape and (
        value.dtype == needed.dtype
        or (real_or_complex and torch.can_cast(value.dtype, needed.dtype))
    )


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors that are one and the same in memory have in common."""
    place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.is_conj(), tensor.is_neg()
    return *place, tensor.shape, tensor.stride()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype are the same, bit for bit."""
    rows = (value.resolve_conj().resolve_neg().reshape(-1).contiguous() for value in (one, other))
    first, second = (row.view(torch.uint8) for row in rows)
    return torch.equal(first, second)
