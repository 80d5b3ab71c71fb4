"""Compares attribution methods by metrics over a data set."""

from captum_quantum.evaluation.compare import compare
from captum_quantum.evaluation.fingerprint import versions
from captum_quantum.evaluation.processes import World
from captum_quantum.evaluation.report import Difference, Report, Score
from captum_quantum.evaluation.seeds import SeedDifference, SeedReport, Spread

__all__ = [
    "Difference",
    "Report",
    "Score",
    "SeedDifference",
    "SeedReport",
    "Spread",
    "World",
    "compare",
    "versions",
]
