"""Does a trained model need its circuit's entangling gates? Tests what is left without them."""

import copy
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_quantum import _checks, _state
from captum_quantum.layer import VQCLayer
from captum_quantum.models import HybridClassifier
from captum_quantum.training.loop import accuracy, check_data, fit


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
    **training: Any,
) -> EntanglementTest:
    """Tests what a trained model recognizes without its circuit's entangling gates.

    If it recognizes as much, entanglement was no part of what it has learned. If it does after the
    linear layer alone has been trained anew, it was of no use either: a product circuit gives the
    linear layer as much to read.

    Args:
        model (HybridClassifier): The trained model, whose ``vqc`` is a `VQCLayer`; not changed.
        train (tuple[Tensor, Tensor]): Inputs ``(n, ...)`` and classes ``(n,)`` to train the linear
            layer with.
        test (tuple[Tensor, Tensor]): Inputs ``(n, ...)`` and classes ``(n,)`` to recognize.
        **training (Any): Arguments of `fit`, such as ``epochs`` and ``lr``, for the linear layer.

    Returns:
        EntanglementTest: Three shares of the test set.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.models import digits_model
        >>> from captum_quantum.training import entanglement_test
        >>> data = torch.rand(20, 1, 32, 32), torch.arange(20) % 10
        >>> found = entanglement_test(digits_model(n_qubits=4), data, data, epochs=2)
        >>> found.accuracy <= 1
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
    fit(product.head, torch.cat(values), targets, **training)
    return EntanglementTest(before, removed, accuracy(product, *test))
