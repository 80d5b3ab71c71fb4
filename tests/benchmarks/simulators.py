"""Measures the fused simulator against its peers: ``make bench``.

Writes ``cpu.json`` (every repetition, machine, versions), ``cpu.md`` (tables, and which bounds are
met) and ``cpu.png`` into the output folder; on a GPU ``cuda.json`` and so on. The tables and the
figure are made from the JSON alone: ``--from-json results/cpu.json`` makes them anew.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("captum-quantum", "torch", "torchquantum", "torchquantum-ng", "pennylane")
PACKAGES += (
    "pennylane-lightning",
    "deepquantum",
    "tensorcircuit-ng",
    "flagquantum",
    "jax",
    "captum",
    "numpy",
)
SECTIONS = ("input_gradient", "training_step", "circuits", "explaining", "growth", "limit")
SECTIONS += ("memory",)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, or reads what was measured, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results",
        help="folder to write to (default: results beside this script)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these tables")
    parser.add_argument("--systems", nargs="+", help="measure only these, by name, beside fused")
    parser.add_argument("--minutes", type=float, help="start no more rows after so many minutes")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--from-json", type=Path, help="remake tables and figure from this file")
    args = parser.parse_args(argv)
    if args.from_json is not None:
        results = json.loads(args.from_json.read_text(encoding="utf-8"))
    else:
        # Read by the peers' own thread pools when they are imported.
        os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
        results = measure(
            args.device, args.threads, args.quick, args.only, args.systems, args.minutes
        )
    write(results, args.output)


def measure(
    device: str,
    threads: int,
    quick: bool,
    only: list[str] | None,
    chosen: list[str] | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """All results as plain data."""
    import systems
    import torch
    from measure import CUDA, FULL, QUICK, Measurement, settings_dict

    systems.silence()
    if chosen is not None:
        names = {"fused", *chosen}
        systems.SYSTEMS = tuple(s for s in systems.SYSTEMS if s.name in names)
    missing = {system.package for system in systems.SYSTEMS} - {
        system.package for system in systems.installed()
    }
    if missing:
        print(f"not installed, left out: {', '.join(sorted(missing))}", file=sys.stderr)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = QUICK if quick else CUDA if device == "cuda" else FULL
    start = datetime.now(timezone.utc)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        tables = Measurement(settings, torch.device(device), threads).run(only, minutes)
    finally:
        torch.set_num_threads(before)
    return {
        "date": start.isoformat(timespec="seconds"),
        "seconds": (datetime.now(timezone.utc) - start).total_seconds(),
        **_commit(),
        "machine": {**_machine(device), "load_before": load},
        "versions": {"python": platform.python_version(), **_versions(PACKAGES)},
        "all_versions": _versions(sorted(d.name for d in metadata.distributions())),
        "settings": {
            "device": device,
            "threads": threads,
            "dtype": "complex64",
            "quick": quick,
            **settings_dict(settings),
        },
        "tables": tables,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes JSON, tables and figure, and prints the tables."""
    import report

    folder.mkdir(parents=True, exist_ok=True)
    name = results["settings"]["device"]
    results["bounds"] = [bound.as_dict() for bound in report.bounds(results)]
    text = report.markdown(results)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    report.figure(results, folder / f"{name}.png")
    print(text)
    print(f"written: {name}.json, {name}.md and {name}.png in {folder}")


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine(device: str) -> dict[str, Any]:
    import torch

    cpu, memory = platform.processor() or platform.machine(), 0.0
    if sys.platform.startswith("linux"):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        models = [line.split(":", 1)[1] for line in info.splitlines() if "model name" in line]
        cpu = models[0].strip() if models else cpu
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "os": platform.platform(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
    }


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    # Only what runs counts as a change: not, for example, the results of an earlier run.
    changed = git("status", "--porcelain", "--", ":/captum_quantum", ":/tests/benchmarks/*.py")
    return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": changed != ""}


if __name__ == "__main__":
    main()
