"""A quantum Boltzmann machine as a layer: expectation values of a Gibbs state."""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat
from captum_quantum.circuit import Observable, read_observables
from captum_quantum.gradients.nodes import first_derivative

_MAX_QUBITS = 8
_INITIAL_STD = 0.1
"""Standard deviation of the initial fields and couplings."""
_FIRST_ONLY = (
    "a QuantumBoltzmannLayer with a transverse field gives first derivatives only; second ones "
    "need transverse_field=0 and trainable_field=False"
)


class QuantumBoltzmannLayer(nn.Module):
    r"""A quantum Boltzmann machine: fields in, expectation values of its Gibbs state out.

    The state is the thermal one of an Ising model in a transverse field. The inputs are fields on
    its qubits, besides trainable ones:

    .. math::
        y_k = \mathrm{tr}(\rho O_k), \qquad \rho = e^{-\beta H} / \mathrm{tr}\, e^{-\beta H},
        \qquad H(x) = -\sum_i (b_i + x_i) Z_i - \sum_{i<j} J_{ij} Z_i Z_j - \Gamma \sum_i X_i

    Every qubit is visible. The matrices are dense, hence the limit of 8 qubits, and everything is
    computed in float64 whatever the dtypes are: the diagonalization in float32 loses accuracy
    with the size of the fields (1e-6 to 1e-5 of the values, seen at fields of 1 to 10), and
    saves nothing with 6 qubits and about half of the time with 8. A call keeps
    ``batch * 4**n_qubits * 8`` bytes for its backward pass, which needs several times that.

    Derivatives by inputs and parameters follow the formula of :func:`gibbs_expectations`, which
    holds at degenerate levels too; there autograd through ``torch.linalg.eigh`` gives NaN or wrong
    numbers. Without a transverse field, neither given nor trained, H is diagonal: the layer is
    then a classical Boltzmann machine, the weights of the states are a softmax, nothing is
    diagonalized, and derivatives of any order exist.

    The layer shows no circuit. The maps of `QuantumLayerGradCam` need none; for the shares of
    qubits and observables the layer is given as ``quantum_layer``, and input i belongs to qubit i.
    `quantum_gradient` takes the rules ``"backprop"`` and ``"finite-difference"``; the others need
    a circuit, or refuse because the values are not trigonometric in the inputs.

    Args:
        n_qubits (int): Number of qubits, 1 to 8.
        transverse_field (float): Gamma, finite; in the unit of the inputs.
        trainable_field (bool): Whether Gamma is a parameter. Default: it is a buffer.
        beta (float): The inverse temperature, > 0, in the inverse of the inputs' unit. A buffer.
        observables (list or str, optional): What to read, each an expectation value: Pauli strings
            such as ``"Z0"``, ``"X0 Z2"`` or ``"XIZ"``, mappings from such to coefficients,
            ``Observable.projector("01", wires=(0, 2))``, ``Observable.hermitian(matrix, wires)``,
            observables of Qiskit, TorchQuantum or PennyLane, or sequences of these such as
            ``Observable.probabilities([1, 2])``. ``"probabilities"``: those of all outcomes of all
            qubits. Default: ``<Z>`` on every qubit.
        seed (int, optional): Fixes the initial b and J, normal with standard deviation 0.1; the
            global random state is then not changed. Default: they are drawn from it.

    Shape:
        - Input: ``(..., n_qubits)``, real, on the layer's device.
        - Output: ``(..., n_observables)``, real, in the input's dtype.

    Attributes:
        n_qubits (int): Number of qubits.
        n_inputs (int): The same number.
        n_observables (int): Number of outputs.
        observables (tuple[Observable, ...]): What is read.
        bias (nn.Parameter): b, shape ``(n_qubits,)``.
        coupling (nn.Parameter): J, shape ``(n_qubits * (n_qubits - 1) / 2,)``, in the order
            (0, 1), (0, 2), ..., (1, 2), ...
        transverse_field (nn.Parameter or Tensor): Gamma, shape ``()``.
        beta (Tensor): The inverse temperature, shape ``()``.

    Raises:
        TypeError, ValueError: If an argument or an input is wrong.

    References:
        M. H. Amin et al., Quantum Boltzmann Machine, arXiv:1601.02036.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import HybridClassifier, QuantumBoltzmannLayer
        >>> layer = QuantumBoltzmannLayer(4, transverse_field=0.5, seed=0)
        >>> layer(torch.rand(5, 4)).shape
        torch.Size([5, 4])
        >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
        >>> model = HybridClassifier(backbone, layer, n_features=8, n_classes=2)
        >>> model(torch.rand(3, 1, 9, 9)).shape
        torch.Size([3, 2])
    """

    transverse_field: Tensor
    beta: Tensor

    def __init__(
        self,
        n_qubits: int,
        *,
        transverse_field: float = 1.0,
        trainable_field: bool = False,
        beta: float = 1.0,
        observables: Sequence[Any] | str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.n_qubits = _checks.check_int("n_qubits", n_qubits, 1, _MAX_QUBITS)
        limits = torch.finfo(torch.get_default_dtype())
        _checks.check_number(
            "transverse_field", transverse_field, "a finite number", lambda v: abs(v) <= limits.max
        )
        if not isinstance(trainable_field, bool):
            _checks.wrong_type("trainable_field", "True or False", trainable_field)
        _checks.check_number(
            "beta", beta, "a finite number > 0", lambda v: limits.tiny <= v <= limits.max
        )
        self.observables = read_observables(observables, n_qubits)
        for observable in self.observables:
            if max(observable.wires, default=0) >= n_qubits:
                argument = f"wires of observable {observable.label}"
                _checks.wrong_value(argument, f"in [0, {n_qubits - 1}]", observable.wires)
        generator = None
        if seed is not None:
            generator = torch.Generator().manual_seed(_checks.check_int("seed", seed, 0))
        self.n_inputs = n_qubits
        self.n_observables = len(self.observables)
        n_pairs = n_qubits * (n_qubits - 1) // 2
        initial = _INITIAL_STD * torch.randn(n_qubits + n_pairs, generator=generator)
        self.bias = nn.Parameter(initial[:n_qubits].clone())
        self.coupling = nn.Parameter(initial[n_qubits:].clone())
        field = torch.tensor(float(transverse_field))
        if trainable_field:
            self.transverse_field = nn.Parameter(field)
        else:
            self.register_buffer("transverse_field", field)
        self.register_buffer("beta", torch.tensor(float(beta)))

    @_compat.uncompiled
    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the expectation values.

        Args:
            inputs (Tensor): The fields, shape ``(..., n_qubits)``, real, on the layer's device.

        Returns:
            Tensor: Shape ``(..., n_observables)``, real, in the inputs' dtype.

        Raises:
            TypeError, ValueError: If the inputs are wrong, or the parameters not finite.
            NotImplementedError: In ``torch.export``.
        """
        if torch.compiler.is_exporting():
            raise NotImplementedError(
                "a QuantumBoltzmannLayer cannot be exported: autograd would differentiate the "
                "graph's torch.linalg.eigh, which is wrong at degenerate levels"
            )
        self._check_inputs(inputs)
        z, zz, x = _ising_terms(self.n_qubits, inputs.device)
        fields = inputs.double() + self.bias.double()
        energies = -(fields @ z + self.coupling.double() @ zz)  # the diagonal of H
        matrices = _real_matrices(self.observables, self.n_qubits, inputs.device)
        beta, field = self.beta.double(), self.transverse_field.double()
        if field.requires_grad or _compat.is_wrapper(field) or bool(field != 0):
            values = gibbs_expectations(beta * energies, beta * field, x, matrices)
        else:
            weights = torch.softmax(-beta * energies, dim=-1)
            diagonals = matrices if matrices.dim() == 2 else matrices.diagonal(dim1=1, dim2=2)
            values = weights @ diagonals.T
        return values.to(inputs.dtype)

    def _check_inputs(self, inputs: Tensor) -> None:
        _checks.check_real("inputs", inputs)
        if inputs.dim() == 0 or inputs.shape[-1] != self.n_qubits:
            _checks.wrong_value("inputs", f"of shape (..., {self.n_qubits})", inputs)
        if inputs.device != self.bias.device:
            must = f"on the layer's device, {self.bias.device}"
            _checks.wrong_value("inputs", must, inputs)
        if inputs.device.type == "cpu" and not _compat.in_transform():  # a GPU would have to wait
            _checks.check_finite("inputs", inputs.detach())
            for name in ("bias", "coupling", "transverse_field"):
                _checks.check_finite(name, getattr(self, name).detach())

    def extra_repr(self) -> str:
        """The layer in one line."""
        return (
            f"n_qubits={self.n_qubits}, n_observables={self.n_observables}, "
            f"transverse_field={self.transverse_field.item():g}, beta={self.beta.item():g}"
        )


def gibbs_expectations(
    diagonal: Tensor, field: Tensor, transverse: Tensor, observables: Tensor
) -> Tensor:
    r"""Expectation values of the Gibbs state of a diagonal matrix with a transverse field.

    With :math:`A = \mathrm{diag}(d) - g T = V \mathrm{diag}(a) V^T` and
    :math:`p = \mathrm{softmax}(-a)`, the values are :math:`y_k = \mathrm{tr}(\rho O_k)`,
    :math:`\rho = V \mathrm{diag}(p) V^T`. For a cotangent c let :math:`C = \sum_k c_k O_k`. The
    derivative of a matrix function (Daleckii and Krein 1965; Higham, Functions of Matrices,
    theorem 3.11) gives, by A,

    .. math::
        \bar A = V \left( K \circ V^T (C - \mathrm{tr}(\rho C)) V \right) V^T, \qquad
        K_{ab} = \frac{p_a - p_b}{a_a - a_b}
               = -\max(p_a, p_b) \, \frac{1 - e^{-|a_a - a_b|}}{|a_a - a_b|}

    and :math:`\bar d_s = \bar A_{ss}`, :math:`\bar g = -\mathrm{tr}(\bar A T)`. The last
    form of K neither overflows nor cancels; on equal levels it is -p, which belongs to them.

    Args:
        diagonal (Tensor): d, float64, shape ``(..., 2**n)``, finite, without unit.
        field (Tensor): g, float64, shape ``()``, without unit.
        transverse (Tensor): T, the sum of X_i over the qubits or any real symmetric matrix,
            float64, shape ``(2**n, 2**n)``. It gets no gradient.
        observables (Tensor): The real symmetric matrices O_k, float64, shape
            ``(n_observables, 2**n, 2**n)``; or the diagonals of diagonal ones, shape
            ``(n_observables, 2**n)``. They get no gradient.

    Returns:
        Tensor: Shape ``(..., n_observables)``; differentiable once by ``diagonal`` and ``field``.

    Raises:
        GradientRuleError: In the backward pass, if a second derivative is taken.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        >>> gibbs_expectations(-0.5 * z, torch.zeros((), dtype=torch.float64), x, z)  # tanh 0.5
        tensor([[0.4621]], dtype=torch.float64)
    """
    node: Any = _GibbsExpectations
    values: Tensor = node.apply(diagonal, field, transverse, observables)[0]
    return values


class _GibbsExpectations(torch.autograd.Function):
    """`gibbs_expectations` as one node of the autograd graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        diagonal: Tensor, field: Tensor, transverse: Tensor, observables: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        levels, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) - field * transverse)
        weights = torch.softmax(-levels, dim=-1)
        if observables.dim() == 2:
            values = (vectors.square() @ weights.unsqueeze(-1)).squeeze(-1) @ observables.T
        else:
            rho = (vectors * weights.unsqueeze(-2)) @ vectors.mT
            values = rho.flatten(-2) @ observables.flatten(1).T
        return values, levels, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        values, levels, vectors = output
        ctx.mark_non_differentiable(levels, vectors)
        ctx.set_materialize_grads(False)  # large zeros otherwise
        ctx.save_for_backward(*inputs, values, levels, vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        diagonal, field, transverse, observables, values, levels, vectors = ctx.saved_tensors
        grad, by_field = grads[0], None
        if grad is None:  # the cotangent of a node behind is undefined: zero
            return None, None, None, None
        with torch.no_grad():
            combined = torch.tensordot(grad, observables, dims=1)
            if observables.dim() == 2:
                observed = combined.unsqueeze(-1) * vectors
            else:
                observed = combined @ vectors
            mean = (grad * values).sum(-1)[..., None, None]
            identity = torch.eye(levels.shape[-1], dtype=levels.dtype, device=levels.device)
            centered = vectors.mT @ observed - mean * identity
            turned = vectors @ (_divided_differences(levels) * centered)
            by_diagonal = (turned * vectors).sum(-1)
            if ctx.needs_input_grad[1]:
                by_field = -(turned * (transverse @ vectors)).sum()
        if torch.is_grad_enabled():
            sources = (grad, diagonal, field)
            by_diagonal = first_derivative(by_diagonal, *sources, message=_FIRST_ONLY)
            if by_field is not None:
                by_field = first_derivative(by_field, *sources, message=_FIRST_ONLY)
        return by_diagonal, by_field, None, None


def _divided_differences(levels: Tensor) -> Tensor:
    """K of `gibbs_expectations`: shape ``(..., d)`` to ``(..., d, d)``."""
    weights = torch.softmax(-levels, dim=-1)
    larger = torch.maximum(weights.unsqueeze(-1), weights.unsqueeze(-2))
    # The smallest number instead of 0 gives the limit, 1.
    gaps = (levels.unsqueeze(-1) - levels.unsqueeze(-2)).abs()
    gaps = gaps.clamp(min=torch.finfo(levels.dtype).tiny)
    return larger * torch.expm1(-gaps) / gaps


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve training later
def _ising_terms(n_qubits: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The operators of the Hamiltonian, float64, wire 0 the most significant bit.

    The diagonals of Z_i, ``(n, 2**n)``; those of Z_i Z_j, ``(n * (n - 1) / 2, 2**n)``; the sum of
    X_i over all qubits, ``(2**n, 2**n)``.
    """
    with _compat.outside_transforms():
        states = torch.arange(2**n_qubits, device=device)
        wires = torch.arange(n_qubits - 1, -1, -1, device=device)
        z = 1 - 2 * (states >> wires.unsqueeze(-1) & 1).double()
        pairs = list(itertools.combinations(range(n_qubits), 2))
        first, second = ([pair[k] for pair in pairs] for k in (0, 1))
        x = torch.zeros(2**n_qubits, 2**n_qubits, dtype=torch.float64, device=device)
        for wire in range(n_qubits):
            x[states, states ^ 2**wire] = 1
        return z, z[first] * z[second], x


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _real_matrices(
    observables: tuple[Observable, ...], n_qubits: int, device: torch.device
) -> Tensor:
    """The real parts of the matrices, or their diagonals if all matrices are diagonal.

    The state is real, so that the imaginary parts, which are antisymmetric, have the value 0.
    """
    with _compat.outside_transforms():
        matrices = (observable.matrix(n_qubits).real for observable in observables)
        if all(observable.is_diagonal for observable in observables):
            matrices = (matrix.diagonal() for matrix in matrices)
        return torch.stack(list(matrices)).to(device)
