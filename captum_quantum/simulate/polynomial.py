"""Expectation values as trigonometric polynomials of the inputs, where the weights stay the same.

Let every input be the angle of one rotation of ``|0>`` on its own wire, at the circuit's start. A
wire then enters the circuit as ``v_i = (cos t_i, sin t_i)``, and all that follows is one matrix V,
the same for all samples:

    psi = V (v_1 x ... x v_n),    E_k = <psi| O_k |psi> = sum_rc M_k,rc prod_i v_i,r_i v_i,c_i

with ``M_k = Re(V^H O_k V)``. The products of the entries of v_i are sums of 1, cos 2 t_i and
sin 2 t_i; so E_k is a polynomial with ``3**n`` coefficients in these three of every wire
(arXiv:2008.08605). Once the coefficients are known, the depth of the circuit costs nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_quantum.simulate.entries import AngleMap
from captum_quantum.simulate.products import KroneckerProduct


@dataclass
class Terms:
    """What a polynomial's values and derivatives are made of, for a batch of b samples.

    Attributes:
        cosine (Tensor): Cosines of the angles, ``(n, b)``.
        sine (Tensor): Their sines.
        halves (KroneckerProduct): For either half of the wires all products of 1, a cosine or a
            sine of each wire, ``(2, p, b)``.
        derivatives (Tensor): Of the values by the first half's products, or by both halves',
            ``(1 or 2, p, n_observables, b)``.
    """

    cosine: Tensor
    sine: Tensor
    halves: KroneckerProduct
    derivatives: Tensor


class Polynomial:
    """The polynomials of all observables of a circuit.

    An odd number of wires counts one more, whose angle is 0.

    Args:
        V (Tensor): The circuit after the first rotations: ``(2**n, 2**n)``, complex or real, or
            its real part above its imaginary one, ``(2 * 2**n, 2**n)``.
        signs (Tensor): The observables' eigenvalues, ``(n_observables, 2**n)``, real: all are
            diagonal.
        angles (AngleMap): From input angles to ``2 t_i`` of every wire; n even.

    Examples:
        >>> import torch
        >>> from captum_quantum.simulate.entries import AngleMap
        >>> V, z = torch.eye(4, dtype=torch.complex64), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
        >>> angles = AngleMap([0, 1], [1.0, 1.0], 2, V.device, torch.float32)
        >>> polynomial = Polynomial(V, z, angles)  # Z of the first of two rotations: cos(2 t_1)
        >>> terms = polynomial.forward(torch.tensor([[0.0, 3.0], [torch.pi / 2, 3.0]]))
        >>> polynomial.values(terms).abs().round(decimals=3)
        tensor([[1.],
                [0.]])
        >>> polynomial.vjp(terms, torch.ones(2, 1))[0].abs().round(decimals=3)
        tensor([[0., 0.],
                [1., 0.]])
    """

    def __init__(self, V: Tensor, signs: Tensor, angles: AngleMap) -> None:
        self._angles = angles
        if V.is_complex():
            V = torch.cat([V.real, V.imag])
        n = (V.shape[1] - 1).bit_length()
        self._half = n - n // 2
        table = self._coefficients(V, signs, n)
        if n % 2:
            table = torch.nn.functional.pad(table[..., None], (0, 2))
        table = table.reshape(len(signs), 3**self._half, 3**self._half)
        # The derivatives by one half's products are a matrix product with those of the other.
        by_first, by_last = table.transpose(0, 1), table.permute(2, 0, 1)
        self._tables = torch.stack([by_first, by_last]).flatten(1, 2)
        self._n_observables = len(signs)
        self._one = V.new_ones(1, 1)

    @staticmethod
    def _coefficients(V: Tensor, signs: Tensor, n: int) -> Tensor:
        """All coefficients, ``(n_observables, 3**n)``, the first wire the most significant."""
        rows = signs.repeat(1, len(V) // signs.shape[1])
        M = torch.stack([V.T @ (sign[:, None] * V) for sign in rows])
        # Wire by wire, from the first: cos^2 = (1 + cos 2t) / 2, sin^2 = (1 - cos 2t) / 2 and
        # cos sin = sin 2t / 2.
        for wire in range(n):
            rest = 2 ** (n - 1 - wire)
            M = M.reshape(-1, 2, rest, 2, rest)
            cc, cs, sc, ss = M[:, 0, :, 0], M[:, 0, :, 1], M[:, 1, :, 0], M[:, 1, :, 1]
            M = torch.stack([cc + ss, cc - ss, cs + sc], dim=1) / 2
        return M.reshape(len(signs), -1)

    def forward(self, given: Tensor, derivatives: bool = True) -> Terms:
        """What values and derivatives are made of.

        Args:
            given (Tensor): Input angles, radians, ``(b, n_inputs)``.
            derivatives (bool): Whether `vjp` will be called.
        """
        angles = self._angles.forward(given.to(self._one.dtype).T)
        cosine, sine = torch.cos(angles), torch.sin(angles)
        vectors = torch.stack([self._one.expand_as(angles), cosine, sine], dim=1)
        halves = KroneckerProduct(vectors.view(2, self._half, 3, -1))
        others = halves.value.flip(0) if derivatives else halves.value[1:]
        by_halves = torch.bmm(self._tables[: len(others)], others)
        by_halves = by_halves.view(len(others), -1, self._n_observables, others.shape[2])
        return Terms(cosine, sine, halves, by_halves)

    def values(self, terms: Terms) -> Tensor:
        """The values, ``(b, n_observables)``."""
        return (terms.halves.value[0][:, None] * terms.derivatives[0]).sum(dim=0).T

    def vjp(self, terms: Terms, cotangent: Tensor) -> tuple[Tensor, None]:
        """From the cotangent of the values, ``(b, n_observables)``, to that of the input angles.

        Returns:
            tuple[Tensor, None]: ``(b, n_inputs)``; and none of weights, as they stay the same.
        """
        of_halves = (terms.derivatives * cotangent.T.to(self._one.dtype)).sum(dim=2)
        of_vectors = terms.halves.vjp(of_halves).flatten(0, 1)
        of_angles = terms.cosine * of_vectors[:, 2] - terms.sine * of_vectors[:, 1]
        return self._angles.vjp(of_angles).T, None
