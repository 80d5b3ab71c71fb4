"""VQCLayer: a variational quantum circuit as one PyTorch module."""

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, Observable, read_observables
from captum_quantum.gradient import (
    RULES,
    Pullback,
    attach,
    first_derivative,
    only_inputs,
    pullback,
)
from captum_quantum.simulate import SIMULATORS
from captum_quantum.simulate.amplitudes import normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _columns(values: Tensor, indices: list[int], dim: int) -> Tensor:
    """Picks entries along a dimension; all of them in order is no work."""
    if indices == list(range(values.shape[dim])):
        return values
    return values.index_select(dim, torch.tensor(indices, dtype=torch.long, device=values.device))


class _Adjoint(torch.autograd.Function):
    """A simulator's vector-Jacobian product as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weights: Tensor,
        initial: Tensor | None,
        simulator: Any,
        circuit: Circuit,
        dtype: torch.dtype,
    ) -> Tensor:
        values: Tensor
        values, ctx.pullback = simulator.vjp(
            circuit, inputs, weights, dtype, initial=initial, needs=ctx.needs_input_grad[:3]
        )
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        derivatives = ctx.pullback(grad)
        return (*(None if by is None else first_derivative(by) for by in derivatives), *[None] * 3)


class VQCLayer(nn.Module):
    r"""A variational quantum circuit: angles in, expectation values out.

    The inputs are encoded into a state, an ansatz with trainable weights acts on it, and
    expectation values of observables are read:

    .. math:: y_k = \langle 0 | E(x)^\dagger A(w)^\dagger O_k A(w) E(x) | 0 \rangle

    Encoder and ansatz are TorchQuantum modules, which own the gates and the weights. They are
    traced once into ``circuit``, so that every angle's source is known. The layer holds no quantum
    state. Defaults are the circuit of arXiv:2306.03741.

    Args:
        n_qubits (int): Number of qubits.
        n_layers (int): Number of layers of a named ansatz.
        encoder (str or nn.Module): ``"ry"``, ``"rx"``, ``"rz_after_h"``, ``"ry_rz"``,
            ``"amplitude"``, one of TorchQuantum's encoder lists by name, or a ``tq.Encoder``.
        ansatz (str or nn.Module): ``"rx_ry_rz_ring"``, ``"strongly_entangling"``,
            ``"real_amplitudes"``, ``"qcnn"``, one of TorchQuantum's layers by name, or a
            ``tq.QuantumModule``.
        reupload (bool): Whether to encode the inputs anew before every layer of the ansatz.
        observables (list, optional): What to read: Pauli strings such as ``"Z0"``, ``"X0 Z2"`` or
            ``"XIZ"``, or mappings from such to coefficients. Default: ``<Z>`` on every qubit.
        simulator (str): ``"fused"``: neighbouring gates become few large matrix products; or
            ``"torchquantum"``: TorchQuantum's own run of the modules, in complex64. Both are exact.
        gradient (str, optional): The derivative rule: ``"adjoint"``, ``"backprop"``,
            ``"parameter-shift"``, ``"commutator"`` or ``"finite-difference"``; see
            :func:`quantum_gradient`. Default: ``"adjoint"`` with the fused simulator, else
            ``"backprop"``, which gives derivatives of any order.
        dtype (torch.dtype): torch.complex64 or torch.complex128: the least precision of the
            simulation; for float64 inputs the fused simulator takes complex128 in any case.

    Shape:
        - Input: ``(..., n_inputs)``, real, radians (amplitude encoding: numbers, not all zero).
        - Output: ``(..., n_observables)``, real, in the input's dtype and on its device.

    Attributes:
        encoder (nn.Module): The TorchQuantum encoder.
        ansatz (nn.Module): The TorchQuantum ansatz.
        circuit (Circuit): The traced circuit.

    Raises:
        TypeError, ValueError: If an argument or an input is wrong.
        CircuitError: If the modules cannot be traced.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> layer = VQCLayer(4, n_layers=2)
        >>> layer(torch.rand(8, 4)).shape
        torch.Size([8, 4])
        >>> layer = VQCLayer(3, encoder="rx", ansatz="real_amplitudes", observables=["Z0 Z1"])
        >>> layer(torch.zeros(1, 3)).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        n_qubits: int,
        n_layers: int = 2,
        *,
        encoder: str | nn.Module = "ry",
        ansatz: str | nn.Module = "rx_ry_rz_ring",
        reupload: bool = False,
        observables: Sequence[Observable | str | Mapping[str, float]] | None = None,
        simulator: str = "fused",
        gradient: str | None = None,
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        super().__init__()
        _checks.check_int("n_qubits", n_qubits, 1, 24)
        _checks.check_int("n_layers", n_layers, 1)
        if not isinstance(reupload, bool):
            _checks.wrong_type("reupload", "True or False", reupload)
        self.simulator = _checks.check_choice("simulator", simulator, SIMULATORS)
        fused = simulator == "fused"
        if gradient is None:
            gradient = "adjoint" if fused else "backprop"
        self.gradient = _checks.check_choice("gradient", gradient, RULES)
        if gradient == "adjoint" and not fused:
            _checks.wrong_value(
                "gradient", "another than 'adjoint' for simulator 'torchquantum'", gradient
            )
        if dtype not in (torch.complex64, torch.complex128):
            _checks.wrong_value("dtype", "torch.complex64 or torch.complex128", dtype)
        if dtype != torch.complex64 and not fused:
            _checks.wrong_value("dtype", "torch.complex64 for simulator 'torchquantum'", dtype)
        read = read_observables(observables, n_qubits)
        from captum_quantum import tq

        self.encoder = tq.make_encoder(encoder, n_qubits)
        self.ansatz = tq.make_ansatz(ansatz, n_qubits, n_layers)
        if reupload and not (
            hasattr(self.ansatz, "layer")
            and isinstance(getattr(self.ansatz, "n_layers", None), int)
        ):
            _checks.wrong_type(
                "ansatz",
                "one with n_layers and layer(qdev, index), as captum_quantum.tq.LayeredAnsatz, for "
                "reupload=True",
                self.ansatz,
            )
        self.reupload = reupload
        self.dtype = dtype
        self.circuit: Circuit = tq.trace(self.encoder, self.ansatz, n_qubits, read, reupload)
        self._weights = [attrgetter(name) for name in tq.weight_names(self.encoder, self.ansatz)]
        self._simulator: Any = SIMULATORS[simulator]()

    @property
    def n_qubits(self) -> int:
        """Number of qubits."""
        return self.circuit.n_qubits

    @property
    def n_inputs(self) -> int:
        """Number of input features."""
        return self.circuit.n_inputs

    @property
    def n_observables(self) -> int:
        """Number of expectation values."""
        return len(self.circuit.observables)

    @property
    def weights(self) -> Tensor:
        """All weights as they are now, in radians, flattened: shape ``(n_weights,)``."""
        flat = [read(self).reshape(-1) for read in self._weights]
        if not flat:
            return torch.zeros(0)
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Gathers every gate's angles: ``(batch, n_inputs)`` to ``(batch, n_angles)``, radians."""
        return self.circuit.angle_table(inputs, self.weights.to(inputs.device))

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """Initial states ``(batch, 2**n)`` under amplitude encoding, None otherwise."""
        if not self.circuit.amplitude_encoding:
            return None
        return normalize(inputs)

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Expectation values for every gate's angles given one by one.

        Args:
            angles (Tensor): Shape ``(batch, n_angles)``, radians, as `angle_table` gives them.
            amplitudes (Tensor, optional): Initial states, shape ``(batch, 2**n)``.
            own_weights (bool): Promises that the columns that come from weights hold the layer's
                own in every row, so that matrices can be shared by the batch.

        Returns:
            Tensor: Shape ``(batch, n_observables)``, differentiable by autograd.
        """
        weights = (
            self._weight_angles() if own_weights else angles[:, self.circuit.columns("weight")]
        )
        values: Tensor = self._simulator.expectations(
            self.circuit,
            angles[:, self.circuit.columns("input")],
            weights,
            self._complex(angles),
            initial=amplitudes,
        )
        return values.to(angles.dtype)

    def adjoint_pullback(self, inputs: Tensor) -> Pullback | None:
        """Adjoint differentiation by inputs; None where the simulator does not offer it.

        Args:
            inputs (Tensor): Input angles, one column for each gate that takes one; under amplitude
                encoding the layer's inputs, ``(batch, 2**n)``.

        Returns:
            Callable: ``(batch, n_observables)`` to the shape of inputs.
        """
        if not hasattr(self._simulator, "vjp"):
            return None
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            initial = self.amplitudes(leaf)
            _, pullback = self._simulator.vjp(
                self.circuit,
                leaf if initial is None else leaf[:, :0],
                self._weight_angles(),
                self._complex(leaf),
                initial=initial,
                needs=(initial is None, False, initial is not None),
            )

        def pull(grad: Tensor) -> Tensor:
            by_inputs: Tensor
            by_inputs, _, by_initial = pullback(grad)
            if initial is None:
                return by_inputs
            return torch.autograd.grad(
                initial, leaf, by_initial.to(initial.dtype), retain_graph=True
            )[0]

        return pull

    def _complex(self, inputs: Tensor) -> torch.dtype:
        """The precision of the simulation: that of the layer, or of float64 inputs."""
        dtype = torch.complex128 if inputs.dtype == torch.float64 else self.dtype
        return dtype if dtype in self._simulator.dtypes else self.dtype

    def _weight_angles(self) -> Tensor:
        weights = self.weights
        # Weights that the model itself has computed may depend on what is explained.
        if only_inputs() and all(read(self).is_leaf for read in self._weights):
            weights = weights.detach()
        return _columns(weights, self.circuit.indices("weight"), 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Expectation values ``(..., n_observables)`` for inputs ``(..., n_inputs)``."""
        self._check_inputs(inputs)
        if inputs.dim() != 2:  # a reshape that changes nothing is one more node on the way back
            rows = inputs.reshape(math.prod(inputs.shape[:-1]), self.n_inputs)
            return self._of_rows(rows).reshape(*inputs.shape[:-1], self.n_observables)
        return self._of_rows(inputs)

    def _of_rows(self, rows: Tensor) -> Tensor:
        values = self._values(rows) if len(rows) else self._no_values(rows)
        return values.to(rows.dtype)

    def _values(self, rows: Tensor) -> Tensor:
        if self.gradient == "backprop" or not torch.is_grad_enabled():
            return self._exact(rows)
        if self.gradient == "adjoint":
            return self._by_adjoint(rows)
        with torch.no_grad():
            values = self._exact(rows)
        amplitudes = self.amplitudes(rows)
        table = self.angle_table(rows)
        if amplitudes is not None and rows.requires_grad:
            values = attach(values, rows, pullback(self.gradient, self, rows, None))
        for source in ("input", "weight"):
            columns = self.circuit.columns(source)
            if columns and table.requires_grad:
                pull = pullback(self.gradient, self, table.detach(), columns, amplitudes)
                values = attach(values, table[:, columns], pull)
        return values

    def _exact(self, rows: Tensor) -> Tensor:
        if hasattr(self._simulator, "run_modules"):
            values: Tensor = self._simulator.run_modules(
                self.encoder, self.ansatz, self.circuit, rows, self.reupload
            )
        else:
            inputs, weights, initial = self._arguments(rows)
            values = self._simulator.expectations(
                self.circuit, inputs, weights, self._complex(rows), initial=initial
            )
        return values

    def _by_adjoint(self, rows: Tensor) -> Tensor:
        node: Any = _Adjoint
        values: Tensor = node.apply(
            *self._arguments(rows), self._simulator, self.circuit, self._complex(rows)
        )
        return values

    def _arguments(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What simulators take: input angles, weight angles and amplitudes."""
        inputs = _columns(rows, self.circuit.indices("input"), 1)
        return inputs, self._weight_angles(), self.amplitudes(rows)

    def _no_values(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(0, self.n_observables) + rows.sum() + self.weights.sum()

    def _check_inputs(self, inputs: Tensor) -> None:
        _checks.check_real("inputs", inputs)
        if inputs.dim() == 0 or inputs.shape[-1] != self.n_inputs:
            _checks.wrong_value("inputs", f"of shape (..., {self.n_inputs})", inputs)
        device = self._weights[0](self).device if self._weights else inputs.device
        if device != inputs.device:
            _checks.wrong_value("inputs", f"on the layer's device, {device}", inputs)
        if inputs.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(
            inputs
        ):
            _checks.check_finite("inputs", inputs.detach())
            if self.circuit.amplitude_encoding and bool((inputs == 0).all(dim=-1).any()):
                raise ValueError(
                    _checks.sentence(
                        "inputs", "not all zero, to be normalised to amplitudes", "a row of zeros"
                    )
                )

    def draw(self, **kwargs: Any) -> "Figure":
        """Draws the circuit with Qiskit's drawer; x[i] are inputs, w[j] weights.

        Args:
            **kwargs: Passed to ``qiskit.QuantumCircuit.draw``, for example ``fold`` or ``scale``.

        Returns:
            matplotlib.figure.Figure: The figure.
        """
        from captum_quantum.circuit.draw import draw

        return draw(self.circuit, **kwargs)

    def extra_repr(self) -> str:
        """The layer in one line."""
        return (
            f"n_qubits={self.n_qubits}, n_inputs={self.n_inputs}, "
            f"n_weights={self.circuit.n_weights}, n_observables={self.n_observables}, "
            f"simulator={self.simulator!r}, gradient={self.gradient!r}"
        )

    def __repr__(self) -> str:
        return f"VQCLayer({self.extra_repr()})"
