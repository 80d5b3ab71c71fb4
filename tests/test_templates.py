"""Named circuits beside the originals of PennyLane and Qiskit, as matrices."""

import copy
import math
import pickle

import numpy as np
import pennylane as qml
import pytest
import qiskit
import torch
import torchquantum as tq
from numpy.testing import assert_allclose
from qiskit.circuit import library
from qiskit.quantum_info import Operator
from torchquantum.encoding import encoder_op_list_name_dict
from torchquantum.layer import layer_name_dict

from captum_quantum.tq import (
    ANSAETZE,
    ENCODERS,
    IQPEmbedding,
    PauliFeatureMap,
    TwoLocal,
    make_ansatz,
    make_encoder,
)
from captum_quantum.tq.ansaetze import ENTANGLERS, ROTATIONS
from captum_quantum.tq.entanglement import ENTANGLEMENTS
from captum_quantum.tq.feature_maps import product, product_of_complements
from captum_quantum.tq.run import applies

# Qiskit 2 keeps these classes until Qiskit 3.
pytestmark = pytest.mark.filterwarnings("ignore:.*qiskit.circuit.library:DeprecationWarning")

TOLERANCE = 1e-5  # of TorchQuantum's complex64, and of angles up to 100 in float32


def matrix_of(module, n_qubits, x=None):
    """The unitary that a module applies: TorchQuantum's run of it on every basis state."""
    size = 2**n_qubits
    device = tq.QuantumDevice(n_wires=n_qubits, bsz=size)
    device.set_states(torch.eye(size, dtype=torch.complex64))
    if x is None:
        module(device)
    else:
        module(device, x.expand(size, n_qubits))
    return device.get_states_1d().detach().numpy().T


def qiskits(circuit, values):
    """The unitary of Qiskit's circuit, with qubit 0 as the most significant one."""
    bound = circuit.assign_parameters(dict(zip(circuit.parameters, values, strict=True)))
    return Operator(bound).reverse_qargs().data


def qiskits_two_local(n_qubits, reps):
    return library.TwoLocal(n_qubits, "ry", "cz", reps=reps)


def pennylanes(template, n_qubits):
    return qml.matrix(template, wire_order=range(n_qubits))


def assert_same_up_to_phase(ours, theirs):
    """Two unitaries, but for one global phase."""
    overlap = np.vdot(theirs, ours)
    assert_allclose(ours * (overlap / abs(overlap)).conj(), theirs, atol=TOLERANCE)


def random_features(n_qubits, seed=0):
    return torch.rand(n_qubits, generator=torch.Generator().manual_seed(seed)) * 3 - 0.5


def values_of(ansatz):
    return ansatz.weights.detach().double().flatten().numpy()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# Ansaetze


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4])
def test_basic_entangler_is_pennylanes(n_qubits):
    ansatz = make_ansatz("basic_entangler", n_qubits, 2)
    assert ansatz.weights.shape == qml.BasicEntanglerLayers.shape(2, n_qubits)
    theirs = qml.BasicEntanglerLayers(ansatz.weights.detach().double(), wires=range(n_qubits))
    assert_allclose(matrix_of(ansatz, n_qubits), pennylanes(theirs, n_qubits), atol=TOLERANCE)


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4, 5])
def test_simplified_two_design_is_pennylanes(n_qubits):
    ansatz = make_ansatz("simplified_two_design", n_qubits, 2)
    _, shape = qml.SimplifiedTwoDesign.shape(2, n_qubits)
    initial, flat = np.split(values_of(ansatz), [n_qubits])
    weights = flat.reshape(shape) if n_qubits > 1 else np.zeros(shape)
    theirs = qml.SimplifiedTwoDesign(initial, weights, wires=range(n_qubits))
    assert_allclose(matrix_of(ansatz, n_qubits), pennylanes(theirs, n_qubits), atol=TOLERANCE)


@pytest.mark.parametrize("n_qubits", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "original", "shape"),
    [
        ("real_amplitudes", library.RealAmplitudes, lambda n: (3, n)),
        ("efficient_su2", library.EfficientSU2, lambda n: (3, 2, n)),
        (
            "two_local",
            lambda n, reps: library.TwoLocal(n, "ry", "cz", reps=reps),
            lambda n: (3 * n,),
        ),
    ],
)
def test_names_with_qiskits_defaults(name, original, shape, n_qubits):
    ansatz = make_ansatz(name, n_qubits, 2)
    assert ansatz.weights.shape == shape(n_qubits)
    theirs = qiskits(original(n_qubits, reps=2), values_of(ansatz))
    assert_allclose(matrix_of(ansatz, n_qubits), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4])
