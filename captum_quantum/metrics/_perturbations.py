"""Random perturbations that belong to the images: what infidelity and sensitivity share."""

import math
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks


def _mixed(bits: Tensor) -> Tensor:
    """Scrambles 64-bit integers: the finaliser of SplitMix64 (doi:10.1145/2660193.2660195)."""
    bits = (bits ^ ((bits >> 30) & 0x3_FFFF_FFFF)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ ((bits >> 27) & 0x1F_FFFF_FFFF)) * (0x94D049BB133111EB - 2**64)
    return bits ^ ((bits >> 31) & 0x1_FFFF_FFFF)


class Noise:
    """Uniform random numbers that depend on the image, the draw and the seed only.

    A generator would give an image other numbers in another batch, process or micro-batch, or on
    another device. These are hashes: of the image's bits, the number of the draw, and the place.

    Args:
        inputs (Tensor): Shape ``(batch, ...)``.
        seed (int): Chooses the sequence.
    """

    def __init__(self, inputs: Tensor, seed: int) -> None:
        values = (inputs + 0.0).double().flatten(1)
        place = torch.arange(values.shape[1], device=inputs.device)
        self._keys = _mixed(_mixed(values.view(torch.int64) + _mixed(place + 1)).sum(dim=1) + seed)
        self._drawn = 0

    def draw(self, rows: int, n: int) -> Tensor:
        """The next ``rows / batch`` draws of each image: ``(rows, n)`` in [0, 1), float64.

        Rows are in Captum's order: all draws of the first image, then all of the second.
        """
        draws = rows // len(self._keys)
        number = torch.arange(self._drawn, self._drawn + draws, device=self._keys.device)
        self._drawn += draws
        rows_keys = _mixed(self._keys[:, None] + _mixed(number + 1)).flatten()
        place = torch.arange(1, n + 1, device=self._keys.device)
        bits = _mixed(rows_keys[:, None] + _mixed(-place)) >> 11 & 2**53 - 1
        return bits.double() * 2.0**-53


def draws_at_once(max_batch: int, batch: int, n_samples: int) -> int:
    """``max_examples_per_batch`` for Captum, which wants at least one draw and at most all."""
    return min(max(max_batch // batch, 1), n_samples) * batch


def check_numbers(seed: int, n_perturb_samples: int, max_batch: int) -> None:
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    _checks.check_int("n_perturb_samples", n_perturb_samples, 1)
    _checks.check_int("max_batch", max_batch, 1)


def check_positive(argument: str, value: Any, must: str, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _checks.wrong_type(argument, must, value)
    if not 0 < value <= high or not math.isfinite(value):
        _checks.wrong_value(argument, must, value)
