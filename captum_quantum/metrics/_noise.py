"""Random numbers that depend on the image alone: infidelity, sensitivity, ROAD, null maps."""

from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.metrics._maps import check_callable


def _hash(bits: Tensor) -> Tensor:
    """Hashes 64-bit integers: the finalizer of SplitMix64 (doi:10.1145/2660193.2660195)."""
    bits = (bits ^ ((bits >> 30) & 0x3_FFFF_FFFF)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ ((bits >> 27) & 0x1F_FFFF_FFFF)) * (0x94D049BB133111EB - 2**64)
    return bits ^ ((bits >> 31) & 0x1_FFFF_FFFF)


class Noise:
    """Random numbers that depend on the image, the draw and the seed only.

    The numbers of a generator would depend on the batch, the process and the device. These are
    hashes of the bits of the image, the number of the draw and the position.

    Args:
        inputs (Tensor): Shape ``(batch, ...)``.
        seed (int): Fixes the numbers.
    """

    def __init__(self, inputs: Tensor, seed: int) -> None:
        values = (inputs + 0.0).double().flatten(1)
        position = torch.arange(values.shape[1], device=inputs.device)
        bits = _hash(values.view(torch.int64) + _hash(position + 1)).sum(dim=1)
        self._keys = _hash(bits + seed)
        self._drawn = 0

    def draw(self, rows: int, n: int) -> Tensor:
        """Returns the next ``rows / batch`` draws of each image.

        Args:
            rows (int): Number of draws of all images together.
            n (int): Number of numbers in a draw.

        Returns:
            Tensor: Shape ``(rows, n)``, in [0, 1), float64. Rows are in Captum's order: all draws
            of the first image, then all draws of the second.
        """
        draws = rows // len(self._keys)
        number = torch.arange(self._drawn, self._drawn + draws, device=self._keys.device)
        self._drawn += draws
        keys = _hash(self._keys[:, None] + _hash(number + 1)).flatten()
        position = torch.arange(1, n + 1, device=self._keys.device)
        bits = _hash(keys[:, None] + _hash(-position)) >> 11 & 2**53 - 1
        return bits.double() * 2.0**-53

    def draw_gaussian(self, n: int) -> Tensor:
        """Returns the next draw of each image, of the standard normal distribution.

        Args:
            n (int): Number of numbers in a draw.

        Returns:
            Tensor: Shape ``(batch, n)``, float64.
        """
        uniform = self.draw(len(self._keys), n)
        normal: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54))  # infinite for 0
        return normal


def draws_at_once(max_batch: int, batch: int, n_samples: int) -> int:
    """Returns Captum's ``max_examples_per_batch``: from one draw of each image to all draws."""
    return min(max(max_batch // batch, 1), n_samples) * batch


def check_options(seed: int, n_perturb_samples: int, max_batch: int, perturb_func: Any) -> None:
    """Raises TypeError or ValueError if a number is wrong or ``perturb_func`` no function."""
    _checks.check_int("seed", seed, 0, 2**63 - 1)
    _checks.check_int("n_perturb_samples", n_perturb_samples, 1)
    _checks.check_int("max_batch", max_batch, 1)
    if perturb_func is not None:
        check_callable("perturb_func", perturb_func)
