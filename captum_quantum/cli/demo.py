"""``captum-quantum demo``: trains a model and explains its decisions."""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_quantum import _files, attr, datasets, metrics, models, training
from captum_quantum.cli import options, output, tested

N_MOSAICS = 200
FIGURE, RESULTS = "qgradcam.png", "demo.json"


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and loads the data; returns the work."""
    start = time.perf_counter()
    options.read_options(args)
    options.make_folder(args.output)
    data = args.dataset.load(args.seed)
    return lambda: _demo(args, data, start)


def train(
    model: models.HybridClassifier,
    data: Sequence[Tensor],
    args: argparse.Namespace,
    seed: int,
    *,
    progress: bool = True,
) -> list[float]:
    """Trains a model on the device and stores seed and epochs in ``model.trained``.

    Returns:
        list[float]: The mean training loss of each epoch.
    """
    model.to(args.device)
    losses = training.fit(model, *data[:2], **args.training, seed=seed, progress=progress)
    model.trained = {"seed": seed, "epochs": args.training["epochs"]}
    return losses


def _demo(args: argparse.Namespace, data: Sequence[Tensor], start: float) -> None:
    dataset, device = args.dataset, args.device
    model = dataset.model(seed=args.seed)
    timings = {"total_s": time.perf_counter() - start}

    def lap(step: str) -> None:
        """Stores the seconds since the last lap; waits for the device."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        before, timings["total_s"] = timings["total_s"], time.perf_counter() - start
        timings[f"{step}_s"] = timings["total_s"] - before

    losses = train(model, data, args, args.seed)
    model.eval()
    lap("training")
    inputs, labels = data[2].to(device), data[3].to(device)
    probabilities = training.predict(model, inputs)
    lap("prediction")
    explainer = attr.QuantumLayerGradCam(model, model.backbone)
    predicted = probabilities.argmax(dim=1)
    maps = cast("Tensor", explainer.attribute(inputs, predicted))
    lap("maps")
    qubit_maps = cast("Tensor", explainer.attribute_qubits(inputs, predicted))
    lap("qubit_maps")
    captum_maps = LayerGradCam(model, model.backbone).attribute(inputs, predicted).detach()
    lap("captum_maps")
    shifted = attr.QuantumLayerGradCam(model, model.backbone, gradient="parameter-shift")
    shifted_maps = cast("Tensor", shifted.attribute(inputs, predicted))
    lap("parameter_shift_maps")
    classes = list(range(probabilities.shape[1]))
    peaks = explainer.attribute_classes(inputs, classes).flatten(2).amax(dim=2)
    strongest = peaks.argmax(dim=1) == predicted
    lap("all_class_maps")
    rows = _choose_rows(probabilities, labels, strongest)
    results: dict[str, Any] = {
        "seed": args.seed,
        "n_train": len(data[1]),
        "n_test": len(labels),
        "training": {**args.training, "final_loss": losses[-1]},
        "model": model.config,
        "quantum_layer": str(model.vqc),
        "accuracy": _mean(predicted == labels),
        "non_empty_share": _mean((maps > 0).flatten(1).any(dim=1)),
        # Of the maps of all classes, the one of the predicted class has the largest value.
        "strongest_share": _mean(strongest),
        "single_angle_share": tested.single_angle_share(model, inputs),
        # Largest differences of maps: from Captum's, under another rule, from the qubits' sum.
        "agreement": {
            "captum": _largest(maps - captum_maps),
            "parameter_shift": _largest(maps - shifted_maps),
            "sum_of_qubits": _largest(maps - qubit_maps.sum(dim=1, keepdim=True)),
            "largest_value": _largest(maps),
        },
        "qubit_influence": output.qubit_influence(qubit_maps).mean(dim=0).tolist(),
        "figure_rows": rows,
        "timings": timings,
        **output.environment(device),
    }
    if dataset.mosaics is not None:
        mosaics = dataset.mosaics(inputs, labels, N_MOSAICS, args.seed)
        results["mosaics"] = _localization(explainer, mosaics, dataset.noun)
        lap("mosaics")
    models.save_model(model, args.output / output.WEIGHTS)
    shown = zip(inputs[rows].split(1), labels[rows].tolist(), probabilities[rows], strict=True)
    _draw(args, model, shown, results["accuracy"])
    lap("figure")
    _files.replace(args.output / RESULTS, _files.to_json(results))
    print(_summary(args, results))


