"""Shares of variance of circuits: exact where values are trigonometric polynomials of inputs."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit, HermitianMatrix, Observable
from captum_quantum.circuit.gates import FOUR_TERM
from captum_quantum.interactions.function import (
    Draw,
    Function,
    GivenFunction,
    check_sampling,
    draw_from_columns,
    draw_uniformly,
    read_columns,
)
from captum_quantum.interactions.sampling import N_SAMPLES, TRIED, sampled
from captum_quantum.interactions.shares import Interactions

_MOST_POINTS = 3**8
_ROWS, _AMPLITUDES = 1024, 2**20


def _same(dtype: torch.dtype) -> torch.dtype:
    return dtype


def circuit_interactions(
    circuit: Circuit,
    function: Function,
    x: Tensor | None = None,
    head: nn.Linear | Tensor | None = None,
    *,
    precision: Callable[[torch.dtype], torch.dtype] = _same,
    n_samples: int = N_SAMPLES,
    seed: int = 0,
) -> Interactions:
    """The interactions of a circuit's inputs in its expectation values.

    Expectation values are trigonometric polynomials of the angles (arXiv:2008.08605). If angles
    are plain inputs, their gates have shift rules, and 6561 values or fewer tell the polynomials
    (8 angles of two-term rules), the shares are exact; else they are sampled. So they are, too, if
    the polynomials are wrong for random inputs, as gates may depend on inputs in other ways.

    Args:
        circuit (Circuit): The circuit.
        function (Callable): Its expectation values: from inputs in radians, real, on the CPU, shape
            ``(batch, n_inputs)``, to ``(batch, n_observables)``.
        x (Tensor, optional): Inputs in radians, real, shape ``(n, n_inputs)``, n >= 2. The inputs
            are then independent, each distributed as its column. Default: each is uniform on
            [-pi, pi), or on [-2 pi, 2 pi) if it is the angle of a controlled rotation, whose
            period that is.
        head (nn.Linear or Tensor, optional): What makes logits of the expectation values, or its
            weight, shape ``(n_outputs, n_observables)``. Default: the outputs are the expectation
            values.
        precision (Callable): From the dtype of inputs to that in which values are computed.
        n_samples (int): Number of samples, at least 2; each takes ``2 + n_inputs * (n_inputs + 1)``
            values. Used if the shares cannot be exact.
        seed (int): Seed of the samples, in [0, 2**64).

    Returns:
        Interactions: The shares.

    Raises:
        TypeError: If an argument is of another type, or the head is not linear.
        ValueError: If the circuit has no inputs or takes them as amplitudes, x or the head is of
            another shape or not finite, or values differ from call to call.

    Examples:
        >>> import torch
        >>> from captum_quantum import Angle, Circuit, Gate, Observable
        >>> from captum_quantum.interactions import circuit_interactions
        >>> gates = [Gate("ry", (i,), (Angle.of_input(i),)) for i in range(2)]
        >>> circuit = Circuit(2, gates, [Observable.of("Z0 Z1")], n_inputs=2)
        >>> def values(x):
        ...     return x.cos().prod(dim=1, keepdim=True)
        >>> circuit_interactions(circuit, values).orders.round(decimals=6)
        tensor([0., 1.], dtype=torch.float64)
    """
    check_sampling(n_samples, seed)
    if circuit.amplitude_encoding:
        must = "one whose inputs are angles; captum_quantum.interactions.sampled_interactions("
        _checks.refuse("circuit", f"{must}layer, x) takes any", "one whose inputs are amplitudes")
    if not circuit.n_inputs:
        _checks.refuse("circuit", "one with inputs", "one without")
    if x is not None:
        x = read_columns(x, circuit.n_inputs).to("cpu", torch.float64)
    weight = _read_head(head, len(circuit.observables))
    waves, is_polynomial = read_waves(circuit)
    bounds = torch.tensor([_bound(o) for o in circuit.observables], dtype=torch.float64)
    scale = bounds if weight is None else weight.abs() @ bounds
    n_rows = max(1, min(_ROWS, _AMPLITUDES >> circuit.n_qubits))

    def given(inputs: torch.dtype) -> GivenFunction:
        return GivenFunction(outputs, precision(inputs), n_rows, scale)

    def outputs(rows: Tensor) -> Tensor:
        values = function(rows).to("cpu", torch.float64)
        return values if weight is None else values @ weight.T

    units = [wave.unit for wave in waves]
    draw = draw_uniformly(units, seed) if x is None else draw_from_columns(x, seed)
    with torch.no_grad():
        if is_polynomial and math.prod(wave.n_points for wave in waves) <= _MOST_POINTS:
            shares = _exact(given(torch.float64), waves, x, draw)
            if shares is not None:
                return shares
        return sampled(given(torch.float32), draw, n_samples, "angles")


def _read_head(head: Any, n_observables: int) -> Tensor | None:
    """The weight of a linear head, float64 on the CPU."""
    if head is None:
        return None
    if not isinstance(head, Tensor):
        if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
            must = "an nn.Linear or a tensor (n_outputs, n_observables), as shares are exact for "
            _checks.wrong_type("head", f"{must}what is linear in expectation values only", head)
        head = head.weight
    weight = _checks.check_real("head", head).detach()
    if weight.dim() != 2 or weight.shape[1] != n_observables or not len(weight):
        must = f"of weight (n_outputs, {n_observables}), a column for each observable"
        _checks.wrong_value("head", must, weight)
    _checks.check_finite("head", weight)
    return weight.to("cpu", torch.float64)


def _bound(observable: Observable) -> float:
    """A bound of an observable's expectation values."""
    total = 0.0
    for term in observable.terms:
        norm = 1.0
        if isinstance(term, HermitianMatrix):
            norm = float(torch.tensor(term.matrix, dtype=torch.complex128).abs().sum(1).max())
        total += abs(term.coefficient) * norm
    return total


