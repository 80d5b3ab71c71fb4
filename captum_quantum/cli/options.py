"""Reads and checks the options that several commands share."""

import argparse
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from captum_quantum import _checks
from captum_quantum.datasets import Dataset, named_datasets

_LEAST = {"seed": 0, "seeds": 1, "epochs": 1, "batch_size": 1, "limit": 1}


@dataclass(frozen=True)
class Options:
    """The options that all commands share.

    Attributes:
        dataset (Dataset): The data set.
        device (torch.device): The device of models and batches.
        seed (int): Fixes all random numbers.
        training (dict[str, Any]): The arguments of `captum_quantum.training.fit`.
        output (Path): The folder for results.
    """

    dataset: Dataset
    device: torch.device
    seed: int
    training: dict[str, Any]
    output: Path


def read_options(args: argparse.Namespace) -> Options:
    """Checks all integers, the data set and the device."""
    datasets = named_datasets()
    dataset = datasets[_checks.check_choice("--dataset", args.dataset, datasets)]
    given = {name: getattr(args, name, None) for name in _LEAST}
    for name, value in given.items():
        if value is not None:
            _checks.check_int(f"--{name.replace('_', '-')}", value, _LEAST[name])
    training = {**dataset.training, "epochs": given["epochs"] or dataset.training["epochs"]}
    return Options(dataset, _read_device(args.device), args.seed, training, args.output)


def _read_device(name: str) -> torch.device:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        _checks.wrong_value("--device", "auto, cpu, cuda or cuda:N", name)
    n_devices = torch.cuda.device_count()
    device = torch.device(name if name != "auto" else "cuda" if n_devices else "cpu")
    if device.type == "cuda" and (device.index or 0) >= n_devices:
        must = f"one of the {n_devices} CUDA devices that torch finds, or cpu"
        raise ValueError(_checks.sentence("--device", must, name))
    return device


def make_folder(folder: Path) -> None:
    """Creates the folder of --output, and checks that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        got = f"{str(folder)!r} ({error.strerror or error})"
        message = _checks.sentence("--output", "a folder that can be written to", got)
        raise OSError(message) from error


def read_names(option: str, text: str, known: Iterable[str]) -> list[str]:
    """Returns names that are separated by commas, each a known one, none twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        _checks.wrong_value(option, "names separated by commas", text)
    for name in names:
        _checks.check_choice(option, name, known)
    if len(set(names)) < len(names):
        _checks.wrong_value(option, "different names", text)
    return names
