"""Everything that touches TorchQuantum: named encoders and ansaetze, tracing, its own batched run.

This is the only package that imports TorchQuantum, which takes about three seconds.
"""

from captum_quantum.tq.installed import torchquantum
from captum_quantum.tq.run import run_circuit, run_modules
from captum_quantum.tq.templates import ANSAETZE, ENCODERS, LayeredAnsatz, make_ansatz, make_encoder
from captum_quantum.tq.trace import (
    Tracer,
    known_gates,
    takes_amplitudes,
    weight_names,
    weight_tensors,
)

__all__ = [
    "ANSAETZE", "ENCODERS", "LayeredAnsatz", "Tracer", "known_gates", "make_ansatz", "make_encoder",
    "run_circuit", "run_modules", "takes_amplitudes", "torchquantum", "weight_names",
    "weight_tensors"
]  # fmt: skip
