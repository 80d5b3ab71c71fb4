"""How a gradient rule enters the autograd graph.

A node adds zero to a layer's output and carries the derivative by the layer's variables. So the
values are the layer's own, and derivatives by its weights keep their own path.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class GradientRuleError(ValueError):
    """A gradient rule that does not apply, with the reason."""


class GradientPathError(RuntimeError):
    """No gradient reaches the layer, with the module at which the path breaks."""


Pullback = Callable[[Tensor], Tensor]
"""A vector-Jacobian product: cotangents ``(batch, n_outputs)`` to ``(batch, n_variables)``."""


class _Zero(torch.autograd.Function):
    """Zero, with the derivative by ``variables`` that a pullback gives."""

    @staticmethod
    def forward(ctx: Any, variables: Tensor, like: Tensor, pullback: Pullback) -> Tensor:
        ctx.pullback = pullback
        return torch.zeros_like(like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            result = ctx.pullback(grad.detach())
        return first_derivative(result), None, None


def first_derivative(result: Tensor) -> Tensor:
    """Marks a rule's result as not differentiable where autograd records (``create_graph``)."""
    if not torch.is_grad_enabled():
        return result
    guard: Any = _FirstDerivative
    marked: Tensor = guard.apply(result.requires_grad_())
    return marked


class _FirstDerivative(torch.autograd.Function):
    """Refuses a second derivative: without it autograd would take that of the rule for zero."""

    @staticmethod
    def forward(ctx: Any, result: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise GradientRuleError(
            "a quantum gradient rule gives first derivatives only; for higher ones use VQCLayer "
            "with gradient='backprop', outside quantum_gradient"
        )


def attach(values: Tensor, variables: Tensor, pullback: Pullback) -> Tensor:
    """Returns ``values`` with the derivative by ``variables`` that a pullback gives.

    Args:
        values (Tensor): Shape ``(batch, n_outputs)``.
        variables (Tensor): Shape ``(batch, n_variables)``.
        pullback (Callable): ``(batch, n_outputs) -> (batch, n_variables)``.

    Returns:
        Tensor: Shape ``(batch, n_outputs)``.
    """
    node: Any = _Zero
    zero: Tensor = node.apply(variables, values.detach(), pullback)
    return values + zero


_thread = threading.local()


@contextmanager
def _flagged(name: str) -> Iterator[None]:
    before = getattr(_thread, name, False)
    setattr(_thread, name, True)
    try:
        yield
    finally:
        setattr(_thread, name, before)


def inputs_only() -> Any:
    """In this thread and block, layers record nothing for their own weights, to save the work."""
    return _flagged("inputs_only")


def is_inputs_only() -> bool:
    """Whether this thread is inside of :func:`inputs_only`."""
    return getattr(_thread, "inputs_only", False)


def not_intercepted() -> Any:
    """In this thread and block, calls of layers are a rule's own and not intercepted."""
    return _flagged("not_intercepted")


def is_not_intercepted() -> bool:
    """Whether this thread is inside of :func:`not_intercepted`."""
    return getattr(_thread, "not_intercepted", False)
