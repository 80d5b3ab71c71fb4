"""Names the module at which a gradient path breaks."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from captum_quantum.attr._recording import Recorder, graph_nodes
from captum_quantum.gradients import GradientPathError


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@dataclass
class _Entered:
    module: nn.Module
    reached: bool
    encloses: bool = False


class _PathFollower:
    """Follows the gradient path through every module call behind the layer."""

    def __init__(self, recorder: Recorder) -> None:
        self.stack: list[_Entered] = []
        self.broken: list[tuple[nn.Module, Any, bool]] = []
        self.recorder = recorder
        recorder.on_call = self._start
        self._thread = threading.get_ident()

    def _start(self) -> None:
        for entered in self.stack:
            entered.reached = entered.encloses = True

    def _connected(self, value: Any) -> bool:
        """Whether a tensor in a value depends on the layer; its own weights do not count."""
        leaves = [tensor for call in self.recorder.calls for tensor in call.tensors]
        ends = (getattr(node, "variable", None) for node in graph_nodes(_tensors(value)))
        return any(end is leaf for end in ends for leaf in leaves)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            self.stack.append(_Entered(module, self._connected(args)))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            entered = self.stack.pop()
            gives_tensors = next(_tensors(output), None) is not None
            if entered.reached and gives_tensors and not self._connected(output):
                self.broken.append((module, output, entered.encloses))


def explain_broken_path(
    model: Any, layer: nn.Module, to_input: bool, run: Callable[[], Any]
) -> GradientPathError:
    """Runs the model once more and names the module at which the gradient path breaks.

    Args:
        model (Any): The forward function; a module gives the names.
        layer (nn.Module): The layer that no gradient reaches.
        to_input (bool): Whether its inputs are meant.
        run (Callable): Runs the model.

    Returns:
        GradientPathError: To be raised.
    """
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    names = {m: n for n, m in model.named_modules()} if isinstance(model, nn.Module) else {}

    def name(module: nn.Module) -> str:
        path = names.get(module, "")
        return f"{path!r} ({type(module).__name__})" if path else type(module).__name__

    recorder = Recorder(layer, to_input, cut=True)
    follower = _PathFollower(recorder)
    handles = [
        register_module_forward_pre_hook(follower.enter),
        register_module_forward_hook(follower.leave),
    ]
    reason = ""
    try:
        with recorder.hooked():
            run()
    except RuntimeError as error:
        if "numpy" not in str(error) or not follower.stack:
            raise
        where, reason = follower.stack[-1].module, f"it goes through NumPy: {error}"
        follower.broken = [(where, None, False)]
    finally:
        for handle in handles:
            handle.remove()
    start = f"no gradient reaches layer {name(layer)}: "
    if not follower.broken:
        return GradientPathError(
            start + "no module behind it breaks the path, so either forward_func does, between the "
            "modules and its output, or the output does not depend on the layer"
        )
    module, output, encloses = follower.broken[0]
    if not reason:
        kinds = sorted({str(t.dtype) for t in _tensors(output) if not t.is_floating_point()})
        causes = "a detach, a torch.no_grad block, an integer cast or a NumPy round trip"
        if kinds:
            reason = f"it returns {', '.join(kinds)}, through which no derivative passes"
        elif encloses:
            reason = (
                f"in its own forward, by {causes}, or because it does not use the layer's output"
            )
        else:
            reason = f"its input depends on the layer and its output does not ({causes} inside)"
    return GradientPathError(
        start
        + f"the path breaks in module {name(module)}: {reason}. If that is a quantum layer, give "
        "it as quantum_layer, with a gradient rule such as 'parameter-shift'"
    )
