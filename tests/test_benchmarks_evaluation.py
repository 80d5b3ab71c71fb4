"""The benchmark of evaluations: both sides measure the same, and the report says what was found."""

import json
from pathlib import Path

import evaluation
import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"


FOUND = {
    "date": "2020-01-02T00:00:00+00:00",
    "machine": {"cpu": "some CPU"},
    "threads": 1,
    "metrics": ["a", "b"],
    "images": {"batches": 256, "loop": 2},
    "seconds": {"batches": [1.0], "loop": [2.0]},
    "seconds_per_image": {"batches": 0.004, "loop": 1.0},
    "images_through_the_model_per_image": {"batches": 10.2, "loop": 9.0},
    "times_faster": 250.0,
    "at_least": 10.0,
}


def test_table():
    text = evaluation.markdown(FOUND)
    assert "| `compare`, QGrad-CAM, batch 256 | 4 | 10 |" in text
    assert "(2 images) | 1e+03 | 9 |" in text
    assert "250 times faster (at least 10: met). 1,000 images would take the loop 1000 s" in text
    assert "not met" in evaluation.markdown({**FOUND, "times_faster": 9.9})


@pytest.mark.slow
def test_both_sides_measure_the_same(tmp_path):
    pytest.importorskip("quantus", reason="quantus is part of the extra metrics-test")
    from captum_quantum import VQCLayer
    from captum_quantum.datasets import load_digits
    from captum_quantum.models import digits_model

    model, images = digits_model().eval(), load_digits().test_images[:2]
    labels = torch.tensor([3, 5])
    report = evaluation.in_batches(model, images, labels)
    model.vqc = VQCLayer(8, 2, simulator="torchquantum")
    torch.manual_seed(0)
    model.load_state_dict(digits_model().state_dict())
    found = evaluation.Loop(model).run(images, labels)
    assert list(found) == list(evaluation.METRICS) == list(report.metrics)
    for name in evaluation.METRICS[:3]:
        np.testing.assert_allclose(
            found[name], report.values[name]["qgradcam"], rtol=2e-3, atol=1e-3
        )
    # Flipping's curve has no first point, and the mean of its points is not quite the area.
    np.testing.assert_allclose(found["deletion"], report.values["deletion"]["qgradcam"], atol=0.02)

    evaluation.main(
        ["--batch", "3", "--loop", "1", "--repetitions", "1", "--output", str(tmp_path)]
    )
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["images"] == {"batches": 3, "loop": 1}
    ratio = saved["seconds"]["loop"][0] / (saved["seconds"]["batches"][0] / 3)
    assert saved["times_faster"] == pytest.approx(ratio)
    passed = saved["images_through_the_model_per_image"]
    assert 0.5 < passed["loop"] / passed["batches"] < 1.2
