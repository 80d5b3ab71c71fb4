"""``captum-quantum demo``: trains a model and explains its decisions."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_quantum.cli.maps import (
    READING,
    closest_rival,
    explain_image,
    gradcam_maps,
    maps_of_qubits,
    qubit_influence,
)
from captum_quantum.cli.options import TRAINING, Work, add_common, check_device, check_folder
from captum_quantum.cli.output import WEIGHTS, article, environment, percent, write_json
from captum_quantum.cli.threads import one_thread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.datasets import Digits
    from captum_quantum.models import HybridClassifier

N_MOSAICS = 200
FIGURE, RESULTS = "qgradcam.png", "demo.json"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "demo",
        help="train a quantum model on handwritten digits and explain its decisions",
        description="Trains a model (convolutions, a circuit of 8 qubits, a linear layer) on the "
        "handwritten digits that scikit-learn ships, explains its decisions on test images with "
        f"QGrad-CAM, and writes {FIGURE}, {RESULTS} and {WEIGHTS}. About a minute on one core.",
    )
    add_common(parser, output="demo-output")
    parser.add_argument(
        "--epochs", type=int, default=40, help="passes over the training images (default: 40)"
    )
    parser.set_defaults(prepare=_prepare)


def _prepare(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks

    start = time.perf_counter()
    _checks.check_int("--seed", args.seed, 0)
    _checks.check_int("--epochs", args.epochs, 1)
    device = check_device(args.device)
    output = check_folder(args.output)
    from captum_quantum.datasets import load_digits

    digits = load_digits(args.seed)

    def work() -> None:
        with one_thread():
            _demo(digits, device, args.seed, args.epochs, output, start)

    return work


def _demo(
    digits: "Digits", device: "torch.device", seed: int, epochs: int, output: Path, start: float
) -> None:
    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.models import digits_model, save_model
    from captum_quantum.training import fit, predict

    model = digits_model(seed=seed).to(device)
    clock = _Clock(device)
    settings = {"epochs": epochs, **TRAINING}
    losses = fit(
        model, digits.train_images, digits.train_labels, **settings, seed=seed, progress=True
    )
    model.eval()
    model.trained = {"seed": seed, "epochs": epochs}
    timings = {"training_s": clock.lap()}

    images, labels = digits.test_images.to(device), digits.test_labels.to(device)
    probabilities = predict(model, images)
    timings["prediction_s"] = clock.lap()
    explainer = QuantumLayerGradCam(model, model.backbone)
    predicted = probabilities.argmax(dim=1)
    maps = explainer.attribute(images, predicted)
    timings["maps_s"] = clock.lap()
    qubit_maps = maps_of_qubits(explainer, images, predicted)
    timings["qubit_maps_s"] = clock.lap()
    captum_maps = gradcam_maps(model, images, predicted)
    timings["captum_maps_s"] = clock.lap()
    shifted = QuantumLayerGradCam(model, model.backbone, gradient="parameter-shift")
    shifted_maps = shifted.attribute(images, predicted)
    timings["parameter_shift_maps_s"] = clock.lap()
    own_share, found = _on_own_quadrant(explainer, images, labels, seed)
    timings["mosaics_s"] = clock.lap()

    rows = _choose_rows(probabilities, labels)
    results = {
        "seed": seed,
        "n_train": len(digits.train_labels),
        "n_test": len(labels),
        "training": {**settings, "final_loss": losses[-1]},
        "model": model.config,
        "quantum_layer": str(model.vqc),
        "accuracy": _mean(predicted == labels),
        "non_empty_share": _mean((maps > 0).flatten(1).any(dim=1)),
        "mosaics": {
            "n": N_MOSAICS,
            "share_on_own_digit": own_share,
            "strongest_on_own_digit": found,
            "chance": 0.25,
        },
        # Largest differences of maps: from Captum's, under another rule, from the qubits' sum.
        "agreement": {
            "captum": _largest(maps - captum_maps),
            "parameter_shift": _largest(maps - shifted_maps),
            "sum_of_qubits": _largest(maps - qubit_maps.sum(dim=1, keepdim=True)),
            "largest_value": _largest(maps),
        },
        "qubit_influence": qubit_influence(qubit_maps).mean(dim=0).tolist(),
        "figure_rows": rows,
        **environment(device),
    }
    save_model(model, output / WEIGHTS)
    _demo_figure(explainer, model, images, labels, probabilities, rows, output / FIGURE)
    timings["figure_s"] = clock.lap()
    timings["total_s"] = time.perf_counter() - start
    results["timings"] = timings
    write_json(output / RESULTS, results)
    _print_demo(results, output)


class _Clock:
    """Seconds since the last lap, with the device's work done."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._last = 0.0
        self.lap()

    def lap(self) -> float:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _mean(flags: "Tensor") -> float:
    return int(flags.sum()) / flags.numel()


def _largest(values: "Tensor") -> float:
    return float(values.abs().max())


