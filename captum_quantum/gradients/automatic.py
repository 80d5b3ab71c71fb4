"""Rules that leave the derivative to the simulator or to autograd."""

import torch
from torch import Tensor

from captum_quantum import _checks
from captum_quantum.gradients.errors import GradientRuleError
from captum_quantum.gradients.function import QuantumFunction
from captum_quantum.gradients.nodes import Pullback


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
                raise GradientRuleError(
                    "rule 'backprop' does not apply: the layer's outputs do not depend on its "
                    "inputs for autograd; use 'parameter-shift' or 'finite-difference'"
                )
            (result,) = torch.autograd.grad(
                outputs,
                leaf,
                cotangent.to(outputs.dtype),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return result

        return pullback
