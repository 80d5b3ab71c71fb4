"""The one place where user errors are worded: argument, what it must be, what came."""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor

_LONGEST_VALUE = 80


def describe(value: Any) -> str:
    """Describes a value for an error message; a tensor by dtype, shape and device."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    if isinstance(value, torch.nn.Module):
        return f"a {type(value).__name__} module"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 3] + "..."
    return f"{text} ({type(value).__name__})"


def sentence(argument: str, must: str, got: str) -> str:
    """Words an error: ``argument must be ...; got ...``."""
    return f"{argument} must be {must}; got {got}"


def refuse(argument: str, must: str, got: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises an error with that sentence."""
    raise error(sentence(argument, must, got))


def wrong_value(argument: str, must: str, value: Any) -> NoReturn:
    """Raises ValueError for a value of the right type."""
    refuse(argument, must, describe(value))


def wrong_type(argument: str, must: str, value: Any) -> NoReturn:
    """Raises TypeError."""
    refuse(argument, must, describe(value), TypeError)


def check_int(argument: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns ``value`` if it is an integer in ``[low, high]``."""
    must = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, int):
        wrong_type(argument, must, value)
    if value < low or (high is not None and value > high):
        wrong_value(argument, must, value)
    return value


def check_number(
    argument: str, value: Any, must: str, valid: Callable[[int | float], bool]
) -> None:
    """Raises TypeError if a value is not a real number, ValueError if it is not a valid one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        wrong_type(argument, must, value)
    if not valid(value):
        wrong_value(argument, must, value)


def check_choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Returns ``value`` if it is one of the names; else the error offers the nearest one."""
    names = sorted(choices)
    must = f"one of {', '.join(names)}"
    if not isinstance(value, str):
        wrong_type(argument, must, value)
    if value not in names:
        raise ValueError(sentence(argument, must, describe(value)) + near_miss(value, names))
    return value


def near_miss(name: str, names: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest name, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_real(argument: str, value: Any) -> Tensor:
    """Returns ``value`` if it is a real floating-point tensor."""
    if not isinstance(value, Tensor):
        wrong_type(argument, "a real floating-point tensor", value)
    if not value.is_floating_point():
        wrong_type(argument, "a real floating-point tensor", value)
    return value


def check_finite(argument: str, value: Tensor) -> None:
    """Raises ValueError where a tensor holds NaN or infinity (synchronises the device)."""
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if math.isfinite(float(value.sum())):  # much quicker, and never finite if one value is not
        return
    finite = torch.isfinite(value)
    if bool(finite.all()):
        return
    where = tuple(int(i) for i in (~finite).nonzero()[0])
    got = f"{int((~finite).sum())} of {value.numel()} values NaN or infinite, the first, "
    refuse(argument, "finite everywhere", f"{got}{float(value[where])}, at index {where}")


def check_rows(output: Tensor) -> None:
    """Raises ValueError if a model's output has no dimension of examples."""
    if output.dim() == 0:
        must = "a tensor with one row for each example"
        refuse("forward_func's output", must, "a tensor without dimensions")


def check_target(target: Any, output: Tensor) -> None:
    """Checks a Captum target against the model's output before anything is selected.

    Args:
        target: None, an integer, a tuple of integers, a tensor with one integer or one per example,
            a list of integers or tuples.
        output (Tensor): The model's output, shape ``(batch, ...)``.

    Raises:
        ValueError: If the target is missing, out of range, or not one per example.
        TypeError: If it is none of these types, or not of integers.
    """
    check_rows(output)
    shape = batch, *rest = tuple(output.shape)
    if target is None:
        if output[0].numel() != 1:
            refuse("target", f"given for an output of shape {shape}", "None")
        return
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            wrong_type("target", "integers", target)
        if target.numel() != 1 and (target.dim() != 1 or target.numel() != batch):
            wrong_value("target", f"one integer, or {batch}, one for each example", target)
        entries = list(dict.fromkeys(target.reshape(-1).tolist()))  # each once
    elif isinstance(target, list):
        if len(target) != batch:
            wrong_value("target", f"a list of {batch} indices, one for each example", target)
        entries = target
    elif isinstance(target, (int, tuple)):
        entries = [target]
    else:
        must = "an integer, a tuple, a tensor, a list or a function of the output"
        wrong_type("target", must, target)
    for entry in entries:
        index = entry if isinstance(entry, tuple) else (entry,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in index):
            wrong_type("target", "integers", entry)
        if len(index) != len(rest):
            wrong_value("target", f"{len(rest)} indices for an output of shape {shape}", entry)
        for i, size in zip(index, rest, strict=True):
            if not -size <= i < size:
                must = f"an index in [0, {size - 1}] for an output of shape {shape}"
                refuse("target", must, str(entry))
