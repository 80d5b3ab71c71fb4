"""What a gradient rule is, and the rules that leave the work to the simulator or to autograd."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.nodes import GradientRuleError, Pullback


@runtime_checkable
class GradientRule(Protocol):
    """How the outputs of a quantum layer are differentiated by its variables.

    Attributes:
        name (str): By which users choose the rule.
    """

    name: str

    def why_not(self, function: QuantumFunction) -> str | None:
        """Says why the rule does not apply to a function; None if it does.

        Args:
            function (QuantumFunction): What is to be differentiated.

        Returns:
            str or None: What completes the sentence "rule ...", such as "needs ...; use ...".
        """

    def vjp(self, function: QuantumFunction) -> Pullback:
        """Prepares the vector-Jacobian product of a function to which the rule applies.

        Args:
            function (QuantumFunction): What is to be differentiated.

        Returns:
            Callable: Cotangents ``(batch, n_outputs)`` to ``(batch, n_variables)``, without a
            graph. It may be called several times, and raises `GradientRuleError` if the rule turns
            out not to apply.
        """


class JacobianRule(ABC):
    """A rule that computes the whole Jacobian; a subclass gives ``name`` and `jacobian`."""

    def why_not(self, function: QuantumFunction) -> str | None:
        """Applies to every function, unless a subclass restricts it.

        Args:
            function (QuantumFunction): What is to be differentiated.

        Returns:
            str or None: Why the rule does not apply.
        """
        return None

    @abstractmethod
    def jacobian(self, function: QuantumFunction) -> Tensor:
        """Returns the derivatives of all outputs by all variables.

        Args:
            function (QuantumFunction): What is to be differentiated.

        Returns:
            Tensor: Shape ``(batch, n_outputs, n_variables)``.
        """

    def vjp(self, function: QuantumFunction) -> Pullback:
        """Computes the Jacobian when it is first needed, and keeps it for further cotangents.

        Args:
            function (QuantumFunction): What is to be differentiated.

        Returns:
            Callable: Cotangents ``(batch, n_outputs)`` to ``(batch, n_variables)``.
        """
        kept: list[Tensor] = []

        def pullback(cotangent: Tensor) -> Tensor:
            if not kept:
                jacobian = self.jacobian(function)
                shape = (*cotangent.shape, function.variables.shape[1])
                if jacobian.shape != shape:
                    argument = f"the Jacobian of {type(self).__name__}"
                    _checks.wrong_value(argument, f"of shape {shape}", jacobian)
                kept.append(jacobian)
            return torch.einsum("bo,bov->bv", cotangent, kept[0].to(cotangent.dtype))

        return pullback


class Adjoint:
    """Adjoint differentiation by the simulator (arXiv:2009.02823)."""

    name = "adjoint"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Needs a simulator with a vjp."""
        if function.vjp is None:
            return (
                "needs a VQCLayer whose simulator has a vjp, as simulator 'fused'; got "
                f"{_checks.describe(function.module)}"
            )
        return None

    def vjp(self, function: QuantumFunction) -> Pullback:
        """The simulator's own vjp."""
        assert function.vjp is not None
        return function.vjp()


def _no_path(function: QuantumFunction) -> GradientRuleError:
    """The error where autograd finds no way from a layer's outputs to its inputs."""
    return GradientRuleError(
        f"rule 'backprop' does not apply to {_checks.describe(function.module)}: its outputs do "
        "not depend on its inputs for autograd; use 'parameter-shift' or 'finite-difference'"
    )


class Backprop:
    """Autograd through the simulator, or through a module that shows no circuit."""

    name = "backprop"

    def why_not(self, function: QuantumFunction) -> str | None:
        """Applies wherever autograd passes, which shows when the layer runs."""
        return None

    def vjp(self, function: QuantumFunction) -> Pullback:
        """Runs the function under autograd when first needed, and keeps the graph."""
        graph: list[Tensor] = []

        def pullback(cotangent: Tensor) -> Tensor:
            if not graph:
                with torch.enable_grad():
                    leaf = function.variables.clone().requires_grad_()
                    graph.extend([leaf, function.run(leaf)])
            leaf, outputs = graph
            if not outputs.requires_grad:
                if function.vjp is None:
                    raise _no_path(function)
                return torch.zeros_like(leaf)  # a simulator with a vjp: the outputs are constant
            options = {"retain_graph": True, "allow_unused": True}
            (result,) = torch.autograd.grad(outputs, leaf, cotangent.to(outputs.dtype), **options)
            if result is None and function.vjp is None:
                raise _no_path(function)
            return torch.zeros_like(leaf) if result is None else result

        return pullback
