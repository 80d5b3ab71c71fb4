"""Which room of the package may import which: one way, no circles, heavy packages in one place."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import captum_quantum

PACKAGE = "captum_quantum"

_FLOOR = ["_checks", "_compat", "_files", "_state", "_targets", "_versions"]
_CIRCUITS = [*_FLOOR, "circuit"]
_LAYERS = [
    *_CIRCUITS, "circuit_module", "gradients", "interactions", "layer", "quantum_layer",
    "simulate", "tq"
]  # fmt: skip
_EXPLAINED = [*_CIRCUITS, "attr", "gradients", "metrics", "quantum_layer"]
_ABOVE = [*_LAYERS, *_EXPLAINED, "datasets", "evaluation", "interop", "models", "training"]

MAY_IMPORT = {
    "_checks": [],
    "_compat": ["_checks"],
    "_files": ["_checks"],
    "_state": ["_checks", "_compat"],
    "_targets": ["_checks", "_compat"],
    "_versions": [],
    "circuit": _FLOOR,
    "tq": _CIRCUITS,
    "simulate": [*_CIRCUITS, "tq"],
    "quantum_layer": _CIRCUITS,
    "interactions": _CIRCUITS,  # functions and circuits, never a layer
    "circuit_module": [*_CIRCUITS, "interactions", "simulate", "tq"],
    "gradients": [*_CIRCUITS, "quantum_layer", "simulate"],
    "layer": [room for room in _LAYERS if room != "layer"],
    "interop": _LAYERS,
    "models": [*_LAYERS, "interop"],
    "training": [*_LAYERS, "models"],
    "datasets": [*_LAYERS, "models"],
    "attr": [*_CIRCUITS, "gradients", "quantum_layer"],  # never simulate or tq: any nn.Module
    "metrics": [*_CIRCUITS, "gradients", "quantum_layer"],
    "evaluation": _EXPLAINED,
    "visualization": _ABOVE,
    "experiments": [*_ABOVE, "visualization"],
    "cli": [*_ABOVE, "experiments", "visualization"],
    "__main__": ["cli"],
}
"""From a room, the rooms that it may import besides itself. A new room needs a line here."""

UPWARDS = {
    ("layer", "visualization"): "layer.draw()",
    ("layer", "interop"): "layer.to_qiskit() and VQCLayer.from_qiskit()",
    ("evaluation.report", "visualization"): "report.figure()",
    ("evaluation.seeds", "visualization"): "figure() of a report over several seeds",
}
"""Methods that users expect on an object lower down: imports inside of functions, nowhere else."""

HOMES = {
    "matplotlib": ["visualization"],
    "torchquantum": ["tq"],
    "pennylane": ["interop"],
    "qiskit_machine_learning": ["interop"],
}
"""Packages that only these rooms import; others may name their types, below TYPE_CHECKING."""

LAZY = {
    "mlxtend", "pennylane", "qiskit", "qiskit_machine_learning", "sklearn", "torchaudio",
    "torchvision",
}  # fmt: skip
"""Packages that are imported inside of functions, so that importing a room stays light."""

LONGEST = 500


@dataclass(frozen=True)
class Import:
    """One import: from a module of ours to a module of ours or to another package.

    Attributes:
        source, target (str): Full names.
        lazy (bool): Whether it stands inside of a function.
        typing_only (bool): Whether it stands below ``if TYPE_CHECKING``.
    """

    source: str
    target: str
    lazy: bool
    typing_only: bool

    @property
    def ours(self) -> bool:
        return self.target.split(".")[0] == PACKAGE


def read_sources() -> dict[str, str]:
    """The source of every module by its name; packages end in ``__init__``."""
    root = Path(captum_quantum.__file__).parent
    return {
        ".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)): path.read_text(
            encoding="utf-8"
        )
        for path in sorted(root.rglob("*.py"))
    }


def room(module: str) -> str:
    """The room of a module; the package itself is ``__init__``."""
    return [*module.split("."), "__init__"][1]


@cache
def import_statements(text: str) -> tuple[tuple[str, bool, bool], ...]:
    """The full names that a source imports; whether in a function; whether for types only."""

    def inside(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[tuple[str, bool, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{a.name}", lazy, typing_only) for a in node.names)
        lazy |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from inside(child, lazy, typing_only)

    return tuple(inside(ast.parse(text), False, False))


def imports(sources: dict[str, str]) -> list[Import]:
    """All imports of all modules, each resolved to the module that is imported."""

    def target(name: str) -> str:
        if name.split(".")[0] != PACKAGE:
            return name
        while name not in sources and f"{name}.__init__" not in sources:
            name = name.rpartition(".")[0]
        return name if name in sources else f"{name}.__init__"

    return [
        Import(source, target(name), lazy, typing_only)
        for source, text in sources.items()
        for name, lazy, typing_only in import_statements(text)
    ]


def is_listed(found: Import) -> bool:
    """Whether an import upwards is one of those that users expect."""
    inner = found.source.removeprefix(f"{PACKAGE}.").removesuffix(".__init__")
    allowed = (inner, room(found.target)) in UPWARDS
    return allowed and (found.lazy or found.typing_only)


def problems(sources: dict[str, str]) -> list[str]:
    """Everything that is against the rules above."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for name, text in sources.items():
        if (length := len(text.splitlines())) > LONGEST:
            found.append(f"{name} has {length} lines")
        if room(name) != "__init__" and room(name) not in MAY_IMPORT:
            found.append(f"{name} is in no known room")
    for one in imports(sources):
        here, package = room(one.source), one.target.split(".")[0]
        if here == "__init__":
            if not (one.typing_only or package in ("importlib", "typing")):
                found.append(f"{one.source} imports {one.target}")
            continue
        if one.ours:
            there = room(one.target)
            if there == "__init__":  # the version
                continue
            if there != here and there not in MAY_IMPORT.get(here, []) and not is_listed(one):
                found.append(f"{one.source} imports upwards: {one.target}")
            if there == "tq" and here != "tq" and not (one.lazy or one.typing_only):
                found.append(f"{one.source} imports TorchQuantum at its top, by {one.target}")
            if not is_listed(one):
                graph.setdefault(one.source, set()).add(one.target)
        else:
            if here not in HOMES.get(package, [here]) and not one.typing_only:
                found.append(f"{one.source} imports {one.target}")
            if package in LAZY and not (one.lazy or one.typing_only):
                found.append(f"{one.source} imports {one.target} at its top")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"circle: {' <- '.join(error.args[1])}")
    return found


