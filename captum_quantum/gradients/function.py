"""What a gradient rule differentiates: a quantum layer's outputs as a function of its angles."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum._state import buffers_kept
from captum_quantum.circuit import Circuit, Gate, index_tensor
from captum_quantum.gradients.nodes import Pullback, not_intercepted
from captum_quantum.quantum_layer import QuantumLayer


class Angles(NamedTuple):
    """The gates' angles that the variables of a `QuantumFunction` are.

    Attributes:
        circuit (Circuit): The circuit.
        table (Tensor): Every gate's angles, ``(batch, n_angles)``, radians.
        columns (list[int]): For each variable, its column of the table.
        initial (Tensor or None): Normalized initial states, ``(batch, 2**n_qubits)``; None for
            ``|0...0>``.
    """

    circuit: Circuit
    table: Tensor
    columns: list[int]
    initial: Tensor | None

    @property
    def gates(self) -> list[tuple[Gate, int]]:
        """For each variable its gate, and which of the gate's angles it is."""
        return [self.circuit.angles[column][:2] for column in self.columns]


@dataclass(frozen=True, eq=False)
class QuantumFunction:
    """A quantum layer's outputs as a function of some of its angles, or of its inputs.

    Attributes:
        module (nn.Module): The layer, for error messages.
        variables (Tensor): Where the derivative is taken, ``(batch, n_variables)``, detached.
        run (Callable): The outputs ``(k * batch, n_outputs)`` for other values of the variables,
            ``(k * batch, n_variables)``, k of them for each sample: row i belongs to sample
            ``i % batch``. Differentiable by autograd if the layer is.
        precision (torch.dtype): The real dtype in which the outputs are computed.
        layer (QuantumLayer or None): The layer, if it shows its circuit.
        angles (Angles or None): The gates' angles that the variables are. None for the inputs of
            amplitude encoding and of a layer that shows no circuit.
        memo (dict[str, Any]): What rules have found out about the module; it outlives the function
            where the module is called several times in a block of `quantum_gradient`.
        vjp (Callable or None): Adjoint differentiation by the simulator, if it has it: called
            without arguments, it gives the function from cotangents ``(batch, n_outputs)`` to
            ``(batch, n_variables)``.
    """

    module: nn.Module
    variables: Tensor
    run: Callable[[Tensor], Tensor]
    precision: torch.dtype
    layer: QuantumLayer | None = None
    angles: Angles | None = None
    vjp: Callable[[], Pullback] | None = None
    memo: dict[str, Any] = field(default_factory=dict)


def _copy(tensor: Tensor) -> Tensor:
    """A copy, as the user may change the tensor in place before the rule runs.

    In single precision at least: in half precision a shift or a small step would be rounded away.
    """
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def function_of_angles(
    module: nn.Module,
    layer: QuantumLayer,
    table: Tensor,
    source: str,
    initial: Tensor | None = None,
) -> QuantumFunction:
    """A layer's outputs as a function of the angles that come from inputs or from weights.

    Args:
        module (nn.Module): The module that the layer is.
        layer (QuantumLayer): The layer.
        table (Tensor): Its angle table, shape ``(batch, n_angles)``, radians.
        source (str): ``"input"`` or ``"weight"``.
        initial (Tensor, optional): Initial states, shape ``(batch, 2**n_qubits)``.
    """
    # In the precision of the values: a step that suits these must not be rounded away.
    table = _copy(table).to(_precision(layer, table.dtype))
    columns = layer.circuit.columns("input" if source == "input" else "weight")
    index = index_tensor(tuple(columns), table.device)
    variables = table[:, index]
    check_unchanged = _watch(module)

    def run(values: Tensor) -> Tensor:
        if source == "input":  # the layer reads its own weights
            check_unchanged()
        repeats = len(values) // len(table)
        angles = table.repeat(repeats, 1).index_copy(1, index, values)
        states = None if initial is None else initial.repeat(repeats, 1)
        return layer.run(angles, states, own_weights=source == "input")

    vjp = _vjp(layer, variables) if source == "input" else None
    angles = Angles(layer.circuit, table, columns, initial)
    return QuantumFunction(
        module, variables, run, _precision(layer, table.dtype), layer, angles, vjp
    )


