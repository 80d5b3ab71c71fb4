"""What the commands write and print: versions and device, percentages, text."""

import platform
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from captum_quantum import __version__

WEIGHTS = "weights.safetensors"


def environment(device: torch.device) -> dict[str, Any]:
    """Returns device, number of threads and versions of packages, as they are now."""
    versions = {"captum-quantum": __version__, "python": platform.python_version()}
    for name in ("captum", "numpy", "scikit-learn", "torch", "torchquantum"):
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


def percent(share: Tensor | float) -> str:
    """Formats a share in [0, 1] as a percentage."""
    value = 100 * float(share)
    return "< 0.1 %" if 0 < value < 0.1 else f"{value:.1f} %"


def say(text: str) -> None:
    """Prints a text; characters that the terminal cannot show become question marks."""
    try:
        print(text)
    except UnicodeEncodeError:
        print(text.encode("ascii", "replace").decode())
