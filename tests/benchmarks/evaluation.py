"""Measures an evaluation in batches against a loop over single images: ``make bench``.

Both sides explain the demo's model and measure the maps by the same seven metrics of faithfulness:

- in batches: `compare` with QGrad-CAM, the fused simulator, `captum_quantum.metrics`, batch 256;
- the loop: for one image after the other Captum's LayerGradCam over the same weights with
  ``VQCLayer(simulator="torchquantum")``, then Quantus: PixelFlipping for deletion, PixelFlipping of
  the negative map for insertion, Infidelity, MaxSensitivity. Quantus has no average drop, gain and
  increase: those are `captum_quantum.metrics` on the single image and the TorchQuantum model.

Quantus gets as many perturbations as ours; the table tells how many images each side has sent
through its model. The loop is run for a few images and its time is per image, so that of more
images is extrapolated. Repetitions alternate. Needs the extra ``metrics-test``. Writes
``evaluation.json`` and ``evaluation.md``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

METRICS = ("average_drop", "average_gain", "average_increase", "insertion", "deletion")
METRICS += ("infidelity", "sensitivity_max")
AT_LEAST = 10.0
"""How many times faster the evaluation in batches must be."""
PACKAGES = (
    "captum-quantum",
    "torch",
    "torchquantum",
    "torchquantum-ng",
    "captum",
    "quantus",
    "numpy",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder to write to")
    parser.add_argument("--batch", type=int, default=256, help="images in a batch (default: 256)")
    parser.add_argument("--loop", type=int, default=4, help="images of the loop (default: 4)")
    parser.add_argument("--repetitions", type=int, default=3, help="of both sides (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = measure(args.batch, args.loop, args.repetitions, args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2) + "\n"
    (args.output / "evaluation.json").write_text(text, encoding="utf-8")
    (args.output / "evaluation.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


def measure(batch: int, n_loop: int, repetitions: int, threads: int) -> dict[str, Any]:
    """All results as plain data."""
    import torch
    from simulators import _commit, _machine, _versions

    from captum_quantum import VQCLayer
    from captum_quantum.datasets import load_digits
    from captum_quantum.models import digits_model

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    digits = load_digits()
    images = torch.cat([digits.test_images, digits.train_images])[:batch]
    labels = torch.cat([digits.test_labels, digits.train_labels])[:batch]
    ours = digits_model().eval()
    theirs = digits_model().eval()
    theirs.vqc = VQCLayer(8, 2, simulator="torchquantum")
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        difference = float((ours(images[:8]) - theirs(images[:8])).abs().max())
    if difference > 1e-4:
        raise RuntimeError(f"the two models differ by {difference}")

    loop = Loop(theirs)
    sides: dict[str, tuple[Callable[[], Any], Any, int]] = {
        "batches": (lambda: in_batches(ours, images, labels), ours, len(images)),
        "loop": (lambda: loop.run(images[:n_loop], labels[:n_loop]), theirs, n_loop),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    passed = {}
    try:
        for name, (work, model, n) in sides.items():  # warms up, and counts
            with counted(model) as count:
                work()
            passed[name] = count[0] / n
        for _ in range(repetitions):
            for name, (work, _, _) in sides.items():
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    per_image = {name: statistics.median(seconds[name]) / n for name, (_, _, n) in sides.items()}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_commit(),
        "machine": _machine("cpu"),
        "threads": threads,
        "versions": {"python": platform.python_version(), **_versions(PACKAGES)},
        "metrics": METRICS,
        "images": {name: n for name, (_, _, n) in sides.items()},
        "seconds": seconds,
        "seconds_per_image": per_image,
        "images_through_the_model_per_image": passed,
        "times_faster": per_image["loop"] / per_image["batches"],
        "at_least": AT_LEAST,
    }


def in_batches(model: Any, images: Any, labels: Any) -> Any:
    """One batch, all metrics."""
    from captum_quantum import QuantumLayerGradCam, compare

    explainer = QuantumLayerGradCam(model, model.backbone)
    return compare({"qgradcam": explainer}, [(images, labels)], METRICS, progress=False)


class Loop:
    """What one would write with Captum, TorchQuantum and Quantus."""

    def __init__(self, model: Any) -> None:
        import quantus
        from captum.attr import LayerGradCam

        raw = {"abs": False, "normalise": False, "disable_warnings": True}
        self._model = model
        self._explainer = LayerGradCam(model, model.backbone)
        n_pixels = 32 * 32
        flipping = quantus.PixelFlipping(
            features_in_step=n_pixels // 32, perturb_baseline=0.0, **raw
        )
        self._metrics = {
            "deletion": (flipping, 1),
            "insertion": (flipping, -1),
            # Sixteen squares of 8 x 8 pixels, twice: 32 perturbations, as ours.
            "infidelity": (
                quantus.Infidelity(
                    perturb_patch_sizes=[8], n_perturb_samples=2, perturb_baseline=0.0, **raw
                ),
                1,
            ),
            "sensitivity_max": (
                quantus.MaxSensitivity(nr_samples=10, lower_bound=0.02, **raw),
                1,
            ),
        }

    def explain(self, inputs: Any, targets: Any, **_: Any) -> Any:
        """Maps in the size of the images, as Quantus wants them."""
        import numpy as np
        import torch

        maps = self._explainer.attribute(
            torch.as_tensor(np.asarray(inputs)), target=torch.as_tensor(np.asarray(targets))
        )
        return self._enlarge(maps)

    @staticmethod
    def _enlarge(maps: Any) -> Any:
        from captum.attr import LayerAttribution

        return LayerAttribution.interpolate(maps, (32, 32), "bilinear").detach().numpy()

    def run(self, images: Any, labels: Any) -> dict[str, list[float]]:
        """All metrics of every image, one after the other."""
        import numpy as np

        from captum_quantum import metrics

        found: dict[str, list[float]] = {name: [] for name in METRICS}
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            maps = self._explainer.attribute(image, target=label)
            large = self._enlarge(maps)
            for name in METRICS[:3]:
                metric = getattr(metrics, name)
                found[name].append(float(metric(self._model, image, maps, label)))
            for name, (metric, sign) in self._metrics.items():
                more = {"explain_func": self.explain} if name == "sensitivity_max" else {}
                values = metric(
                    model=self._model,
                    x_batch=image.numpy(),
                    y_batch=label.numpy(),
                    a_batch=sign * large,
                    softmax=name in ("deletion", "insertion"),
                    device="cpu",
                    **more,
                )
                # Flipping gives curves (its own area needs NumPy 1).
                found[name].extend(float(np.mean(value)) for value in values)
        return found


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Counts the images that go through a model's circuit."""
    count = [0]

    def note(module: Any, args: Any) -> None:
        count[0] += len(args[0])

    handle = model.vqc.register_forward_pre_hook(note)
    try:
        yield count
    finally:
        handle.remove()