class Wave(NamedTuple):
    """How values depend on an input x: waves ``cos(k u x)`` and ``sin(k u x)``, k up to a degree.

    Attributes:
        degree (int): The largest k; 0 for an input that no angle depends on.
        unit (float): u, 1 or 1/2.
    """

    degree: int
    unit: float

    @property
    def n_points(self) -> int:
        """How many values tell the coefficients."""
        return 2 * self.degree + 1

    def basis(self, x: Tensor) -> Tensor:
        """1, the cosines and the sines at points.

        Args:
            x (Tensor): The points, ``(n,)``.

        Returns:
            Tensor: Shape ``(n, n_points)``.
        """
        phases = self.unit * x[:, None] * torch.arange(1, self.degree + 1)
        return torch.cat([torch.ones_like(x)[:, None], phases.cos(), phases.sin()], dim=1)

    def grid(self) -> Tensor:
        """Equidistant points of a period, ``(n_points,)``."""
        steps = torch.arange(self.n_points, dtype=torch.float64)
        return 2 * math.pi / self.unit / self.n_points * steps

    def analysis(self) -> Tensor:
        """From values at the grid to coefficients, ``(n_points, n_points)``."""
        scale = torch.full((self.n_points, 1), 2 / self.n_points, dtype=torch.float64)
        scale[0] /= 2
        return scale * self.basis(self.grid()).T

    def orthonormal(self, x: Tensor | None) -> Tensor:
        """From coefficients to those in an orthonormal basis whose first function is 1.

        Args:
            x (Tensor, optional): What the input is distributed as, ``(n,)``; None for uniform.

        Returns:
            Tensor: Shape ``(at most n_points, n_points)``.
        """
        if x is None:
            scale = torch.full((self.n_points,), math.sqrt(0.5), dtype=torch.float64)
            scale[0] = 1
            return torch.diag(scale)
        basis = self.basis(x)
        means = basis.mean(dim=0)
        centered = (basis - means)[:, 1:] / math.sqrt(len(x))
        R = torch.linalg.qr(centered, mode="r").R  # |centered c| = |R c|, whatever the rank
        return torch.cat([means[None], nn.functional.pad(R, (1, 0))])


