"""The options that several commands have, and their checks."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Everything heavy is imported where it is used, so that --help answers at once.
Work = Callable[[], None]
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 5e-3}


def add_common(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds --device, --seed and --output."""
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes all that is random (default: 0)")
    parser.add_argument(
        "--output", type=Path, default=Path(output), help=f"folder to write to (default: {output})"
    )


def check_device(name: str) -> "torch.device":
    """The device that --device names."""
    import torch

    from captum_quantum import _checks

    kind, _, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or not (name == "cuda" or index.isdecimal()):
        _checks.wrong_value("--device", "auto, cpu, cuda or cuda:N", name)
    n_devices = torch.cuda.device_count()
    if int(index or 0) >= n_devices:
        raise ValueError(
            _checks.sentence(
                "--device", f"one of the {n_devices} CUDA devices that torch finds, or cpu", name
            )
        )
    return torch.device("cuda", int(index or 0))


def check_folder(folder: Path) -> Path:
    """Makes a folder, and tries whether files can be written there."""
    import tempfile

    from captum_quantum import _checks

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            _checks.sentence(
                "--output",
                "a folder that can be written to",
                f"{str(folder)!r} ({error.strerror or error})",
            )
        ) from error
    return folder


def read_list(option: str, text: str, known: Iterable[str]) -> list[str]:
    """Names that are separated by commas, each known and none twice."""
    from captum_quantum import _checks

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        _checks.wrong_value(option, "names separated by commas", text)
    for name in names:
        _checks.check_choice(option, name, known)
    if len(set(names)) < len(names):
        _checks.wrong_value(option, "different names", text)
    return names
