"""What the results say, from the JSON alone: tables, the bounds they are judged by, the figure."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systems import SYSTEMS

LABELS = {system.name: system.label for system in SYSTEMS}
OURS = "fused"
EAGER = ("torchquantum-layer", "torchquantum-modules")
STATIC = "torchquantum-static"
PEERS = tuple(
    system.name
    for system in SYSTEMS
    if system.in_torch and system.name not in (OURS, STATIC, *EAGER)
)

TITLES = {
    "input_gradient": "Values and gradients of inputs, weights frozen",
    "training_step": "Training step: gradients of inputs and weights",
}

Results = dict[str, Any]


# --- reading ------------------------------------------------------------------------------------


def time_of(row: Results, names: str | Iterable[str]) -> float | None:
    """Median of the fastest of these systems, milliseconds; None where none was measured."""
    names = [names] if isinstance(names, str) else names
    found = [row["systems"][name]["median_ms"] for name in names if name in row["systems"]]
    return min(found, default=None)


def ratios(rows: Sequence[Results], names: str | Iterable[str]) -> list[float]:
    """The time of the fastest of these systems by ours, row by row."""
    times = [(time_of(row, names), time_of(row, OURS)) for row in rows]
    return [other / ours for other, ours in times if other is not None and ours is not None]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def rise(values: Sequence[float]) -> float:
    """The most by which a value is above an earlier one, as a factor; 1 if they only fall."""
    return max(later / min(values[: k + 1]) for k, later in enumerate(values))


# --- bounds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A number that was measured, and what it should be.

    Attributes:
        what (str): What was measured.
        measured (float): The number.
        must, aim (float or None): The bounds, if there are any.
        at_least (bool): Whether they are the least, or the most that it may be.
    """

    what: str
    measured: float
    must: float | None = None
    aim: float | None = None
    at_least: bool = True

    def met(self, bound: float | None) -> bool | None:
        """Whether it keeps a bound."""
        if bound is None:
            return None
        return self.measured >= bound if self.at_least else self.measured <= bound

    def as_dict(self) -> Results:
        """For the JSON."""
        return {
            "what": self.what,
            "measured": self.measured,
            "at_least": self.at_least,
            "must": self.must,
            "must_met": self.met(self.must),
            "aim": self.aim,
            "aim_met": self.met(self.aim),
        }


def bounds(results: Results) -> list[Bound]:
    """Everything that is judged, of the sections that were measured."""
    tables, cuda = results["tables"], results["settings"]["device"] == "cuda"
    made: list[Bound] = []
    for section, least, mean, aim in (
        ("input_gradient", 12, 20, 30),
        ("training_step", 7, 12, 20),
    ):
        rows, name = tables.get(section, []), section.replace("_", " ")
        for who, names in (
            ("TorchQuantum", EAGER),
            ("TorchQuantum in static mode", [STATIC]),
            ("the fastest other peer in PyTorch", PEERS),
        ):
            found = ratios(rows, names)
            if not found:
                continue
            what = f"{name}: time of {who} / ours"
            if cuda and names == EAGER:
                small = ratios([row for row in rows if row["n"] <= 12], names)
                made.append(Bound(f"{what}, geometric mean", geometric_mean(found), 20))
                if small:
                    mean_small = geometric_mean(small)
                    made.append(Bound(f"{what}, geometric mean, n <= 12", mean_small, None, 100))
                continue
            bound = (5, 12, 25) if names == PEERS else (least, mean, aim)
            made.append(Bound(f"{what}, smallest row", min(found), bound[0]))
            made.append(Bound(f"{what}, geometric mean", geometric_mean(found), *bound[1:]))
    made += _other_bounds(tables)
    return made


