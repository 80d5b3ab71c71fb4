"""Reads and checks the options that several commands share."""

import argparse
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from captum_quantum import _checks, models
from captum_quantum.datasets import named_datasets


def read_options(args: argparse.Namespace) -> None:
    """Checks all integers, the data set and the device.

    ``args.dataset`` becomes the `Dataset` and ``args.device`` the torch.device of these names, and
    ``args.training`` the arguments of `captum_quantum.training.fit`.
    """
    datasets = named_datasets()
    args.dataset = datasets[_checks.check_choice("--dataset", args.dataset, datasets)]
    for name, least in {"seed": 0, "seeds": 1, "epochs": 1, "batch_size": 1, "limit": 1}.items():
        if getattr(args, name, None) is not None:
            _checks.check_int(f"--{name.replace('_', '-')}", getattr(args, name), least)
    epochs = getattr(args, "epochs", None) or args.dataset.training["epochs"]
    args.training = {**args.dataset.training, "epochs": epochs}
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", args.device):
        _checks.wrong_value("--device", "auto, cpu, cuda or cuda:N", args.device)
    n_devices = torch.cuda.device_count()
    name = ("cuda" if n_devices else "cpu") if args.device == "auto" else args.device
    args.device = torch.device(name)
    if args.device.type == "cuda" and (args.device.index or 0) >= n_devices:
        must = f"one of the {n_devices} CUDA devices that torch finds, or cpu"
        _checks.refuse("--device", must, name)


def make_folder(folder: Path) -> None:
    """Creates the folder of --output, and checks that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        got = f"{str(folder)!r} ({error.strerror or error})"
        _checks.refuse("--output", "a folder that can be written to", got, OSError)


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


def load_weights(args: argparse.Namespace, device: str | torch.device) -> models.HybridClassifier:
    """Reads the file of --weights; the model must have as many classes as the data set."""
    model, n_classes = models.load_model(args.weights, device=device), len(args.dataset.classes)
    if model.n_classes != n_classes:
        must = f"a model with {n_classes} classes, as {args.dataset.name} has"
        got = f"{str(args.weights)!r}, a model with {model.n_classes}"
        _checks.refuse("--weights", must, got)
    return model
