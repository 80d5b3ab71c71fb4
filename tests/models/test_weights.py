"""Weights files of any model: what goes in comes out, and what does not fit changes nothing."""

import copy
import json
import math
import warnings

import pytest
import torch
from captum.attr import LayerGradCam
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import captum_quantum
from captum_quantum import VQCLayer, classical_twin
from captum_quantum.models import digits_model, load_model, load_weights, save_model, save_weights


class Shown(nn.Module):
    """A module that is no VQCLayer, but shows a circuit as the protocol asks."""

    gradient = "parameter-shift"

    def __init__(self, observable):
        super().__init__()
        layer = VQCLayer(2, observables=[observable])
        self.weights = nn.Parameter(layer.weights.detach().clone())
        self.circuit = layer.circuit

    def angle_table(self, inputs):
        return self.circuit.angle_table(inputs, self.weights)

    def amplitudes(self, inputs):
        return None

    def run(self, angles, amplitudes=None, *, own_weights=False):
        raise NotImplementedError


class Extra(nn.Module):
    """A module with extra state of its own, which it may refuse."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        if torch.equal(state, torch.tensor([13])):
            raise RuntimeError("no thirteen")
        self.state = state.clone()


class Tied(nn.Module):
    """Weights under two names, one module at two places, and views of one tensor."""

    def __init__(self, tied=True):
        super().__init__()
        self.embed, self.out = nn.Linear(3, 3), nn.Linear(3, 3)
        self.q = VQCLayer(3, 1)
        self.last = self.q if tied else VQCLayer(3, 1)
        pool = torch.rand(6, 4)
        self.left, self.right = nn.Parameter(pool[:3]), nn.Parameter(pool[2:])
        if tied:
            self.out.weight = self.embed.weight
        else:
            self.right = nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        x = self.last(self.out(self.q(self.embed(x))))
        return x @ self.left @ self.right


def hybrid(observables=None, features=5):
    """Everything at once: convolutions, BatchNorm, two circuits, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, features, 3),
        nn.BatchNorm2d(features),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(features, 3),
        VQCLayer(3, 1, observables=observables or ["Z0", "Z1", "Z2"]),
        VQCLayer(3, 1, encoder="rx"),
        nn.Linear(3, 2),
    )


IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def bits(model):
    """The state of a model, byte for byte."""
    return {
        name: (value.dtype, value.shape, value.reshape(-1).contiguous().view(torch.uint8).tolist())
        for name, value in model.state_dict().items()
    }


def described(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["captum_quantum"])


def redescribe(path, **changes):
    """Writes a weights file anew with a changed description."""
    description = {**described(path), **changes}
    save_file(load_file(path), path, metadata={"captum_quantum": json.dumps(description)})


# --- what goes in comes out ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_round_trip_bit_for_bit(path, dtype):
    model = hybrid()
    model(IMAGES)  # the statistics of BatchNorm change
    model.to(dtype)
    with torch.no_grad():
        model[0].bias[:4] = torch.tensor([math.nan, -math.inf, -0.0, 1e-7], dtype=dtype)
    before = bits(model)
    assert save_weights(model, path) is None
    assert bits(model) == before
    other = hybrid().to(dtype).eval()
    own = dict(other.named_parameters())
    assert load_weights(other, str(path)) is other
    assert bits(other) == before
    assert all(parameter is own[name] for name, parameter in other.named_parameters())
    assert not other.training
    again = path.with_name("again")
    save_weights(copy.deepcopy(model), again)
    assert again.read_bytes() == path.read_bytes()


def test_outputs_and_maps_come_back(path):
    model, other = hybrid().eval(), hybrid().eval()
    save_weights(model, path)
    assert not torch.equal(other(IMAGES), model(IMAGES))
    load_weights(other, path)
    assert torch.equal(other(IMAGES), model(IMAGES))
    maps, same = (LayerGradCam(m, m[0]).attribute(IMAGES, 1) for m in (model, other))
    assert torch.equal(maps, same)


def test_the_file_is_plain_data(path):
    model = hybrid()
    save_weights(model, path)
    plain = load_file(path)
    assert plain.keys() == model.state_dict().keys()
    assert plain["5._extra_state"].dtype == torch.uint8
    description = described(path)
    assert description["format"] == 1
    assert description["version"] == captum_quantum.__version__
    assert description["circuits"] == {
        name: model.get_submodule(name).circuit.digest for name in "56"
    }
    assert bytes(plain["5._extra_state"].tolist()).hex() == description["circuits"]["5"]


def test_the_dtype_of_the_model_is_kept(path):
    model = hybrid().double()
    save_weights(model, path)
    expected = copy.deepcopy(model).float()
    assert bits(load_weights(hybrid(), path)) == bits(expected)
    save_weights(expected, path)
    assert bits(load_weights(model, path)) == bits(expected.double())


