"""The shares of variance, and what they say."""

import math
from dataclasses import dataclass

from torch import Tensor

_LITTLE, _MUCH = 0.1, 0.5


@dataclass(frozen=True, eq=False)
class Interactions:
    r"""Shares of the outputs' variance in terms of one input, of two, and so on.

    A share is the variance of terms, summed over the outputs, over the sum of the outputs'
    variances. If no output varies beyond rounding, all shares are NaN. Tensors are float64 and on
    the CPU.

    Attributes:
        orders (Tensor): Shares of the terms of exactly 1, 2, ... inputs. Exact ones: as many as
            inputs that angles depend on, at least one. Sampled ones: at most three, the last of
            which is all the rest.
        mains (Tensor): Share of the term of each input alone, shape ``(n_inputs,)``.
        pairs (Tensor): Share of all terms that hold both inputs i and j, with others or without:
            the superset importance of Liu and Owen (2006, doi:10.1198/016214505000001410). Shape
            ``(n_inputs, n_inputs)``, symmetric, with zeros on the diagonal.
        variance (Tensor): Variance of each output, shape ``(n_outputs,)``; 0 if it is rounding.
        exact (bool): Whether the shares are exact; otherwise they are ratios of unbiased estimates.
        errors (Tensor): Standard errors of ``orders``; zeros if exact.
        main_errors (Tensor): Standard errors of ``mains``; zeros if exact.
        pair_errors (Tensor): Standard errors of ``pairs``; zeros if exact.
        n_samples (int): Number of samples; 0 if exact.
        variables (str): What the text calls the inputs.

    Examples:
        >>> from captum_quantum import VQCLayer
        >>> layer = VQCLayer(2, ansatz=None, observables=["Z0", "Z0 Z1"])  # cos x, cos x cos y
        >>> shares = layer.interactions()
        >>> shares.variance
        tensor([0.5000, 0.2500], dtype=torch.float64)
        >>> print(str(shares).replace(": ", ":\n"))
        66.7 % of the outputs' variance is in single angles:
        a local gradient says much about the score. Pairs hold 33.3 %.
    """

    orders: Tensor
    mains: Tensor
    pairs: Tensor
    variance: Tensor
    exact: bool
    errors: Tensor
    main_errors: Tensor
    pair_errors: Tensor
    n_samples: int
    variables: str = "angles"

    @property
    def single(self) -> float:
        """Share of the terms of one input: ``orders[0]``."""
        return float(self.orders[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each of ``orders``: ``"1"``, ``"2"``, ...; the last may be "3 and more"."""
        names = [str(order) for order in range(1, len(self.orders) + 1)]
        if not self.exact and len(self.orders) < len(self.mains):
            names[-1] += " and more"
        return tuple(names)

    def __str__(self) -> str:
        """What the shares say of a local gradient, in one or two sentences.

        It says "much" if half of the variance or more is in single inputs, "little" if less than a
        tenth is, "something" in between; nothing if that depends on an error of two standard
        errors. A large share does not say that the terms are linear.
        """
        if math.isnan(self.single):
            return (
                f"The outputs do not vary with the {self.variables} beyond rounding: no shares are "
                "defined."
            )
        how = "something" if self.single >= _LITTLE else "little"
        how = "much" if self.single >= _MUCH else how
        verdict = f"a local gradient says {how} about the score"
        error = 2 * float(self.errors[0])
        if any(abs(self.single - limit) < error for limit in (_LITTLE, _MUCH)):
            verdict = f"{self.n_samples} samples do not tell what a local gradient says"
        text = (
            f"{self._percent(0, 1)} of the outputs' variance is in single {self.variables}: "
            f"{verdict}."
        )
        if len(self.orders) > 1:
            rest = f", larger groups {self._percent(2, None)}" if len(self.orders) > 2 else ""
            text += f" Pairs hold {self._percent(1, 2)}{rest}."
        return text

    def _percent(self, first: int, last: int | None) -> str:
        """The share of some orders in percent, with its standard error if there is one."""
        numbers = [self.orders[first:last].sum()]
        if not self.exact:
            numbers.append(self.errors[first:last].sum())  # of one order
        texts = [f"{round(100 * float(number), 1) + 0.0:g}" for number in numbers]
        return f"{' ± '.join(texts)} %"
