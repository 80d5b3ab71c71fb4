"""What a simulator is, and the table of simulators by name."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.circuit import Circuit
from captum_quantum.simulate.fused import FusedSimulator
from captum_quantum.simulate.torchquantum import TorchQuantumSimulator


@runtime_checkable
class Simulator(Protocol):
    """How expectation values are computed.

    A simulator may offer more, which is looked up by name:

    - ``dtypes`` (tuple[torch.dtype, ...]): The precisions it computes in; without it complex64 and
      complex128.
    - ``vjp(circuit, inputs, weights, dtype, *, initial=None, needs=(True, True, True))``: The
      values and their vector-Jacobian product, as a pair ``(values, pullback)``. ``needs`` says
      whether derivatives by inputs, weights and initial states are wanted; the weights are shared
      by the batch. ``pullback(cotangent)`` maps ``(batch, n_observables)`` to
      ``(by_inputs, by_weights, by_initial)``, None where not wanted. It must not hold the returned
      values, or their memory would never be freed. A subclass that overrides ``expectations`` must
      override ``vjp`` too; an inherited one is ignored.
    - ``probabilities(circuit, inputs, weights, dtype, *, initial=None, bases=None)``: The
      probabilities ``(batch, 2**n)`` of the outcomes, wire 0 most significant, when wire q is
      measured in the basis ``bases[q]`` of a string over ``"XYZ"``; by default all in Z.
    - ``run_modules(encoder, ansatz, circuit, rows, reupload)``: The values of TorchQuantum modules,
      for a simulator that runs the user's modules itself. ``rows`` are the layer's inputs,
      ``(batch, n_inputs)``.

    Attributes:
        exact (bool): Whether values are exact. If not, they carry noise; layers then follow the
            parameter-shift rule by default.
    """

    exact: bool

    def expectations(
        self,
        circuit: Circuit,
        inputs: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        initial: Tensor | None = None,
    ) -> Tensor:
        """Expectation values of a circuit's observables.

        Args:
            circuit (Circuit): The circuit.
            inputs (Tensor): One column for each gate angle that comes from an input, in the order
                of ``circuit.columns("input")``, radians, ``(batch, n_input_angles)``.
            weights (Tensor): One number for each gate angle that comes from a weight, in the order
                of ``circuit.columns("weight")``, radians: ``(n_weight_angles,)``, shared by the
                batch, or ``(batch, n_weight_angles)``.
            dtype (torch.dtype): torch.complex64 or torch.complex128.
            initial (Tensor, optional): Amplitudes, real or complex, ``(batch, 2**n)``; given
                exactly if ``circuit.amplitude_encoding``.

        Returns:
            Tensor: Real, in ``dtype.to_real()``, ``(batch, n_observables)``. Where autograd is
            enabled and the simulator can, differentiable to any order.
        """


SIMULATORS: dict[str, Callable[[], Simulator]] = {
    "fused": FusedSimulator,
    "torchquantum": TorchQuantumSimulator,
}
"""The simulators by name: what makes one."""


def register_simulator(name: str, make: Callable[[], Simulator]) -> None:
    """Adds a simulator to the table, so that ``VQCLayer(simulator=name)`` finds it.

    Args:
        name (str): Its name; none that is taken.
        make (Callable): Called without arguments, returns a simulator.

    Raises:
        TypeError: If the name is no string, or ``make`` cannot be called.
        ValueError: If the name is empty or taken.

    Examples:
        >>> from captum_quantum.simulate import SIMULATORS, FusedSimulator, register_simulator
        >>> class Rounded(FusedSimulator):
        ...     def expectations(self, *args, **kwargs):
        ...         return super().expectations(*args, **kwargs).round(decimals=2)
        >>> register_simulator("rounded", Rounded)
        >>> del SIMULATORS["rounded"]
    """
    if not isinstance(name, str):
        _checks.wrong_type("name", "a string", name)
    if not name or name in SIMULATORS:
        _checks.wrong_value("name", f"a new one beside {', '.join(sorted(SIMULATORS))}", name)
    if not callable(make):
        _checks.wrong_type("make", "callable without arguments", make)
    SIMULATORS[name] = make


def read_simulator(simulator: str | Simulator) -> Simulator:
    """Returns the simulator that a name or an object stands for.

    Args:
        simulator (str or Simulator): A name of the table, or an object with ``exact`` and
            ``expectations``.

    Returns:
        Simulator: A new one for a name; the object itself otherwise.

    Raises:
        TypeError: If an object has no ``expectations`` or no ``exact``.
        ValueError: If there is no simulator of that name.
    """
    if isinstance(simulator, str):
        simulator = SIMULATORS[_checks.check_choice("simulator", simulator, SIMULATORS)]()
    expectations = getattr(simulator, "expectations", None)
    is_exact = getattr(simulator, "exact", None)
    if isinstance(simulator, type) or not callable(expectations) or not isinstance(is_exact, bool):
        must = f"one of {', '.join(sorted(SIMULATORS))}, or an object with exact (True or False) "
        must += "and expectations(circuit, inputs, weights, dtype, *, initial=None)"
        _checks.wrong_type("simulator", must, simulator)
    return simulator


def has_vjp(simulator: Simulator) -> bool:
    """Whether a simulator has a vjp, and that of the ``expectations`` that it computes.

    A subclass that overrides ``expectations`` alone inherits a vjp of other values.

    Args:
        simulator (Simulator): The simulator.
    """
    if getattr(simulator, "vjp", None) is None:
        return False
    for ancestor in type(simulator).__mro__:
        if "vjp" in vars(ancestor):
            return True
        if "expectations" in vars(ancestor):
            return False
    return True
