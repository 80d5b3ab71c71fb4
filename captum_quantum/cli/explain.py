"""``captum-quantum explain``: explains the decision of a trained model on a user's file."""

import argparse
import inspect
from collections.abc import Callable

from torch import Tensor

from captum_quantum import _checks, _files
from captum_quantum.attr import QuantumLayerGradCam
from captum_quantum.cli.explanations import closest_rival, draw, explain_input, qubit_influence
from captum_quantum.cli.models import load_weights
from captum_quantum.cli.options import make_folder, read_options
from captum_quantum.cli.output import environment, percent
from captum_quantum.datasets import Dataset, named_datasets
from captum_quantum.models import HybridClassifier
from captum_quantum.training import predict

FIGURE, RESULTS = "explanation.png", "explanation.json"


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and reads the files; returns the work."""
    options = read_options(args)
    single = _read(args, options.dataset).to(options.device)
    model = load_weights(args.weights, options.dataset, options.device)
    if args.target is not None:
        _checks.check_int("--target", args.target, 0, model.n_classes - 1)
    make_folder(options.output)
    return lambda: _explain(model, options.dataset, single, args)


def _can_invert(dataset: Dataset) -> bool:
    return dataset.read is not None and "invert" in inspect.signature(dataset.read).parameters


def _read(args: argparse.Namespace, dataset: Dataset) -> Tensor:
    """Reads the file as one input, ``(1, ...)``."""
    if dataset.read is None:
        names = ", ".join(name for name, known in named_datasets().items() if known.read)
        _checks.wrong_value("--dataset", f"one that can read a file ({names})", dataset.name)
    if not args.invert:
        return dataset.read(args.file)
    if not _can_invert(dataset):
        _checks.wrong_value("--invert", f"left out for {dataset.name}", args.invert)
    return dataset.read(args.file, invert=True)


def _explain(
    model: HybridClassifier, dataset: Dataset, single: Tensor, args: argparse.Namespace
) -> None:
    probabilities = predict(model, single)[0]
    predicted = int(probabilities.argmax())
    target = predicted if args.target is None else args.target
    phrases = [*dataset.classes.values()]
    explainer = QuantumLayerGradCam(model, model.backbone)
    title = f"the model sees {phrases[predicted]}"
    explanation = explain_input(explainer, dataset, single, title, target, probabilities)
    influence = qubit_influence(explanation.qubit_maps[None])[0].tolist()
    header = "your input,\nas the model gets it"
    draw(args.output / FIGURE, [explanation], dataset, header, "this class")
    content = {
        "image": str(args.file),
        "weights": str(args.weights),
        "inverted": args.invert,
        "probabilities": probabilities.tolist(),
        "predicted": predicted,
        "target": target,
        "rival": closest_rival(probabilities, target),
        "qubit_influence": influence,
        "map": explanation.maps[0].tolist(),
        "qubit_maps": explanation.qubit_maps.tolist(),
        **environment(single.device),
    }
    _files.replace(args.output / RESULTS, _files.to_json(content))
    print(f"The model sees {phrases[predicted]}. Probabilities:")
    width = max(map(len, dataset.classes))
    for name, probability in zip(dataset.classes, probabilities.tolist(), strict=True):
        bar = "#" * round(40 * probability)
        print(f"  {name:{width}}  {percent(probability):>8}  {bar}".rstrip())
    print(f"Most influential qubits (share of all evidence, for or against {phrases[target]}):")
    for qubit in sorted(range(len(influence)), key=lambda q: -influence[q])[:3]:
        print(f"  qubit {qubit}  {percent(influence[qubit]):>8}")
    if not args.invert and _can_invert(dataset) and float(single.mean()) > 0.5:
        print(f"The image is mostly bright; if the {dataset.noun} is dark, use --invert.")
    print(f"{args.output / FIGURE}: the picture to look at")
    print(f"{args.output / RESULTS}: all numbers")