def _other_bounds(tables: Results) -> list[Bound]:
    made: list[Bound] = []
    for row in tables.get("memory", []):
        few, many = row["layers"]
        ours, other = row["systems"][OURS], row["systems"]["torchquantum-layer"]
        judged = row["train"]
        what = f"memory, {'training step' if judged else 'input gradient'}, n {row['n']}"
        for key, name in (("peak_bytes", "highest"), ("step_bytes", "a later step alone")):
            growth = ours[1][key] / ours[0][key]
            made.append(
                Bound(
                    f"{what}, {name}: ours at {many} layers / at {few}",
                    *(growth, 1.1 if judged else None),
                    at_least=False,
                )
            )
        made.append(
            Bound(
                f"{what}, highest, {many} layers: TorchQuantum's / ours",
                *(other[1]["peak_bytes"] / ours[1]["peak_bytes"], 10 if judged else None),
            )
        )
    for row in tables.get("growth", []):
        per = {int(n): value for n, value in row["ns_per_amplitude"].items()}
        first, last = min(per), max(per)
        what = "time per amplitude, batch 1"
        values = [per[n] for n in sorted(per)]
        made.append(Bound(f"{what}: n {last} / n {first}", per[last] / per[first], 2, 1.3, False))
        made.append(Bound(f"{what}: largest / smallest before it", rise(values), 2, 1.3, False))
    for row in tables.get("circuits", []):
        work = "training step" if row["train"] else "input gradient"
        least, aim = (None, None) if row["train"] else (10, 20)
        if row["circuit"].startswith("a user's modules"):
            least, aim = (8 if row["train"] else 10), None
        made.append(
            Bound(
                f"{row['circuit']}, {work}: time of TorchQuantum / ours",
                ratios([row], "torchquantum-layer")[0],
                *(least, aim),
            )
        )
    for row in tables.get("explaining", []):
        first, second = (own["median_ms"] for own in row["systems"].values())
        if row["what"] == "attribute":
            what = f"attribute(), batch {row['batch']}: LayerGradCam on TorchQuantum / ours"
            made.append(Bound(what, second / first, 5, 10))
        else:
            what = f"attribute_classes(), batch {row['batch']}: 10 classes / 1 class"
            made.append(Bound(what, second / first, 2, 1.3, at_least=False))
    for row in tables.get("limit", []):
        what = f"share of the machine's limit, {_work_name(row)}"
        made.append(Bound(what, row["share"], None, 0.5))
    return made


def _work_name(row: Results) -> str:
    work = "training step" if row["train"] else "input gradient"
    return f"n {row['n']}, {row['layers']} layers, batch {row['batch']}, {work}"


# --- tables -------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned, so that it reads well on a terminal too."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = [" | ".join(cell.ljust(widths[k]) for k, cell in enumerate(row)) for row in cells]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _timing(own: Results | None) -> str:
    if own is None:
        return ""
    spread = "" if own["repetitions"] < 2 else f" ({_number(own['q1_ms'])}-{_number(own['q3_ms'])})"
    return _number(own["median_ms"]) + spread


def _systems_table(rows: Sequence[Results]) -> str:
    names = [n for n in LABELS if any(n in {**row["systems"], **row["left_out"]} for row in rows)]
    reasons: list[str] = []

    def cell(row: Results, name: str) -> str:
        if name in row["systems"]:
            return _timing(row["systems"][name])
        reason = f"{LABELS[name]}: {row['left_out'][name]}"
        if reason not in reasons:
            reasons.append(reason)
        return f"[{reasons.index(reason) + 1}]"

    body = [
        [f"{row['n']}, {row['layers']}, {row['batch']}", *(cell(row, name) for name in names)]
        for row in rows
    ]
    text = _grid(["n, layers, batch", *(LABELS[name] for name in names)], body)
    if reasons:
        text += "\n\nLeft out: " + "; ".join(f"[{k}] {r}" for k, r in enumerate(reasons, 1)) + "."
    compared = {
        "TorchQuantum": EAGER,
        "TorchQuantum, static mode": [STATIC],
        "fastest other peer in PyTorch": PEERS,
        "TensorCircuit (JAX)": ["tensorcircuit-jax"],
    }

    def ratio(row: Results, own: Sequence[str]) -> str:
        return _number(next(iter(ratios([row], own)), None))

    body = [
        [
            f"{row['n']}, {row['layers']}, {row['batch']}",
            *(ratio(row, own) for own in compared.values()),
        ]
        for row in rows
    ]
    return f"{text}\n\nTheir time / ours:\n\n{_grid(['n, layers, batch', *compared], body)}"


def _difference(rows: Sequence[Results]) -> str:
    worst = max(own["largest_difference"] for row in rows for own in row["systems"].values())
    return f"Largest difference of any system's values or gradients from ours: {worst:.0e}."