def test_tied_weights_are_saved_once_and_stay_tied(path):
    model = Tied()
    save_weights(model, path)
    names = load_file(path).keys()
    assert "embed.weight" in names
    assert "out.weight" not in names
    assert described(path)["tied"]["out.weight"] == "embed.weight"
    other = load_weights(Tied(), path)
    assert bits(other) == bits(model)
    assert other.out.weight is other.embed.weight
    assert other.left.untyped_storage().data_ptr() == other.right.untyped_storage().data_ptr()
    loose = load_weights(Tied(tied=False), path)  # gets the same values under both names
    x = torch.rand(2, 3)
    assert torch.equal(loose(x), model(x))


@pytest.mark.parametrize("name", ["embed.weight", "last.ansatz.weights", "right"])
def test_untied_weights_do_not_fit_a_model_that_ties_them(path, name):
    source = Tied()
    with torch.no_grad():
        loose = load_weights(Tied(tied=False), _saved(source, path))
        dict(loose.named_parameters())[name] += 1
    model = Tied()
    before = bits(model)
    with pytest.raises(ValueError, match="' shares memory with other weights of the model, not he"):
        load_weights(model, _saved(loose, path))
    assert bits(model) == before
    assert model.last is model.q


def _saved(model, path):
    save_weights(model, path)
    return path


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_and_odd_tensors(path, dtype):
    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Module()
        matrix = torch.randn(3, 4, dtype=dtype, generator=generator)
        model.register_buffer("adjoint", matrix.mH)  # conjugated lazily, not contiguous
        model.register_buffer("imag", matrix.mH.imag)  # negated lazily
        model.register_buffer("part", torch.rand(6, 6, generator=generator)[::2, 1::3])
        model.register_buffer("flags", torch.rand(5, generator=generator) > 0.5)
        model.register_buffer("number", torch.tensor(seed))
        model.register_buffer("empty", torch.zeros(0, 3))
        model.register_buffer("empty_too", torch.zeros(0, 3))
        model.weight = nn.Parameter(matrix.real.clone().T)
        return model

    model = make(1)
    other = load_weights(make(2), _saved(model, path))
    for name, value in model.state_dict().items():
        loaded = other.state_dict()[name]
        assert loaded.dtype == value.dtype
        assert torch.equal(loaded, value), name


def test_a_model_without_weights(path):
    model = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert load_weights(model, _saved(model, path)) is model


def test_extra_state_that_is_a_tensor(path):
    model = nn.Sequential(nn.Linear(1, 1), Extra(torch.tensor([7, 8])))
    other = nn.Sequential(nn.Linear(1, 1), Extra(torch.tensor([1])))
    assert load_weights(other, _saved(model, path))[1].state.tolist() == [7, 8]


def test_modules_read_what_their_older_versions_wrote(path):
    class Scaled(nn.Module):
        _version = 1

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

    class Rescaled(Scaled):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            if local_metadata.get("version", 1) < 2:
                state_dict[f"{prefix}scale"] = state_dict[f"{prefix}scale"] / 100
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    new = Rescaled()
    assert load_weights(new, _saved(Scaled(), path)).scale.item() == pytest.approx(0.03)
    assert load_weights(Rescaled(), _saved(new, path)).scale.item() == new.scale.item()


def test_twins_have_weights_files_too(path):
    model = hybrid()
    twin, other = classical_twin(model), classical_twin(model, seed=1)
    assert bits(load_weights(other, _saved(twin, path))) == bits(twin)
    with pytest.raises(ValueError, match="weights missing: .*'5.ansatz.weights'.*unknown: .*5.bl"):
        load_weights(model, path)


# --- files of other functions, programs and versions --------------------------------------------


def test_files_of_save_model_are_weights_files(path):
    model = digits_model(2, 1, channels=(1, 2, 3), seed=1)
    model.trained = {"seed": 1, "epochs": 2}
    save_model(model, path)
    other = load_weights(digits_model(2, 1, channels=(1, 2, 3)), path)
    assert bits(other) == bits(model)
    assert other.trained is None
    assert load_model(path).trained == model.trained
    save_weights(model, path)
    with pytest.raises(ValueError, match="description of something else than a digits model"):
        load_model(path)


