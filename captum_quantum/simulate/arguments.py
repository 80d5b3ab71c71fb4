"""What simulators share: checks of their arguments, and inputs as amplitudes."""

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit


def check_arguments(
    dtypes: tuple[torch.dtype, ...],
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    dtype: torch.dtype,
    initial: Tensor | None,
) -> None:
    """Checks the arguments of `Simulator.expectations`.

    Args:
        dtypes (tuple[torch.dtype, ...]): The precisions that the simulator computes in.
        circuit (Circuit): The circuit.
        inputs (Tensor): Must have the shape ``(batch, n_input_angles)``.
        weights (Tensor): Must have the shape ``(n_weight_angles,)`` or
            ``(batch, n_weight_angles)``.
        dtype (torch.dtype): Must be one of ``dtypes``.
        initial (Tensor, optional): Must have the shape ``(batch, 2**n)``, real or complex, if the
            circuit starts from amplitudes, and be None otherwise.

    Raises:
        ValueError: If one of them is wrong.
    """
    if dtype not in dtypes:
        _checks.wrong_value("dtype", f"one of {', '.join(map(str, dtypes))}", dtype)
    n_inputs, n_weights = len(circuit.columns("input")), len(circuit.columns("weight"))
    if inputs.dim() != 2 or inputs.shape[1] != n_inputs:
        _checks.wrong_value("inputs", f"of shape (batch, {n_inputs})", inputs)
    if weights.shape != (n_weights,) and weights.shape != (inputs.shape[0], n_weights):
        must = f"of shape ({n_weights},) or ({len(inputs)}, {n_weights})"
        _checks.wrong_value("weights", must, weights)
    if circuit.amplitude_encoding:
        shape = (inputs.shape[0], 2**circuit.n_qubits)
        if initial is None or initial.shape != shape:
            _checks.wrong_value("initial", f"amplitudes of shape {shape}", initial)
    elif initial is not None:
        _checks.wrong_value("initial", "None for a circuit without amplitude encoding", initial)


def rescale(rows: Tensor) -> Tensor:
    """Divides each row by its largest modulus: only ratios count, and squares stay in range."""
    return rows / rows.detach().abs().amax(dim=-1, keepdim=True)


def normalize(rows: Tensor) -> Tensor:
    """Divides each row by its norm: ``(batch, 2**n)`` numbers, not all zero, to amplitudes."""
    rows = rescale(rows)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norm