def _bounds_table(found: Sequence[Bound]) -> str:
    def verdict(bound: Bound, value: float | None) -> str:
        if value is None:
            return ""
        sign = "≥" if bound.at_least else "≤"
        return f"{sign} {value:g}: {'met' if bound.met(value) else 'NOT met'}"

    return _grid(
        ["what", "measured", "must", "aim"],
        [[b.what, _number(b.measured), verdict(b, b.must), verdict(b, b.aim)] for b in found],
    )


def describe_machine(results: Results) -> str:
    """One sentence on where, with what and when."""
    machine, versions = results["machine"], results["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = results["commit"][:12] + (" with changes" if results["uncommitted_changes"] else "")
    return (
        f"{where}, {machine['memory_gib']:.0f} GiB, {machine['os']}; "
        f"threads: {results['settings']['threads']}; complex64; {packages}; "
        f"{results['date'][:10]}, commit {commit}."
    )


def markdown(results: Results) -> str:
    """All tables."""
    tables = results["tables"]
    parts = ["# Benchmark", describe_machine(results)]
    parts += ["## Bounds", _bounds_table(bounds(results))]
    for section, title in TITLES.items():
        if rows := tables.get(section):
            text = "Milliseconds, medians (quartiles). The circuit: RY(x_i); in every layer RX, RY,"
            text += " RZ on every qubit and a CNOT ring; <Z> on every qubit."
            parts += [f"## {title}", f"{text} {_difference(rows)}", _systems_table(rows)]
    if rows := tables.get("circuits"):
        body = [
            [
                *(row["circuit"], "training step" if row["train"] else "input gradient"),
                f"{row['n']}, {row['layers']}, {row['batch']}",
                *(_timing(row["systems"][name]) for name in (OURS, "torchquantum-layer")),
                _number(ratios([row], "torchquantum-layer")[0]),
            ]
            for row in rows
        ]
        header = ["circuit", "work", "n, layers, batch", "fused", "TorchQuantum", "ratio"]
        parts += ["## Other circuits", "Milliseconds, medians (quartiles).", _grid(header, body)]
    if rows := tables.get("explaining"):
        body = [
            [row["what"], str(row["batch"]), name, _timing(own)]
            for row in rows
            for name, own in row["systems"].items()
        ]
        parts += ["## Explaining the demo's model", "Milliseconds, medians (quartiles)."]
        parts += [_grid(["what", "batch", "by", "time"], body)]
    for row in tables.get("growth", []):
        body = [
            [n, _timing(row["systems"][n]), _number(per)]
            for n, per in row["ns_per_amplitude"].items()
        ]
        parts += ["## Growth", "Input gradient, 4 layers, batch 1; ours."]
        parts += [_grid(["qubits", "milliseconds", "ns for each amplitude"], body)]
    if rows := tables.get("limit"):
        parts += ["## Distance to the limit", _limit_text(rows[-1]), _limit_table(rows)]
    if rows := tables.get("memory"):
        parts += ["## Memory", _MEMORY_TEXT, _memory_table(rows)]
    return "\n\n".join(parts) + "\n"


_MEMORY_TEXT = (
    "MiB of tensors alive at the same time, as PyTorch counts them, each in a process of its own. "
    "Highest: in the first and two later steps, beyond what was there with the layer built. "
    "Kept: what is still there after the first step (tables, matrices). Later step: its highest "
    "beside what is kept. With "
    "frozen weights PyTorch keeps few of TorchQuantum's states; the training step is judged."
)


def _memory_table(rows: Sequence[Results]) -> str:
    body = [
        [
            "training step" if row["train"] else "input gradient",
            *(LABELS[name], f"{row['n']}, {own['layers']}, {row['batch']}"),
            *(f"{own[key] / 2**20:.1f}" for key in ("peak_bytes", "kept_bytes", "step_bytes")),
        ]
        for row in rows
        for name, both in row["systems"].items()
        for own in both
    ]
    header = ["work", "system", "n, layers, batch", "highest", "kept", "later step"]
    return _grid(header, body)


def _limit_text(row: Results) -> str:
    return (
        "What the plan's passes over the state would take if each ran at the machine's best rate "
        "of real float32 matrix products or of copying, whichever takes longer; as measured in the "
        f"same run: {row['flops_per_s'] / 1e9:.0f} GFLOP/s and {row['bytes_per_s'] / 1e9:.0f} GB/s "
        "(for the last row)."
    )


def _limit_table(rows: Sequence[Results]) -> str:
    body = [
        [
            *(_work_name(row), _number(row["flops"] / 1e9), _number(row["bytes"] / 1e9)),
            *(_number(row["flops_ms"]), _number(row["bytes_ms"]), _number(row["limit_ms"])),
            *(_timing(row["systems"][OURS]), f"{row['share']:.2f}"),
        ]
        for row in rows
    ]
    header = ["work", "GFLOP", "GB", "ms by FLOP", "ms by bytes", "limit, ms", "ours, ms", "share"]
    return _grid(header, body)


# --- figure -------------------------------------------------------------------------------------

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; and shapes.
STYLES = {
    "fused": ("#000000", "o"),
    "torchquantum-layer": ("#D55E00", "s"),
    "torchquantum-static": ("#E69F00", "D"),
    "pennylane": ("#0072B2", "^"),
    "lightning": ("#56B4E9", "v"),
    "deepquantum": ("#009E73", "P"),
    "tensorcircuit": ("#CC79A7", "X"),
    "flagquantum": ("#999999", "p"),
    "tensorcircuit-jax": ("#CC79A7", "*"),
}


def figure(results: Results, path: Path) -> None:
    """Draws the two tables of all systems: times on a logarithmic axis, row by row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sections = [section for section in TITLES if results["tables"].get(section)]
    if not sections:
        return
    n_rows = max(len(results["tables"][section]) for section in sections)
    top, bottom, height = 1.15, 1.35, 0.42 * n_rows  # inches
    total = top + height + bottom
    figure, axes = plt.subplots(
        1, len(sections), sharey=True, squeeze=False, figsize=(13, total), layout="none"
    )
    figure.subplots_adjust(0.175, bottom / total, 0.93, 1 - top / total, wspace=0.17)
    handles: dict[str, Any] = {}
    for axis, section in zip(axes[0], sections, strict=True):
        _panel(axis, section, results["tables"][section], handles)
    shown = [name for name in STYLES if name in handles]
    figure.legend(
        [handles[name] for name in shown],
        [LABELS[name] for name in shown],
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        frameon=False,
    )
    caption = (
        "Each mark is a median; further left is faster. "
        "TorchQuantum: the faster of VQCLayer's own run of it and hand-written modules with "
        "MeasureAll. Hollow: not in PyTorch. " + describe_machine(results)
    )
    figure.text(0.01, 0.1 / total, "\n".join(textwrap.wrap(caption, 185)), fontsize=8, va="bottom")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Any, section: str, rows: Sequence[Results], handles: Results) -> None:
    for place, row in enumerate(rows):
        times = {name: time_of(row, EAGER if name == EAGER[0] else name) for name in STYLES}
        ours, slow = times[OURS], times[EAGER[0]]
        if ours is not None and slow is not None:
            axis.plot([ours, slow], [place, place], color="0.75", linewidth=3, zorder=1)
            axis.annotate(
                f"{slow / ours:.0f}×" if slow / ours >= 9.95 else f"{slow / ours:.1f}×",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=10,
                fontweight="bold",
            )
        for name, (colour, shape) in STYLES.items():
            if times[name] is not None:
                hollow = name == "tensorcircuit-jax"
                (handles[name],) = axis.plot(
                    [times[name]],
                    [place],
                    color=colour,
                    marker=shape,
                    linestyle="none",
                    zorder=3,
                    markersize=9 if name == OURS else 7,
                    markerfacecolor="white" if hollow else colour,
                )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("milliseconds (logarithmic)")
    axis.set_title(TITLES[section], fontsize=11)
    axis.annotate("TorchQuantum\n/ ours", (1.01, 1.0), xycoords="axes fraction", fontsize=8)
    axis.set_yticks(range(len(rows)))
    axis.set_yticklabels(
        [f"{row['n']} qubits, {row['layers']} layers, batch {row['batch']}" for row in rows]
    )
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", which="major", color="0.85")
    axis.grid(axis="x", which="minor", color="0.95")
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
