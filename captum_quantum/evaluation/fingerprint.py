"""What results depend on, in words: package versions, functions, options and checksums."""

import functools
import inspect
import re
import types
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

_VERSIONED = ("captum_quantum", "captum", "torch")


def versions() -> dict[str, str]:
    """The packages that results depend on, with their versions."""
    from captum_quantum import __version__

    found = (__version__, metadata.version("captum"), str(torch.__version__))
    return dict(zip(_VERSIONED, found, strict=True))


def name_in(model: Any, layer: nn.Module) -> str:
    """What the model calls one of its layers."""
    named = model.named_modules() if isinstance(model, nn.Module) else []
    return next((name for name, module in named if module is layer), type(layer).__name__)


def options_of(thing: Any) -> dict[str, str]:
    """An object's plain attributes, which tell how it was constructed, and its functions."""
    plain = (bool, int, float, str, types.FunctionType, types.NoneType)
    return {
        name: words(value)
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if isinstance(value, plain)
    }


def plain(function: Any) -> str:
    """A function's name, what it does and the arguments bound to it, the same in every process.

    Functions of packages whose versions the configuration names go by their names alone.
    """
    if isinstance(function, functools.partial):
        bound = [*map(words, function.args)]
        bound += [f"{key}={words(value)}" for key, value in function.keywords.items()]
        return f"{plain(function.func)}({', '.join(bound)})"
    owner = getattr(function, "__self__", None)
    named = function
    if not hasattr(function, "__qualname__"):
        owner, named = function, type(function)
        function = named.__call__
    text = f"{named.__module__}.{named.__qualname__}"
    if text.split(".")[0] in _VERSIONED:
        return text
    function = inspect.unwrap(getattr(function, "__func__", function))
    if isinstance(function, types.FunctionType):
        text += f" {_hash_of(function)}"
    if owner is not None and not isinstance(owner, (type, nn.Module)) and options_of(owner):
        text += f" {options_of(owner)}"
    return text


def _hash_of(function: types.FunctionType) -> str:
    """Changes with what a function does, its defaults and the values that it encloses."""
    text = [*_words_of_code(function.__code__)]
    text += [words(value) for value in function.__defaults__ or ()]
    text += [f"{k}={words(value)}" for k, value in (function.__kwdefaults__ or {}).items()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            if isinstance(cell.cell_contents, (bool, int, float, str, Tensor)):
                text.append(words(cell.cell_contents))
    return f"{zlib.crc32('; '.join(text).encode()):08x}"


def _words_of_code(code: types.CodeType) -> Iterator[str]:
    yield from (code.co_code.hex(), *code.co_names)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _words_of_code(value)
        else:
            yield words(value)


def words(value: Any) -> str:
    """A value in words that are the same in every process."""
    if isinstance(value, Tensor):
        return f"{value.dtype!s} {tuple(value.shape)} {crc(value):08x}"
    if callable(value) and not isinstance(value, (type, nn.Module)):
        return plain(value)
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(words, value)))}}}"
    return without_addresses(repr(value))


def without_addresses(text: str) -> str:
    """Removes what `repr` says of where objects are in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def crc(tensor: Tensor, start: int = 0) -> int:
    """Checksum of a tensor's values, on from that of others."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return zlib.crc32(flat.view(torch.uint8).numpy().data, start)
