"""Resizing and blurring of maps."""

import pytest
from captum.attr import LayerAttribution
from slow_metrics import random_maps, slow_blur, slow_resize

from captum_quantum.metrics._maps import gaussian_blur, resize


@pytest.mark.parametrize("size", [(9, 7), (3, 4), (30, 2)])
def test_resizing_equals_captums_and_the_definition(size):
    maps = random_maps(3, 5, 6)
    result = resize(maps, size)
    of_captum = LayerAttribution.interpolate(maps[:, None], size, "bilinear")[:, 0]
    assert result.numpy() == pytest.approx(of_captum.numpy())
    for one, single in zip(result, maps, strict=True):
        assert one.numpy() == pytest.approx(slow_resize(single.numpy(), size))


def test_blur_equals_scipys():
    for size in ((9, 7), (20, 3), (40,), (5, 6, 7)):
        images = random_maps(2, 3, *size)
        assert gaussian_blur(images, 5.0, 5).numpy() == pytest.approx(slow_blur(images.numpy()))
