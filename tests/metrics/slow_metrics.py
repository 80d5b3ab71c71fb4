"""Slow rewrites of metrics from their definitions, and what several tests take as inputs."""

import itertools
import math
from fractions import Fraction

import numpy as np
import scipy.ndimage
import scipy.sparse.linalg
import torch


def slow_resize(image, size):
    """Linear interpolation of one image, axis by axis; pixels are areas, borders repeated.

    In exact fractions, so that ties are ties.
    """
    image = np.vectorize(Fraction, otypes=[object])(image)
    for axis, n in enumerate(size):
        m = image.shape[axis]
        lines = []
        for i in range(n):
            at = min(max((i + Fraction(1, 2)) * Fraction(m, n) - Fraction(1, 2), 0), m - 1)
            low = math.floor(at)
            high = min(low + 1, m - 1)
            lines.append(
                (1 - at + low) * image.take(low, axis) + (at - low) * image.take(high, axis)
            )
        image = np.stack(lines, axis)
    return image.astype(float)


def slow_blur(images):
    return np.stack(
        [
            [scipy.ndimage.gaussian_filter(c, 5, truncate=1, mode="nearest") for c in image]
            for image in images
        ]
    )


def slow_softmax(scores):
    e = [math.exp(s - max(scores)) for s in scores]
    return [x / sum(e) for x in e]


def probability(model, image, target):
    return slow_softmax(model(torch.from_numpy(image)[None])[0].tolist())[target]


def slow_baseline(baseline, inputs):
    if isinstance(baseline, str):
        return slow_blur(inputs)
    return np.broadcast_to(np.asarray(baseline), inputs.shape)


def slow_mask(attributions, size):
    """The share of each pixel that a map ``(channels, *spatial)`` shows."""
    positive = slow_resize(np.maximum(attributions.sum(0), 0), size)
    low, high = positive.min(), positive.max()
    return (positive - low) / (high - low)


def slow_whole_and_masked(model, inputs, attributions, targets, baseline):
    hidden = slow_baseline(baseline, inputs)
    for image, hidden_pixels, single, target in zip(
        inputs, hidden, attributions, targets, strict=True
    ):
        mask = slow_mask(single, image.shape[1:])
        masked = mask * image + (1 - mask) * hidden_pixels
        yield probability(model, image, target), probability(model, masked, target)


def slow_average_drop(*args):
    return [100 * max(0, p - o) / p for p, o in slow_whole_and_masked(*args)]


def slow_average_gain(*args):
    return [100 * max(0, o - p) / (1 - p) for p, o in slow_whole_and_masked(*args)]


def slow_average_increase(*args):
    return [100.0 if o > p else 0.0 for p, o in slow_whole_and_masked(*args)]


def slow_curves(model, inputs, attributions, targets, baseline, steps, inserting):
    """Fractions, and for each example its probabilities and the area under them."""
    n = inputs[0, 0].size
    counts = [t * n // steps for t in range(steps + 1)]
    curves, areas = [], []
    for image, hidden_pixels, single, target in zip(
        inputs, slow_baseline(baseline, inputs), attributions, targets, strict=True
    ):
        start, end = (hidden_pixels, image) if inserting else (image, hidden_pixels)
        values = slow_resize(single.sum(0), image.shape[1:]).ravel()
        order = sorted(range(n), key=lambda i: -values[i])  # sorted() keeps the order of ties
        curve = []
        for count in counts:
            mixed = start.reshape(len(start), -1).copy()
            for pixel in order[:count]:
                mixed[:, pixel] = end.reshape(len(end), -1)[:, pixel]
            curve.append(probability(model, mixed.reshape(image.shape), target))
        curves.append(curve)
        areas.append(
            sum(
                (counts[i + 1] - counts[i]) / n * (curve[i] + curve[i + 1]) / 2
                for i in range(steps)
            )
        )
    return [c / n for c in counts], curves, areas


def slow_impute(image, removed):
    """Fills removed pixels of an image ``(channels, *spatial)``: the linear system, by a loop."""
    size, filled = removed.shape, image.copy()
    unknown = [tuple(at) for at in np.argwhere(removed)]
    number = {at: i for i, at in enumerate(unknown)}
    matrix = scipy.sparse.lil_matrix((len(unknown), len(unknown)))
    right = np.zeros((len(unknown), len(image)))
    for at, i in number.items():
        for step in itertools.product((-1, 0, 1), repeat=len(size)):
            neighbor = tuple(a + s for a, s in zip(at, step, strict=True))
            if not any(step) or any(not 0 <= a < n for a, n in zip(neighbor, size, strict=True)):
                continue
            weight = 1 / sum(abs(s) for s in step)
            matrix[i, i] += weight
            if neighbor in number:
                matrix[i, number[neighbor]] -= weight
            else:
                right[i] += weight * image[(slice(None), *neighbor)]
    solution = scipy.sparse.linalg.spsolve(matrix.tocsc(), right).reshape(right.shape)
    for at, i in number.items():
        filled[(slice(None), *at)] = solution[i]
    return filled


def slow_road(score, inputs, attributions, removed, offsets):
    """For each example and ``score(image, example)``; offsets are the noise of each image."""
    for example, (image, single) in enumerate(zip(inputs, attributions, strict=True)):
        values = slow_resize(single.sum(0), image.shape[1:]).ravel()
        order = sorted(range(len(values)), key=lambda i: -values[i])
        differences = []
        for share in removed:
            count = min(max(round(share * len(values)), 1), len(values) - 1)
            pair = []
            for pixels in (order[len(order) - count :], order[:count]):
                gone = np.zeros(len(values), dtype=bool)
                gone[pixels] = True
                gone = gone.reshape(image.shape[1:])
                filled = slow_impute(image, gone)
                pair.append(score(np.where(gone, filled + offsets[example], filled), example))
            differences.append(pair[0] - pair[1])
        yield sum(differences) / len(differences)


TARGETS = torch.tensor([0, 3, 1, 2, 2, 0])


def random_maps(*shape, seed=3, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MAPS = {
    "one channel": (6, 1, 9, 7),
    "two channels": (6, 2, 9, 7),
    "small": (6, 1, 3, 4),
    "large": (6, 3, 11, 9),
}
BASELINES = {
    "zero": 0.0,
    "number": 0.3,
    "blur": "blur",
    "tensor": random_maps(2, 1, 7, seed=4),
}


def random_masks(*shape, seed=5, share=0.3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share
