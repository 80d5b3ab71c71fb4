"""What is changed for a while comes back, also after exceptions."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from captum_quantum._state import (
    buffers_kept,
    evaluation_mode,
    grads_kept,
    random_state_kept,
    seed_generators,
    seeded,
    threads,
    training_mode,
)


@contextmanager
def maybe_failing(context, fails):
    """Runs the block in the context; with ``fails``, the block ends with an exception."""
    outcome = pytest.raises(RuntimeError, match="out of order") if fails else nullcontext()
    with outcome, context:
        yield
        if fails:
            raise RuntimeError("out of order")


fails = pytest.mark.parametrize("fails", [False, True])


def network():
    return nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.Linear(3, 2))
    )


def modes(*models):
    return [module.training for model in models for module in model.modules()]


@fails
def test_evaluation_mode_of_several_models(fails):
    first, second = network(), network().eval()
    second[2].train()
    first.append(second[2])  # shared
    first[1].eval()
    before = modes(first, second)
    with maybe_failing(evaluation_mode(first, torch.sin, second), fails):
        assert not any(modes(first, second))
    assert modes(first, second) == before
    assert len(set(before)) == 2


@fails
def test_training_mode_leaves_frozen_modules_in_evaluation_mode(fails):
    model = network().eval()
    model[2].train()
    for parameter in model[1].parameters():
        parameter.requires_grad = False
    before = modes(model)
    with maybe_failing(training_mode(model), fails):
        assert modes(model) == [True, True, False, True, True, True]
    assert modes(model) == before


def test_training_mode_calls_the_models_own_train():
    class Model(nn.Linear):
        def train(self, mode=True):
            super().train(mode)
            self.seen = mode
            return self

    model = Model(2, 2).eval()
    with training_mode(model):
        assert model.seen
    assert not model.training


@fails
def test_seeds(fails):
    before = torch.get_rng_state()
    draws = []
    for seed in (3, 3, 4):
        with maybe_failing(seeded(seed, torch.zeros(1), torch.device("cpu")), fails):
            draws.append(torch.rand(5))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with maybe_failing(random_state_kept(), fails):
        seed_generators(4)
        assert torch.equal(torch.rand(5), draws[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@fails
def test_seeds_on_a_gpu(fails):
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    draws = []
    for device in (torch.zeros(1, device="cuda"), torch.device("cuda"), torch.device("cuda:0")):
        with maybe_failing(seeded(3, device), fails):
            draws.append((torch.rand(5, device="cuda"), torch.rand(5)))
        assert torch.equal(torch.cuda.get_rng_state(), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
    for draw in draws[1:]:
        assert torch.equal(draw[0], draws[0][0])
        assert torch.equal(draw[1], draws[0][1])


@fails
def test_grads(fails):
    layer = nn.Linear(2, 2)
    layer.weight.grad = kept = torch.ones(2, 2)
    with maybe_failing(grads_kept(layer.parameters()), fails):
        assert layer.weight.grad is None
        layer(torch.rand(3, 2)).sum().backward()
        assert layer.bias.grad is not None
    assert layer.weight.grad is kept
    assert torch.equal(kept, torch.ones(2, 2))
    assert layer.bias.grad is None


@fails
def test_threads(fails):
    before = torch.get_num_threads()
    with maybe_failing(threads(before + 1), fails):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@fails
def test_buffers(fails):
    norm = nn.BatchNorm1d(3)  # whose statistics change without a new version
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with torch.no_grad(), maybe_failing(buffers_kept(norm), fails):
        norm(torch.randn(4, 3))
        assert not torch.equal(norm.running_mean, before["running_mean"])
    for name, value in norm.named_buffers():
        assert torch.equal(value, before[name]), name