def _mean(flags: Tensor) -> float:
    return int(flags.sum()) / flags.numel()


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _localization(
    explainer: attr.QuantumLayerGradCam, mosaics: datasets.Mosaics, noun: str
) -> dict[str, Any]:
    """Measures how much of the evidence for a class lies in the cell that shows the class.

    Returns:
        dict[str, Any]: The mean share of a map's positive part in the cell of its class (0 for an
        empty map), the share of maps that are strongest in this cell, and the share of one cell.
    """
    cells = mosaics.cells
    shares, strongest = [], []
    for cell, classes in enumerate(mosaics.labels.T):
        maps = cast("Tensor", explainer.attribute(mosaics.images, classes))
        games = [metrics.grid_pointing_game(maps, mask.expand(len(maps), -1, -1)) for mask in cells]
        shares.append(games[cell])
        strongest.append(torch.stack(games).argmax(dim=0) == cell)
    return {
        "n": len(mosaics.images),
        f"share_on_own_{noun}": float(torch.cat(shares).mean()),
        f"strongest_on_own_{noun}": _mean(torch.cat(strongest)),
        "chance": 1 / len(cells),
    }


def _choose_rows(probabilities: Tensor, labels: Tensor, strongest: Tensor) -> list[int]:
    """Chooses three test examples: a typical hit, the least certain hit, the least certain miss.

    The typical hit is the one of median confidence among those whose map is the strongest of all
    classes' maps. If there are no such hits or no misses, the least certain examples are chosen
    instead. The three have different classes if possible.

    Args:
        probabilities (Tensor): Shape ``(n, n_classes)``.
        labels (Tensor): The true classes, shape ``(n,)``.
        strongest (Tensor): Whether the map of the predicted class is the strongest one, shape
            ``(n,)``, bool.
    """
    confidence, predicted = probabilities.max(dim=1)
    order = confidence.argsort().tolist()
    hits = [i for i in order if predicted[i] == labels[i]]
    misses = [i for i in order if predicted[i] != labels[i]]
    typical = [i for i in hits if strongest[i]]
    middle = len(typical) // 2
    rows: list[int] = []
    for wanted in (typical[middle:] + typical[:middle], hits, misses):
        shown = {int(labels[i]) for i in rows}
        candidates = [i for i in wanted + order if i not in rows]
        rows += sorted(candidates, key=lambda i: int(labels[i]) in shown)[:1]
    return rows


def _draw(
    args: argparse.Namespace, model: models.HybridClassifier, shown: Iterable[Any], accuracy: float
) -> None:
    """Draws the explanations of test examples, each an input, its class and the probabilities."""
    dataset, rows = args.dataset, []
    phrases = [*dataset.classes.values()]
    for single, true, likely in shown:
        choice = int(likely.argmax())
        verdict = "recognized" if choice == true else f"taken for {phrases[choice]}"
        title = f"{phrases[true]}, {verdict}"
        rows.append(output.explain_input(model, dataset, single, title, true, likely, captum=True))
    titles = {
        "title": "Which pixels, and which qubits, made a quantum model decide?",
        "subtitle": f"A hybrid model with a circuit of {len(rows[0].qubit_maps)} qubits; it "
        f"recognizes {output.percent(accuracy)} of the test set.",
    }
    output.draw(
        args.output / FIGURE, rows, dataset.noun, "test example", "the true class", **titles
    )


def _summary(args: argparse.Namespace, results: dict[str, Any]) -> str:
    dataset, folder = args.dataset, args.output
    agreement, timings, n_test = results["agreement"], results["timings"], results["n_test"]
    mosaics = reading = ""
    if "mosaics" in results:
        share = results["mosaics"][f"share_on_own_{dataset.noun}"]
        mosaics = f"""
{output.percent(share):>9}  of the evidence for a class lies on its own {dataset.noun}, in
           mosaics of different classes (chance: {output.percent(results["mosaics"]["chance"])})"""
    if dataset.read is not None:
        command = f"captum-quantum explain --dataset {dataset.name}"
        reading = f"""; to explain a file of your own:
             {command} --weights {folder / output.WEIGHTS} --file FILE"""
    return f"""\
           A quantum model on {dataset.description} (seed {args.seed}, {results["device"]})

{output.percent(results["accuracy"]):>9}  of the {n_test} test examples recognized
{output.percent(results["non_empty_share"]):>9}  of the QGrad-CAM maps show evidence for the class
           that the model chose (the others are empty){mosaics}
{output.percent(results["single_angle_share"]):>9}  of the scores' variance is in single angles: so
           far can a map, which is made of local gradients, stand for them
{agreement["captum"]:>9.1g}  is the largest difference from Captum's LayerGradCam, and
{agreement["parameter_shift"]:>9.1g}  that from the parameter-shift rule, which quantum hardware can
           run, in maps of values up to {agreement["largest_value"]:.2f}
{timings["total_s"]:>7.0f} s  in all; {timings["training_s"]:.0f} s training, \
{timings["maps_s"]:.2f} s for all {n_test} maps

           {folder / FIGURE}: the picture to look at
           {folder / RESULTS}: all numbers
           {folder / output.WEIGHTS}: the model{reading}"""
