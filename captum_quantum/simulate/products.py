"""Products of vectors and of 2 x 2 matrices, many at once, and their way back."""

import torch
from torch import Tensor

from captum_quantum.simulate.entries import IDENTITY, square


class Product:
    """The product of vectors ``(m, k, r, b)``, first factor the most significant, and its way back.

    Even numbers of factors are multiplied in pairs, all pairs at once.

    Attributes:
        value (Tensor): ``(m, r**k, b)``.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.shape = vectors.shape
        m, k, r, b = vectors.shape
        self.inner: Product | None = None
        if k == 1:
            self.value = vectors[:, 0]
            return
        if k % 2:
            self.inner = Product(vectors[:, :-1])
            self.first, self.second = self.inner.value, vectors[:, -1]
        else:
            self.inner = Product(vectors.reshape(2 * m, k // 2, r, b))
            halves = self.inner.value.reshape(m, 2, -1, b)
            self.first, self.second = halves[:, 0], halves[:, 1]
        self.value = (self.first[:, :, None] * self.second[:, None]).reshape(m, -1, b)

    def release(self) -> Tensor:
        """The value, forgotten here: the way back does not need it."""
        value = self.value
        del self.value
        return value

    def back(self, W: Tensor) -> Tensor:
        """Gradients by the factors, ``(m, k, r, b)``, from that by the value."""
        if self.inner is None:
            return W[:, None]
        m, k, r, _ = self.shape
        W = W.reshape(m, self.first.shape[1], self.second.shape[1], -1)
        by_first = (W * self.second[:, None]).sum(dim=2)
        by_second = (W * self.first[:, :, None]).sum(dim=1)
        if k % 2:
            return torch.cat([self.inner.back(by_first), by_second[:, None]], dim=1)
        if k == 2:
            return torch.stack([by_first, by_second], dim=1)
        halves = torch.stack([by_first, by_second], dim=1).reshape(2 * m, by_first.shape[1], -1)
        return self.inner.back(halves).reshape(m, k, r, -1)


class Runs:
    """Products of consecutive 2 x 2 matrices, and their way back.

    Args:
        runs (list[list[int]]): For each run where its matrices' entries start, in order of
            application.
        device (torch.device): Where.
    """

    def __init__(self, runs: list[list[int]], device: torch.device) -> None:
        self.count = len(runs)
        self.length = 1 << (max((len(run) for run in runs), default=1) - 1).bit_length()
        table = IDENTITY.repeat(self.length, len(runs), 1, 1)
        # Neighbours are multiplied level by level; in bit-reversed order the earlier ones of all
        # pairs are the first half, at every level.
        bits = self.length.bit_length() - 1
        for r, run in enumerate(runs):
            for k, start in enumerate(run):
                place = int(format(k, f"0{bits}b")[::-1], 2) if bits else 0
                table[place, r] = square(start, 2)
        self.index = table.reshape(-1).to(device, torch.int32)

    def levels(self, entries: Tensor) -> list[Tensor]:
        """From the matrices, ``(length * count, 2, 2)``, to the products, ``(count, 2, 2)``."""
        levels = [self._matrices(entries)]
        while len(levels[-1]) > self.count:
            earlier, later = levels[-1].chunk(2)
            levels.append(torch.bmm(later, earlier))
        return levels

    def _matrices(self, entries: Tensor) -> Tensor:
        return entries[:, 0].index_select(0, self.index).reshape(-1, 2, 2)

    def back(self, entries: Tensor, between: list[Tensor], W: Tensor) -> Tensor:
        """Gradients by the matrices' entries, in the order of ``index``.

        Args:
            entries (Tensor): What `levels` was given, and may have grown.
            between (list[Tensor]): The levels between the first and the last.
            W (Tensor): Gradients by the last.
        """
        for level in reversed([self._matrices(entries), *between]):
            earlier, later = level.chunk(2)
            W = torch.cat([torch.bmm(later.mT, W), torch.bmm(W, earlier.mT)])
        return W.reshape(-1, 1)


def as_matrices(vectors: Tensor) -> Tensor:
    """``(m, 4**k, b)`` with places (r1 c1 r2 c2 ...) to ``(m, 2**k, 2**k, b)``."""
    m, size, b = vectors.shape
    k = (size.bit_length() - 1) // 2
    order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1]
    return vectors.reshape(m, *([2] * (2 * k)), b).permute(order).reshape(m, 2**k, 2**k, b)


def as_vectors(matrices: Tensor) -> Tensor:
    """The inverse of `as_matrices`, for ``b = 1``."""
    k = matrices.shape[1].bit_length() - 1
    split = matrices.reshape(-1, *([2] * (2 * k)))
    order = [0, *(place for j in range(k) for place in (1 + j, 1 + k + j))]
    return split.permute(order).reshape(-1, 4**k, 1)
