"""quantum_gradient(), which swaps the derivative of quantum layers for the duration of a block."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat
from captum_quantum.circuit import Circuit, select
from captum_quantum.gradients import nodes
from captum_quantum.gradients.function import (
    QuantumFunction,
    check_outputs,
    check_tensor,
    function_of_angles,
    function_of_inputs,
)
from captum_quantum.gradients.shift import CHECKED
from captum_quantum.gradients.table import RULES, vjp_of
from captum_quantum.quantum_layer import as_quantum_layer, own_rule


@dataclass(eq=False)
class _Switch:
    open: bool = True


@dataclass(frozen=True, eq=False)
class QuantumCall:
    """One call of an intercepted quantum layer.

    Attributes:
        module (nn.Module): The layer.
        angles (Tensor): The angles that come from inputs, one column for each gate that takes one,
            shape ``(rows, n_variables)``, in the caller's graph; of a layer without known angles
            its inputs, flattened.
        outputs (Tensor): What the caller got.
        circuit (Circuit or None): The layer's circuit in this call, if it shows one.
    """

    module: nn.Module
    angles: Tensor
    outputs: Tensor
    circuit: Circuit | None
    _switch: _Switch

    def let_gradients_pass(self, passing: bool) -> None:
        """Opens or closes the call: gradients of zero go through a closed one."""
        self._switch.open = passing


class _Interception:
    """The hooks on one module while its input derivative is swapped."""

    def __init__(
        self,
        module: nn.Module,
        rule: str | None,
        calls: list[QuantumCall],
        if_broken: bool,
        check: bool,
    ) -> None:
        self.module, self.rule, self.calls, self.if_broken = module, rule, calls, if_broken
        self.memo: dict[str, Any] = {} if check else {CHECKED: True}
        self.thread = threading.get_ident()
        self.pending: dict[int, Tensor] = {}

    def _concerns(self, module: nn.Module) -> bool:
        """Whether this is the innermost block of its thread, and the call one of this thread."""
        blocks = [block for block in tuple(_active[self.module]) if block.thread == self.thread]
        return (
            blocks[-1] is self
            and not nodes.is_not_intercepted()
            and (threading.get_ident() == self.thread or _compat.is_replica(module))
        )

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Detaches the input, so that autograd finds no derivative through the layer itself.

        With ``if_broken`` it marks the input instead, to see whether autograd finds one.
        """
        # PyTorch leaves kwargs out while another thread removes this hook: then it is not ours.
        if kwargs is None or not self._concerns(module) or not torch.is_grad_enabled():
            return None
        given = [*args, *kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], Tensor):
            argument = f"input of {type(module).__name__} under quantum_gradient"
            came = given[0] if len(given) == 1 else tuple(type(a).__name__ for a in given)
            _checks.wrong_type(argument, "a single tensor", came)
        inputs = given[0]
        if _compat.in_functorch() or _compat.has_tangent(inputs):
            raise nodes.GradientRuleError(
                "a gradient rule swapped in gives first derivatives in reverse mode only, outside "
                "of torch.func; for others use VQCLayer with gradient='backprop', outside "
                "quantum_gradient"
            )
        if not inputs.requires_grad or not inputs.numel():
            return None
        # A copy, as the module may change its input in place.
        passed = inputs.clone() if self.if_broken else inputs.detach().clone()
        self.pending[id(passed)] = inputs
        return ((passed,), {}) if args else ((), dict.fromkeys(kwargs, passed))

    def after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, outputs: Any = None
    ) -> Tensor | None:
        """Connects the output with the input by the rule."""
        if outputs is None:  # without kwargs, as in `before`
            return None
        passed = next(iter([*args, *kwargs.values()]), None)
        inputs = self.pending.pop(id(passed), None)
        if inputs is None or passed is None:
            return None
        check_tensor(module, outputs)
        if self.if_broken and nodes.depends_on(outputs, passed.grad_fn):
            return None
        call = _connect(module, inputs, outputs, self.rule, self.memo)
        self.calls.append(call)
        return call.outputs


def _connect(
    module: nn.Module, inputs: Tensor, outputs: Tensor, rule: str | None, memo: dict[str, Any]
) -> QuantumCall:
    layer, alone = as_quantum_layer(module), False
    leaf = inputs.detach().requires_grad_()
    recorded: Any = getattr(layer, "recorded", None)
    with torch.enable_grad():
        shown = layer if recorded is None else recorded(leaf)  # as it is in this call
    circuit = None if shown is None else shown.circuit
    if circuit is not None:
        inputs = inputs.reshape(-1, circuit.n_inputs)
    else:
        alone = inputs.dim() == 1
        check_outputs(module, outputs[None] if alone else outputs, 1 if alone else len(inputs))
        inputs = inputs[None] if alone else inputs
    if shown is not None and circuit is not None and not circuit.amplitude_encoding:
        wide = torch.promote_types(inputs.dtype, torch.float32)  # half would round weights too
        with torch.enable_grad():
            table = shown.angle_table(leaf.reshape(inputs.shape).to(wide))
        function = function_of_angles(module, shown, table, "input")
        if min(circuit.indices("input"), default=0) >= 0:
            angles = select(inputs, circuit.indices("input"), 1)
        else:
            angles = _computed(inputs, leaf, select(table, circuit.columns("input"), 1))
    else:
        angles = inputs.reshape(len(inputs), -1)
        function = function_of_inputs(module, layer, inputs, memo=memo, alone=alone)
    if function.angles is not None and not getattr(module, "applies_rule", False):
        _check_values(function, outputs)
    pullback = vjp_of(rule or own_rule(module) or "backprop", function)

    # The graph must not hold the call, which holds the graph: neither would ever be freed.
    switch, shape = _Switch(), angles.shape

    def if_open(cotangent: Tensor) -> Tensor:
        return pullback(cotangent) if switch.open else cotangent.new_zeros(shape)

    values = nodes.attach(outputs.reshape(len(inputs), -1), angles, if_open)
    return QuantumCall(module, angles, values.reshape(outputs.shape), circuit, switch)