def test_the_package_keeps_the_rules():
    assert problems(read_sources()) == []


def test_the_rules_have_no_circle_themselves():
    assert list(TopologicalSorter(MAY_IMPORT).static_order())[-1] == "__main__"


def test_every_exception_is_used():
    used = {
        (one.source.removeprefix(f"{PACKAGE}.").removesuffix(".__init__"), room(one.target))
        for one in imports(read_sources())
    }
    assert {pair for pair in UPWARDS if "interop" not in pair} <= used


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("circuit.planted", "from captum_quantum.layer import VQCLayer", "imports upwards"),
        ("circuit.planted", "def f():\n    import captum_quantum.layer", "imports upwards"),
        ("attr.planted", "from captum_quantum import simulate", "imports upwards"),
        ("attr.planted", "from captum_quantum.layer import VQCLayer", "imports upwards"),
        ("evaluation.planted", "from captum_quantum import cli", "imports upwards"),
        ("layer", "from captum_quantum.visualization import draw", "imports upwards"),
        ("metrics.planted", "def f():\n    import matplotlib.pyplot", "imports matplotlib.pyplot"),
        ("datasets.planted", "import sklearn.datasets", "imports sklearn.datasets at its top"),
        ("layer", "import torchquantum as tq", "imports torchquantum"),
        ("layer", "from captum_quantum import tq", "imports TorchQuantum at its top"),
        ("attr.planted", "from captum_quantum.attr import QuantumLayerGradCam", "circle: "),
        ("planted", "", "is in no known room"),
        ("cli.planted", "\n" * (LONGEST + 1), f"has {LONGEST + 1} lines"),
        ("__init__", "from captum_quantum import layer", "imports captum_quantum.layer"),
    ],
)
def test_a_violation_is_found(module, source, says):
    sources = read_sources()
    name = f"{PACKAGE}.{module}"
    sources[name] = source
    if says == "circle: ":
        sources[f"{PACKAGE}.attr.__init__"] += "from captum_quantum.attr import planted\n"
    assert any(says in problem for problem in problems(sources)), problems(sources)