def read_waves(circuit: Circuit) -> tuple[list[Wave], bool]:
    """How values depend on each input, as far as the shift rules of gates tell.

    Args:
        circuit (Circuit): The circuit.

    Returns:
        tuple[list[Wave], bool]: The waves of each input, and whether there are no others.
    """
    frequencies: list[list[float]] = [[] for _ in range(circuit.n_inputs)]
    is_complete = True
    for gate, which, angle in circuit.angles:
        if angle.source != "input":
            continue
        rule = gate.type.shifts[which]
        if angle.index < 0 or rule is None:
            is_complete = False
        elif rule == FOUR_TERM:
            frequencies[angle.index] += [0.5, 0.5]  # and their sum
        else:
            frequencies[angle.index].append(round(2 * abs(rule[0][1]), 9))
    is_complete &= all((2 * f).is_integer() for values in frequencies for f in values)
    units = [0.5 if any((f + 0.5).is_integer() for f in values) else 1.0 for values in frequencies]
    pairs = zip(frequencies, units, strict=True)
    return [Wave(round(sum(values) / unit), unit) for values, unit in pairs], is_complete


def _along(matrices: Sequence[Tensor], values: Tensor) -> Tensor:
    """Multiplies each of the first dimensions by a matrix."""
    for dim, matrix in enumerate(matrices):
        values = torch.tensordot(matrix, values, dims=([1], [dim])).movedim(0, dim)
    return values


def _exact(
    given: GivenFunction, waves: Sequence[Wave], x: Tensor | None, draw: Draw
) -> Interactions | None:
    """The shares of a trigonometric polynomial; None if the function is none."""
    used = [i for i, wave in enumerate(waves) if wave.degree]
    axes = [waves[i] for i in used]
    tried = draw(TRIED)
    expected, tolerance = given.check(tried)
    points = [*itertools.product(*(axis.grid().tolist() for axis in axes))]
    grid = torch.zeros(len(points), len(waves), dtype=torch.float64)
    grid[:, used] = torch.tensor(points, dtype=torch.float64)
    values = given.values(grid).view(*(axis.n_points for axis in axes), -1)
    coefficients = _along([axis.analysis() for axis in axes], values)
    found = coefficients.expand(len(tried), *coefficients.shape)
    for i, axis in zip(used, axes, strict=True):
        found = torch.einsum("nk,nk...->n...", axis.basis(tried[:, i]), found)
    if bool(((found - expected).abs() > tolerance).any()):
        return None
    columns = [None if x is None else x[:, i] for i in used]
    bases = [axis.orthonormal(column) for axis, column in zip(axes, columns, strict=True)]
    squares = _along(bases, coefficients).square()
    for dim in range(len(axes)):
        constant, rest = squares.tensor_split([1], dim)
        squares = torch.cat([constant, rest.sum(dim, keepdim=True)], dim)
    squares = squares.reshape(2 ** len(axes), -1)  # of each set of inputs, the empty one first
    variance, varies = given.without_rounding(squares[1:].sum(0), squares.sum(0))
    sets = torch.zeros(len(squares), len(waves), dtype=torch.float64)
    sets[:, used] = torch.tensor([*itertools.product((0.0, 1.0), repeat=len(used))]).double()
    sizes, energies = sets.sum(1), squares.sum(1)
    total = energies[1:].sum() if varies else math.nan
    by_size = [energies[sizes == k].sum() for k in range(1, max(1, len(used)) + 1)]
    shares = (
        torch.stack(by_size) / total,
        energies[sizes == 1] @ sets[sizes == 1] / total,
        (sets.T @ (energies[:, None] * sets) / total).fill_diagonal_(0.0),
    )
    errors = [torch.zeros_like(part) for part in shares]
    return Interactions(
        orders=shares[0],
        mains=shares[1],
        pairs=shares[2],
        variance=variance,
        exact=True,
        errors=errors[0],
        main_errors=errors[1],
        pair_errors=errors[2],
        n_samples=0,
    )
