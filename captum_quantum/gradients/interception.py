"""quantum_gradient(), which swaps the derivative of quantum layers for the duration of a block."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.gradients.nodes import attach, thread
from captum_quantum.gradients.rules import RULES, CircuitLayer, pullback


@dataclass(eq=False)
class QuantumCall:
    """One call of an intercepted quantum layer.

    Attributes:
        module (nn.Module): The layer.
        inputs (Tensor): What it was called with, in the caller's graph.
        angles (Tensor): The angles that come from inputs, one column for each gate that takes one,
            shape ``(batch, n_columns)``; of a foreign layer its inputs, flattened.
        outputs (Tensor): What the caller got.
        open (bool): Whether gradients pass; the caller may close a call to leave its paths out.
    """

    module: nn.Module
    inputs: Tensor
    angles: Tensor = field(init=False)
    outputs: Tensor = field(init=False)
    open: bool = True


class _Interception:
    """The hooks on one module while its input derivative is swapped."""

    def __init__(self, module: nn.Module, rule: str | None, calls: list[QuantumCall]) -> None:
        self.module, self.rule, self.calls = module, rule, calls
        self.thread = threading.get_ident()
        self.pending: dict[int, Tensor] = {}
        self.superseded = False

    def _mine(self, module: nn.Module) -> bool:
        return not (self.superseded or getattr(thread, "running", False)) and (
            threading.get_ident() == self.thread or getattr(module, "_is_replica", False)
        )

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        """Cuts the input off, so that the layer's own rule does not see it."""
        if not self._mine(module) or not torch.is_grad_enabled():
            return None
        if len(args) != 1 or not isinstance(args[0], Tensor):
            _checks.wrong_type(
                f"input of {type(module).__name__} under quantum_gradient",
                "a single tensor",
                args[0] if len(args) == 1 else tuple(type(a).__name__ for a in args),
            )
        inputs = args[0]
        if not inputs.requires_grad:
            return None
        cut = inputs.detach()
        self.pending[id(cut)] = inputs
        return (cut,)

    def after(self, module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Tensor | None:
        """Ties the output to the input by the rule."""
        inputs = self.pending.pop(id(args[0]), None) if args else None
        if inputs is None:
            return None
        if not isinstance(outputs, Tensor):
            _checks.wrong_type(
                f"output of {type(module).__name__} under quantum_gradient", "a tensor", outputs
            )
        call = QuantumCall(module, inputs)
        result = _tie(call, args[0], outputs, self.rule)
        self.calls.append(call)
        return result


def _tie(call: QuantumCall, cut: Tensor, outputs: Tensor, rule: str | None) -> Tensor:
    module, inputs = call.module, call.inputs
    name = rule or getattr(module, "gradient", None) or "backprop"
    amplitudes = None
    if isinstance(module, CircuitLayer) and not module.circuit.amplitude_encoding:
        rows = inputs.reshape(-1, inputs.shape[-1])
        columns: list[int] | None = module.circuit.columns("input")
        indices = module.circuit.indices("input")
        call.angles = rows[:, torch.tensor(indices, device=rows.device)]
        table = module.angle_table(cut.reshape(rows.shape))
        flat = outputs.reshape(len(rows), -1)
    else:
        if inputs.dim() == 1:
            rows, table, flat = inputs[None], cut[None], outputs.reshape(1, -1)
        else:
            rows, table, flat = inputs, cut, outputs.reshape(len(inputs), -1)
        columns = None
        call.angles = rows.reshape(len(rows), -1)
    pull = pullback(name, module, table.detach(), columns, amplitudes)

    def guarded(grad: Tensor) -> Tensor:
        return pull(grad) if call.open else grad.new_zeros(call.angles.shape)

    call.outputs = attach(flat, call.angles, guarded).reshape(outputs.shape)
    return call.outputs


_active: dict[tuple[int, int], list[_Interception]] = {}


@contextmanager
def intercept(modules: Sequence[nn.Module], rule: str | None) -> Iterator[list[QuantumCall]]:
    """Swaps the input derivative of modules and lists their calls; None: each one's own rule."""
    calls: list[QuantumCall] = []
    undo: list[Callable[[], Any]] = []
    try:
        for module in modules:
            interception = _Interception(module, rule, calls)
            stack = _active.setdefault((id(module), interception.thread), [])
            if stack:
                stack[-1].superseded = True
            stack.append(interception)
            undo.append(partial(_pop, stack, (id(module), interception.thread)))
            undo.append(module.register_forward_pre_hook(interception.before).remove)
            undo.append(module.register_forward_hook(interception.after, prepend=True).remove)
        yield calls
    finally:
        for step in reversed(undo):
            step()


def _pop(stack: list[_Interception], key: tuple[int, int]) -> None:
    stack.pop()
    if stack:
        stack[-1].superseded = False
    else:
        _active.pop(key, None)


@contextmanager
def quantum_gradient(
    modules: nn.Module | Sequence[nn.Module], rule: str = "parameter-shift"
) -> Iterator[None]:
    r"""Swaps the input derivative of quantum layers for the block's duration.

    Inside the block, autograd goes through the modules by the given rule, whatever they are and
    whatever the rest of the model is, so that every gradient method of Captum works on layers that
    autograd cannot differentiate. Values are the modules' own, and so are derivatives by their
    weights. A module may be called several times, in series and beside skip connections. Blocks
    nest: the innermost rule holds. Other threads are not affected. First derivatives only.

    - ``"parameter-shift"``: :math:`\partial_t f = (f(t + \pi/2) - f(t - \pi/2)) / 2` for every gate
      that takes an input, all shifted circuits in one batch; four terms for controlled rotations
      (arXiv:1811.11184, arXiv:2104.05695). Of a module that shows no circuit, each input is taken
      to be the angle of one Pauli rotation; that is checked on one sample where values are exact.
    - ``"commutator"``: QGrad-CAM's :math:`\tfrac{i}{2} \mathrm{tr}(\rho [G, \tilde O])` on density
      matrices (arXiv:2408.05899); needs a circuit of at most 10 qubits.
    - ``"finite-difference"``: central differences, steps of 1e-5 (float64) or 1e-2 (else) radians.
    - ``"adjoint"``: goes back through the circuit with the adjoint of every matrix, memory
      independent of depth; for a `VQCLayer` with the fused simulator.
    - ``"backprop"``: autograd through the simulator or the module itself.

    Args:
        modules (nn.Module or sequence): The quantum layers: single tensor in, single tensor out,
            dimension 0 the batch (a `VQCLayer`: all dimensions but the last).
        rule (str): One of the above.

    Raises:
        TypeError: If modules are not modules, or one is called with other than one tensor.
        ValueError: If the rule is unknown.
        GradientRuleError: If the rule does not apply to a module.

    Examples:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_quantum import VQCLayer, quantum_gradient
        >>> layer = VQCLayer(2, n_layers=1)
        >>> x = torch.rand(3, 2, requires_grad=True)
        >>> with quantum_gradient(layer, rule="parameter-shift"):
        ...     Saliency(layer).attribute(x, target=0).shape
        torch.Size([3, 2])
    """
    _checks.check_choice("rule", rule, RULES)
    listed = [modules] if isinstance(modules, nn.Module) else list(modules)
    for module in listed:
        if not isinstance(module, nn.Module):
            _checks.wrong_type("modules", "a module or a sequence of modules", module)
    with intercept(listed, rule):
        yield
