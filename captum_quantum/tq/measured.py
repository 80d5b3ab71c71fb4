"""Modules that make their own device, encode, run and measure in one ``forward(x)``.

Such a module is run with a `Recorder` in place of its device. Where it reads the states it gets
made-up ones. What it makes of them tells what it measures: expectation values are quadratic in the
state, ``<psi| O_k |psi>``, so that their gradients at the basis states are the columns of
``2 O_k``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_quantum import _checks, _compat
from captum_quantum.circuit import CircuitError, Observable, PauliString
from captum_quantum.tq.recorder import Entry, Recorder, recorders_made
from captum_quantum.tq.trace import Modules, Probe, Tracer, copies_of, trial

_MOST_WIRES = 10
_MOST_TERMS = 64


class MeasuringTracer(Tracer):
    """How a module that makes its own device and measures is run on a recorder.

    Args:
        expectations (Callable): From states ``(batch, 2**n_qubits)``, observables and the number of
            qubits to expectation values ``(batch, n_observables)``.
    """

    def __init__(self, expectations: Callable[[Tensor, Any, int], Tensor]) -> None:
        super().__init__(0, ())
        self._expectations = expectations
        self._is_known = self._is_made = False
        self._expected: dict[int, Tensor] = {}

    def known(self, modules: Modules) -> Any:
        """None: the module must be run at every call.

        Args:
            modules (Sequence): The module, and None.
        """
        return None

    def probe(self, modules: Modules, shape: tuple[int, ...] | None = None) -> Probe:
        """Finds what the module measures, and its circuit.

        Args:
            modules (Sequence): The module, and None.
            shape (tuple[int, ...], optional): The shape of one sample's inputs. Default: found out.

        Raises:
            CircuitError: If the module cannot be traced, with the gate and the reason.
        """
        if self._is_known:
            return super().probe(modules, shape)
        self.n_qubits = self._count_wires(modules, shape)
        if self.n_qubits > _MOST_WIRES:
            raise CircuitError(
                f"a module that measures by itself must have at most {_MOST_WIRES} wires; got "
                f"{self.n_qubits}: give encoder and ansatz to VQCLayer"
            )
        self.observables = (Observable.of("Z0"),)
        shape = super().probe(modules, shape).shape
        self.observables = self._find_observables(modules, shape)
        self._is_known = True
        probe = super().probe(modules, shape)
        self._is_made = True
        return probe

    def _run(
        self,
        modules: Modules,
        x: Tensor,
        made: list[Recorder],
        on_gate: Callable[[Entry], None] | None,
        copies: bool,
    ) -> None:
        module = modules[0]
        assert module is not None
        options = {"on_gate": on_gate, "copies": copies, "read": self._made_up}
        with recorders_made(made, module, len(x), **options):
            output = module(x)
        _check_made(made, module)
        if not self._is_known or _compat.in_transform():
            return
        recorder = made[0]
        position = len(recorder.entries)
        if position not in self._expected:
            state = self._made_up(recorder)[:1]
            self._expected[position] = self._expectations(
                state, self.observables, self.n_qubits
            ).detach()
        expected = self._expected[position].to(output.device)
        found = _as_table(output, len(x), module).detach()
        if found.shape[1:] != expected.shape[1:] or not torch.allclose(
            found.to(expected.dtype), expected.expand(len(x), -1), atol=1e-3
        ):
            change = "than when the layer was made; make the layer again"
            if not self._is_made:
                change = "from call to call: its output depends on more than the last state"
            raise CircuitError(f"{_checks.describe(module)} measures something else {change}")

    def _made_up(self, recorder: Recorder) -> Tensor:
        """A state that depends on the number of gates so far, for every sample."""
        size: int = 2**recorder.n_wires
        with _compat.outside_transforms():
            generator = torch.Generator().manual_seed(len(recorder.entries))
            state = torch.randn(size, dtype=torch.complex64, generator=generator)
        whole: Tensor = (state / state.norm()).to(recorder.device).expand(recorder.bsz, -1)
        return whole

    def _count_wires(self, modules: Modules, shape: tuple[int, ...] | None) -> int:
        """The number of wires of the device that the module makes."""
        shapes = [shape] if shape is not None else [(4,), (1024,), (2,), (1,), (8,), (16,)]
        cause: Exception | None = None
        for one in shapes:
            with trial():
                copies, _ = copies_of(modules)
                made: list[Recorder] = []
                x = torch.rand(2, *one, generator=torch.Generator().manual_seed(0))
                try:
                    self._run(copies, x, made, None, True)
                # The user's own forward runs here, on inputs of a shape that is guessed: there is
                # no list of what it may raise. Nothing is lost: another shape is tried, and if no
                # shape makes a device, the last error is the cause of ours.
                except Exception as error:  # noqa: BLE001
                    cause = error
            if made:
                n_wires: int = made[0].n_wires
                return n_wires
        raise CircuitError(
            f"no device was made by {_checks.describe(modules[0])}; if its inputs have another "
            f"shape, say which: n_inputs=(1, 28, 28). It raised {type(cause).__name__}: {cause}"
        ) from cause

    def _find_observables(self, modules: Modules, shape: tuple[int, ...]) -> tuple[Observable, ...]:
        size = 2**self.n_qubits
        with trial():
            reads: list[tuple[int, Tensor]] = []

            def basis(recorder: Recorder) -> Tensor:
                if recorder.bsz != size:
                    raise CircuitError(
                        f"the device must be made for the batch, bsz=x.shape[0]; got {recorder.bsz}"
                        f" for {size} samples"
                    )
                states = torch.eye(size, dtype=torch.complex64, device=recorder.device)
                reads.append((len(recorder.entries), states.requires_grad_(self._differentiates)))
                return reads[-1][1]

            self._differentiates = False
            values, position = self._measure(modules, shape, basis)
            if values.requires_grad:
                raise CircuitError(
                    f"the output of {_checks.describe(modules[0])} depends on weights or inputs "
                    "past its measurement; a layer ends there: put what follows into a module of "
                    "its own"
                )
            reads.clear()
            self._differentiates = True
            values, position = self._measure(modules, shape, basis)
            if not values.requires_grad:
                raise CircuitError(
                    f"autograd does not follow from the states to the output of "
                    f"{_checks.describe(modules[0])}, as where it is detached, sampled or computed "
                    "without gradients; so what it measures cannot be told"
                )
            observables = []
            for k in range(values.shape[1]):
                states = [read for _, read in reads]
                grads = torch.autograd.grad(
                    values[:, k].sum(), states, retain_graph=True, materialize_grads=True
                )
                early = [grad for (at, _), grad in zip(reads, grads, strict=True) if at != position]
                if any(bool(grad.any()) for grad in early):
                    raise CircuitError(
                        "the state is read, changed by gates and read again; everything must be "
                        "read at the end of the circuit, without a change of basis in between"
                    )
                late = [grad for (at, _), grad in zip(reads, grads, strict=True) if at == position]
                observables.append((torch.stack(late).sum(0) / 2).T.to("cpu", torch.complex128))
            self._check_quadratic(modules, shape, observables)
        return tuple(observable_of(matrix, self.n_qubits) for matrix in observables)

    def _measure(
        self,
        modules: Modules,
        shape: tuple[int, ...],
        read: Callable[[Recorder], Tensor],
    ) -> tuple[Tensor, int]:
        """What a copy of the module makes of states, and after how many gates."""
        copies, _ = copies_of(modules)
        module, size = copies[0], 2**self.n_qubits
        made: list[Recorder] = []
        assert module is not None
        x = torch.rand(size, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with recorders_made(made, module, size, read=read, copies=True):
            output = module(x.clone())
        return _as_table(output, size, module), len(made[0].entries)

    def _check_quadratic(
        self, modules: Modules, shape: tuple[int, ...], observables: list[Tensor]
    ) -> None:
        """Adds constants to observables; refuses values that are no expectation values."""
        size = 2**self.n_qubits
        generator = torch.Generator().manual_seed(1)
        states = torch.randn(size, size, dtype=torch.complex64, generator=generator)
        states = states / states.norm(dim=1, keepdim=True)
        with torch.no_grad():
            found, _ = self._measure(modules, shape, lambda recorder: states)
            for k, matrix in enumerate(observables):
                wide = states.to(matrix.dtype)
                quadratic = torch.einsum("bi,ij,bj->b", wide.conj(), matrix, wide)
                rest = found[:, k].double() - quadratic.real
                scale = 1 + float(matrix.abs().max())
                hermitian = torch.allclose(matrix, matrix.mH, atol=1e-4 * scale)
                if not hermitian or float(rest.max() - rest.min()) > 1e-4 * scale:
                    raise CircuitError(
                        f"output {k} of {_checks.describe(modules[0])} is no expectation value; a "
                        "layer ends at the measurement: put what follows, such as a softmax, into "
                        "a module of its own"
                    )
                if abs(float(rest.mean())) > 1e-5 * scale:
                    observables[k] = matrix + rest.mean() * torch.eye(size, dtype=matrix.dtype)


def _check_made(made: Sequence[Recorder], module: nn.Module) -> None:
    if not made:
        raise CircuitError(
            f"{_checks.describe(module)} makes no tq.QuantumDevice when it is called; give an "
            "encoder and an ansatz to VQCLayer instead"
        )


def _as_table(output: Any, batch: int, module: nn.Module) -> Tensor:
    """The values measured, ``(batch, n_observables)``."""
    must = "a real tensor of shape (batch, n_values)"
    argument = f"what {type(module).__name__} returns"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        _checks.refuse(argument, must, _checks.describe(output), CircuitError)
    if output.dim() == 1 and batch == 1:  # a squeeze has taken the batch
        output = output[None]
    if output.dim() != 2 or len(output) != batch:
        _checks.refuse(argument, must, _checks.describe(output), CircuitError)
    table: Tensor = output
    return table


def observable_of(matrix: Tensor, n_qubits: int) -> Observable:
    """An observable as a sum of few Pauli strings if it is one, else as a matrix on few wires.

    Args:
        matrix (Tensor): complex128, Hermitian up to rounding, ``(2**n_qubits, 2**n_qubits)``.
        n_qubits (int): Number of wires.
    """
    size, terms = 2**n_qubits, []
    basis = torch.arange(size)
    matrix = (matrix + matrix.mH) / 2
    scale = float(matrix.abs().max())
    for flip in range(size):
        # A Pauli string sends |c> to i^n_y (-1)^(c & sign) |c ^ flip>.
        column = matrix[basis ^ flip, basis]
        if float(column.abs().max()) <= 1e-6 * scale:
            continue
        weights = column
        for bit in range(n_qubits):  # the Walsh-Hadamard transform
            pairs = weights.view(2**bit, 2, -1)
            weights = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1)
            weights = weights.flatten()
        for sign in range(size):
            n_y = (flip & sign).bit_count()
            weight = round(float((weights[sign] / size / 1j**n_y).real), 7)
            if abs(weight) > 1e-6 * scale:
                terms.append((flip, sign, weight))
    if len(terms) <= _MOST_TERMS:
        strings = [_pauli_string(*term, n_qubits) for term in terms]
        return Observable(tuple(strings) or (PauliString((), 0.0),))
    wires = [wire for wire in range(n_qubits) if _acts_on(terms, wire, n_qubits)]
    return Observable.hermitian(_on_wires(matrix, wires, n_qubits), wires)


def _pauli_string(flip: int, sign: int, weight: float, n_qubits: int) -> PauliString:
    letters = []
    for wire in range(n_qubits):
        bit = 1 << (n_qubits - 1 - wire)
        letter = {(0, 1): "Z", (1, 0): "X", (1, 1): "Y"}.get((bool(flip & bit), bool(sign & bit)))
        if letter:
            letters.append((wire, letter))
    return PauliString(tuple(letters), weight)


def _acts_on(terms: Sequence[tuple[int, int, float]], wire: int, n_qubits: int) -> bool:
    bit = 1 << (n_qubits - 1 - wire)
    return any((flip | sign) & bit for flip, sign, _ in terms)


def _on_wires(matrix: Tensor, wires: Sequence[int], n_qubits: int) -> Tensor:
    """The matrix on its wires, of one that does nothing on all others."""
    others = [wire for wire in range(n_qubits) if wire not in wires]
    whole = matrix.view([2] * (2 * n_qubits))
    for wire in reversed(others):
        whole = whole.select(whole.dim() // 2 + wire, 0).select(wire, 0)
    return whole.reshape(2 ** len(wires), -1)