@pytest.mark.parametrize("entanglement", ENTANGLEMENTS)
def test_two_local_has_qiskits_entanglement(entanglement, n_qubits):
    arguments = (["ry", "rz"], "crx", entanglement)
    ansatz = TwoLocal(n_qubits, 2, *arguments)
    theirs = qiskits(library.TwoLocal(n_qubits, *arguments, reps=2), values_of(ansatz))
    assert_allclose(matrix_of(ansatz, n_qubits), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_two_local_has_qiskits_gates(entangler):
    ansatz = TwoLocal(3, 1, ROTATIONS, entangler, "circular")
    original = library.TwoLocal(3, list(ROTATIONS), entangler, "circular", reps=1)
    theirs = qiskits(original, values_of(ansatz))
    assert_allclose(matrix_of(ansatz, 3), theirs, atol=TOLERANCE)


def test_torchquantum_applies_every_gate_of_the_templates():
    names = {*ROTATIONS, *ENTANGLERS, "rz", "rzz", "multirz", "rx", "hadamard"}
    assert all(applies(name) for name in names)


@pytest.mark.parametrize("name", ANSAETZE)
def test_initial_weights_follow_the_seed(name):
    """Uniform in [-pi, pi), one draw of PyTorch's generator for each weight, and no other draw."""
    torch.manual_seed(7)
    ansatz = ANSAETZE[name](4, 2)
    afterwards = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(ansatz.weights, (torch.rand(ansatz.weights.shape) * 2 - 1) * math.pi)
    assert torch.equal(torch.rand(3), afterwards)


@pytest.mark.parametrize("name", ANSAETZE)
def test_an_ansatz_has_one_parameter_and_can_be_copied(name):
    ansatz = ANSAETZE[name](4, 2)
    assert list(ansatz.state_dict()) == ["weights"]
    expected = matrix_of(ansatz, 4)
    for duplicate in (copy.deepcopy(ansatz), pickle.loads(pickle.dumps(ansatz))):
        assert_allclose(matrix_of(duplicate, 4), expected, rtol=0)
        torch.nn.init.zeros_(duplicate.weights)
        assert abs(matrix_of(duplicate, 4) - expected).max() > 0.1


@pytest.mark.parametrize("name", ANSAETZE)
def test_layers_one_by_one_are_the_ansatz(name):
    ansatz = ANSAETZE[name](4, 2)
    first, second = (
        matrix_of(lambda device, index=index: ansatz.layer(device, index), 4) for index in (0, 1)
    )
    assert_allclose(second @ first, matrix_of(ansatz, 4), atol=TOLERANCE)


# Feature maps


@pytest.mark.parametrize("n_qubits", [1, 2, 4])
def test_z_feature_map_is_qiskits(n_qubits):
    x = random_features(n_qubits)
    ours = matrix_of(make_encoder("z_feature_map", n_qubits), n_qubits, x)
    assert_same_up_to_phase(ours, qiskits(library.ZFeatureMap(n_qubits), x.tolist()))


@pytest.mark.parametrize("n_qubits", [2, 3, 4])
def test_zz_feature_map_is_qiskits(n_qubits):
    x = random_features(n_qubits)
    ours = matrix_of(make_encoder("zz_feature_map", n_qubits), n_qubits, x)
    assert_same_up_to_phase(ours, qiskits(library.ZZFeatureMap(n_qubits), x.tolist()))
    other = matrix_of(make_encoder("pauli_feature_map", n_qubits), n_qubits, x)
    assert_allclose(other, ours, rtol=0)


def test_zz_feature_map_of_one_qubit_has_no_pairs():
    x = random_features(1)
    theirs = qiskits(library.ZFeatureMap(1), x.tolist())
    assert_same_up_to_phase(matrix_of(make_encoder("zz_feature_map", 1), 1, x), theirs)


@pytest.mark.parametrize(
    ("n_qubits", "paulis", "options"),
    [
        (3, ["X", "Y", "Z"], {"reps": 1}),
        (3, ["Z", "XX"], {"entanglement": "linear"}),
        (3, ["YZ"], {"entanglement": "reverse_linear", "alpha": -0.7}),
        (4, ["YX", "Z"], {"entanglement": "circular", "alpha": 1}),
        (4, ["ZYX", "Y"], {"entanglement": "full", "reps": 1}),
        (3, ["ZIX", "IY"], {"reps": 3}),
        (2, ["ZZ", "ZZ"], {"entanglement": "circular", "reps": 1}),
    ],
)
def test_pauli_feature_map_is_qiskits(n_qubits, paulis, options):
    x = random_features(n_qubits)
    ours = matrix_of(PauliFeatureMap(paulis, **options), n_qubits, x)
    original = library.PauliFeatureMap(n_qubits, paulis=paulis, **options)
    assert_same_up_to_phase(ours, qiskits(original, x.tolist()))


@pytest.mark.parametrize("ring", [[[2, 3, 0], [3, 0, 1], [0, 1, 2], [1, 2, 3]], "circular"])
def test_groups_of_three_around_a_ring_are_qiskits(ring):
    if ring == "circular" and int(qiskit.__version__.split(".")[0]) < 2:
        pytest.skip("Qiskit 0.46 leaves out the second group")
    x = random_features(4)
    ours = matrix_of(PauliFeatureMap(["XYZ"], reps=1, entanglement="circular"), 4, x)
    original = library.PauliFeatureMap(4, paulis=["XYZ"], reps=1, entanglement=ring)
    assert_same_up_to_phase(ours, qiskits(original, x.tolist()))


def test_pauli_feature_map_with_a_data_map_is_qiskits():
    x = random_features(3)
    ours = matrix_of(PauliFeatureMap(data_map=lambda x: x.sum(1) * x[:, 0]), 3, x)
    original = library.PauliFeatureMap(3, data_map_func=lambda x: sum(x) * x[0])
    assert_same_up_to_phase(ours, qiskits(original, x.tolist()))


@pytest.mark.parametrize("n_qubits", [1, 2, 4])
def test_iqp_is_pennylanes(n_qubits):
    x = random_features(n_qubits)
    ours = matrix_of(make_encoder("iqp", n_qubits), n_qubits, x)
    theirs = pennylanes(qml.IQPEmbedding(x.double(), wires=range(n_qubits)), n_qubits)
    assert_allclose(ours, theirs, atol=TOLERANCE)


def test_iqp_with_repetitions_and_a_pattern_is_pennylanes():
    x = random_features(4)
    ours = matrix_of(IQPEmbedding(3, "circular"), 4, x)
    pattern = [[0, 1], [1, 2], [2, 3], [3, 0]]
    original = qml.IQPEmbedding(x.double(), wires=range(4), n_repeats=3, pattern=pattern)
    assert_allclose(ours, pennylanes(original, 4), atol=TOLERANCE)


FEATURE_MAPS = {
    "z_feature_map": lambda: PauliFeatureMap(("Z",)),
    "three letters": lambda: PauliFeatureMap(("X", "ZYX")),
    "iqp": IQPEmbedding,
}


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_each_sample_has_its_own_angles(name):
    encoder = FEATURE_MAPS[name]()
    x = torch.stack([random_features(3, seed) for seed in range(3)])
    device = tq.QuantumDevice(n_wires=3, bsz=3)
    encoder(device, x)
    alone = np.stack([matrix_of(encoder, 3, row)[:, 0] for row in x])
    assert_allclose(device.get_states_1d(), alone, atol=TOLERANCE)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_feature_maps_can_be_copied_and_have_no_parameters(name):
    encoder, x = FEATURE_MAPS[name](), random_features(3)
    assert not encoder.state_dict()
    for duplicate in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert_allclose(matrix_of(duplicate, 3, x), matrix_of(encoder, 3, x), rtol=0)


@pytest.mark.parametrize("data_map", [product, product_of_complements])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_data_maps_are_differentiable(data_map, size):
    """Also where a factor is 0."""
    x = torch.tensor([[0.0, math.pi, 1.0], [0.3, -2.0, 0.8]], dtype=torch.float64)[:, :size]
    assert torch.autograd.gradcheck(data_map, x.requires_grad_())
    assert torch.autograd.gradgradcheck(data_map, x)


def test_the_gradient_of_the_features_reaches_them():
    """<X> of one qubit after H and P(2 x) is cos 2x."""
    x = torch.tensor([[0.3], [-1.2]], requires_grad=True)
    device = tq.QuantumDevice(n_wires=1, bsz=2)
    PauliFeatureMap(("Z",), reps=1)(device, x)
    state = device.get_states_1d()
    value = 2 * (state[:, 0].conj() * state[:, 1]).real
    assert_allclose(value.detach(), (2 * x[:, 0]).cos().detach(), atol=TOLERANCE)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert_allclose(slope, (-2 * (2 * x).sin()).detach(), atol=TOLERANCE)


# Names and arguments


@pytest.mark.parametrize("name", ENCODERS)
def test_every_name_makes_an_encoder(name):
    assert isinstance(make_encoder(name, 2), tq.Encoder)


@pytest.mark.parametrize("name", ANSAETZE)
def test_every_name_makes_an_ansatz(name):
    ansatz = make_ansatz(name, 2, 1)
    assert (ansatz.n_qubits, ansatz.n_layers) == (2, 1)


def test_our_names_hide_none_of_torchquantums():
    assert not ENCODERS.keys() & encoder_op_list_name_dict.keys()
    assert not ANSAETZE.keys() & layer_name_dict.keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_encoder("zz_featuremap", 2), "did you mean 'zz_feature_map'"),
        (lambda: make_encoder("ZFeature_Map", 2), "did you mean 'z_feature_map'"),
        (lambda: make_encoder("paulifeaturemap", 2), "did you mean 'pauli_feature_map'"),
        (lambda: make_encoder("IQP", 2), "did you mean 'iqp'"),
        (lambda: make_ansatz("EfficientSU2", 2, 1), "did you mean 'efficient_su2'"),
        (lambda: make_ansatz("twolocal", 2, 1), "did you mean 'two_local'"),
        (lambda: make_ansatz("basic_entangling", 2, 1), "did you mean 'basic_entangler'"),
        (lambda: make_ansatz("simplified_2design", 2, 1), "did you mean 'simplified_two_design'"),
    ],
)
def test_near_misses_are_suggested(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ANSAETZE)
@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 1), ValueError, r"n_qubits must be an integer >= 1; got 0 \(int\)"),
        (("4", 1), TypeError, r"n_qubits must be an integer >= 1; got '4'"),
        ((4, 0), ValueError, "n_layers must be an integer >= 1; got 0"),
        ((4, 1.5), TypeError, "n_layers must be an integer >= 1; got 1.5"),
    ],
)
def test_wrong_sizes(name, sizes, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        ANSAETZE[name](*sizes)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"rotations": "ry"},
            TypeError,
            r"rotations must be a list of names of gates; got 'ry'",
        ),
        ({"rotations": []}, ValueError, "rotations must be at least one name of a gate; got"),
        (
            {"rotations": ["ry", "r_z"]},
            ValueError,
            r"rotations\[1\] must be one of .* got 'r_z'.*did you mean 'rz'",
        ),
        ({"rotations": [tq.RX]}, TypeError, r"rotations\[0\] must be one of .* got the class RX"),
        ({"entangler": "ch"}, ValueError, "entangler must be one of crx.* got 'ch'"),
        ({"entangler": "ry"}, ValueError, "entangler must be one of crx.* got 'ry'"),
        (
            {"entanglement": "reverse-linear"},
            ValueError,
            "entanglement must be one of circular.*did you mean 'reverse_linear'",
        ),
        (
            {"entanglement": [(0, 1)]},
            TypeError,
            "entanglement must be one of circular, full, linear, reverse_linear; got ",
        ),
    ],
)
def test_wrong_arguments_of_two_local(arguments, error, message):
    with pytest.raises(error, match=message):
        TwoLocal(3, 1, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"paulis": "ZZ"}, TypeError, "paulis must be a list of Pauli strings; got 'ZZ'"),
        ({"paulis": ()}, ValueError, "paulis must be at least one Pauli string; got"),
        ({"paulis": ["Z", 3]}, TypeError, r"paulis\[1\] must be a string of I, X, Y, Z.*got 3"),
        ({"paulis": ["z"]}, ValueError, r"paulis\[0\] must be a string of I, X, Y, Z.*got 'z'"),
        ({"paulis": ["II"]}, ValueError, r"paulis\[0\] must be .* not of I alone; got 'II'"),
        ({"paulis": [""]}, ValueError, r"paulis\[0\] must be .*; got ''"),
        ({"reps": 0}, ValueError, "reps must be an integer >= 1; got 0"),
        ({"alpha": "2"}, TypeError, "alpha must be a finite number; got '2'"),
        ({"alpha": math.inf}, ValueError, "alpha must be a finite number; got inf"),
        ({"entanglement": "ful"}, ValueError, "entanglement must be one of .*mean 'full'"),
        ({"data_map": 2.0}, TypeError, "data_map must be a function of the features.*got 2.0"),
    ],
)
def test_wrong_arguments_of_pauli_feature_map(arguments, error, message):
    with pytest.raises(error, match=message):
        PauliFeatureMap(**arguments)


def test_wrong_number_of_repetitions_of_iqp():
    with pytest.raises(ValueError, match="n_repeats must be an integer >= 1; got 0"):
        IQPEmbedding(0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"x must be of shape \(batch, 3\), one feature a qubit;"),
        (torch.zeros(3), ValueError, r"x must be of shape \(batch, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "x must be a real floating-point tensor"),
    ],
)
def test_wrong_features(x, error, message):
    device = tq.QuantumDevice(n_wires=3, bsz=2)
    before = device.get_states_1d().clone()
    with pytest.raises(error, match=message):
        IQPEmbedding()(device, x)
    assert torch.equal(device.get_states_1d(), before)


def test_a_data_map_of_another_shape():
    device = tq.QuantumDevice(n_wires=3, bsz=2)
    message = r"what data_map returns must be of shape \(2,\), one value a sample; got"
    with pytest.raises(ValueError, match=message):
        PauliFeatureMap(data_map=lambda x: x)(device, torch.zeros(2, 3))
