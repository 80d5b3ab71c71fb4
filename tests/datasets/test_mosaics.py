"""Mosaics of four images."""

import pytest
import torch

from captum_quantum.datasets import load_digits, mosaics

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def digits():
    return load_digits(seed=0)


def rows(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_mosaics_hold_four_classes_in_their_quadrants():
    # Images that show their own label: quadrant by quadrant, the mosaic must show its labels.
    labels = torch.arange(30) % 6
    images = labels.float()[:, None, None, None].expand(30, 2, 3, 5) / 10
    tiles = mosaics(images, labels, n=40, seed=1)
    assert tiles.images.shape == (40, 2, 6, 10)
    quadrants = [
        tiles.images[..., :3, :5],
        tiles.images[..., :3, 5:],
        tiles.images[..., 3:, :5],
        tiles.images[..., 3:, 5:],
    ]
    for quadrant, label in zip(quadrants, tiles.labels.T, strict=True):
        assert torch.equal(quadrant, (label.float() / 10)[:, None, None, None].expand_as(quadrant))
    assert all(len(set(four)) == 4 for four in tiles.labels.tolist())
    assert set(tiles.labels.flatten().tolist()) == set(range(6))


def test_mosaics_consist_of_the_given_images_upright(digits):
    tiles = mosaics(digits.test_images, digits.test_labels, n=3, seed=2)
    known = rows(digits.test_images)
    assert rows(tiles.images[..., :32, 32:]) <= known
    assert rows(tiles.images[..., 32:, :32]) <= known


def test_seed_fixes_the_mosaics(digits):
    def build(seed):
        return mosaics(digits.test_images, digits.test_labels, n=5, seed=seed)

    assert torch.equal(build(7).images, build(7).images)
    assert torch.equal(build(7).labels, build(7).labels)
    assert not torch.equal(build(7).labels, build(8).labels)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.rand(8, 4, 4)}, ValueError, r"images must be of shape \(n_images, chan"),
        ({"images": torch.ones(8, 1, 4, 4).int()}, TypeError, "images must be a real floating"),
        ({"labels": torch.rand(8)}, TypeError, "labels must be a tensor of integers"),
        ({"labels": torch.arange(7)}, ValueError, r"labels must be of shape \(8,\)"),
        ({"labels": torch.arange(8) % 3}, ValueError, "labels must be of at least four different"),
        ({"n": 0}, ValueError, "n must be an integer >= 1; got 0"),
        ({"seed": "0"}, TypeError, "seed must be an integer >= 0; got '0'"),
    ],
)
def test_wrong_arguments_of_mosaics(arguments, error, message):
    given = {"images": torch.rand(8, 1, 4, 4), "labels": torch.arange(8), "n": 2}
    with pytest.raises(error, match=message):
        mosaics(**{**given, **arguments})
