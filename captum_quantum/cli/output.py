"""What all commands write and print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "weights.safetensors"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def environment(device: "torch.device") -> dict[str, Any]:
    """What the numbers were computed with."""
    import platform
    from importlib import metadata

    import torch

    from captum_quantum import __version__

    names = ("captum", "numpy", "scikit-learn", "torch", "torchquantum")
    versions = {"captum-quantum": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def article(digit: int) -> str:
    """A digit with its article."""
    return f"an {digit}" if digit == 8 else f"a {digit}"


def percent(share: "Tensor | float") -> str:
    """A share as a percentage."""
    percent = 100 * float(share)
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"


def say(text: str) -> None:
    """Prints, with ? for what the terminal cannot show."""
    try:
        print(text)
    except UnicodeEncodeError:
        print(text.encode("ascii", "replace").decode())
