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

from captum_quantum import _checks, _compat
from captum_quantum._state import full_precision


class GradientRuleError(ValueError):
    """A gradient rule that does not apply, with the reason."""


class GradientPathError(RuntimeError):
    """No gradient reaches the layer, with the module at which the path breaks."""


Pullback = Callable[[Tensor], Tensor]
"""A vector-Jacobian product: cotangents ``(batch, n_outputs)`` to ``(batch, n_variables)``."""


class _Zero(torch.autograd.Function):
    """Zero, with the derivative by ``variables`` that a pullback gives.

    ``values`` and ``sources`` are what a second derivative could be taken by.
    """

    @staticmethod
    def forward(
        ctx: Any, variables: Tensor, values: Tensor, pullback: Pullback, *sources: Tensor
    ) -> Tensor:
        ctx.pullback, ctx.shape = pullback, variables.shape
        ctx.save_for_backward(variables, values, *sources)
        return torch.zeros_like(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n_others = len(ctx.needs_input_grad) - 1
        if not ctx.needs_input_grad[0]:
            return (None,) * (n_others + 1)
        if _compat.is_wrapper(grad):
            raise GradientRuleError(
                "a quantum gradient rule takes one cotangent at a time; for batches of them "
                "(is_grads_batched, vectorize) use VQCLayer with gradient='backprop'"
            )
        with torch.no_grad(), full_precision(grad.device):
            result = ctx.pullback(grad.detach())
        if not isinstance(result, Tensor) or result.shape != ctx.shape:
            _checks.wrong_value("a gradient rule's vjp", f"of shape {tuple(ctx.shape)}", result)
        result = result.contiguous()
        if torch.is_grad_enabled():
            result = first_derivative(result, grad, *ctx.saved_tensors)
        return result, *(None,) * n_others


_FIRST_ONLY = (
    "a quantum gradient rule gives first derivatives only; for higher ones use VQCLayer "
    "with gradient='backprop', outside quantum_gradient"
)


def first_derivative(result: Tensor, *sources: Tensor, message: str = _FIRST_ONLY) -> Tensor:
    """Marks a rule's result as not differentiable by what it depends on.

    Without it autograd would take a second derivative for zero.

    Args:
        result (Tensor): The result.
        *sources (Tensor): What it depends on.
        message (str): The words of the error that a second derivative is.
    """
    guard: Any = _FirstDerivative
    marked: Tensor = guard.apply(message, result, *sources)
    return marked


class _FirstDerivative(torch.autograd.Function):
    """Refuses to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, result: Tensor, *sources: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise GradientRuleError(ctx.message)


class _Adjoint(torch.autograd.Function):
    """A simulator's call with its vjp as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weights: Tensor,
        initial: Tensor | None,
        simulator: Any,
        circuit: Any,
        dtype: torch.dtype,
    ) -> Tensor:
        needs = ctx.needs_input_grad[:3]
        values, ctx.pullback = simulator.vjp(
            circuit, inputs, weights, dtype, initial=initial, needs=needs
        )
        ctx.save_for_backward(inputs, weights, initial)
        ctx.given = simulator, circuit, dtype
        result: Tensor = values
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or _compat.is_wrapper(grad):
            with full_precision(grad.device):
                return (*_Adjoint._recorded(ctx, grad), None, None, None)
        return (*ctx.pullback(grad), None, None, None)

    @staticmethod
    def _recorded(ctx: Any, grad: Tensor) -> list[Tensor | None]:
        """The vjp as autograd records it, for derivatives of it or for a batch of cotangents."""
        given, needs = ctx.saved_tensors, ctx.needs_input_grad[:3]
        wanted = [tensor for tensor, need in zip(given, needs, strict=True) if need]
        options = {"create_graph": torch.is_grad_enabled(), "materialize_grads": True}
        with torch.enable_grad():
            inputs, weights, initial = given
            simulator, circuit, dtype = ctx.given
            values = simulator.expectations(circuit, inputs, weights, dtype, initial=initial)
        if values.requires_grad:
            found = iter(torch.autograd.grad(values, wanted, grad, **options))
            return [next(found) if need else None for need in needs]
        sources = [grad, *(tensor for tensor in given if tensor is not None)]
        return [
            None if c is None else first_derivative(c, *sources)
            for c in ctx.pullback(grad.detach())
        ]


def adjoint(
    simulator: Any,
    circuit: Any,
    inputs: Tensor,
    weights: Tensor,
    initial: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Expectation values, whose derivatives are the simulator's vjp.

    Args:
        simulator (Simulator): A simulator with ``vjp``.
        circuit (Circuit): The circuit.
        inputs (Tensor): Angles that come from inputs, radians, ``(batch, n_input_angles)``.
        weights (Tensor): Angles that come from weights, radians, ``(n_weight_angles,)``.
        initial (Tensor, optional): Normalized amplitudes, ``(batch, 2**n)``.
        dtype (torch.dtype): torch.complex64 or torch.complex128.

    Returns:
        Tensor: Shape ``(batch, n_observables)``.
    """
    node: Any = _Adjoint
    values: Tensor = node.apply(inputs, weights, initial, simulator, circuit, dtype)
    return values


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


def attach(values: Tensor, variables: Tensor, pullback: Pullback, *sources: Tensor) -> Tensor:
    """Returns ``values`` with the derivative by ``variables`` that a pullback gives.

    Args:
        values (Tensor): Shape ``(batch, n_outputs)``.
        variables (Tensor): Shape ``(batch, n_variables)``.
        pullback (Callable): ``(batch, n_outputs) -> (batch, n_variables)``.
        *sources (Tensor): What the derivative depends on, beside the variables and what autograd
            knows the values to depend on: a second derivative by one of these is an error.

    Returns:
        Tensor: Shape ``(batch, n_outputs)``.
    """
    node: Any = _Zero
    zero: Tensor = node.apply(variables, values, pullback, *sources)
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
