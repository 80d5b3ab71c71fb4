"""Handwritten digits, and image files of the user."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from captum_quantum.datasets import load_digits, mosaics, read_digit

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def digits():
    return load_digits(seed=0)


def rows(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_shapes_and_range(digits):
    assert digits.train_images.shape == (1438, 1, 32, 32)
    assert digits.test_images.shape == (359, 1, 32, 32)
    for images, labels in (digits[:2], digits[2:]):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.min() == 0
        assert images.max() == 1
        assert set(labels.tolist()) == set(range(10))


def test_images_are_scikit_learns_scaled_bilinearly(digits):
    from sklearn.datasets import load_digits as original

    bunch = original()
    tiny = torch.from_numpy(bunch.images).float() / 16
    # Away from the border, a bilinear scaling by 4 averages to the 2 x 2 center of each old pixel.
    center = digits.test_images[0, 0].unfold(0, 4, 4).unfold(1, 4, 4)[..., 1:3, 1:3].mean((2, 3))
    distances = (tiny[:, 1:-1, 1:-1] - center[1:-1, 1:-1]).abs().mean((1, 2))
    best = int(distances.argmin())
    assert bunch.target[best] == digits.test_labels[0]
    # Each half lies 1/8 of an old pixel off its center: 7/8 of the pixel, 1/8 of a neighbor.
    kernel = torch.tensor([1 / 16, 14 / 16, 1 / 16])
    smooth = torch.nn.functional.conv2d(
        tiny[best][None, None], torch.outer(kernel, kernel)[None, None]
    )
    torch.testing.assert_close(center[1:-1, 1:-1], smooth[0, 0])


def test_split_is_stratified_complete_and_without_overlap(digits):
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert ((test / (train + test)) - 0.2).abs().max() < 0.005
    assert not rows(digits.train_images) & rows(digits.test_images)
    from sklearn.datasets import load_digits as original

    assert torch.equal(train + test, torch.from_numpy(original().target).bincount())


def test_test_fraction():
    digits = load_digits(test_fraction=0.5)
    assert len(digits.test_labels) == 898
    assert len(digits.train_labels) == 899


def test_seed_fixes_the_split(digits):
    again, other = load_digits(seed=0), load_digits(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(digits, again, strict=True))
    assert rows(digits.test_images) != rows(other.test_images)
    assert not torch.equal(digits.train_labels, digits.train_labels.sort().values)


def test_global_random_state_is_left_alone(digits):
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()
    load_digits(seed=3)
    mosaics(digits.test_images, digits.test_labels, 3, seed=3)
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-quantum\[demo\]'"):
        load_digits()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"seed": 1.5}, TypeError, "seed must be an integer >= 0; got 1.5"),
        (
            {"test_fraction": 0.0},
            ValueError,
            r"test_fraction must be a number in \(0, 1\); got 0.0",
        ),
        ({"test_fraction": 1}, TypeError, r"test_fraction must be a number in \(0, 1\); got 1"),
        ({"test_fraction": float("nan")}, ValueError, "test_fraction must be a number"),
    ],
)
def test_wrong_arguments_of_load_digits(arguments, error, message):
    with pytest.raises(error, match=message):
        load_digits(**arguments)


def save(path, array, **kwargs):
    Image.fromarray(array).save(path, **kwargs)
    return path


@pytest.fixture
def ink():
    """A bright stroke on black, 8 x 8, from 0 to 255."""
    array = np.zeros((8, 8), dtype=np.uint8)
    array[1:7, 3] = 255
    array[6, 3:6] = 128
    return array


def test_read_digit_makes_what_the_digits_are(ink, tmp_path):
    large = ink.repeat(20, axis=0).repeat(20, axis=1)
    image = read_digit(save(tmp_path / "one.png", large))
    tiny = torch.from_numpy(ink)[None, None].float() / 255
    wanted = torch.nn.functional.interpolate(tiny, size=(32, 32), mode="bilinear")
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, wanted)


def test_read_digit_inverts(ink, tmp_path):
    bright = read_digit(save(tmp_path / "bright.png", ink))
    dark = read_digit(save(tmp_path / "dark.png", 255 - ink), invert=True)
    torch.testing.assert_close(bright, dark)


@pytest.mark.parametrize("kind", ["color", "16 bits", "transparent", "faint", "gif", "rotated"])
def test_read_digit_of_many_kinds(ink, tmp_path, kind):
    path = tmp_path / "image.png"
    wanted, invert = read_digit(save(tmp_path / "plain.png", ink)), False
    if kind == "color":
        save(path, ink[:, :, None].repeat(3, axis=2))
    elif kind == "16 bits":
        save(path, (ink.astype(np.uint16) * 257))
    elif kind == "transparent":  # black ink on nothing
        save(path, np.stack([0 * ink, 0 * ink, 0 * ink, ink], axis=2))
        invert = True
    elif kind == "faint":
        save(path, (ink // 4 + 20).astype(np.uint8))
    elif kind == "gif":
        path = save(tmp_path / "image.gif", ink)
    elif kind == "rotated":  # stored lying, to be shown upright
        exif = Image.Exif()
        exif[0x0112] = 6
        save(path, np.rot90(ink).copy(), exif=exif)
    torch.testing.assert_close(read_digit(path, invert=invert), wanted, atol=0.02, rtol=0)


def test_read_digit_pads_to_a_square(ink, tmp_path):
    tall = np.zeros((16, 8), dtype=np.uint8)
    tall[:, 3:5] = 255
    image = read_digit(save(tmp_path / "tall.png", tall))[0, 0]
    assert image[:, :10].max() == 0
    assert image[:, 22:].max() == 0
    torch.testing.assert_close(image, image.flip(1))
    inverted = read_digit(save(tmp_path / "dark.png", 255 - tall), invert=True)[0, 0]
    torch.testing.assert_close(image, inverted)


def test_read_digit_of_wrong_files(ink, tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be an image file; got .*does not exist"):
        read_digit(tmp_path / "missing.png")
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ValueError, match="path must be an image that Pillow reads; got .*text.png"):
        read_digit(text)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = save(tmp_path / "whole.png", noise)
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ValueError, match="path must be an image that Pillow reads"):
        read_digit(whole)
    with pytest.raises(ValueError, match="an image with dark and bright pixels; got .*one shade"):
        read_digit(save(tmp_path / "blank.png", 0 * ink))
