"""Infidelity and sensitivity: Captum's functions, with perturbations that belong to the images."""

import math
import warnings

import captum.metrics
import numpy as np
import pytest
import scipy.stats
import torch
from slow_metrics import TARGETS, random_maps, slow_resize
from torch import nn

from captum_quantum.metrics import infidelity, sensitivity_max
from captum_quantum.metrics._noise import Noise, _hash


class Recorder:
    """A model or method that remembers what it was asked about."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, images, *args):
        self.asked.append(images.detach().clone())
        return self.function(images, *args)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 63, 8), nn.Tanh(), nn.Linear(8, 4)).double()


@pytest.fixture
def inputs():
    return random_maps(6, 2, 9, 7, seed=2)


def squares(recorder, inputs, baseline, n):
    """The squares that were removed, ``(batch, n, height, width)``, from the images asked about."""
    images = torch.cat([x for x in recorder.asked if not torch.equal(x[:1], inputs[:1])])
    images = images.reshape(len(inputs), n, *inputs.shape[1:])
    removed = (images == baseline).all(dim=2)
    kept = torch.where(removed[:, :, None], baseline, inputs[:, None])
    assert torch.equal(kept, images)
    return removed


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_equals_the_definition(normalize, channels, model, inputs):
    maps = random_maps(6, channels, 5, 4)
    asked = Recorder(model)
    values = infidelity(
        asked,
        inputs,
        maps,
        TARGETS,
        baseline=7.0,
        n_perturb_samples=9,
        normalize=normalize,
        max_batch=1000,
    )
    removed = squares(asked, inputs, 7.0, 9).numpy()
    for i, target in enumerate(TARGETS.tolist()):
        single = [slow_resize(c, (9, 7)) for c in maps[i].numpy()]
        whole = model(inputs[[i]])[0, target].item()
        predicted, true = [], []
        for square in removed[i]:
            image = np.where(square, 7.0, inputs[i].numpy())
            true.append(whole - model(torch.from_numpy(image)[None])[0, target].item())
            predicted.append(sum((c * square).sum() for c in single))
        predicted, true = np.array(predicted), np.array(true)
        factor = (predicted @ true) / (predicted @ predicted) if normalize else 1
        expected = np.mean((factor * predicted - true) ** 2)
        assert values[i].item() == pytest.approx(expected)


@pytest.mark.parametrize(("side", "height", "width"), [(0.25, 2, 2), (0.5, 4, 4), (0.01, 1, 1)])
def test_squares_have_their_size_and_lie_everywhere(side, height, width, model, inputs):
    asked = Recorder(model)
    n = 400
    infidelity(
        asked,
        inputs,
        inputs,
        TARGETS,
        baseline=7.0,
        side=side,
        n_perturb_samples=n,
        max_batch=10_000,
    )
    removed = squares(asked, inputs, 7.0, n)
    rows, columns = removed.any(dim=3), removed.any(dim=2)
    assert (rows.sum(2) == height).all()
    assert (columns.sum(2) == width).all()
    assert (removed.sum((2, 3)) == height * width).all()
    for lines, length in ((rows, height), (columns, width)):
        starts = lines.int().argmax(dim=2)
        assert starts.unique().tolist() == list(range(lines.shape[2] - length + 1))
        assert scipy.stats.chisquare(starts.flatten().bincount()).pvalue > 1e-3


def test_infidelity_of_an_exact_explanation_is_zero_and_of_a_map_of_zeros_the_variance():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x = random_maps(4, 1, 8, 8)
    weights = linear[1].weight[1].detach().reshape(1, 1, 8, 8)
    for normalize in (True, False):
        exact = infidelity(linear, x, weights * x, 1, normalize=normalize)
        assert exact.tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert infidelity(linear, x, -1e-200 * weights * x, 1).tolist() == pytest.approx(
        [0] * 4, abs=1e-12
    )
    asked = Recorder(linear)
    nothing = infidelity(asked, x, torch.zeros_like(x), 1, n_perturb_samples=8, max_batch=64)
    changed = torch.cat([linear(a)[:, 1] for a in asked.asked if len(a) == 32]).reshape(4, 8)
    expected = ((linear(x)[:, [1]] - changed) ** 2).mean(dim=1)
    assert nothing.tolist() == pytest.approx(expected.tolist())


def add_a_third(images):
    step = torch.full_like(images, 1 / 3)
    return step, images - step


def test_infidelity_is_captums_for_perturbations_of_ones_own(model, inputs):
    maps = random_maps(6, 2, 9, 7)
    for normalize in (True, False):
        expected = captum.metrics.infidelity(
            model, add_a_third, inputs, maps, target=TARGETS, normalize=normalize
        )
        result = infidelity(
            model, inputs, maps, TARGETS, perturb_func=add_a_third, normalize=normalize
        )
        assert result.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def slow_sensitivity(attribute, asked, inputs, targets, n):
    first, *rest = asked
    assert torch.equal(first, inputs)
    perturbed = torch.cat(rest).reshape(len(inputs), n, *inputs.shape[1:])
    values = []
    for i, target in enumerate(targets.tolist()):
        single = attribute(inputs[[i]], torch.tensor([target]))
        changes = [
            (attribute(p[None], torch.tensor([target])) - single).norm().item()
            for p in perturbed[i]
        ]
        values.append(max(changes) / single.norm().item())
    return values, perturbed - inputs[:, None]


def test_sensitivity_equals_the_definition(model, inputs):
    def attribute(images, target):
        x = images.clone().requires_grad_()  # gradients are there although Captum turns them off
        return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]

    asked = Recorder(attribute)
    result = sensitivity_max(
        asked, inputs, TARGETS, perturb_radius=0.1, n_perturb_samples=7, max_batch=1000
    )
    expected, noise = slow_sensitivity(attribute, asked.asked, inputs, TARGETS, 7)
    assert result.tolist() == pytest.approx(expected)
    assert noise.abs().max() <= 0.1 + 1e-12
    assert scipy.stats.kstest(noise.flatten(), "uniform", (-0.1, 0.2)).pvalue > 1e-3
    shift = sensitivity_max(attribute, inputs, TARGETS, perturb_func=lambda x: x + 0.05)
    expected = [
        (
            (attribute(x[None] + 0.05, t[None]) - attribute(x[None], t[None])).norm()
            / attribute(x[None], t[None]).norm()
        ).item()
        for x, t in zip(inputs, TARGETS, strict=True)
    ]
    assert shift.tolist() == pytest.approx(expected)


def test_sensitivity_of_maps_of_zeros_is_undefined_and_of_tiny_ones_not(inputs):
    def attribute(images, target):
        maps = images**2
        maps[: len(maps) // 6] = 0  # the first image's
        return maps

    values = sensitivity_max(attribute, inputs, 0)
    assert values.isnan().tolist() == [True] + [False] * 5
    tiny = sensitivity_max(lambda x, t: 1e-200 * attribute(x, t), inputs, 0)
    assert tiny[1:].tolist() == pytest.approx(values[1:].tolist())
    assert (tiny[1:] > 0.01).all()


def run_infidelity(model, x, targets, **options):
    return infidelity(model, x, x[:, :1], targets, **options)


def run_sensitivity(model, x, targets, **options):
    return sensitivity_max(
        lambda images, target: model(images)[:, :, None, None], x, targets, **options
    )


@pytest.mark.parametrize("run", [run_infidelity, run_sensitivity])
def test_values_belong_to_the_image_not_to_the_batch(run, model, inputs):
    values = run(model, inputs, TARGETS)
    for max_batch in (1, 6, 13, 1000):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Captum's, of batches that do not fit
            again = run(model, inputs, TARGETS, max_batch=max_batch)
        assert again.tolist() == pytest.approx(values.tolist())
    some = [4, 1]
    parts = run(model, inputs[some], TARGETS[some])
    assert parts.tolist() == pytest.approx(values[some].tolist())
    other = run(model, inputs, TARGETS, seed=1)
    assert (abs(other / values - 1) > 1e-6).all()


@pytest.mark.parametrize("run", [run_infidelity, run_sensitivity])
def test_random_perturbations_of_ones_own_are_seeded(run, model, inputs):
    def noisy(images):
        noise = torch.rand_like(images)
        return (noise, images - noise) if run is run_infidelity else images + noise

    before = torch.get_rng_state()
    values = [run(model, inputs, TARGETS, perturb_func=noisy, seed=s) for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("run", [run_infidelity, run_sensitivity])
def test_the_random_state_survives_errors(run, model, inputs):
    def broken(images):
        torch.rand(3)
        raise KeyError("broken")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="broken"):
        run(model, inputs, TARGETS, perturb_func=broken)
    assert torch.equal(torch.get_rng_state(), before)


def test_bits_are_hash_as_in_splitmix64():
    state = torch.arange(1, 6) * (0x9E3779B97F4A7C15 - 2**64)
    expected = [  # the first five numbers of the generator started with 0
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
        0xF88BB8A8724C81EC,
        0x1B39896A51A8749B,
    ]
    assert [bits % 2**64 for bits in _hash(state).tolist()] == expected


def test_noise_is_uniform_and_independent():
    images = torch.zeros(40, 1, 5, 5)  # all but a bit alike
    images[:, 0, 0, 0] = torch.arange(40) * 1e-40
    noise = Noise(images, seed=0).draw(40 * 50, 20).reshape(40, 50, 20)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert scipy.stats.kstest(noise.flatten(), "uniform").pvalue > 1e-3
    for axis in range(3):  # neighbors along images, draws and positions
        a = noise.narrow(axis, 0, noise.shape[axis] - 1).flatten()
        b = noise.narrow(axis, 1, noise.shape[axis] - 1).flatten()
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))
    assert len(noise.flatten().unique()) == noise.numel()


def test_noise_continues_and_reads_every_pixel():
    images = random_maps(3, 1, 4, 4, dtype=torch.float32)
    whole = Noise(images, seed=5).draw(3 * 7, 4).reshape(3, 7, 4)
    source = Noise(images.clone(), seed=5)
    parts = [source.draw(3 * n, 4).reshape(3, n, 4) for n in (2, 4, 1)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    swapped = images.clone()
    swapped[0, 0, 1, 1], swapped[0, 0, 2, 3] = images[0, 0, 2, 3], images[0, 0, 1, 1]
    changed = Noise(swapped, seed=5).draw(3 * 7, 4).reshape(3, 7, 4)
    assert not torch.equal(changed[0], whole[0])
    assert torch.equal(changed[1:], whole[1:])
    minus = torch.where(images > 0, images, 0.0), torch.where(images > 0, images, -0.0)
    assert torch.equal(*(Noise(x, seed=5).draw(3, 4) for x in minus))
