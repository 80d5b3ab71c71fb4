"""Which TorchQuantum is installed, whether it can be used, and which of its gates can."""

import math
import sys
from importlib import metadata
from itertools import islice
from typing import Any

import torch

DISTRIBUTIONS = ("torchquantum", "torchquantum-ng")
"""The distributions that install a module ``torchquantum``."""

TORCHQUANTUM_ERRORS = (AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)
"""What TorchQuantum's own code raises where it is wrong, or is not the one that we know."""


def _sets() -> str:
    """What to install, for this Python."""
    if sys.version_info >= (3, 13):
        return "This works: pip install 'torchquantum-ng>=0.2,<0.3'"
    return (
        "This works, with packages that TorchQuantum 0.1.8 needs and does not declare: pip install "
        "'torchquantum==0.1.8' 'qiskit-ibm-runtime>=0.20,<0.21' 'qiskit-aer>=0.13,<0.14' "
        "'qiskit<1' 'setuptools<80.9'"
    )


def name_and_version() -> str:
    """The installed distribution, such as ``"torchquantum 0.1.8"``; both, if there are two."""
    there = [
        f"{name} {distribution.version}"
        for name in DISTRIBUTIONS
        for distribution in islice(metadata.distributions(name=name), 1)  # the one on the path
    ]
    return " and ".join(there) or "a torchquantum that pip has not installed"


def import_torchquantum() -> Any:
    """Imports the module ``torchquantum`` and checks what this package builds on.

    Returns:
        module: The module.

    Raises:
        ImportError: If it cannot be imported, if two distributions have installed a module of this
            name over each other, or if it lacks something; names what.
    """
    found = name_and_version()
    if " and " in found:
        raise ImportError(
            f"{found} are both installed, and each overwrites the other's module torchquantum: "
            "uninstall both, then install one"
        )
    try:
        import torchquantum
        import torchquantum.functional
    # Importing runs the code of some twenty packages, which TorchQuantum does not all declare. In
    # versions that do not match they raise whatever they like, also errors of their own. All mean
    # that TorchQuantum cannot be imported; the message names a set that can, the cause is chained.
    except Exception as error:
        raise ImportError(
            "captum_quantum needs TorchQuantum, whose import failed with "
            f"{type(error).__name__}: {error}. {_sets()}"
        ) from error
    wrong = _what_is_wrong(torchquantum)
    if wrong:
        raise ImportError(
            f"captum_quantum cannot use {found}, the module {torchquantum.__file__}: {wrong}. "
            f"{_sets()}"
        )
    return torchquantum


def _what_is_wrong(tq: Any) -> str:
    """What the module lacks of what this package builds on; an empty string for nothing."""
    functional = tq.functional
    for owner, names in (
        (tq, ("QuantumDevice", "QuantumModule", "Encoder", "GeneralEncoder", "StateEncoder")),
        (functional, ("func_name_dict", "mat_dict", "rx", "cnot", "qubitunitaryfast")),
    ):
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            return f"{owner.__name__} has no {', '.join(missing)}"
    half = 0.3
    try:
        device = tq.QuantumDevice(n_wires=3, bsz=1, record_op=True)
        functional.rx(device, wires=0, params=torch.tensor([2 * half]))
        functional.cnot(device, wires=[0, 1])
        state, history = device.get_states_1d()[0], device.op_history
    except TORCHQUANTUM_ERRORS as error:
        return f"RX and CNOT on a QuantumDevice end in {type(error).__name__}: {error}"
    # Three wires: the state of two would be the same in the other order of wires.
    expected = torch.tensor([math.cos(half), *[0] * 5, -1j * math.sin(half), 0])
    if state.shape != expected.shape or not torch.allclose(
        state.to(torch.complex64), expected, atol=1e-5
    ):
        return "RX on wire 0 and CNOT from wire 0 to 1 do not give their state, wire 0 first"
    keys = {"name", "wires", "params", "inverse", "trainable"}
    if [entry.get("name") for entry in history] != ["rx", "cnot"] or not keys <= set(history[0]):
        return "its QuantumDevice does not record gates by name, wires, params, inverse, trainable"
    return ""


torchquantum = import_torchquantum()
