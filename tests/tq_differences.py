"""What of the installed TorchQuantum works: ``python tests/tq_differences.py``.

Runs every gate (as a function and as a class), every encoder list and every layer on random states
and angles, and compares with the matrices of this package. `tests/docs/gates.md` has the result for
both TorchQuantums; `tests/test_tq_differences.py` holds it against what is installed.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_quantum.circuit import gate_matrix, gate_type
from captum_quantum.tq import torchquantum as tq

WAYS = ("alone", "batch", "inverse", "class")
UNKNOWN = {"cu2": (2, 2), "globalphase": (1, 1)}
"""Gates with angles for which this package has no matrix: wires and angles."""

ERRORS = (
    AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""What TorchQuantum's gates end in."""

NOT_GATES = frozenset(["qubitunitary", "qubitunitaryfast", "qubitunitarystrict", "reset"])
"""Names among TorchQuantum's functions that take a matrix, or are no gates."""


def attempt(work: Callable[[], bool]) -> str:
    """``"works"``, ``"differs"``, or the name of the error."""
    try:
        return "works" if work() else "differs"
    except ERRORS as error:
        return type(error).__name__


def sizes(name: str) -> tuple[int, int]:
    """Number of wires and angles that a gate is tried with."""
    if name in UNKNOWN:
        return UNKNOWN[name]
    kind = gate_type(name)
    return kind.n_wires or 3, kind.n_angles


def agrees(name: str, start: Tensor, angles: Tensor, inverse: bool, end: Tensor) -> bool:
    """Whether a gate did what its matrix does; of one without a matrix, whether norms stay."""
    if name in UNKNOWN:
        return torch.allclose(end.norm(dim=1), start.norm(dim=1), atol=1e-4)
    n_wires = sizes(name)[0]
    matrix = gate_matrix(name, angles, n_wires, inverse=inverse, dtype=torch.complex64)
    return torch.allclose(end, (matrix @ start[..., None])[..., 0], atol=1e-4)


def try_gate(name: str, way: str) -> str:
    """How one gate fares in one of `WAYS`."""
    n_wires, n_angles = sizes(name)
    generator = torch.Generator().manual_seed(1)
    n_samples = 1 if way in ("alone", "inverse") else 2
    angles = 3 * torch.rand(1 if way == "class" else n_samples, n_angles, generator=generator)
    start = torch.randn(n_samples, 2**n_wires, dtype=torch.complex64, generator=generator)

    def work() -> bool:
        device = tq.QuantumDevice(n_wires=n_wires, bsz=n_samples)
        device.set_states(start)
        params = angles if n_angles else None
        sized = n_wires if name not in UNKNOWN and gate_type(name).n_wires is None else None
        wires = list(range(n_wires))
        if way == "class":
            gate = tq.op_name_dict[name](
                has_params=n_angles > 0,
                trainable=n_angles > 0,
                init_params=params[0].tolist() if n_angles else None,
                n_wires=sized,
            )
            gate(device, wires=wires)
        else:
            function = tq.functional.func_name_dict[name]
            function(device, wires=wires, params=params, n_wires=sized, inverse=way == "inverse")
        end = device.get_states_1d().detach()
        return agrees(name, start, angles, way == "inverse", end)

    return attempt(work)


def gates() -> dict[str, dict[str, str]]:
    """How every gate of TorchQuantum fares in each of `WAYS`."""
    names = sorted({*tq.functional.func_name_dict} - NOT_GATES)
    return {name: {way: try_gate(name, way) for way in WAYS} for name in names}


def encoders() -> dict[str, str]:
    """How every list of encoder gates fares, run on as many wires as it has, up to 16."""

    def work(entries: list[dict[str, Any]]) -> bool:
        n_wires = 1 + max(max(entry["wires"]) for entry in entries)
        n_inputs = 1 + max(max(entry.get("input_idx") or [-1]) for entry in entries)
        device = tq.QuantumDevice(n_wires=n_wires, bsz=2)
        tq.GeneralEncoder(entries)(device, torch.rand(2, n_inputs))
        return torch.allclose(device.get_states_1d().norm(dim=1), torch.ones(2), atol=1e-4)

    lists = tq.encoding.encoder_op_list_name_dict
    small = {n: e for n, e in lists.items() if max(max(g["wires"]) for g in e) < 16}
    return {name: attempt(lambda e=entries: work(e)) for name, entries in sorted(small.items())}


def layers() -> dict[str, str]:
    """How every layer fares on four wires."""

    def work(make: Any) -> bool:
        device = tq.QuantumDevice(n_wires=4, bsz=2)
        make({"n_wires": 4, "n_blocks": 2, "n_layers_per_block": 1})(device)
        return torch.allclose(device.get_states_1d().norm(dim=1), torch.ones(2), atol=1e-4)

    names = sorted(tq.layer.layer_name_dict.items())
    return {name: attempt(lambda m=make: work(m)) for name, make in names}


def report() -> dict[str, Any]:
    """Everything that does not work: of gates by way, of encoders and layers by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a tensor that globalphase turns into a number
        return {
            "gates": {n: w for n, w in gates().items() if set(w.values()) != {"works"}},
            "encoders": {n: how for n, how in encoders().items() if how != "works"},
            "layers": {n: how for n, how in layers().items() if how != "works"},
        }


def table(found: dict[str, Any]) -> str:
    """The report as the two tables of `tests/docs/gates.md`."""
    rows = [f"| gate | {' | '.join(WAYS)} |", f"|---{'|---' * len(WAYS)}|"]
    rows += [
        f"| `{name}` | {' | '.join(ways[way] for way in WAYS)} |"
        for name, ways in found["gates"].items()
    ]
    rows += ["", "| encoder or layer | |", "|---|---|"]
    named = {**found["encoders"], **found["layers"]}
    rows += [f"| `{name}` | {how} |" for name, how in named.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(report()))