def _computed(inputs: Tensor, leaf: Tensor, angles: Tensor) -> Tensor:
    """Angles that a module computes, in the caller's graph.

    They depend on the inputs alone there: gradients by weights take the module's own path.

    Args:
        inputs (Tensor): Shape ``(batch, n_inputs)``.
        leaf (Tensor): The same numbers, of any shape, that ``angles`` were computed from.
        angles (Tensor): Shape ``(batch, n_angles)``.
    """

    def pullback(cotangent: Tensor) -> Tensor:
        options = {"retain_graph": True, "materialize_grads": True}
        (by_inputs,) = torch.autograd.grad(angles, leaf, cotangent.to(angles.dtype), **options)
        return by_inputs.reshape(inputs.shape)

    return nodes.attach(angles.detach(), inputs, pullback)


def _check_values(function: QuantumFunction, outputs: Tensor) -> None:
    """Refuses a layer whose own forward computes something else than its circuit."""
    if not getattr(function.layer, "exact", True):
        return
    with torch.no_grad():
        values = function.run(function.variables).to(outputs.dtype)
    atol = max(1e-3, 4 * torch.finfo(outputs.dtype).eps) * (1 + float(values.abs().max()))
    found = outputs.detach().reshape(len(values), -1)
    if found.shape != values.shape or not torch.allclose(found, values, atol=atol):
        raise nodes.GradientRuleError(
            f"a gradient rule does not apply to {_checks.describe(function.module)}, whose outputs "
            "are not the expectation values of its circuit; put what is done before or after the "
            "circuit into modules of its own"
        )


_active: WeakKeyDictionary[nn.Module, list[_Interception]] = WeakKeyDictionary()
"""The interceptions of every module, of all threads, the innermost last."""


@contextmanager
def intercept(
    modules: Sequence[nn.Module],
    rule: str | None,
    *,
    if_broken: bool = False,
    check: bool = True,
) -> Iterator[list[QuantumCall]]:
    """Swaps the input derivative of modules for the duration of a block.

    Args:
        modules (Sequence[nn.Module]): The modules.
        rule (str, optional): The gradient rule; None for each module's own.
        if_broken (bool): Whether to do so only where autograd finds no derivative.
        check (bool): Whether to try on some values whether a rule fits a module without a circuit.

    Yields:
        list[QuantumCall]: The calls whose derivative was swapped, as they happen.
    """
    calls: list[QuantumCall] = []
    with ExitStack() as stack:
        for module in modules:
            block = _Interception(module, rule, calls, if_broken, check)
            blocks = _active.setdefault(module, [])
            blocks.append(block)
            stack.callback(blocks.remove, block)
            before = module.register_forward_pre_hook(block.before, with_kwargs=True)
            after = module.register_forward_hook(block.after, prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield calls


@contextmanager
def quantum_gradient(
    modules: nn.Module | Sequence[nn.Module], rule: str = "parameter-shift", *, check: bool = True
) -> Iterator[None]:
    r"""Swaps the input derivative of quantum layers for the block's duration.

    Inside the block, autograd goes through the modules by the given rule, whatever they are and
    whatever the rest of the model is, so that every gradient method of Captum works on layers that
    autograd cannot differentiate. Values are the modules' own, and so are derivatives by their
    weights. A module may be called several times, in series and beside skip connections.

    In nested blocks the innermost rule holds. Calls in other threads are not affected. Only first
    derivatives exist. Weights must not change between the forward and the backward pass. A layer
    that shows its circuit must return the circuit's expectation values.

    - ``"parameter-shift"``: :math:`\partial_t f = (f(t + \pi/2) - f(t - \pi/2)) / 2` for every gate
      that takes an input, all shifted circuits in one batch; four terms for controlled rotations
      (arXiv:1811.11184, arXiv:2104.05695). Of a module that shows no circuit, each input is taken
      to be the angle of one Pauli rotation; ``check`` tries whether it is.
    - ``"commutator"``: QGrad-CAM's :math:`\tfrac{i}{2} \mathrm{tr}(\rho [G, \tilde O])` on density
      matrices (arXiv:2408.05899); needs a circuit of at most 10 qubits.
    - ``"finite-difference"``: central differences, steps of 1e-5 (float64) or 1e-2 (else) radians,
      longer where values carry noise.
    - ``"adjoint"``: adjoint differentiation: the state is run backward through the circuit
      (arXiv:2009.02823), memory independent of depth; for simulators with a vjp, as the fused one.
    - ``"backprop"``: autograd through the simulator or the module itself.

    Args:
        modules (nn.Module or sequence): The quantum layers: single tensor in, single tensor out,
            dimension 0 the batch (a `VQCLayer`: all dimensions but the last).
        rule (str): One of the above.
        check (bool): Whether to run a module without a circuit at five values of each input, at
            random points, once in the block, to see whether ``"parameter-shift"`` fits it; twice
            more where it seems not to. On hardware, where every value costs, it can be switched
            off.

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
        as_quantum_layer(module)
    with intercept(listed, rule, check=check):
        yield
