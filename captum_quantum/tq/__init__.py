"""Everything that touches TorchQuantum: named encoders and ansaetze, tracing, its own batched run.

This is the only package that imports TorchQuantum, which takes about three seconds.
"""

# First: says what to install where TorchQuantum cannot be imported.
from captum_quantum.tq.installed import torchquantum

# isort: split
from captum_quantum.tq.ansaetze import ANSAETZE, LayeredAnsatz, TwoLocal, make_ansatz
from captum_quantum.tq.feature_maps import ENCODERS, IQPEmbedding, PauliFeatureMap, make_encoder
from captum_quantum.tq.measured import MeasuringTracer
from captum_quantum.tq.run import run_circuit, run_modules
from captum_quantum.tq.trace import (
    Tracer,
    leave_out_states,
    takes_amplitudes,
    weight_names,
    weight_tensors,
)

__all__ = [
    "ANSAETZE", "ENCODERS", "IQPEmbedding", "LayeredAnsatz", "MeasuringTracer", "PauliFeatureMap",
    "Tracer", "TwoLocal", "leave_out_states", "make_ansatz", "make_encoder", "run_circuit",
    "run_modules", "takes_amplitudes", "torchquantum", "weight_names", "weight_tensors"
]  # fmt: skip
