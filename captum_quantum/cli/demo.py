"""``captum-quantum demo``: trains a model and explains its decisions."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from captum_quantum import _files
from captum_quantum.attr import QuantumLayerGradCam
from captum_quantum.cli.explanations import draw, explain_input, gradcam_maps, qubit_influence
from captum_quantum.cli.models import train
from captum_quantum.cli.options import Options, make_folder, read_options
from captum_quantum.cli.output import WEIGHTS, environment, percent
from captum_quantum.datasets import Mosaics
from captum_quantum.metrics import grid_pointing_game
from captum_quantum.models import HybridClassifier, save_model
from captum_quantum.training import predict

N_MOSAICS = 200
FIGURE, RESULTS = "qgradcam.png", "demo.json"


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and loads the data; returns the work."""
    start = time.perf_counter()
    options = read_options(args)
    make_folder(options.output)
    data = options.dataset.load(options.seed)
    return lambda: _demo(options, data, start)


class _Clock:
    """Measures how long each step takes, and all steps together."""

    def __init__(self, start: float, device: torch.device) -> None:
        self._start, self._last, self._device = start, time.perf_counter(), device
        self.timings: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """Stores the seconds since the last lap; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        self.timings |= {f"{step}_s": self._last - before, "total_s": self._last - self._start}


def _demo(options: Options, data: Sequence[Tensor], start: float) -> None:
    dataset, device, seed, output = options.dataset, options.device, options.seed, options.output
    model = dataset.model(seed=seed)
    clock = _Clock(start, device)
    losses = train(model, data[0], data[1], options, seed)
    model.eval()
    clock.lap("training")
    inputs, labels = data[2].to(device), data[3].to(device)
    probabilities = predict(model, inputs)
    clock.lap("prediction")
    explainer = QuantumLayerGradCam(model, model.backbone)
    predicted = probabilities.argmax(dim=1)
    maps = explainer.attribute(inputs, predicted)
    clock.lap("maps")
    qubit_maps = cast("Tensor", explainer.attribute_qubits(inputs, predicted))
    clock.lap("qubit_maps")
    captum_maps = gradcam_maps(model, inputs, predicted)
    clock.lap("captum_maps")
    shifted = QuantumLayerGradCam(model, model.backbone, gradient="parameter-shift")
    shifted_maps = shifted.attribute(inputs, predicted)
    clock.lap("parameter_shift_maps")
    results: dict[str, Any] = {}
    if dataset.mosaics is not None:
        mosaics = dataset.mosaics(inputs, labels, N_MOSAICS, seed)
        results["mosaics"] = _localization(explainer, mosaics, dataset.noun)
        clock.lap("mosaics")

    rows = _choose_rows(probabilities, labels)
    results |= {
        "seed": seed,
        "n_train": len(data[1]),
        "n_test": len(labels),
        "training": {**options.training, "final_loss": losses[-1]},
        "model": model.config,
        "quantum_layer": str(model.vqc),
        "accuracy": _mean(predicted == labels),
        "non_empty_share": _mean((maps > 0).flatten(1).any(dim=1)),
        # Largest differences of maps: from Captum's, under another rule, from the qubits' sum.
        "agreement": {
            "captum": _largest(maps - captum_maps),
            "parameter_shift": _largest(maps - shifted_maps),
            "sum_of_qubits": _largest(maps - qubit_maps.sum(dim=1, keepdim=True)),
            "largest_value": _largest(maps),
        },
        "qubit_influence": qubit_influence(qubit_maps).mean(dim=0).tolist(),
        "figure_rows": rows,
        "timings": clock.timings,
        **environment(device),
    }
    save_model(model, output / WEIGHTS)
    _draw(model, options, inputs[rows], labels[rows], probabilities[rows], results["accuracy"])
    clock.lap("figure")
    _files.replace(output / RESULTS, _files.to_json(results))
    print(_summary(results, options))


def _mean(flags: Tensor) -> float:
    return int(flags.sum()) / flags.numel()


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _localization(explainer: QuantumLayerGradCam, mosaics: Mosaics, noun: str) -> dict[str, Any]:
    """Measures how much of the evidence for a class lies in the cell that shows the class.

    Returns:
        dict[str, Any]: The mean share of a map's positive part in the cell of its class (0 for an
        empty map), the share of maps that are strongest in this cell, and the share of one cell.
    """
    cells = mosaics.cells
    shares, strongest = [], []
    for cell, classes in enumerate(mosaics.labels.T):
        maps = explainer.attribute(mosaics.images, classes)
        games = [grid_pointing_game(maps, mask.expand(len(maps), -1, -1)) for mask in cells]
        shares.append(games[cell])
        strongest.append(torch.stack(games).argmax(dim=0) == cell)
    return {
        "n": len(mosaics.images),
        f"share_on_own_{noun}": float(torch.cat(shares).mean()),
        f"strongest_on_own_{noun}": _mean(torch.cat(strongest)),
        "chance": 1 / len(cells),
    }


def _choose_rows(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Chooses three test examples: a typical hit, the least certain hit, the least certain miss.

    If there are no hits or no misses, the least certain examples are chosen instead. The three have
    different classes if possible.
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


def _draw(
    model: HybridClassifier,
    options: Options,
    inputs: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    accuracy: float,
) -> None:
    """Draws the explanations of a few test examples."""
    dataset = options.dataset
    phrases = [*dataset.classes.values()]
    explainer = QuantumLayerGradCam(model, model.backbone)
    explanations = []
    for single, true, likely in zip(inputs.split(1), labels.tolist(), probabilities, strict=True):
        choice = int(likely.argmax())
        verdict = "recognized" if choice == true else f"taken for {phrases[choice]}"
        title = f"{phrases[true]}, {verdict}"
        explanations.append(explain_input(explainer, dataset, single, title, true, likely, model))
    n_qubits = len(explanations[0].qubit_maps)
    draw(
        options.output / FIGURE,
        explanations,
        dataset,
        "test example",
        "the true class",
        title="Which pixels, and which qubits, made a quantum model decide?",
        subtitle=f"A hybrid model with a circuit of {n_qubits} qubits; it recognizes "
        f"{percent(accuracy)} of the test set.",
    )


def _summary(results: dict[str, Any], options: Options) -> str:
    dataset, output = options.dataset, options.output
    agreement, timings, n_test = results["agreement"], results["timings"], results["n_test"]
    mosaics = reading = ""
    if "mosaics" in results:
        share = results["mosaics"][f"share_on_own_{dataset.noun}"]
        mosaics = f"""
{percent(share):>9}  of the evidence for a class lies on its own {dataset.noun}, in
           mosaics of different classes (chance: {percent(results["mosaics"]["chance"])})"""
    if dataset.read is not None:
        command = f"captum-quantum explain --dataset {dataset.name}"
        reading = f"""; to explain a file of your own:
             {command} --weights {output / WEIGHTS} --file FILE"""
    return f"""\
           A quantum model on {dataset.description} (seed {options.seed}, {results["device"]})

{percent(results["accuracy"]):>9}  of the {n_test} test examples recognized
{percent(results["non_empty_share"]):>9}  of the QGrad-CAM maps show evidence for the class
           that the model chose (the others are empty){mosaics}
{agreement["captum"]:>9.1g}  is the largest difference from Captum's LayerGradCam, and
{agreement["parameter_shift"]:>9.1g}  that from the parameter-shift rule, which quantum hardware can
           run, in maps of values up to {agreement["largest_value"]:.2f}
{timings["total_s"]:>7.0f} s  in all; {timings["training_s"]:.0f} s training, \
{timings["maps_s"]:.2f} s for all {n_test} maps

           {output / FIGURE}: the picture to look at
           {output / RESULTS}: all numbers
           {output / WEIGHTS}: the model{reading}"""
