"""Figures of interactions."""

import pytest
import torch
from matplotlib import pyplot as plt

from captum_quantum import VQCLayer
from captum_quantum.interactions import sampled_interactions
from captum_quantum.visualization import visualize_interactions


def estimates(n):
    x = torch.randn(40, n, generator=torch.Generator().manual_seed(0))
    return sampled_interactions(lambda x: (1 + x.cos()).prod(1, keepdim=True), x, n_samples=20)


def constant():
    return VQCLayer(2, ansatz=None, observables=["I"]).interactions()


@pytest.mark.parametrize(
    "shares",
    [VQCLayer(8).interactions(), VQCLayer(1).interactions(), constant(), *map(estimates, (12, 40))],
)
def test_texts_stay_on_the_sheet_and_apart(shares):
    figure = visualize_interactions(shares)
    figure.draw_without_rendering()
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    texts += [*figure.axes[0].texts, *figure.axes[0].get_xticklabels()]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    names = [axis.get_ticklabels() for axis in (figure.axes[1].xaxis, figure.axes[1].yaxis)]
    boxes += [label.get_window_extent() for labels in names for label in labels]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert box.count_overlaps(boxes[:k]) == 0
    assert not plt.get_fignums()


def test_exact_shares_are_bars_without_errors():
    layer = VQCLayer(2, ansatz=None, observables=["Z0", "Z0 Z1"])  # cos x, cos x cos y
    figure = visualize_interactions(layer.interactions(), ["first", "second"])
    bars, matrix, scale = figure.axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([200 / 3, 100 / 3])
    assert len(bars.containers) == 1
    assert [text.get_text() for text in bars.texts] == ["66.7 %", "33.3 %"]
    assert bars.get_ylabel() == scale.get_ylabel() == "share of the variance (%)"
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["first", "second"]
    assert matrix.images[0].get_array()[0, 1] == pytest.approx(100 / 3)
    assert [text.get_text() for text in matrix.texts] == ["33", "33"]
    assert "says much about the score.\nPairs hold 33.3 %." in figure._suptitle.get_text()


def test_estimates_have_error_bars():
    shares = estimates(4)
    bars = visualize_interactions(shares, title="Why?").axes[0]
    assert bars.figure._suptitle.get_text() == "Why?"
    (segments,) = [container for container in bars.containers if hasattr(container, "has_yerr")]
    lines = segments.lines[2][0].get_segments()
    for line, share, error in zip(lines, shares.orders, shares.errors, strict=True):
        ends = [100 * float(share - error), 100 * float(share + error)]
        assert line[:, 1].tolist() == pytest.approx(ends)
    assert [label.get_text() for label in bars.get_xticklabels()] == ["1", "2", "3 and more"]


def test_wrong_arguments():
    with pytest.raises(TypeError, match="interactions must be Interactions, as layer.inter"):
        visualize_interactions(torch.ones(3))
    with pytest.raises(ValueError, match="names must be 8 names, one for each input; got"):
        visualize_interactions(VQCLayer(8).interactions(), ["one"])
    for wrong in ("ab", [1, 2], 3):
        with pytest.raises(TypeError, match="names must be 2 names, one for each input; got"):
            visualize_interactions(VQCLayer(2).interactions(), wrong)


def test_long_names_are_shortened():
    layer = VQCLayer(2, ansatz=None, observables=["Z0", "Z0 Z1"])
    names = ["a name of seventeen", "sixteen letters."]
    matrix = visualize_interactions(layer.interactions(), names).axes[1]
    shown = [label.get_text() for label in matrix.get_yticklabels()]
    assert shown == ["a name of seven…", "sixteen letters."]
