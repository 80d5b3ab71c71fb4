"""Rules that run the layer at shifted values: parameter-shift and finite differences."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit.gates import TWO_TERM, ShiftRule
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.nodes import GradientRuleError
from captum_quantum.gradients.rule import JacobianRule


def shifted_jacobian(function: QuantumFunction, terms: Sequence[ShiftRule]) -> Tensor:
    """Derivatives as weighted sums of runs at shifted values, all in one batch.

    Args:
        function (QuantumFunction): What is to be differentiated.
        terms (Sequence): For each variable its pairs (shift, coefficient), shifts in the unit of
            the variable.

    Returns:
        Tensor: Shape ``(batch, n_outputs, n_variables)``.
    """
    variables = function.variables
    batch, n_variables = variables.shape
    shifts = [(k, shift, weight) for k, rule in enumerate(terms) for shift, weight in rule]
    rows = list(range(len(shifts)))
    columns = [k for k, _, _ in shifts]
    offsets = variables.new_zeros(len(shifts), n_variables)
    offsets[rows, columns] = offsets.new_tensor([shift for _, shift, _ in shifts])
    with torch.no_grad():
        outputs = function.run((variables + offsets[:, None]).reshape(-1, n_variables))
    outputs = outputs.reshape(len(shifts), batch, -1)
    combine = outputs.new_zeros(len(shifts), n_variables)
    combine[rows, columns] = combine.new_tensor([weight for _, _, weight in shifts])
    return torch.einsum("sbo,sv->bov", outputs, combine)


class ParameterShift(JacobianRule):
    """The parameter-shift rule (arXiv:1811.11184), of four terms for controlled rotations."""

    name = "parameter-shift"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Needs angles of gates whose generators have two or three equidistant eigenvalues."""
        if function.angles is None:
            if function.layer is None:
                return None
            return (
                "does not apply to the inputs of amplitude encoding, which are no angles of gates; "
                "use 'backprop' or 'finite-difference'"
            )
        for gate, which in function.angles.gates:
            if gate.type.shifts[which] is None:
                return (
                    f"does not apply to angle {which} ({gate.angles[which]}) of {gate}: its "
                    "generator has neither two nor three equidistant eigenvalues; use 'backprop', "
                    "'commutator' or 'finite-difference'"
                )
        return None

    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Each variable's derivative from the shifts of its gate."""
        if function.angles is None:
            _check_two_term(function)
            return shifted_jacobian(function, [TWO_TERM] * function.variables.shape[1])
        rules = [gate.type.shifts[which] for gate, which in function.angles.gates]
        return shifted_jacobian(function, [rule for rule in rules if rule is not None])


CHECKED = "shifts"
"""Key of `QuantumFunction.memo`: whether the shift rule has been tried on the module."""

_TRIED = (0.0, 2.7, -3.0, -1.5, 0.0)
"""Shifts in radians at which other frequencies show best; the first twice, as values may carry
noise."""

_SUSPECTED, _BY_CHANCE = 1e-2, 1e-4
"""How often noise alone may call for further measurements, and how often it may then contradict the
rule."""


def _check_two_term(function: QuantumFunction) -> None:
    """Refuses the rule for a layer without a circuit that contradicts it.

    Where an input is the angle s of one gate with two eigenvalues, values are of the form
    a + b cos s + c sin s. Each input is tried at a random point of its own, near a sample. Where
    that looks wrong, all is measured twice more: few shots may agree, or differ, by chance.
    """
    if function.memo.get(CHECKED):
        return
    samples, n = function.variables, function.variables.shape[1]
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(n, n, generator=generator, dtype=torch.float64) - 0.5
    rows = torch.arange(n, device=samples.device) % len(samples)
    points = (samples[rows].double() + near.to(samples.device))[:, None].repeat(1, len(_TRIED), 1)
    points[range(n), :, range(n)] += torch.tensor(_TRIED, dtype=torch.float64).to(samples.device)
    points = points.flatten(0, 1).to(samples.dtype)
    runs: list[Tensor] = []
    for chance in (_SUSPECTED, _BY_CHANCE, _BY_CHANCE):
        with torch.no_grad():
            values = function.run(points)
        runs.append(values.double().reshape(n, len(_TRIED), -1))
        rounding = max(1e-3, 8 * torch.finfo(values.dtype).eps)
        wrong = _contradicting(torch.stack(runs), rounding, chance)
        if not wrong:
            function.memo[CHECKED] = True
            return
    raise GradientRuleError(
        f"rule 'parameter-shift' does not apply to {_checks.describe(function.module)}: inputs "
        f"{wrong} are not each the angle of a single Pauli rotation (values are not finite, or not "
        "of the form a + b cos s + c sin s); use 'finite-difference'"
    )


