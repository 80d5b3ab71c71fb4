"""Against Quantus 0.6, pytorch-grad-cam and scikit-image: '.[metrics-test]', `make test-all`.

Where Quantus means something else, the test says what: `pixel flipping` has no point for the whole
image, `PointingGame` counts a map of zeros as a hit, `MaxSensitivity` is compared for a fixed
perturbation. Its `Infidelity` goes on perturbing what it has perturbed before, patch after patch,
and has no fitted scale; its `MPRT` has layers in the order of their definition and no quantum part.
Of its `ROAD`, which is the accuracy without the most relevant pixels, the imputation is compared,
and pytorch-grad-cam's, which draws the noise anew for each image; `ROADCombined` has a factor 1/2.
"""

import numpy as np
import pytest
import torch
from slow_metrics import random_maps, random_masks
from torch import nn

from captum_quantum import metrics
from captum_quantum.metrics.faithfulness.road import impute
from captum_quantum.metrics.similarity import rank_correlation, structural_similarity

quantus = pytest.importorskip("quantus", reason="quantus is part of the extra metrics-test")

pytestmark = pytest.mark.slow  # Quantus imports TensorFlow

RAW = {"abs": False, "normalise": False, "disable_warnings": True}
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


@pytest.fixture
def inputs():
    return random_maps(6, 1, 8, 8, seed=2, dtype=torch.float32)


@pytest.fixture
def maps():
    return random_maps(6, 1, 8, 8, dtype=torch.float32)


def run(metric, model, inputs, maps, masks=None, **options):
    values = metric(
        model=model,
        x_batch=inputs.numpy(),
        y_batch=TARGETS.numpy(),
        a_batch=maps.numpy().copy(),
        s_batch=None if masks is None else masks[:, None].numpy(),
        **options,
    )
    return np.array(values, dtype=float)


def test_deletion_is_pixel_flipping(model, inputs, maps):
    curves = metrics.deletion(model, inputs, maps, TARGETS, steps=16, return_curves=True)
    flipping = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **RAW)
    expected = run(flipping, model, inputs, maps, softmax=True)
    assert curves.probabilities[:, 1:].numpy() == pytest.approx(expected, abs=1e-6)


def test_insertion_is_pixel_flipping_of_the_rest(model, inputs, maps):
    # Inserting from the best on is deleting from the worst on, read backwards.
    curves = metrics.insertion(
        model, inputs, maps, TARGETS, baseline=0.0, steps=16, return_curves=True
    )
    flipping = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **RAW)
    expected = run(flipping, model, inputs, -maps, softmax=True)[:, ::-1]
    assert curves.probabilities[:, :-1].numpy() == pytest.approx(expected, abs=1e-6)


def test_imputation_is_quantus_and_grad_cams():
    of_grad_cam = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images, removed = random_maps(4, 3, 9, 7), random_masks(4, 1, 9, 7, share=0.6)
    removed[0, 0, 0] = True  # a border
    filled = impute(images, removed, 1e-8)
    for one, image, gone in zip(filled.numpy(), images, removed[:, 0], strict=True):
        expected = quantus.functions.perturb_func.noisy_linear_imputation(
            image.numpy(), np.flatnonzero(gone), noise=0
        )
        assert one == pytest.approx(expected, abs=1e-6)
        expected = of_grad_cam.NoisyLinearImputer(noise=0)(image.float(), (~gone).float())
        assert one == pytest.approx(expected.numpy(), abs=1e-5)


def test_road_is_twice_grad_cams(model, inputs, maps, monkeypatch):
    module = pytest.importorskip("pytorch_grad_cam.metrics.road")

    class WithoutNoise(module.NoisyLinearImputer):
        def __init__(self):
            super().__init__(noise=0)

    monkeypatch.setattr(module, "NoisyLinearImputer", WithoutNoise)
    percentiles = [20, 60, 90]
    targets = [lambda scores, t=t: scores.softmax(0)[t] for t in TARGETS.tolist()]
    expected = module.ROADCombined(percentiles)(inputs, maps[:, 0].numpy(), targets, model)
    # NumPy's percentile lies between two pixels, of which the upper one is removed.
    removed = [(63 - int(0.63 * p)) / 64 for p in percentiles]
    found = metrics.road(model, inputs, maps, TARGETS, removed=removed, noise=0, tolerance=1e-8)
    assert found.numpy() == pytest.approx(2 * expected, abs=1e-5)
    assert found.abs().max() > 0.04


def test_sparseness(model, inputs, maps):
    expected = run(quantus.Sparseness(disable_warnings=True), model, inputs, maps)
    assert metrics.sparseness(maps).numpy() == pytest.approx(expected, abs=1e-6)


def test_energy_pointing_game_is_relevance_mass_accuracy(model, inputs, maps):
    masks = random_masks(6, 8, 8)
    masks[5] = False
    mass = quantus.RelevanceMassAccuracy(**RAW)
    expected = run(mass, model, inputs, maps.relu(), masks)
    result = metrics.energy_pointing_game(maps, masks).numpy()
    assert result == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert np.isnan(result).tolist() == [False] * 5 + [True]


def test_pointing_game(model, inputs, maps):
    masks = random_masks(6, 8, 8, share=0.5)
    expected = run(quantus.PointingGame(**RAW), model, inputs, maps, masks)
    assert 0 < expected.sum() < 6
    assert metrics.pointing_game(maps, masks).tolist() == expected.tolist()
    maps[0] = 0  # its largest value is everywhere, so Quantus finds it on the object
    hit = run(quantus.PointingGame(**RAW), model, inputs, maps, masks)[0]
    assert (hit, metrics.pointing_game(maps, masks)[0].item()) == (1, 0)


def test_sensitivity_is_max_sensitivity(model, inputs):
    def gradients(model, inputs, targets, **_):
        x = torch.as_tensor(inputs).detach().clone().requires_grad_()
        scores = model(x).gather(1, torch.as_tensor(targets)[:, None])
        return torch.autograd.grad(scores.sum(), x)[0]

    def explain(**kwargs):
        return gradients(**kwargs).numpy()

    def shift(arr, indices, **_):
        return arr + 0.05

    maps = gradients(model, inputs, TARGETS)
    metric = quantus.MaxSensitivity(nr_samples=1, perturb_func=shift, **RAW)
    expected = run(metric, model, inputs, maps, explain_func=explain)
    result = metrics.sensitivity_max(
        lambda x, target: gradients(model, x, target),
        inputs,
        TARGETS,
        perturb_func=lambda x: x + 0.05,
    )
    assert result.numpy() == pytest.approx(expected, rel=1e-4)


def test_rank_correlation(maps):
    a, b = maps.flatten(1), maps.flip(0).flatten(1).round()
    expected = quantus.functions.similarity_func.correlation_spearman(
        a.numpy(), b.numpy(), batched=True
    )
    assert rank_correlation(a, b).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(11, 11), (16, 30)])
def test_ssim_is_scikit_images(size):
    skimage = pytest.importorskip("skimage.metrics", reason="part of the extra metrics-test")
    a = random_maps(3, *size).tanh()
    b = (a + 0.5 * random_maps(3, *size, seed=6)).tanh()
    expected = [
        skimage.structural_similarity(
            x, y, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert structural_similarity(a, b).tolist() == pytest.approx(expected)
