"""``captum-quantum explain``: explains the decision of a trained model on a user's file."""

import argparse
import inspect
from collections.abc import Callable

from torch import Tensor

from captum_quantum import _checks, _files, datasets, models, training
from captum_quantum.cli import options, output

FIGURE, RESULTS = "explanation.png", "explanation.json"


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and reads the files; returns the work."""
    options.read_options(args)
    dataset = args.dataset
    if dataset.read is None:
        names = ", ".join(name for name, known in datasets.named_datasets().items() if known.read)
        _checks.wrong_value("--dataset", f"one that can read a file ({names})", dataset.name)
    if args.invert and not _can_invert(dataset):
        _checks.wrong_value("--invert", f"left out for {dataset.name}", args.invert)
    invert = {"invert": True} if args.invert else {}
    single = dataset.read(args.file, **invert).to(args.device)
    model = options.load_weights(args, args.device)
    if args.target is not None:
        _checks.check_int("--target", args.target, 0, model.n_classes - 1)
    options.make_folder(args.output)
    return lambda: _explain(args, model, single)


def _can_invert(dataset: datasets.Dataset) -> bool:
    return dataset.read is not None and "invert" in inspect.signature(dataset.read).parameters


def _explain(args: argparse.Namespace, model: models.HybridClassifier, single: Tensor) -> None:
    dataset = args.dataset
    phrases = [*dataset.classes.values()]
    probabilities = training.predict(model, single)[0]
    predicted = int(probabilities.argmax())
    target = predicted if args.target is None else args.target
    title = f"the model sees {phrases[predicted]}"
    explanation = output.explain_input(model, dataset, single, title, target, probabilities)
    influence = output.qubit_influence(explanation.qubit_maps[None])[0].tolist()
    header = "your input,\nas the model gets it"
    output.draw(args.output / FIGURE, [explanation], dataset.noun, header, "this class")
    content = {
        "image": str(args.file),
        "weights": str(args.weights),
        "inverted": args.invert,
        "probabilities": probabilities.tolist(),
        "predicted": predicted,
        "target": target,
        "rival": output.closest_rival(probabilities, target),
        "qubit_influence": influence,
        "map": explanation.maps[0].tolist(),
        "qubit_maps": explanation.qubit_maps.tolist(),
        **output.environment(args.device),
    }
    _files.replace(args.output / RESULTS, _files.to_json(content))
    print(f"The model sees {phrases[predicted]}. Probabilities:")
    width = max(map(len, dataset.classes))
    for name, probability in zip(dataset.classes, probabilities.tolist(), strict=True):
        bar = "#" * round(40 * probability)
        print(f"  {name:{width}}  {output.percent(probability):>8}  {bar}".rstrip())
    print(f"Most influential qubits (share of all evidence, for or against {phrases[target]}):")
    for qubit in sorted(range(len(influence)), key=lambda q: -influence[q])[:3]:
        print(f"  qubit {qubit}  {output.percent(influence[qubit]):>8}")
    if not args.invert and _can_invert(dataset) and float(single.mean()) > 0.5:
        print(f"The image is mostly bright; if the {dataset.noun} is dark, use --invert.")
    print(f"{args.output / FIGURE}: the picture to look at")
    print(f"{args.output / RESULTS}: all numbers")