def _contradicting(runs: Tensor, rounding: float, chance: float) -> list[int]:
    """The inputs whose values are not of that form.

    Four values are combined such that the sum is 0 if they are. Its noise is estimated, output by
    output, from the values that were measured several times.

    Args:
        runs (Tensor): Values, shape ``(n_runs, n_inputs, 5, n_outputs)``.
        rounding (float): Error of exact values, relative to the output's largest one.
        chance (float): How often noise alone may contradict.
    """
    n_runs, n, _, n_outputs = runs.shape
    shifts = torch.tensor(_TRIED[:4], dtype=torch.float64)
    form = torch.stack([torch.ones_like(shifts), torch.cos(shifts), torch.sin(shifts)], dim=1)
    weights = torch.linalg.svd(form)[0][:, 3].to(runs.device)
    groups = [torch.cat([runs[:, :, 0], runs[:, :, 4]]), *runs[:, :, 1:4].unbind(2)]
    means = torch.stack([group.mean(dim=0) for group in groups])
    residuals = torch.einsum("s,sno->no", weights, means).abs()
    largest = runs.abs().amax(dim=(0, 1, 2))
    bounds = rounding * largest + 1e-6 * largest.max()
    deviations = torch.cat([group - mean for group, mean in zip(groups, means, strict=True)])
    freedom = n * (5 * n_runs - 4)
    noise = (deviations.square().sum(dim=(0, 1)) / freedom).sqrt()
    if bool(noise.any()):
        from scipy import stats

        counts = torch.tensor([len(group) for group in groups]).to(weights)
        noise = noise * (weights.square() / counts).sum().sqrt()
        quantile = float(stats.t.isf(0.5 * chance / (n * n_outputs), freedom))
        # Noise differs from point to point, which shows the less the fewer values there are.
        factor = 1 if chance == _SUSPECTED else 1 + 10 / math.sqrt(freedom)
        bounds = torch.maximum(bounds, factor * quantile * noise)
    wrong: list[int] = (~(residuals <= bounds).all(dim=1)).nonzero().flatten().tolist()
    return wrong


class FiniteDifference(JacobianRule):
    """Central differences: steps of 1e-5 in float64, of 1e-2 otherwise, longer for noisy values.

    With noise of standard deviation s in every value, a step h leaves an error of ``h**2 / 6``
    times the third derivative and noise of ``s / (sqrt(2) h)``; for a third derivative of 1 the sum
    is least at ``h = (3 s / sqrt(2))**(1/3)``.
    """

    name = "finite-difference"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Needs at least single precision, in which a small step is not rounded away."""
        if function.variables.dtype not in (torch.float16, torch.bfloat16):
            return None
        return (
            f"does not apply to {_checks.describe(function.module)} in half precision, whose "
            "values are too coarse for differences; keep the layer in float32"
        )

    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Differences of runs on both sides of every variable."""
        noise, precision = 0.0, function.precision
        exact = function.layer is not None and getattr(function.layer, "exact", True)
        if not exact:
            with torch.no_grad():
                first, second = function.run(function.variables.repeat(2, 1)).chunk(2)
            noise = float((first - second).square().mean().sqrt()) / math.sqrt(2)
            precision = precision if first.dtype == torch.float64 else first.dtype
        step = 1e-5 if precision == torch.float64 else 1e-2
        if noise > 1e-6:
            step = max(step, (3 * noise / math.sqrt(2)) ** (1 / 3))
        central = ((step, 0.5 / step), (-step, -0.5 / step))
        return shifted_jacobian(function, [central] * function.variables.shape[1])
