"""The private names of torch and Captum do what this package needs; a failure names the version."""

import subprocess
import sys
from importlib import metadata

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from captum_quantum import VQCLayer, _compat


def of(package):
    return f"{package} {metadata.version(package)} has changed what captum_quantum._compat uses"


def test_functorch_tensors_are_recognized():
    seen = []

    def f(x):
        seen.append((_compat.is_wrapper(x), _compat.in_functorch()))
        return x.sum()

    torch.func.grad(f)(torch.ones(2))
    torch.func.vmap(f)(torch.ones(2, 2))
    assert seen == [(True, True)] * 2, of("torch")
    assert not _compat.is_wrapper(torch.ones(2)), of("torch")
    assert not _compat.in_functorch(), of("torch")


def test_batches_of_cotangents_are_recognized():
    seen = []

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(_compat.is_wrapper(grad))
            return grad

    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Identity.apply(x), x, torch.eye(2), is_grads_batched=True)
    torch.autograd.grad(Identity.apply(x), x, torch.ones(2))
    assert seen == [True, False], of("torch")


def test_transforms_are_recognized_and_left():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append(_compat.in_transform())
            with _compat.outside_transforms():
                seen.append(_compat.in_transform())
            seen.append(_compat.in_transform())
            return x + 1

    x = torch.ones(2, 2)
    torch.func.vmap(Noting())(x)
    torch.jit.trace(Noting(), x, check_trace=False)
    torch.export.export(Noting(), (x,), strict=False)
    assert seen, of("torch")
    assert seen == [True, False, True] * (len(seen) // 3), of("torch")
    seen.clear()
    Noting()(x)
    assert seen == [False] * 3, of("torch")


def test_modes_that_only_look_on_are_no_transforms():
    layer = VQCLayer(2, gradient="parameter-shift")
    x = torch.rand(3, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)

    class Looking(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Looking():
        assert not _compat.in_transform(), of("torch")
        (found,) = torch.autograd.grad(layer(x).sum(), x)
        with pytest.raises(ValueError, match="inputs must be finite"):
            layer(x * torch.nan)
    assert torch.equal(found, expected)


def test_the_compiler_leaves_a_function_alone():
    seen = []

    @_compat.uncompiled
    def doubled(x):
        seen.append(torch.compiler.is_compiling())
        return 2 * x

    @torch.compile(backend="eager")
    def compiled(x):
        return doubled(x + 1) + 1

    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 5.0)), of("torch")
    assert seen == [False], of("torch")
    assert doubled.__name__ == "doubled"
    with pytest.raises(TypeError):
        doubled(None)
    assert torch.equal(compiled(torch.zeros(2)), torch.full((2,), 3.0)), of("torch")


def test_what_is_made_outside_of_functorch_is_a_plain_tensor():
    seen = []

    def f(x):
        with _compat.outside_transforms():
            seen.append((_compat.in_functorch(), _compat.is_wrapper(torch.arange(2))))
        seen.append(_compat.in_functorch())
        return x.sum()

    torch.func.vmap(torch.func.jacrev(f))(torch.ones(2, 2))
    assert seen == [(False, False), True], of("torch")


def test_data_parallels_replicas_are_recognized():
    module = nn.Linear(2, 2)
    assert not _compat.is_replica(module)
    assert _compat.is_replica(module._replicate_for_data_parallel()), of("torch")


def test_methods_around_others_find_attribute():
    def attribute(explainer, inputs):
        return inputs

    marked = _compat.logged(attribute)
    assert marked.__wrapped__ is attribute, of("captum")
    assert marked(None, 3) == 3


def test_a_forward_function_is_called_as_captum_does():
    def forward(x, y, scale):
        return scale * (x + y)

    inputs = (torch.ones(2, 1), torch.ones(2, 1))
    for arguments in (3, (3,)):
        result = _compat.run_forward(forward, inputs, arguments)
        assert torch.equal(result, torch.full((2, 1), 6.0)), of("captum")
    assert torch.equal(_compat.run_forward(nn.Identity(), torch.ones(2), None), torch.ones(2))


def test_targets_are_selected_as_captum_does():
    output = torch.arange(12.0).reshape(2, 2, 3)
    assert _compat.select_targets(output, (1, 2)).tolist() == [5, 11], of("captum")
    assert _compat.select_targets(output, [(0, 1), (1, 0)]).tolist() == [1, 9], of("captum")
    rows = output[:, 0]
    assert _compat.select_targets(rows, torch.tensor([2, 0])).tolist() == [2, 6], of("captum")


def test_devices_are_sorted_as_data_parallel_does():
    devices = [torch.device("cuda", 1), torch.device("cuda", 0)]
    assert _compat.sort_devices(devices, [0, 1]) == devices[::-1], of("captum")
    assert _compat.sort_devices(devices[:1], None) == devices[:1], of("captum")


def test_state_dicts_tell_the_versions_of_modules():
    seen = []

    class Versioned(nn.Module):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append(local_metadata.get("version"))

    model = nn.Sequential(nn.Linear(1, 1), Versioned())
    versions = _compat.module_versions(model.state_dict())
    assert versions == {"": 1, "0": 1, "1": 3}, of("torch")
    tensors = dict(model.state_dict())
    for given in (None, versions, {**versions, "1": 2}):
        model.load_state_dict(_compat.with_module_versions(tensors, given))
    assert seen == [None, 3, 2], of("torch")
    assert type(tensors) is dict


def test_captum_is_imported_only_where_it_is_needed():
    code = "import sys, captum_quantum._compat; print('captum' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
