"""How a rule enters the autograd graph.

The node that carries a rule into the autograd graph adds zero to the layer's output, so the values
are the layer's own, and derivatives by its weights keep their own path.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from captum_quantum.gradients.errors import GradientRuleError

Pullback = Callable[[Tensor], Tensor]


class _Zero(torch.autograd.Function):
    """Adds zero to a layer's output and carries its derivative by ``variables``."""

    @staticmethod
    def forward(ctx: Any, variables: Tensor, like: Tensor, pull: Pullback) -> Tensor:
        ctx.pull = pull
        return torch.zeros_like(like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            result = ctx.pull(grad.detach())
        return first_derivative(result), None, None


def first_derivative(result: Tensor) -> Tensor:
    """Marks what a rule gave, where autograd records (``create_graph``), as not differentiable."""
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


def attach(values: Tensor, variables: Tensor, pull: Pullback) -> Tensor:
    """Returns ``values`` with the derivative by ``variables`` that ``pull`` gives.

    Args:
        values (Tensor): Shape ``(batch, n_outputs)``.
        variables (Tensor): Shape ``(batch, n_columns)``.
        pull (Callable): ``(batch, n_outputs) -> (batch, n_columns)``.
    """
    node: Any = _Zero
    zero: Tensor = node.apply(variables, values.detach(), pull)
    return values + zero


thread = threading.local()


@contextmanager
def inputs_only() -> Iterator[None]:
    """In this thread and block, layers record nothing of their own weights, to save the work."""
    before = getattr(thread, "inputs_only", False)
    thread.inputs_only = True
    try:
        yield
    finally:
        thread.inputs_only = before


def only_inputs() -> bool:
    """Whether that is so."""
    return getattr(thread, "inputs_only", False)


@contextmanager
def unintercepted() -> Iterator[None]:
    """A rule calls the module itself: those calls are not the model's."""
    before = getattr(thread, "running", False)
    thread.running = True
    try:
        yield
    finally:
        thread.running = before
