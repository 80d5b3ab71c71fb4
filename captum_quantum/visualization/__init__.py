"""Figures of explanations, comparisons, circuits and interactions.

The only package that imports matplotlib.
"""

from captum_quantum.visualization.circuit import draw_circuit
from captum_quantum.visualization.comparison import (
    METHOD_COLORS,
    plot_comparison,
    plot_seeds,
    plot_wins,
)
from captum_quantum.visualization.explanations import COLORS, Explanation, plot_explanations
from captum_quantum.visualization.files import png, save_figure
from captum_quantum.visualization.interactions import visualize_interactions

__all__ = [
    "COLORS", "METHOD_COLORS", "Explanation", "draw_circuit", "plot_comparison",
    "plot_explanations", "plot_seeds", "plot_wins", "png", "save_figure", "visualize_interactions"
]  # fmt: skip