def test_files_of_0_1_0_load_with_a_warning(path):
    model = digits_model(2, 1, channels=(1, 2, 3), seed=1)
    tensors = {n: v for n, v in model.state_dict().items() if n != "vqc._extra_state"}
    content = {"model": "digits", "config": model.config, "trained": {"seed": 1, "epochs": 2}}
    save_file(tensors, path, metadata={"captum_quantum": json.dumps(content, sort_keys=True)})
    with pytest.warns(UserWarning, match="'vqc._extra_state' is missing"):
        other = load_weights(digits_model(2, 1, channels=(1, 2, 3)), path)
    assert bits(other) == bits(model)
    with pytest.warns(UserWarning, match="'vqc._extra_state' is missing"):
        loaded = load_model(path)
    assert bits(loaded) == bits(model)
    assert loaded.trained == {"seed": 1, "epochs": 2}
    before = bits(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_file({n: v + 1 for n, v in tensors.items()}, path)
        with pytest.raises(UserWarning, match="'vqc._extra_state' is missing"):
            load_weights(other, path)
    assert bits(other) == before


def test_files_of_other_programs(path):
    model = hybrid()
    save_file(model.state_dict(), path)
    assert bits(load_weights(hybrid(), path)) == bits(model)
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    assert bits(load_weights(hybrid(), path)) == bits(model)


def test_files_of_later_versions(path):
    save_weights(hybrid(), path)
    redescribe(path, format=2, version="9.9.0")
    with pytest.raises(
        ValueError,
        match="of format 2, written by captum-quantum 9.9.0; this version reads formats up to 1",
    ):
        load_weights(hybrid(), path)


# --- what does not fit --------------------------------------------------------------------------


def check_refused(model, path, message, error=ValueError):
    """Checks that a file is refused and leaves the model as it was."""
    before = bits(model)
    with pytest.raises(error, match=message):
        load_weights(model, path)
    assert bits(model) == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (hybrid()[:7], r"weights missing: none, unknown: \['7.bias', '7.weight'\]"),
        (
            hybrid().append(nn.Linear(2, 2, bias=False)),
            r"weights missing: \['8.weight'\], unknown: none",
        ),
        (
            hybrid(features=6),
            r"'0.weight' is a torch.float32 tensor of shape \(5, 1, 3, 3\) on cpu, the model needs "
            r"a torch.float32 tensor of shape \(6, 1, 3, 3\) on cpu",
        ),
        (
            hybrid(observables=["Z0", "Z1", "X2"]),
            "must be a file that save_weights has written for such a model; got '.*': weights of "
            "another circuit for '5', a VQCLayer module: of other gates, encoding or observables",
        ),
        (
            nn.Sequential(*[nn.Linear(1, 1) for _ in range(9)]),
            r"weights missing: \['2.bias', .*, '6.bias', '6.weight'\] and 2 more, unknown: ",
        ),
    ],
)
def test_other_architectures(path, model, message):
    save_weights(hybrid(), path)
    check_refused(model, path, message)


def test_another_circuit_is_noticed_whatever_tells_it(path):
    save_weights(VQCLayer(3), path)
    message = "another circuit for a VQCLayer module: of other gates"
    check_refused(VQCLayer(3, encoder="rx"), path, message)
    save_file(load_file(path), path)  # the state_dict alone
    check_refused(VQCLayer(3, encoder="rx"), path, message)
    model = nn.Sequential(nn.Tanh(), Shown("Z0"))
    save_weights(model, path)  # the metadata alone
    assert "1._extra_state" not in load_file(path)
    assert bits(load_weights(nn.Sequential(nn.Tanh(), Shown("Z0")), path)) == bits(model)
    other = nn.Sequential(nn.Tanh(), Shown("X1"))
    check_refused(other, path, "weights of another circuit for '1', a Shown module")


def test_weights_of_no_circuit_do_not_fit_a_circuit(path):
    layer = VQCLayer.from_circuit(VQCLayer(2).circuit)
    plain = nn.Module()
    plain.circuit_weights = nn.Parameter(torch.rand(layer.circuit.n_weights))
    save_weights(plain, path)
    check_refused(layer, path, r"weights missing: \['_extra_state'\], unknown: none")


def test_precision_may_be_lost_but_nothing_else(path):
    def make(dtype):
        model = nn.Module()
        model.register_buffer("x", torch.ones(2, dtype=dtype))
        return model

    for saved, needed, fits in [
        (torch.float64, torch.bfloat16, True),
        (torch.int64, torch.float32, True),
        (torch.float32, torch.complex128, True),
        (torch.complex64, torch.float64, False),
        (torch.float32, torch.int64, False),
        (torch.int64, torch.uint8, False),
    ]:
        save_weights(make(saved), path)
        if fits:
            assert load_weights(make(needed), path).x.dtype == needed
        else:
            message = f"'x' is a {saved} tensor .* the model needs a {needed} tensor"
            check_refused(make(needed), path, message)


