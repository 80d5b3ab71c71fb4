"""What a quantum layer is, and which modules of a model are quantum layers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from captum_quantum import _checks
from captum_quantum.circuit import Circuit

__all__ = [
    "ADAPTERS", "QuantumLayer", "as_quantum_layer", "find_quantum_layers", "own_rule",
    "register_adapter"
]  # fmt: skip


@runtime_checkable
class QuantumLayer(Protocol):
    """A module that shows its circuit, such as `VQCLayer`.

    It maps inputs ``(..., n_inputs)`` to expectation values ``(..., n_observables)``. All members
    below are required; a module that has only some of them is an error wherever quantum layers are
    looked for. These members are optional:

    - ``applies_rule`` (bool): Whether autograd through the module already follows the rule
      ``gradient``. Default: False; the rule then applies where autograd finds no derivative. An
      adapter cannot set it: it is an attribute of the module itself.
    - ``exact`` (bool): Whether values carry no noise. Default: True.
    - ``vjp(inputs)``: Adjoint differentiation. From input angles ``(batch, n_angles)``, one column
      for each gate angle that comes from an input (under amplitude encoding: from the inputs), to
      the function that turns a cotangent ``(batch, n_observables)`` into one of the shape of its
      argument. Default: None; the rule "adjoint" then does not apply.
    - ``precision(dtype)``: The real dtype in which values are computed for inputs of a dtype.
      Default: the inputs' own.
    - ``recorded(inputs)``: The layer as it is in one call, as a quantum layer again: for a layer
      whose circuit may differ from call to call. ``inputs`` are the module's own,
      ``(..., n_inputs)``. Default: the layer itself.

    Attributes:
        gradient (str): The name of the layer's own gradient rule.
    """

    gradient: str

    @property
    def circuit(self) -> Circuit:
        """The circuit."""

    def angle_table(self, inputs: Tensor) -> Tensor:
        """Every gate's angles.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``.

        Returns:
            Tensor: Shape ``(batch, n_angles)``, radians, one column for each angle of each gate.
        """

    def amplitudes(self, inputs: Tensor) -> Tensor | None:
        """The initial states.

        Args:
            inputs (Tensor): Shape ``(batch, n_inputs)``.

        Returns:
            Tensor or None: Normalized real amplitudes ``(batch, 2**n_qubits)``, or None for
            ``|0...0>``.
        """

    def run(
        self, angles: Tensor, amplitudes: Tensor | None = None, *, own_weights: bool = False
    ) -> Tensor:
        """Expectation values for given angles.

        Args:
            angles (Tensor): Shape ``(batch, n_angles)``, radians.
            amplitudes (Tensor, optional): Initial states, shape ``(batch, 2**n_qubits)``.
            own_weights (bool): Whether to use the layer's own weights, whatever the columns that
                come from weights hold.

        Returns:
            Tensor: Shape ``(batch, n_observables)``.
        """


Adapter = Callable[[nn.Module], QuantumLayer | None]

ADAPTERS: list[Adapter] = []
"""Functions that show a module of another framework as a quantum layer, or return None."""


def register_adapter(adapter: Adapter) -> Adapter:
    """Registers a function that shows modules of another framework as quantum layers.

    Args:
        adapter (Callable): From a module to its `QuantumLayer`, or to None for any other module. It
            is called for every module that is looked at, so it must be quick for others. The object
            that it returns must follow the module's weights.

    Returns:
        Callable: The adapter, so that this can be used as a decorator.

    Raises:
        TypeError: If the adapter cannot be called.
    """
    if not callable(adapter):
        _checks.wrong_type("adapter", "a function from modules to quantum layers", adapter)
    ADAPTERS.append(adapter)
    return adapter


def as_quantum_layer(module: nn.Module) -> QuantumLayer | None:
    """Returns a module as a quantum layer, through an adapter if need be.

    Args:
        module (nn.Module): Any module.

    Returns:
        QuantumLayer or None: The module itself, or what an adapter makes of it; None for a module
        that shows no circuit.

    Raises:
        TypeError: If the module has only a part of what a quantum layer needs; names the rest.
    """
    candidate: Any = module
    for adapter in ADAPTERS:
        adapted = adapter(module)
        if adapted is not None:
            candidate = adapted
            break
    shows_circuit = isinstance(getattr(candidate, "circuit", None), Circuit)
    if not shows_circuit and not callable(getattr(candidate, "angle_table", None)):
        return None
    methods = ("angle_table", "amplitudes", "run")
    missing = [] if shows_circuit else ["circuit (a captum_quantum.Circuit)"]
    if not isinstance(getattr(candidate, "gradient", None), str):
        missing.append("gradient (the name of a gradient rule)")
    missing += [name for name in methods if not callable(getattr(candidate, name, None))]
    if missing:
        must = "a module with circuit, gradient, angle_table, amplitudes and run, as "
        must += "captum_quantum.quantum_layer.QuantumLayer describes them"
        got = f"{_checks.describe(module)} without {', '.join(missing)}"
        _checks.refuse("a quantum layer", must, got, TypeError)
    layer: QuantumLayer = candidate
    return layer


def own_rule(module: nn.Module) -> str | None:
    """The gradient rule that a module declares as its ``gradient``.

    Args:
        module (nn.Module): Any module.

    Returns:
        str or None: The rule's name; None if the module declares none.
    """
    rule = getattr(as_quantum_layer(module) or module, "gradient", None)
    return rule if isinstance(rule, str) else None


def find_quantum_layers(
    model: nn.Module | None, given: nn.Module | Sequence[nn.Module] | None = None
) -> list[nn.Module]:
    """Returns the quantum layers of a model: those given, or all that show a circuit.

    Args:
        model (nn.Module, optional): The model; None for a function whose modules are not known.
        given (nn.Module or sequence, optional): The quantum layers, if the user names them. They
            need not show a circuit. Default: every module of the model that is a `QuantumLayer`,
            but not those inside another one.

    Returns:
        list[nn.Module]: The quantum layers, in the order of the model.

    Raises:
        TypeError: If ``given`` is neither a module nor a sequence of modules, or a module has only
            a part of what a quantum layer needs.
        ValueError: If a given module is not one of the model's.
    """
    modules = [] if model is None else list(model.modules())
    if given is None:
        found: list[nn.Module] = []
        inside: set[int] = set()
        for module in modules:
            if id(module) not in inside and as_quantum_layer(module) is not None:
                found.append(module)
                inside.update(id(part) for part in module.modules())
        return found
    listed = [given] if isinstance(given, nn.Module) else given
    must = "a module or a sequence of modules"
    if not isinstance(listed, Sequence) or not listed:
        _checks.wrong_type("quantum_layer", must, given)
    for module in listed:
        if not isinstance(module, nn.Module):
            _checks.wrong_type("quantum_layer", must, module)
        check_part("quantum_layer", module, model)
        as_quantum_layer(module)
    return list(listed)


def check_part(argument: str, module: nn.Module, model: nn.Module | None) -> None:
    """Raises ValueError if a module is not one of a model's; nothing is known where it is None."""
    if model is not None and all(module is not part for part in model.modules()):
        _checks.wrong_value(argument, f"one of the modules of {type(model).__name__}", module)