def markdown(found: dict[str, Any]) -> str:
    """The results as a table."""
    label = {
        "batches": "`compare`, QGrad-CAM, batch {n}",
        "loop": "loop: Captum's LayerGradCam over TorchQuantum, Quantus' metrics ({n} images)",
    }
    lines = [
        "# Evaluation in batches against a loop over single images",
        "",
        f"The demo's model, {len(found['metrics'])} metrics of faithfulness "
        f"({', '.join(found['metrics'])}); {found['threads']} thread(s), "
        f"{found['machine'].get('cpu', 'CPU')}, {found['date'][:10]}. Medians of "
        f"{len(found['seconds']['loop'])} alternating repetitions, by the number of images.",
        "",
        "| | ms per image | images through the model, per image |",
        "|---|---|---|",
    ]
    for name, text in label.items():
        lines.append(
            f"| {text.format(n=found['images'][name])} "
            f"| {1e3 * found['seconds_per_image'][name]:.3g} "
            f"| {found['images_through_the_model_per_image'][name]:.0f} |"
        )
    met = "met" if found["times_faster"] >= found["at_least"] else "not met"
    lines += [
        "",
        f"{found['times_faster']:.0f} times faster (at least {found['at_least']:.0f}: {met}). "
        f"1,000 images would take the loop {1e3 * found['seconds_per_image']['loop']:.0f} s, "
        f"extrapolated, and batches {1e3 * found['seconds_per_image']['batches']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
