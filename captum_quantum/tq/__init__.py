"""Everything that touches TorchQuantum: named encoders and ansaetze, tracing, its own batched run.

This is the only package that imports TorchQuantum, which takes about three seconds.
"""

try:
    import torchquantum
# TorchQuantum imports packages that it does not declare; in versions that do not match they raise
# AttributeError, TypeError and others at import. To a user all mean the same: TorchQuantum cannot
# be imported, and here is a set that can. The cause is chained.
except Exception as error:
    raise ImportError(
        "captum_quantum needs TorchQuantum 0.1.8, whose import failed with "
        f"{type(error).__name__}: {error}. TorchQuantum needs packages that it does not declare; "
        "this set works: pip install 'torchquantum==0.1.8' 'qiskit-ibm-runtime>=0.20,<0.21' "
        "'qiskit-aer>=0.13,<0.14' 'qiskit<1' 'setuptools<81'"
    ) from error

from captum_quantum.tq.run import run_circuit, run_modules
from captum_quantum.tq.templates import ANSAETZE, ENCODERS, LayeredAnsatz, make_ansatz, make_encoder
from captum_quantum.tq.trace import trace, weight_names

__all__ = [
    "ANSAETZE", "ENCODERS", "LayeredAnsatz", "make_ansatz", "make_encoder", "run_circuit",
    "run_modules", "torchquantum", "trace", "weight_names"
]  # fmt: skip
