"""Phases that differ from sample to sample, and their vector-Jacobian product."""

import torch
from torch import Tensor

from captum_quantum.circuit.primitives import extended_index
from captum_quantum.simulate.layout import join_samples, repeat_index, split_samples
from captum_quantum.simulate.plan import InputPhases, Plan
from captum_quantum.simulate.products import KroneckerProduct


class PhaseTable:
    """The phases of all steps `InputPhases` of a plan.

    Such a step multiplies row r by ``exp(i theta_r)``, ``theta_r = sum_f s_f(r) x_f``, where x_f is
    the input of the gate f, and s_f(r) its exponent in row r. For a gate on a single wire s_f(r)
    depends on one bit of r. The phases of all of these are a Kronecker product over the wires; it
    is kept as two vectors, for the first and for the last half of the bits.

    Args:
        plan (Plan): The plan.
        device (torch.device): Where.
        dtype (torch.dtype): Of the states.
        lanes (int): Number of lanes.

    Attributes:
        shape (tuple[int, int, int]): ``(lanes, 2**n_first, 2**n_last)``, for the first and the last
            half of the bits of rows.
        reads_angles (bool): Whether `factors` reads the angles themselves, beside their `halves`.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, lanes: int) -> None:
        n, real = plan.circuit.n_qubits, dtype.to_real()
        n_inputs = len(plan.circuit.columns("input"))
        self._sizes = [size for size in (n - n // 2, n // 2) if size]
        self.shape = lanes, 2 ** (n - n // 2), 2 ** (n // 2)
        # They sum up the rows in which a bit is 0, or 1, for either half of the bits.
        self._bits = [_bits(size).to(device, real) for size in (n - n // 2, n // 2)]
        self._single: dict[int, int] = {}
        self._multi: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
        exponents: list[Tensor] = []
        for number, step in enumerate(plan.steps):
            if not isinstance(step, InputPhases):
                continue
            of_step = torch.zeros(n, 2, n_inputs, dtype=torch.float64)
            self._multi[number] = []
            for position, bits in step.factors:
                factor = plan.factors[position]
                of_entries = factor.primitive.exponents()
                if len(bits) == 1:
                    of_step[bits[0], :, factor.angle] += of_entries
                    continue
                diagonal, _ = extended_index(bits, n)
                rows = repeat_index(diagonal, len(of_entries), lanes).to(device)
                of_entries = of_entries[:, None].to(device, real)
                self._multi[number].append((factor.angle, of_entries, rows))
            if of_step.any():
                self._single[number] = len(exponents)
                exponents.append(of_step.flatten(0, 1).to(device, real))
        self.reads_angles = any(self._multi.values())
        # For each step with gates on single wires what inputs add for each wire's 0 and 1.
        self._exponents = torch.stack(exponents) if exponents else None

    def halves(self, angles: Tensor) -> list[Tensor]:
        """The two vectors of all steps that have gates on single wires.

        Args:
            angles (Tensor): Input angles, ``(n_inputs, b)``.

        Returns:
            list[Tensor]: ``(lanes, n_steps, 2**n_first, b / lanes)``, and the same for the last
            half of the bits.
        """
        if self._exponents is None:
            return []
        steps, lanes = len(self._exponents), self.shape[0]
        phases = _exp_i(self._exponents.flatten(0, 1) @ angles)
        phases = phases.view(steps, sum(self._sizes), 2, -1)
        vectors = (split_samples(half, lanes) for half in phases.split(self._sizes, dim=1))
        return [
            KroneckerProduct(v.flatten(0, 1)).value.view(lanes, steps, -1, v.shape[-1])
            for v in vectors
        ]

    def factors(self, number: int, halves: list[Tensor], angles: Tensor) -> list[Tensor]:
        """Tensors whose product are the phases of a step.

        Args:
            number (int): The step.
            halves (list[Tensor]): What `halves` returned.
            angles (Tensor): Input angles, ``(n_inputs, b)``.

        Returns:
            list[Tensor]: For rows seen as ``(lanes, 2**n_first, 2**n_last, b / lanes)``.
        """
        factors: list[Tensor] = []
        if number in self._single:
            first, *last = (half[:, self._single[number]] for half in halves)
            factors += [first[:, :, None], *(half[:, None] for half in last)]
        for angle, exponents, rows in self._multi[number]:
            entries = split_samples(_exp_i(exponents * angles[angle]), self.shape[0])
            of_rows = entries.flatten(0, 1).index_select(0, rows)
            factors.append(of_rows.view(*self.shape, -1))
        return factors

    def vjp(self, number: int, products: Tensor, of_angles: Tensor) -> None:
        """Adds a step's part to the cotangent of the input angles.

        With ``psi_r`` the state and ``c_r`` its cotangent, both after the step, theta_r has the
        cotangent ``Re(i c_r psi_r)``.

        Args:
            number (int): The step.
            products (Tensor): ``c_r psi_r``, ``(lanes * 2**n, b / lanes)``.
            of_angles (Tensor): What it is added to, ``(n_inputs, b)``.
        """
        if number in self._single:
            assert self._exponents is not None
            halves = products.view(*self.shape, -1)
            sums = zip(self._bits, (halves.sum(dim=2), halves.sum(dim=1)), strict=True)
            of_bits = torch.cat([bits @ -part.imag for bits, part in sums], dim=1)
            of_angles += self._exponents[self._single[number]].T @ join_samples(of_bits)
        for angle, exponents, rows in self._multi[number]:
            shape = self.shape[0], len(exponents)
            zeros = products.new_zeros(shape[0] * shape[1], products.shape[1])
            of_entries = zeros.index_add_(0, rows, products).imag.unflatten(0, shape)
            of_angles[angle] -= (exponents * join_samples(of_entries)).sum(dim=0)


def _exp_i(theta: Tensor) -> Tensor:
    """``exp(i theta)``."""
    return torch.complex(torch.cos(theta), torch.sin(theta))


def _bits(n_bits: int) -> Tensor:
    """``(2 n_bits, 2**n_bits)``: for each bit where it is 0, then where it is 1."""
    bits = torch.arange(2**n_bits) >> torch.arange(n_bits - 1, -1, -1)[:, None] & 1
    return torch.stack([1 - bits, bits], dim=1).flatten(0, 1)
