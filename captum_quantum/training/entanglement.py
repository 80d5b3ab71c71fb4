"""Does a trained model need its circuit's entangling gates? Tests what is left without them."""

import copy
import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_quantum import _checks, _state
from captum_quantum.layer import VQCLayer
from captum_quantum.models import HybridClassifier
from captum_quantum.training.loop import accuracy, check_data

_SMALLEST = 1e-4
"""Least standard deviation that values are divided by: smaller ones hold rounding."""

_PENALTY = 1e-6


class EntanglementTest(NamedTuple):
    """What a model recognizes with and without its circuit's entangling gates.

    Attributes:
        accuracy (float): Share of the test set that the model recognizes.
        removed (float): The same after the entangling gates have been removed.
        refitted (float): The same after the linear layer has then been trained anew, from the
            weights that it had.
    """

    accuracy: float
    removed: float
    refitted: float


def without_entangling_gates(layer: VQCLayer) -> VQCLayer:
    """Returns a layer without the gates on two and more wires that take no input.

    What is left of the ansatz acts on single qubits. Gates that take an input belong to the encoder
    and stay.

    Args:
        layer (VQCLayer): The layer; not changed. Its circuit must have no angles that modules
            compute.

    Returns:
        VQCLayer: A layer with the same weights as they are now, of which those of removed gates
        have no effect; on the layer's device and with its simulator and gradient rule.

    Raises:
        TypeError: If it is no `VQCLayer`.
        ValueError: If modules compute some of the circuit's angles, or its initial states.

    Examples:
        >>> import torch
        >>> from captum_quantum import VQCLayer
        >>> from captum_quantum.training import without_entangling_gates
        >>> layer = without_entangling_gates(VQCLayer(2, n_layers=1))
        >>> [str(gate) for gate in layer.circuit.gates[:3]]
        ['ry(x[0]) on 0', 'ry(x[1]) on 1', 'rx(w[0]) on 0']
        >>> any(len(gate.wires) > 1 for gate in layer.circuit.gates)
        False
    """
    if not isinstance(layer, VQCLayer):
        _checks.wrong_type("layer", "a VQCLayer", layer)
    circuit = layer.circuit
    if circuit.is_computed:
        must = "one without angles that modules compute"
        _checks.wrong_value("the circuit of layer", must, circuit)
    gates = tuple(
        gate
        for gate in circuit.gates
        if len(gate.wires) == 1 or any(angle.source == "input" for angle in gate.angles)
    )
    weights = layer.weights.detach().clone()
    return VQCLayer.from_circuit(
        dataclasses.replace(circuit, gates=gates),
        weights if circuit.n_weights else None,
        simulator=layer.simulator,
        gradient=layer.gradient,
    )


def entanglement_test(
    model: HybridClassifier,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> EntanglementTest:
    """Tests what a trained model recognizes without its circuit's entangling gates.

    If it recognizes as much, entanglement was no part of what it has learned. If it does after the
    linear layer alone has been trained anew, it was of no use either: a product circuit gives the
    linear layer as much to read. To that end the linear layer is trained to convergence (logistic
    regression by L-BFGS on standardized values, with a penalty of 1e-6 on the squared weights), so
    that the result tells what the values hold, and not how long one has trained.

    Args:
        model (HybridClassifier): The trained model, whose ``vqc`` is a `VQCLayer`; not changed.
        train (tuple[Tensor, Tensor]): Inputs ``(n, ...)`` and classes ``(n,)`` to train the linear
            layer with.
        test (tuple[Tensor, Tensor]): Inputs ``(n, ...)`` and classes ``(n,)`` to recognize.

    Returns:
        EntanglementTest: Three shares of the test set.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import digits_model
        >>> from captum_quantum.training import entanglement_test
        >>> data = torch.rand(20, 1, 32, 32), torch.arange(20) % 10
        >>> entanglement_test(digits_model(n_qubits=4), data, data).refitted > 0.1
        True
    """
    if not isinstance(model, HybridClassifier):
        _checks.wrong_type("model", "a HybridClassifier", model)
    if not isinstance(model.vqc, VQCLayer):
        _checks.wrong_type("model.vqc", "a VQCLayer", model.vqc)
    for name, pair in (("train", train), ("test", test)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            _checks.wrong_type(name, "a pair of inputs and classes", pair)
        check_data(model, *pair)
    product = copy.deepcopy(model, {id(model.vqc): without_entangling_gates(model.vqc)})
    before, removed = accuracy(model, *test), accuracy(product, *test)
    inputs, targets = train
    device = next(product.head.parameters()).device
    with torch.no_grad(), _state.evaluation_mode(product):
        values = [product.vqc(product.encode(part.to(device))) for part in inputs.split(256)]
    _fit_linear(product.head, torch.cat(values), targets)
    return EntanglementTest(before, removed, accuracy(product, *test))


def _fit_linear(head: nn.Linear, values: Tensor, targets: Tensor) -> None:
    """Logistic regression to convergence, in place.

    Args:
        head (nn.Linear): The linear layer.
        values (Tensor): Its inputs, shape ``(n, n_values)``.
        targets (Tensor): Classes, shape ``(n,)``, int64.
    """
    values, targets = values.to("cpu", torch.float64), targets.cpu()
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0).clamp_min(_SMALLEST)
    standardized = (values - mean) / deviation
    weight = torch.zeros(head.out_features, head.in_features, dtype=torch.float64)
    bias = torch.zeros(head.out_features, dtype=torch.float64)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(standardized, weight, bias)
        value = F.cross_entropy(logits, targets) + _PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.copy_(weight / deviation)
        head.bias.copy_(bias - weight @ (mean / deviation))
