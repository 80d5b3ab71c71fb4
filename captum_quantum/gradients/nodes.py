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

from captum_quantum import _checks


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
        ctx.pullback, ctx.shape = pullback, variables.shape
        return torch.zeros_like(like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            result = ctx.pullback(grad.detach())
        if not isinstance(result, Tensor) or result.shape != ctx.shape:
            _checks.wrong_value("a gradient rule's vjp", f"of shape {tuple(ctx.shape)}", result)
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


def depends_on(outputs: Tensor, node: Any) -> bool:
    """Whether a node of the autograd graph is among those that outputs are computed from."""
    nodes = [outputs.grad_fn] if outputs.grad_fn is not None else []
    seen = set(nodes)
    while nodes:
        current = nodes.pop()
        if current is node:
            return True
        new = {parent for parent, _ in current.next_functions if parent is not None} - seen
        seen |= new
        nodes.extend(new)
    return False


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
