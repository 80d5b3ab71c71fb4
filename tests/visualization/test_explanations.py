"""Figures of explanations."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from captum_quantum.visualization import Explanation, plot_explanations, png, save_figure


def explanation(n_maps=2, n_qubits=8, **changes):
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(32, 32)
    image[8:24, 12:20] = 1
    given = {
        "image": image,
        "title": "a bar",
        "maps": torch.randn(n_maps, 8, 8, generator=generator),
        "map_titles": [f"why {k}?" for k in range(n_maps)],
        "qubit_maps": 0.3 * torch.randn(n_qubits, 8, 8, generator=generator),
    }
    return Explanation(**{**given, **changes})


def headers(n_maps=2):
    return ["image", *[f"map {k}" for k in range(n_maps)], "qubits"]


def texts(figure):
    return [t.get_text() for t in figure.texts] + [a.get_title() for a in figure.axes]


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize(("n_maps", "n_qubits"), [(1, 1), (2, 4), (3, 5), (3, 8), (1, 12)])
def test_panels_do_not_overlap_and_stay_on_the_sheet(n_rows, n_maps, n_qubits):
    figure = plot_explanations([explanation(n_maps, n_qubits)] * n_rows, headers(n_maps))
    figure.draw_without_rendering()
    panels = [axes.get_position() for axes in figure.axes]
    assert len(panels) == n_rows * (1 + n_maps + n_qubits) + 1  # and the color bar
    for k, panel in enumerate(panels):
        assert panel.x0 >= 0
        assert panel.y0 >= 0
        assert panel.x1 <= 1
        assert panel.y1 <= 1
        for other in panels[:k]:
            apart = panel.x1 <= other.x0 or other.x1 <= panel.x0
            apart = apart or panel.y1 <= other.y0 or other.y1 <= panel.y0
            assert apart
    width, height = figure.get_size_inches()
    assert width == 16
    for panel in panels[:-1]:
        assert panel.width * width == pytest.approx(panel.height * height)


@pytest.mark.parametrize(("n_maps", "n_qubits"), [(1, 1), (2, 3), (3, 3), (3, 8), (1, 12)])
def test_no_text_is_cut_off_and_headers_do_not_touch(n_maps, n_qubits):
    figure = plot_explanations(
        [explanation(n_maps, n_qubits)] * 2,
        [
            "test image",
            *["QGrad-CAM: why\nthe true class?"] * n_maps,
            f"QGrad-CAM qubit by qubit:\nthe {n_qubits} maps add up to the first",
        ],
        title="Which pixels, and which qubits, made a quantum model decide?",
        subtitle="Convolutions, then a circuit",
        caption="Red areas raise the score of the class\nand blue areas lower it.",
    )
    figure.draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in figure.texts if text.get_text()}
    assert len(boxes) == 3 + (n_maps + 2) + 2
    for text, box in boxes.items():
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0, text
        assert box.y1 <= figure.bbox.y1, text
    around = [*boxes.values(), *[axes.get_window_extent() for axes in figure.axes]]
    for k, box in enumerate(around):
        assert box.count_overlaps(around[:k]) == 0


def test_words():
    figure = plot_explanations(
        [explanation(2, 3)], headers(), title="Why?", subtitle="It says", caption="Read it so"
    )
    shown = texts(figure)
    for words in ["Why?", "It says", "Read it so", "image", "map 1", "qubits", "a bar", "why 1?"]:
        assert words in shown
    assert [t for t in shown if t.startswith("qubit ")] == ["qubit 0", "qubit 1", "qubit 2"]
    assert "evidence for the class" in shown
    assert "evidence against the class" in shown


def test_maps_of_a_row_share_one_symmetric_scale():
    weak = explanation(maps=torch.full((2, 8, 8), 0.01), qubit_maps=torch.full((8, 8, 8), -0.02))
    strong = explanation(maps=torch.full((2, 8, 8), -5.0))
    figure = plot_explanations([weak, strong], headers())
    limits = [axes.images[0].get_clim() for axes in figure.axes[:-1]]
    per_row = 1 + 2 + 8
    assert limits[1:per_row] == [pytest.approx((-0.02, 0.02))] * 10
    assert limits[per_row + 1 :] == [pytest.approx((-5, 5))] * 10


def test_red_is_for_and_blue_is_against(tmp_path):
    sides = torch.ones(1, 8, 8)
    sides[..., 4:] = -1
    figure = plot_explanations([explanation(1, 1, maps=sides)], headers(1))
    save_figure(figure, tmp_path / "figure.png")
    pixels = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int)
    panel = figure.axes[1].get_position()
    height, width = pixels.shape[:2]
    y = round((1 - (panel.y0 + 0.1 * panel.height)) * height)
    for share, strong, weak in ((0.1, 0, 2), (0.9, 2, 0)):
        color = pixels[y, round((panel.x0 + share * panel.width) * width)]
        assert color[strong] > color[weak] + 50


def test_maps_are_scaled_to_the_image():
    spot = torch.zeros(1, 8, 8)
    spot[0, 2, 6] = 1
    figure = plot_explanations([explanation(1, 1, maps=spot)], headers(1))
    shown = figure.axes[1].images[0].get_array()
    assert shown.shape == (32, 32)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row // 4, column // 4) == (2, 6)


@pytest.mark.parametrize("shade", [0.0, 0.1, 1.0])
def test_maps_without_values_and_images_without_contrast(shade, recwarn):
    nothing = explanation(
        image=torch.full((32, 32), shade),
        maps=torch.zeros(2, 8, 8),
        qubit_maps=torch.zeros(8, 8, 8),
    )
    figure = plot_explanations([nothing], headers())
    assert figure.axes[1].images[0].get_clim() == (-1, 1)
    assert not recwarn.list


def test_maps_with_gradients_are_drawn(recwarn):
    maps = torch.randn(2, 8, 8, requires_grad=True)
    plot_explanations([explanation(maps=maps * 1)], headers())
    assert not recwarn.list


def test_pyplot_does_not_know_the_figures(tmp_path):
    before = plt.get_fignums()
    figure = plot_explanations([explanation()], headers())
    save_figure(figure, tmp_path / "figure.png")
    assert plt.get_fignums() == before


def test_saved_figure(tmp_path):
    figure = plot_explanations([explanation(3)] * 3, headers(3), title="a", caption="b\nc")
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size < 400_000
    image = Image.open(tmp_path / "figure.png").convert("RGB")
    assert image.width == 1600
    assert image.getpixel((0, 0)) == (255, 255, 255)
    figure.savefig(tmp_path / "exact.png", dpi=100)
    exact = np.asarray(Image.open(tmp_path / "exact.png").convert("RGB")).astype(int)
    difference = np.abs(exact - np.asarray(image))
    assert difference.mean() < 1
    assert (difference > 10).mean() < 1e-3
    assert png(figure) == (tmp_path / "figure.png").read_bytes()


def test_a_saved_figure_is_a_png_file_whatever_its_name(tmp_path):
    save_figure(plot_explanations([explanation()], headers()), tmp_path / "figure.jpg", dpi=10)
    image = Image.open(tmp_path / "figure.jpg")
    assert (image.format, image.width) == ("PNG", 160)


def test_unwritable_figure(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_figure(plot_explanations([explanation()], headers()), tmp_path / "no" / "figure.png")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": torch.rand(1, 32, 32)}, ValueError, r"image must be of shape \(height, width\)"),
        ({"maps": np.zeros((2, 8, 8))}, TypeError, "maps must be a real floating-point tensor"),
        ({"maps": torch.rand(2, 64)}, ValueError, r"maps must be of shape \(n_maps, map_height"),
        ({"maps": torch.rand(2, 0, 8)}, ValueError, "maps must be of shape .* not empty"),
        ({"maps": torch.full((2, 8, 8), torch.nan)}, ValueError, "maps must be finite everywhere"),
        ({"qubit_maps": torch.rand(8, 8)}, ValueError, r"qubit_maps must be of shape \(n_qubits"),
        ({"map_titles": ["one"]}, ValueError, r"map_titles must be 2 titles; got \['one'\]"),
    ],
)
def test_wrong_explanations(changes, error, message):
    with pytest.raises(error, match=message):
        explanation(**changes)


def test_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="explanations must be at least one row"):
        plot_explanations([], headers())
    with pytest.raises(ValueError, match="explanations must be rows of the same numbers of maps"):
        plot_explanations([explanation(2, 8), explanation(2, 4)], headers())
    with pytest.raises(ValueError, match="headers must be 4 headers, one for each column"):
        plot_explanations([explanation()], headers(3))
