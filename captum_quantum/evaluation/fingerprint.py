"""Describes what results depend on: package versions, functions, options, weights."""

import functools
import hashlib
import json
import re
import types
import zlib
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.quantum_layer import as_quantum_layer

_VERSIONED = ("captum_quantum", "captum", "torch")
_NO_VERSION = "without version"


def versions() -> dict[str, str]:
    """The packages that results depend on.

    Returns:
        dict[str, str]: Their versions by name.
    """
    from captum_quantum import __version__

    numbers = (__version__, metadata.version("captum"), str(torch.__version__))
    return dict(zip(_VERSIONED, numbers, strict=True))


def check_versions(argument: str, description: Any) -> None:
    """Raises ValueError if something was described that contains a function without a version.

    Args:
        argument (str): What the error calls it.
        description (Any): The description, which JSON can hold.
    """
    if match := re.search(rf"([\w.<>]+) {_NO_VERSION}", json.dumps(description)):
        must = (
            "made of functions with an attribute version, such as function.version = '1', which "
            "tells whether results in output are still those of the function"
        )
        _checks.refuse(argument, must, f"{match[1]} {_NO_VERSION}")


def describe_function(function: Any, version: Any = None) -> str:
    """Describes a function by its name, its version and the arguments bound to it.

    The description is the same in every process. A function of a package in `versions` needs no
    version of its own.

    Args:
        function (Callable): A function, method, class, callable object or ``functools.partial``.
        version (Any): Its version. Default: its attribute ``version``.

    Returns:
        str: The description.
    """
    if version is None:
        version = getattr(function, "version", None)
    if isinstance(function, functools.partial):
        bound = [*map(describe_value, function.args)]
        bound += [f"{key}={describe_value(value)}" for key, value in function.keywords.items()]
        return f"{describe_function(function.func, version)}({', '.join(bound)})"
    owner, named = getattr(function, "__self__", None), function
    if not hasattr(function, "__qualname__"):
        owner, named, function = function, type(function), type(function).__call__
    text = f"{named.__module__}.{named.__qualname__}"
    if isinstance(version, (int, str)):
        text += f" version {version}"
    elif isinstance(function, (types.FunctionType, types.MethodType)) and (
        text.split(".")[0] not in _VERSIONED
    ):
        text += f" {_NO_VERSION}"
    if owner is not None and not isinstance(owner, (type, nn.Module)):
        options = describe_attributes(owner)
        text += f" {options}" if options else ""
    return text


def describe_attributes(thing: Any) -> dict[str, str]:
    """Describes an object's attributes that are plain values or functions.

    Args:
        thing (Any): The object; such attributes tell how it was constructed.

    Returns:
        dict[str, str]: The descriptions by name.
    """
    plain = (bool, int, float, str, types.FunctionType, types.NoneType)
    return {
        name: describe_value(value)
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        # activation_transform and pytorch-grad-cam's reshape_transform are any callable
        if isinstance(value, plain) or (name.endswith("_transform") and callable(value))
    }


def describe_value(value: Any) -> str:
    """Describes a value, the same in every process.

    Args:
        value (Any): Tensors are described by type, shape and checksum, functions as by
            `describe_function`, other objects by `repr` without addresses in memory.

    Returns:
        str: The description.
    """
    if isinstance(value, Tensor):
        return f"{value.dtype!s} {tuple(value.shape)} {checksum_tensor(value):08x}"
    if callable(value) and not isinstance(value, (type, nn.Module)):
        return describe_function(value)
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(describe_value, value)))}}}"
    return _without_addresses(repr(value))


def digest_modules(modules: Iterable[nn.Module]) -> str:
    """Digests the structure and the state_dict of modules, and the circuits of quantum layers.

    Args:
        modules (Iterable[nn.Module]): The modules.

    Returns:
        str: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(_without_addresses(repr(module)).encode())
        for part in module.modules():
            layer: Any = as_quantum_layer(part)
            if layer is not None:
                simulator = getattr(layer, "simulator", None)
                kind = f"{type(part).__qualname__} {layer.circuit} {describe_value(simulator)}"
                digest.update(f"{kind} {describe_attributes(simulator)}".encode())
        for name, value in sorted(module.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
                digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def checksum_tensor(tensor: Tensor, start: int = 0) -> int:
    """Computes the checksum (CRC-32) of a tensor's values.

    Args:
        tensor (Tensor): The tensor.
        start (int): The checksum of what precedes it.

    Returns:
        int: The checksum.
    """
    return zlib.crc32(_bytes(tensor), start)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