def test_a_module_that_refuses_while_loading_leaves_the_model_as_it_was(path):
    def make(state):
        return nn.Sequential(nn.Linear(1, 1), Extra(state), Extra(state), nn.Linear(1, 1))

    bad = make(torch.tensor([1]))
    bad[2].state = torch.tensor([13])
    save_weights(bad, path)
    model = make(torch.tensor([5]))
    check_refused(model, path, r"weights that do not fit the model \(no thirteen\)")
    assert [part.state.tolist() for part in model[1:3]] == [[5], [5]]


def test_tensors_that_cannot_be_written_leave_the_model_as_it_was(path):
    def make():
        model = nn.Linear(2, 2)
        model.register_buffer("wide", torch.rand(1).expand(3))
        return model

    save_weights(make(), path)
    check_refused(make(), path, "(?s)weights that do not fit the model .*single memory location")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_files(path, share):
    save_weights(hybrid(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    check_refused(hybrid(), path, "not a whole safetensors file .*; save or copy it again")


def test_files_that_are_none(path, tmp_path):
    model = hybrid()
    message = "path must be a weights file; got '.*', which does not exist or is no file"
    check_refused(model, path, message, FileNotFoundError)
    check_refused(model, tmp_path, message, FileNotFoundError)
    check_refused(model, None, "path must be the path of a file; got None", TypeError)
    torch.save(model.state_dict(), path)  # a pickle: never opened as one
    check_refused(model, path, "not a whole safetensors file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "1"}, "of format 1, written by"),
        ({"tied": ["7.bias"]}, "with a description whose 'tied' do not fit its tensors"),
        ({"tied": {"7.bias": "7.weight"}}, "whose 'tied' do not fit"),
        ({"tied": {"new": "nowhere"}}, "whose 'tied' do not fit"),
        ({"circuits": {"5": 3}}, "whose 'circuits' do not fit"),
        ({"circuits": {"5": "00"}}, "weights of another circuit for '5'"),
        ({"complex": {"7.bias": "torch.complex64"}}, None),
        ({"complex": {"0.bias": "torch.complex64"}}, "whose 'complex' do not fit"),
        ({"complex": {"1.num_batches_tracked": "torch.complex64"}}, "whose 'complex' do not fit"),
        ({"modules": {"5": "1"}}, "whose 'modules' do not fit"),
    ],
)
def test_descriptions_that_do_not_fit_the_tensors(path, changes, message):
    save_weights(hybrid(), path)
    redescribe(path, **changes)
    message = message or r"'7.bias' is a torch.complex64 tensor of shape \(\)"
    check_refused(hybrid(), path, message)


@pytest.mark.parametrize("content", ["{", "[1]", "null"])
def test_descriptions_that_are_none(path, content):
    save_file(hybrid().state_dict(), path, metadata={"captum_quantum": content})
    check_refused(hybrid(), path, "with a description that is not JSON|of something else than a mo")


# --- models that cannot be saved ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ({"weight": torch.ones(1)}, TypeError, "model must be an nn.Module; got {'weight'"),
        (
            nn.Sequential(nn.ReLU(), nn.LazyLinear(3)),
            ValueError,
            "model must be initialized by a first call of its lazy modules; got '1.weight', which",
        ),
        (
            nn.Sequential(nn.ReLU(), Extra({"epoch": 3})),
            TypeError,
            "model must be a module whose state_dict holds dense tensors of numbers only; got "
            "'1._extra_state', which is {'epoch': 3}",
        ),
        (nn.Linear(1, 1, device="meta"), TypeError, "got 'weight', which is .* on meta"),
        (
            nn.ParameterList([torch.eye(2).to_sparse()]),
            TypeError,
            "got '0', which is .* with layout torch.sparse_coo",
        ),
        (nn.ParameterList([torch.eye(2).to(torch.float8_e5m2)]), TypeError, "got '0', which"),
    ],
)
def test_models_that_have_no_weights_file(path, model, error, message):
    with pytest.raises(error, match=message):
        save_weights(model, path)
    assert not path.exists()
    save_weights(nn.Linear(1, 1), path)
    with pytest.raises(error, match=message):
        load_weights(model, path)


def test_a_file_that_cannot_be_written(path, tmp_path):
    save_weights(nn.Linear(1, 1), path)
    content = path.read_bytes()
    with pytest.raises(TypeError, match="path must be the path of a file; got 3"):
        save_weights(nn.Linear(1, 1), 3)
    with pytest.raises(FileNotFoundError):
        save_weights(nn.Linear(1, 1), tmp_path / "missing" / "weights.safetensors")
    with pytest.raises(IsADirectoryError):
        save_weights(nn.Linear(1, 1), tmp_path)
    assert path.read_bytes() == content
    assert [*tmp_path.iterdir()] == [path]