def function_of_inputs(
    module: nn.Module,
    layer: QuantumLayer | None,
    inputs: Tensor,
    forward: Callable[[Tensor], Tensor] | None = None,
    memo: dict[str, Any] | None = None,
    alone: bool = False,
) -> QuantumFunction:
    """The outputs of a module as a function of its inputs, which are no angles of known gates.

    Args:
        module (nn.Module): Maps ``(batch, ...)`` to ``(batch, ...)``.
        layer (QuantumLayer, optional): The same as a layer that shows its circuit, if it does.
        inputs (Tensor): Shape ``(batch, ...)``.
        forward (Callable, optional): What computes the outputs. Default: the module.
        memo (dict[str, Any], optional): What rules know of the module. Default: nothing.
        alone (bool): Whether the module is called with samples one by one, without dimension 0.
    """
    if layer is None:
        inputs = inputs.detach().clone()
    else:
        inputs = _copy(inputs)
        inputs = inputs.to(torch.promote_types(inputs.dtype, _precision(layer, inputs.dtype)))
    half = (torch.float16, torch.bfloat16)
    if inputs.dtype in half:
        tensors = (*module.parameters(), *module.buffers())
        inputs = inputs if any(t.dtype in half for t in tensors) else inputs.float()
    # Without the user's hooks: those before have changed the inputs, those after act on the result.
    compute = forward or module.forward
    check_unchanged = _watch(module)
    shape = inputs.shape[1:]

    def run(values: Tensor) -> Tensor:
        check_unchanged()
        rows = values.reshape(-1, *shape)
        with not_intercepted(), buffers_kept(module):
            outputs = torch.stack([compute(row) for row in rows]) if alone else compute(rows)
        check_outputs(module, outputs, len(values))
        return outputs.reshape(len(values), -1)

    precision = inputs.dtype if layer is None else _precision(layer, inputs.dtype)
    vjp = None if layer is None else _vjp(layer, inputs)
    variables, known = inputs.reshape(len(inputs), -1), {} if memo is None else memo
    return QuantumFunction(module, variables, run, precision, layer, vjp=vjp, memo=known)


def check_tensor(module: nn.Module, outputs: Any) -> str:
    """Raises TypeError if a layer's output is no floating-point tensor; returns how to call it."""
    argument = f"output of {type(module).__name__} under a gradient rule"
    _checks.check_real(argument, outputs)
    return argument


def check_outputs(module: nn.Module, outputs: Any, batch: int) -> None:
    """Raises TypeError or ValueError if a layer's outputs are not a row for each sample."""
    argument = check_tensor(module, outputs)
    if outputs.dim() == 0 or len(outputs) != batch:
        must = f"one row for each of {batch} samples, along dimension 0"
        _checks.wrong_value(argument, must, outputs)


def _watch(module: nn.Module) -> Callable[[], None]:
    """Returns what raises RuntimeError, as autograd does, if weights have been changed since."""
    tensors = [p for p in module.parameters() if not p.is_inference()]
    versions = [p._version for p in tensors]

    def check() -> None:
        if [p._version for p in tensors] != versions:
            raise RuntimeError(
                f"weights of {type(module).__name__} have been modified in place between its "
                "forward pass and the gradient rule, which runs it again"
            )

    return check


def _vjp(layer: Any, inputs: Tensor) -> Callable[[], Pullback] | None:
    vjp = getattr(layer, "vjp", None)
    return None if vjp is None else lambda: vjp(inputs)


def _precision(layer: Any, dtype: torch.dtype) -> torch.dtype:
    precision = getattr(layer, "precision", None)
    return dtype if precision is None else precision(dtype)
