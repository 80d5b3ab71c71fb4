"""Compares attribution methods by metrics over a data set.

Names are resolved on first use, so the table of `named_methods` can be read without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_quantum.evaluation.comparison import compare
    from captum_quantum.evaluation.fingerprint import versions
    from captum_quantum.evaluation.methods import NamedMethod, named_methods, register_method
    from captum_quantum.evaluation.processes import World
    from captum_quantum.evaluation.report import Difference, Report, Score, Wins
    from captum_quantum.evaluation.seeds import SeedDifference, SeedReport, Spread

__all__ = [
    "Difference", "NamedMethod", "Report", "Score", "SeedDifference", "SeedReport", "Spread",
    "Wins", "World", "compare", "named_methods", "register_method", "versions"
]  # fmt: skip

_MODULES = {
    "comparison": ("compare",),
    "fingerprint": ("versions",),
    "methods": ("NamedMethod", "named_methods", "register_method"),
    "processes": ("World",),
    "report": ("Difference", "Report", "Score", "Wins"),
    "seeds": ("SeedDifference", "SeedReport", "Spread"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
