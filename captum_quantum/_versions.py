"""Versions that a result or a bug report needs."""

import platform
from importlib import metadata

PACKAGES = (
    "torch", "torchvision", "torchaudio", "captum", "torchquantum",
    "torchquantum-ng", "qiskit", "qiskit-aer", "qiskit-ibm-runtime", "pennylane", "numpy", "scipy",
    "matplotlib", "scikit-learn"
)  # fmt: skip
"""Distributions that matter for a bug report."""


def versions() -> dict[str, str]:
    """The versions of Python and of those of `PACKAGES` that are installed.

    Returns:
        dict[str, str]: Versions by name. Nothing is imported to find them.
    """
    from captum_quantum import __version__

    found = {"captum-quantum": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        for distribution in metadata.distributions(name=name):
            found.setdefault(name, distribution.version)
    return found


def show_versions() -> None:
    """Prints what a bug report needs: system, versions, CUDA, GPU.

    A torch that cannot be imported is told, not raised.

    Examples:
        >>> import captum_quantum
        >>> captum_quantum.show_versions()  # doctest: +ELLIPSIS
        captum-quantum ...
        python ...
    """
    lines = {**versions(), "system": platform.platform()}
    try:
        import torch
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        lines["torch's import"] = f"{type(error).__name__}: {error}"
    else:
        lines["CUDA of torch"] = str(torch.version.cuda)
        lines["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "None"
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")