def _on_own_quadrant(
    explainer: "QuantumLayerGradCam", images: "Tensor", labels: "Tensor", seed: int
) -> tuple[float, float]:
    """How much of the evidence for a class falls on its own digit in a mosaic of four.

    Returns:
        The mean share of a class's positive map in its own quadrant, an empty map counting as 0,
        and the share of maps that are strongest there.
    """
    import torch

    from captum_quantum.datasets import mosaics
    from captum_quantum.metrics import grid_pointing_game

    tiles = mosaics(images, labels, N_MOSAICS, seed)
    own, strongest = [], []
    for quadrant in range(4):
        maps = explainer.attribute(tiles.images, tiles.labels[:, quadrant])
        shares = torch.stack(
            [grid_pointing_game(maps, cell.expand(len(maps), -1, -1)) for cell in tiles.cells],
            dim=1,
        )
        own.append(shares[:, quadrant])
        strongest.append(shares.argmax(dim=1) == quadrant)
    return float(torch.cat(own).mean()), _mean(torch.cat(strongest))


def _choose_rows(probabilities: "Tensor", labels: "Tensor") -> list[int]:
    """Chooses three test images by a rule: a typical hit, the least sure hit, the least sure miss.

    Where there are no hits or misses, the least sure images take their place; the three are of
    different classes where that is possible.
    """
    confidence, predicted = probabilities.max(dim=1)
    order = confidence.argsort().tolist()
    hits = [i for i in order if predicted[i] == labels[i]]
    misses = [i for i in order if predicted[i] != labels[i]]
    middle = len(hits) // 2
    rows: list[int] = []
    for wanted in (hits[middle:] + hits[:middle], hits, misses):
        candidates = [i for i in wanted + order if i not in rows]
        classes = {int(labels[i]) for i in rows}
        fresh = [i for i in candidates if int(labels[i]) not in classes]
        rows += (fresh or candidates)[:1]
    return rows


def _demo_figure(
    explainer: "QuantumLayerGradCam",
    model: "HybridClassifier",
    images: "Tensor",
    labels: "Tensor",
    probabilities: "Tensor",
    rows: list[int],
    path: Path,
) -> None:
    from captum_quantum.visualization import plot_explanations, save_figure

    explanations = []
    for row in rows:
        true, choice = int(labels[row]), int(probabilities[row].argmax())
        verdict = "recognised" if choice == true else f"taken for {article(choice)}"
        explanations.append(
            explain_image(
                explainer,
                images[row : row + 1],
                f"{article(true)}, {verdict}",
                [true, closest_rival(probabilities[row], true)],
                probabilities[row],
                compare_with=model,
            )
        )
    n_qubits = len(explanations[0].qubit_maps)
    accuracy = _mean(probabilities.argmax(dim=1) == labels)
    figure = plot_explanations(
        explanations,
        headers=[
            "test image",
            "QGrad-CAM: why\nthe true class?",
            "QGrad-CAM: why\nthe closest rival?",
            "Captum's LayerGradCam,\nto compare",
            f"QGrad-CAM qubit by qubit:\nthe {n_qubits} maps add up to the first",
        ],
        title="Which pixels, and which qubits, made a quantum model decide?",
        subtitle=f"Convolutions, then a circuit of {n_qubits} qubits; it recognises "
        f"{percent(accuracy)} of the test digits.",
        caption=f"{READING}\nPercentages are the model's probabilities. The maps of a row share "
        "one colour scale.",
    )
    save_figure(figure, path)


def _print_demo(results: dict[str, Any], output: Path) -> None:
    accuracy, n_test = results["accuracy"], results["n_test"]
    mosaics, agreement, timings = results["mosaics"], results["agreement"], results["timings"]
    lines = [
        (
            "",
            f"A quantum model on handwritten digits (seed {results['seed']}, {results['device']})",
        ),
        ("", ""),
        (percent(accuracy), f"of {n_test} test images recognised ({round(accuracy * n_test)})"),
        (percent(results["non_empty_share"]), "of the QGrad-CAM maps show evidence for the class"),
        ("", "that the model chose (the others are empty)"),
        (
            percent(mosaics["share_on_own_digit"]),
            "of the evidence for a digit lies on that digit, in mosaics",
        ),
        ("", "of four different digits (chance: 25 %)"),
        (
            f"{agreement['captum']:.0e}" if agreement["captum"] else "0",
            "is the largest difference from Captum's LayerGradCam, and",
        ),
        (
            f"{agreement['parameter_shift']:.0e}",
            "that from the parameter-shift rule, which quantum hardware can",
        ),
        ("", f"run, in maps of values up to {agreement['largest_value']:.2f}"),
        (
            f"{timings['total_s']:.0f} s",
            f"in all; {timings['training_s']:.0f} s training, {timings['maps_s']:.2f} s for all "
            f"{n_test} maps",
        ),
        ("", ""),
        ("", f"{output / FIGURE}: the picture to look at"),
        ("", f"{output / RESULTS}: all numbers"),
        ("", f"{output / WEIGHTS}: the model; for an image of your own:"),
        ("", f"  captum-quantum explain --weights {output / WEIGHTS} --image FILE"),
    ]
    for number, text in lines:
        print(f"{number:>9}  {text}".rstrip() if number else f"{'':11}{text}".rstrip())
