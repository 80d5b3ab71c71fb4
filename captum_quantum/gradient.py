"""Derivative rules of a quantum layer, and quantum_gradient() which swaps them in.

Every rule gives the derivatives of a layer's outputs by its inputs; autograd does the rest. The
node that carries a rule into the autograd graph adds zero to the layer's output, so the values are
the layer's own, and derivatives by its weights keep their own path.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit
from captum_quantum.circuit.gates import TWO_TERM, ShiftRule


class GradientRuleError(ValueError):
    """A gradient rule that does not apply, with the reason."""


class GradientPathError(RuntimeError):
    """No gradient reaches the layer, with the module at which the path breaks."""


RULES = ("adjoint", "backprop", "parameter-shift", "commutator", "finite-difference")
"""The names of the derivative rules."""

_STEP = 1e-5
_COARSE_STEP = 1e-2


@runtime_checkable
class CircuitLayer(Protocol):
    """A quantum layer that knows its circuit: what `VQCLayer` offers to the rules."""

    circuit: Circuit

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Inputs ``(batch, n_inputs)`` to every gate's angles ``(batch, n_angles)``."""

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """Normalised initial states ``(batch, 2**n)``, or None for ``|0...0>``."""

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Angles ``(batch, n_angles)`` to expectation values ``(batch, n_observables)``.

        With ``own_weights``, the columns that come from weights hold the layer's own in every row.
        """

    def adjoint_pullback(self, inputs: Tensor) -> "Pullback | None":
        """Adjoint differentiation by input angles, or by the inputs of amplitude encoding."""


Run = Callable[[Tensor], Tensor]
Pullback = Callable[[Tensor], Tensor]


def _shifted_jacobian(
    run: Run, table: Tensor, columns: Sequence[int], terms: list[ShiftRule]
) -> Tensor:
    """Derivatives by columns of a table as weighted sums of shifted runs, all in one batch.

    Args:
        run (Callable): ``(many, n_columns) -> (many, n_outputs)``.
        table (Tensor): Shape ``(batch, n_columns)``.
        columns (Sequence[int]): The columns to differentiate by.
        terms (list): For each of them its pairs (shift, coefficient).

    Returns:
        Tensor: Shape ``(batch, n_outputs, len(columns))``.
    """
    where, shifts, weights = [], [], []
    for k, (column, rule) in enumerate(zip(columns, terms, strict=True)):
        for shift, weight in rule:
            where.append((k, column))
            shifts.append(shift)
            weights.append(weight)
    batch = table.shape[0]
    offsets = table.new_zeros(len(shifts), table.shape[1])
    for row, ((_, column), shift) in enumerate(zip(where, shifts, strict=True)):
        offsets[row, column] = shift
    with torch.no_grad():
        outputs = run((table.detach() + offsets[:, None]).reshape(-1, table.shape[1]))
    outputs = outputs.reshape(len(shifts), batch, -1)
    combine = outputs.new_zeros(len(shifts), len(columns))
    for row, ((k, _), weight) in enumerate(zip(where, weights, strict=True)):
        combine[row, k] = weight
    return torch.einsum("sbo,sk->bok", outputs, combine)


def _central(module: nn.Module, dtype: torch.dtype) -> ShiftRule:
    """Central differences; TorchQuantum computes in complex64, whatever the angles."""
    fine = dtype == torch.float64 and getattr(module, "simulator", None) != "torchquantum"
    step = _STEP if fine else _COARSE_STEP
    return ((step, 0.5 / step), (-step, -0.5 / step))


def _check_two_term(module: nn.Module, run: Run, table: Tensor) -> None:
    """Refuses parameter-shift for a foreign layer whose first sample contradicts the two-term rule.

    Where each input is the angle of one gate with two eigenvalues, f(x) + f(x + pi) equals
    f(x + pi/2) + f(x - pi/2). A layer that gives two values for one input (shots) is not asked.
    """
    sample, n = table[:1].detach(), table.shape[1]
    eye = torch.eye(n, dtype=sample.dtype, device=sample.device) * (torch.pi / 2)
    with torch.no_grad():
        values = run(torch.cat([sample, sample, sample + 2 * eye, sample + eye, sample - eye]))
    here, again = values[0], values[1]
    far, plus, minus = values[2:].reshape(3, n, -1)
    if not torch.equal(here, again):
        return
    wrong = ((here + far) - (plus + minus)).abs().amax(dim=1) > 1e-3 * (1 + values.abs().max())
    if bool(wrong.any()):
        raise GradientRuleError(
            f"rule 'parameter-shift' does not apply to {_checks.describe(module)}: inputs "
            f"{wrong.nonzero().flatten().tolist()} are not each the angle of a single Pauli "
            "rotation (f(x) + f(x + pi) differs from f(x + pi/2) + f(x - pi/2)); use "
            "'finite-difference'"
        )


def _shift_rules(circuit: Circuit, columns: Sequence[int]) -> list[ShiftRule]:
    rules = []
    for column in columns:
        gate, which, angle = circuit.angles[column]
        rule = gate.type.shifts[which]
        if rule is None:
            raise GradientRuleError(
                f"rule 'parameter-shift' does not apply to angle {which} ({angle}) of {gate}: its "
                "generator has neither two nor three equidistant eigenvalues; use 'backprop', "
                "'commutator' or 'finite-difference'"
            )
        rules.append(rule)
    return rules


def pullback(
    rule: str,
    module: nn.Module,
    table: Tensor,
    columns: Sequence[int] | None,
    amplitudes: Tensor | None = None,
) -> Pullback:
    """Returns the function that pulls an output gradient back to the columns of a table.

    Args:
        rule (str): One of ``RULES``.
        module (nn.Module): The quantum layer.
        table (Tensor): A circuit layer's angle table, shape ``(batch, n_angles)``; of a foreign
            layer its inputs, shape ``(batch, ...)``, with columns None.
        columns (Sequence[int], optional): The columns of the angle table to differentiate by.
        amplitudes (Tensor, optional): The circuit's initial states.

    Returns:
        Callable: ``(batch, n_outputs) -> (batch, n_columns)``. What it computes on its first call
        is kept for further calls.

    Raises:
        GradientRuleError: If the rule does not apply.
    """
    if columns is None:
        return _foreign_pullback(rule, module, table)
    assert isinstance(module, CircuitLayer)
    layer: CircuitLayer = module
    selected = list(columns)

    by_inputs = set(selected) <= set(layer.circuit.columns("input"))

    def run(angles: Tensor) -> Tensor:
        if amplitudes is None:
            return layer.run(angles, own_weights=by_inputs)
        return layer.run(angles, amplitudes.repeat(angles.shape[0] // amplitudes.shape[0], 1))

    if rule == "adjoint":
        return _adjoint(layer, table[:, selected])
    if rule == "backprop":
        return _BackpropPullback(run, table.detach(), selected)
    if rule == "parameter-shift":
        terms = _shift_rules(layer.circuit, selected)
        return _JacobianPullback(lambda: _shifted_jacobian(run, table, selected, terms))
    if rule == "finite-difference":
        terms = [_central(module, table.dtype)] * len(selected)
        return _JacobianPullback(lambda: _shifted_jacobian(run, table, selected, terms))

    def commutator() -> Tensor:
        from captum_quantum.simulate.density import commutator_jacobian

        return commutator_jacobian(layer.circuit, table, selected, amplitudes)

    return _JacobianPullback(commutator)


def _adjoint(module: Any, inputs: Tensor) -> Pullback:
    found = module.adjoint_pullback(inputs) if isinstance(module, CircuitLayer) else None
    if found is None:
        raise GradientRuleError(
            f"rule 'adjoint' needs a VQCLayer with simulator 'fused'; got "
            f"{_checks.describe(module)}"
        )
    return found


def _foreign_pullback(rule: str, module: nn.Module, inputs: Tensor) -> Pullback:
    """The same for a module that maps ``(batch, ...)`` to ``(batch, ...)`` and shows no circuit."""
    batch, shape = inputs.shape[0], inputs.shape[1:]
    flat = inputs.detach().reshape(batch, -1)

    def run(table: Tensor) -> Tensor:
        with _unintercepted():
            outputs: Tensor = module(table.reshape(-1, *shape))
        return outputs.reshape(table.shape[0], -1)

    if rule == "adjoint":
        return _adjoint(module, inputs.detach())
    columns = list(range(flat.shape[1]))
    if rule == "backprop":
        return _BackpropPullback(run, flat, columns)
    if isinstance(module, CircuitLayer) and rule in ("parameter-shift", "commutator"):
        raise GradientRuleError(
            f"rule {rule!r} does not apply to the inputs of amplitude encoding, which are no "
            "angles of gates; use 'backprop' or 'finite-difference'"
        )
    if rule == "commutator":
        raise GradientRuleError(
            f"rule 'commutator' needs the gates of a circuit, which {_checks.describe(module)} "
            "does not show; use 'parameter-shift' or 'finite-difference'"
        )

    def jacobian() -> Tensor:
        if rule == "finite-difference":
            terms = [_central(module, flat.dtype)] * len(columns)
            return _shifted_jacobian(run, flat, columns, terms)
        _check_two_term(module, run, flat)
        return _shifted_jacobian(run, flat, columns, [TWO_TERM] * len(columns))

    return _JacobianPullback(jacobian)


class _JacobianPullback:
    """Computes a Jacobian ``(batch, n_outputs, n_columns)`` when first asked, then contracts it."""

    def __init__(self, jacobian: Callable[[], Tensor]) -> None:
        self._compute = jacobian
        self._jacobian: Tensor | None = None

    def __call__(self, grad: Tensor) -> Tensor:
        if self._jacobian is None:
            self._jacobian = self._compute()
        return torch.einsum("bo,bok->bk", grad, self._jacobian.to(grad.dtype))


class _BackpropPullback:
    """Runs the layer under autograd when first asked, then goes back through that graph."""

    def __init__(self, run: Run, table: Tensor, columns: list[int]) -> None:
        self._run, self._table, self._columns = run, table, columns
        self._graph: tuple[Tensor, Tensor] | None = None

    def __call__(self, grad: Tensor) -> Tensor:
        if self._graph is None:
            with torch.enable_grad():
                leaf = self._table.clone().requires_grad_()
                outputs = self._run(leaf)
            if not outputs.requires_grad:
                raise GradientRuleError(
                    "rule 'backprop' does not apply: the layer's outputs do not depend on its "
                    "inputs for autograd; use 'parameter-shift' or 'finite-difference'"
                )
            self._graph = (leaf, outputs)
        leaf, outputs = self._graph
        (result,) = torch.autograd.grad(
            outputs,
            leaf,
            grad.to(outputs.dtype),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return result[:, self._columns]


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


_rule = threading.local()


@contextmanager
def inputs_only() -> Iterator[None]:
    """In this thread and block, layers record nothing of their own weights, to save the work."""
    before = getattr(_rule, "inputs_only", False)
    _rule.inputs_only = True
    try:
        yield
    finally:
        _rule.inputs_only = before


def only_inputs() -> bool:
    """Whether that is so."""
    return getattr(_rule, "inputs_only", False)


@contextmanager
def _unintercepted() -> Iterator[None]:
    """A rule calls the module itself: those calls are not the model's."""
    before = getattr(_rule, "running", False)
    _rule.running = True
    try:
        yield
    finally:
        _rule.running = before


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
        return not (self.superseded or getattr(_rule, "running", False)) and (
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
