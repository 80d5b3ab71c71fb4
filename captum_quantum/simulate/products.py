"""Products of many small matrices at once, and their vector-Jacobian products."""

from collections.abc import Sequence

import torch
from torch import Tensor

PARTS, COLUMNS, MANY = 512, 128, 2**14
"""The most parts of all of `outer_products` together, the fewest columns of one, and from how many
columns on a GPU takes longer to sum them than to be called once more."""


def square(start: int, side: int) -> Tensor:
    """Indices of a matrix's entries that are stored one after the other, ``(side, side)``."""
    return torch.arange(start, start + side * side).reshape(side, side)


def outer_products(first: Tensor, second: Tensor) -> Tensor:
    """``a b^T`` for many pairs of matrices with few rows and many columns.

    Args:
        first (Tensor): Matrices a, ``(m, d, k)``.
        second (Tensor): Matrices b, ``(m, e, k)``.

    Returns:
        Tensor: ``(m, d, e)``.
    """
    m, d, k = first.shape
    parts = _parts(m, k, first.device)
    if parts < 2:
        return (first[0] @ second[0].mT)[None] if m == 1 else torch.bmm(first, second.mT)
    length = k // parts
    split = (
        matrix[..., : parts * length].unflatten(2, (parts, length)).transpose(1, 2).flatten(0, 1)
        for matrix in (first, second)
    )
    result = outer_products(*split).view(m, parts, d, -1).sum(dim=1)
    if k % parts:
        rest = (matrix[..., parts * length :] for matrix in (first, second))
        result = result + outer_products(*rest)
    return result


def _parts(m: int, k: int, device: torch.device) -> int:
    """Into how many parts the columns are cut.

    On a GPU a product is summed by a single block of threads, however many columns there are; the
    other blocks would be idle.
    """
    return 1 if device.type == "cpu" or k < MANY else min(PARTS // m, k // COLUMNS)


class KroneckerProduct:
    """Kronecker products of k vectors of r numbers, m of them, for b samples.

    Even numbers of factors are multiplied in pairs, all pairs at once.

    Args:
        factors (Tensor): ``(m, k, r, b)``, the first factor the most significant.

    Attributes:
        value (Tensor): ``(m, r**k, b)``.
    """

    def __init__(self, factors: Tensor) -> None:
        self._shape = factors.shape
        m, k, r, b = factors.shape
        self._inner: KroneckerProduct | None = None
        if k == 1:
            self.value = factors[:, 0]
            return
        if k % 2:
            self._inner = KroneckerProduct(factors[:, :-1])
            self._first, self._second = self._inner.value, factors[:, -1]
        else:
            self._inner = KroneckerProduct(factors.reshape(2 * m, k // 2, r, b))
            self._first, self._second = self._inner.value.view(m, 2, -1, b).unbind(1)
        self.value = (self._first[:, :, None] * self._second[:, None]).view(m, -1, b)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """From the cotangent of the value to those of the factors, ``(m, k, r, b)``."""
        if self._inner is None:
            return cotangent[:, None]
        m, k, r, _ = self._shape
        cotangent = cotangent.reshape(m, self._first.shape[1], self._second.shape[1], -1)
        of_first = (cotangent * self._second[:, None]).sum(dim=2)
        of_second = (cotangent * self._first[:, :, None]).sum(dim=1)
        if k % 2:
            return torch.cat([self._inner.vjp(of_first), of_second[:, None]], dim=1)
        pairs = torch.stack([of_first, of_second], dim=1)
        if k == 2:
            return pairs
        return self._inner.vjp(pairs.flatten(0, 1)).reshape(m, k, r, -1)


def as_matrices(vectors: Tensor) -> Tensor:
    """Kronecker products of 2 x 2 matrices, from those of their vectors of four entries.

    Args:
        vectors (Tensor): ``(m, 4**k, 1)``, whose index has the bits r1 c1 r2 c2 ...

    Returns:
        Tensor: ``(m, 2**k, 2**k)``, rows r1 r2 ... and columns c1 c2 ...
    """
    m, size, _ = vectors.shape
    k = (int(size).bit_length() - 1) // 2
    order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2)]
    return vectors.view(m, *([2] * (2 * k))).permute(order).reshape(m, 2**k, 2**k)


def as_vectors(matrices: Tensor) -> Tensor:
    """The inverse of `as_matrices`."""
    m, side, _ = matrices.shape
    k = int(side).bit_length() - 1
    order = [0, *(bit for j in range(k) for bit in (1 + j, 1 + k + j))]
    return matrices.view(m, *([2] * (2 * k))).permute(order).reshape(m, 4**k, 1)


class ChainProducts:
    """Products of consecutive 2 x 2 matrices, for many chains of them.

    Args:
        chains (Sequence[Sequence[int]]): For each chain the indices at which its matrices' entries
            start, in the order of application. Index 0 is where the identity's start.
        device (torch.device): Where.
    """

    def __init__(self, chains: Sequence[Sequence[int]], device: torch.device) -> None:
        longest = max(map(len, chains), default=0)
        index = square(0, 2).repeat(longest, len(chains), 1, 1)
        for c, chain in enumerate(chains):
            for k, start in enumerate(chain):
                index[k, c] = square(start, 2)
        self._shape = index.shape
        self.index = index.flatten().to(device, torch.int32)

    def _matrices(self, entries: Tensor) -> Tensor:
        return entries[:, 0].index_select(0, self.index).view(self._shape)

    def forward(self, entries: Tensor) -> list[Tensor]:
        """Products of the first matrix, the first two, ..., all: ``(n_chains, 2, 2)`` each."""
        products: list[Tensor] = []
        for matrix in self._matrices(entries):
            products.append(torch.bmm(matrix, products[-1]) if products else matrix)
        return products

    def vjp(self, entries: Tensor, products: list[Tensor], cotangent: Tensor) -> Tensor:
        """From the cotangent of the last products to those of the entries, as ``index`` lists them.

        Args:
            entries (Tensor): What `forward` took; further entries may follow.
            products (list[Tensor]): What it returned.
            cotangent (Tensor): ``(n_chains, 2, 2)``.
        """
        matrices = self._matrices(entries)
        cotangents: list[Tensor] = []
        for k in range(len(products) - 1, 0, -1):
            cotangents.append(torch.bmm(cotangent, products[k - 1].mT))
            cotangent = torch.bmm(matrices[k].mT, cotangent)
        return torch.stack([*cotangents, cotangent][::-1]).reshape(-1, 1)
