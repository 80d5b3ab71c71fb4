"""TorchQuantum's own run behind the protocol of simulators: the independent reference."""

import torch
from torch import Tensor, nn

from captum_quantum.circuit import Circuit
from captum_quantum.simulate.arguments import check_arguments
from captum_quantum.simulate.readout import expectation_values


class TorchQuantumSimulator:
    """Runs the user's modules, or a circuit's gates one by one, on TorchQuantum, in complex64.

    Attributes:
        exact (bool): True.
        dtypes (tuple[torch.dtype, ...]): torch.complex64 alone.

    Examples:
        >>> import torch
        >>> from captum_quantum import Angle, Circuit, Gate, Observable
        >>> gate = Gate("rx", (0,), (Angle.of_input(0),))
        >>> circuit = Circuit(1, (gate,), (Observable.of("Z0"),), n_inputs=1)
        >>> inputs, weights = torch.tensor([[0.0], [1.0]]), torch.zeros(0)
        >>> TorchQuantumSimulator().expectations(circuit, inputs, weights, torch.complex64)
        tensor([[1.0000],
                [0.5403]])
    """

    exact = True
    dtypes = (torch.complex64,)

    def expectations(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        initial: Tensor | None = None,
    ) -> Tensor:
        """Expectation values, gate by gate; the arguments are those of the protocol.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): Angles that come from inputs, radians, ``(batch, n_input_angles)``.
            weights (Tensor): Angles that come from weights, radians, ``(n_weight_angles,)`` or
                ``(batch, n_weight_angles)``.
            dtype (torch.dtype): torch.complex64.
            initial (Tensor, optional): Normalized amplitudes, ``(batch, 2**n)``; given exactly if
                ``circuit.amplitude_encoding``.

        Returns:
            Tensor: float32, ``(batch, n_observables)``; differentiable.

        Raises:
            TypeError, ValueError: If an argument is wrong.
        """
        check_arguments(self.dtypes, circuit, inputs, weights, dtype, initial)
        from captum_quantum.tq import run_circuit

        angles = circuit.scatter(inputs.float(), weights.float())
        states = run_circuit(circuit, angles, initial)
        return expectation_values(states, circuit.observables, circuit.n_qubits)

    def run_modules(
        self,
        encoder: nn.Module | None,
        ansatz: nn.Module | None,
        circuit: Circuit,
        rows: Tensor,
        reupload: bool,
    ) -> Tensor:
        """Expectation values of the user's own modules.

        Args:
            encoder (nn.Module, optional): A ``tq.Encoder``.
            ansatz (nn.Module, optional): A ``tq.QuantumModule``.
            circuit (Circuit): What they were traced to; its observables are read.
            rows (Tensor): The layer's inputs, ``(batch, ...)``.
            reupload (bool): Whether the encoder is applied before every layer of the ansatz.

        Returns:
            Tensor: float32, ``(batch, n_observables)``; differentiable.
        """
        from captum_quantum.tq import run_modules

        rows = rows.to(torch.complex64 if rows.is_complex() else torch.float32)
        states = run_modules(encoder, ansatz, circuit.n_qubits, rows, reupload)
        return expectation_values(states, circuit.observables, circuit.n_qubits)
