"""``captum-quantum evaluate``: measures how good the maps of several methods are."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_quantum.cli.options import (
    TRAINING,
    Work,
    add_common,
    check_device,
    check_folder,
    read_list,
)
from captum_quantum.cli.output import WEIGHTS, environment, percent, say
from captum_quantum.cli.threads import one_thread
from captum_quantum.cli.torchrun import processes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from captum_quantum.datasets import Digits
    from captum_quantum.evaluation import Report, World
    from captum_quantum.models import HybridClassifier

EVALUATION, TWIN_WEIGHTS = "evaluation", "twin.safetensors"
METHODS = {
    "qgradcam": "QGrad-CAM on the hybrid model",
    "qgradcam-path": "QGrad-CAM with channel weights averaged over 16 steps from no activation to "
    "all of it",
    "gradcam": "Captum's LayerGradCam on the hybrid model",
    "twin-gradcam": "Captum's LayerGradCam on its classical twin, trained alike",
    "random": "noise, for comparison",
}
DEFAULT_METHODS = "qgradcam,gradcam,twin-gradcam"
DEFAULT_METRICS = (
    "average_drop,average_gain,average_increase,insertion,deletion,infidelity,sensitivity_max,"
    "grid_pointing_game"
)
PATH_STEPS = 16


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure how good the maps are, and compare them with those of a classical model",
        description="Evaluates attribution methods by metrics on test images: a table with "
        "confidence intervals and paired tests, the values of every image, a figure. Without "
        "--weights the demo's model is trained first. Metrics that need to know where the class "
        "is, such as grid_pointing_game, run on mosaics of four digits. Results are written as "
        "they come; after an interruption the same command goes on. Under torchrun "
        "(torchrun --nproc-per-node N -m captum_quantum evaluate ...) the work is shared and the "
        "numbers are the same.",
        epilog="Methods: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in METHODS.items())
        + ". Metrics: those of captum_quantum.metrics that give one number for a map, and "
        "randomization_quantum and randomization_classical.",
    )
    parser.add_argument(
        "--dataset", default="digits", help="digits, the only one so far (default: digits)"
    )
    parser.add_argument(
        "--methods", default=DEFAULT_METHODS, help=f"separated by commas ({DEFAULT_METHODS})"
    )
    parser.add_argument(
        "--metrics", default=DEFAULT_METRICS, help=f"separated by commas ({DEFAULT_METRICS})"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help=f"a {WEIGHTS} of the demo, made with the same --seed, which fixes what are test "
        "images: another seed is refused (default: train the model)",
    )
    parser.add_argument(
        "--epochs", type=int, default=40, help="of the training, where one is needed (default: 40)"
    )
    parser.add_argument(
        "--limit", type=int, help="evaluate only that many test images (default: all)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="repeat all with this many seeds from --seed on, each with its own split and "
        "training, and sum up over them (default: 1)",
    )
    add_common(parser, output="evaluate-output")
    parser.set_defaults(prepare=_prepare)


def _prepare(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks, _files
    from captum_quantum.evaluation import storage

    _checks.check_choice("--dataset", args.dataset, ("digits",))
    methods = read_list("--methods", args.methods, METHODS)
    for name, low in (("seed", 0), ("seeds", 1), ("epochs", 1), ("batch_size", 1)):
        _checks.check_int(f"--{name.replace('_', '-')}", getattr(args, name), low)
    if args.limit is not None:
        _checks.check_int("--limit", args.limit, 1)
    if args.weights is not None and args.seeds > 1:
        _checks.wrong_value("--seeds", "1 with --weights, which are of one seed", args.seeds)
    device = check_device(args.device)
    from captum_quantum.evaluation import World, versions
    from captum_quantum.metrics import named_metrics

    metrics = read_list("--metrics", args.metrics, named_metrics())
    if "random" in methods and any(name.startswith("randomization_") for name in metrics):
        _checks.wrong_value("--methods", "without random, which no model randomises", args.methods)
    from captum_quantum.datasets import load_digits

    load_digits(args.seed)
    given = None if args.weights is None else _read_hybrid(args, "twin-gradcam" in methods)
    # What a run that goes on must have in common with the one before.
    configuration = {
        "versions": versions(),
        "dataset": args.dataset,
        "methods": methods,
        "metrics": metrics,
        "seed": args.seed,
        "seeds": args.seeds,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "device": device.type,
        **(
            {"training": {"epochs": args.epochs, **TRAINING}}
            if given is None
            else {"weights": _digest(args.weights), "epochs_of_the_twin": args.epochs}
        ),
    }
    with ExitStack() as stack:
        device = stack.enter_context(processes(device))
        world = World()

        def claim() -> None:
            check_folder(args.output)
            stack.enter_context(_files.locked(args.output))
            started = (args.output / storage.CONFIGURATION).exists()
            if not started and (args.output / WEIGHTS).exists():
                raise FileExistsError(
                    _checks.sentence(
                        "--output",
                        "a folder without results (to evaluate a model, use --weights)",
                        f"{str(args.output)!r}, which holds {WEIGHTS}",
                    )
                )
            storage.check_configuration(args.output, configuration)

        world.first_does(claim)
        rest = stack.pop_all()

    def work() -> None:
        with rest, one_thread():
            _evaluate_seeds(args, methods, metrics, given, device, world)

    return work


def _read_hybrid(args: argparse.Namespace, twin_needed: bool) -> "HybridClassifier":
    """The model of --weights, if it is one that --seed and --epochs fit."""
    from captum_quantum import _checks
    from captum_quantum.models import ClassicalLayer, load_model

    model = load_model(args.weights)
    if isinstance(model.vqc, ClassicalLayer):
        _checks.wrong_value(
            "--weights",
            "the file of a hybrid model (its classical twin is trained here)",
            f"{args.weights}, a classical twin",
        )
    trained = model.trained or {}
    if args.seed != trained.get("seed", args.seed):
        _checks.wrong_value(
            "--seed",
            f"{trained['seed']}, that of the weights (another seed's test images are among the "
            "images that they were trained on)",
            args.seed,
        )
    if twin_needed and args.epochs != trained.get("epochs", args.epochs):
        _checks.wrong_value(
            "--epochs",
            f"{trained['epochs']}, that of the weights, for a twin that is trained alike",
            args.epochs,
        )
    return model


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _evaluate_seeds(
    args: argparse.Namespace,
    methods: list[str],
    metrics: list[str],
    given: "HybridClassifier | None",
    device: "torch.device",
    world: "World",
) -> None:
    from captum_quantum import _files
    from captum_quantum.evaluation.seeds import SeedReport
    from captum_quantum.visualization import png

    found: dict[int, dict[str, Report]] = {}
    tested = {}
    for seed in range(args.seed, args.seed + args.seeds):
        folder = args.output / f"seed-{seed}" if args.seeds > 1 else args.output
        found[seed], tested[seed] = _evaluate(
            args, seed, folder, methods, metrics, given, device, world
        )
    if world.rank != 0:
        return
    if args.seeds > 1:
        summary = SeedReport({seed: list(parts.values()) for seed, parts in found.items()})
        content = {**summary.to_dict(), "models": tested, **environment(device)}
        _files.replace(args.output / f"{EVALUATION}.json", _files.to_json(content))
        text = f"{_accuracies([*tested.values()])}\n\n{summary.markdown()}"
        _files.replace(args.output / f"{EVALUATION}.md", text)
        _files.replace(args.output / f"{EVALUATION}.png", png(summary.figure()))
        say(f"{_accuracies([*tested.values()])}\n\n{summary}")
    else:
        say(f"{_accuracies([tested[args.seed]])}\n")
        say("\n\n".join(f"On {part}: {r}" for part, r in found[args.seed].items()))
    say("")
    say(f"{args.output / f'{EVALUATION}.png'}: the picture to look at")
    say(f"{args.output / f'{EVALUATION}.md'}: the tables")
    say(f"{args.output / f'{EVALUATION}.json'}: all numbers; every image's in values.csv")


def _accuracies(tested: Sequence[dict[str, Any]]) -> str:
    """What share of the test images each model recognises, seed by seed."""
    shares = [
        f"{name} {', '.join(percent(models[name]['accuracy']) for models in tested)}"
        for name in tested[0]
    ]
    return f"Test images recognised: {'; '.join(shares)}."


def _evaluate(
    args: argparse.Namespace,
    seed: int,
    folder: Path,
    methods: list[str],
    metrics: list[str],
    given: "HybridClassifier | None",
    device: "torch.device",
    world: "World",
) -> "tuple[dict[str, Report], dict[str, Any]]":
    """One seed's evaluation.

    Returns:
        The reports on images and on mosaics, as far as metrics ask for them; and of each model the
        accuracy and numbers of parameters.
    """
    from captum_quantum import _files
    from captum_quantum.datasets import load_digits
    from captum_quantum.evaluation import compare
    from captum_quantum.metrics.registry import named_metrics, needs_masks
    from captum_quantum.models import load_model
    from captum_quantum.training import accuracy
    from captum_quantum.visualization import plot_comparison, png

    digits = load_digits(seed)
    twin_needed = "twin-gradcam" in methods
    world.first_does(
        lambda: _make_weights(folder, digits, given, seed, args.epochs, device, twin_needed)
    )
    models = {"hybrid": load_model(folder / WEIGHTS, device=device)}
    if twin_needed:
        models["twin"] = load_model(folder / TWIN_WEIGHTS, device=device)
    explainers = {name: _explainer(name, models) for name in methods}

    known = named_metrics()
    parts = {
        "images": [name for name in metrics if not needs_masks(known[name])],
        "mosaics": [name for name in metrics if needs_masks(known[name])],
    }
    reports = {
        part: compare(
            explainers,
            _batches(part, digits, args.limit, args.batch_size, seed),
            {name: known[name] for name in names},
            output=folder / part,
            seed=seed,
        )
        for part, names in parts.items()
        if names
    }
    tested = {
        name: {
            "accuracy": accuracy(model, digits.test_images, digits.test_labels),
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "n_parameters_of_the_circuit": sum(p.numel() for p in model.vqc.parameters()),
        }
        for name, model in models.items()
    }
    if world.rank == 0:
        for part, report in reports.items():
            report.save(folder / part)
        content = {
            "dataset": args.dataset,
            "seed": seed,
            "methods": {name: METHODS[name] for name in methods},
            "models": tested,
            "reports": {part: report.to_dict() for part, report in reports.items()},
            **environment(device),
        }
        tables = [_accuracies([tested]) + "\n"]
        tables += [f"## On {part}\n\n{report.markdown()}" for part, report in reports.items()]
        _files.replace(folder / f"{EVALUATION}.json", _files.to_json(content))
        _files.replace(folder / f"{EVALUATION}.md", "\n".join(tables))
        _files.replace(folder / f"{EVALUATION}.png", png(plot_comparison([*reports.values()])))
    return reports, tested


def _batches(
    part: str, digits: "Digits", limit: int | None, size: int, seed: int
) -> "list[tuple[Tensor, ...]]":
    """Test images, or as many mosaics of them, in batches with their labels (and masks).

    Each mosaic is asked about one of its four digits, so that no two samples are of one mosaic.
    """
    import torch

    from captum_quantum.datasets import mosaics

    images, labels = digits.test_images[:limit], digits.test_labels[:limit]
    if part == "images":
        return list(zip(images.split(size), labels.split(size), strict=True))
    tiles = mosaics(digits.test_images, digits.test_labels, len(images), seed)
    place = torch.arange(len(images))
    asked = tiles.labels[place, place % 4]
    return [
        (own, classes, tiles.cells[rows % 4])
        for own, classes, rows in zip(
            tiles.images.split(size), asked.split(size), place.split(size), strict=True
        )
    ]


def _make_weights(
    folder: Path,
    digits: "Digits",
    given: "HybridClassifier | None",
    seed: int,
    epochs: int,
    device: "torch.device",
    twin_needed: bool,
) -> None:
    """Trains what is not in the folder yet: the model of the demo, and its twin alike."""
    from captum_quantum.models import classical_twin, digits_model, save_model
    from captum_quantum.training import fit

    folder.mkdir(parents=True, exist_ok=True)

    def train(model: "HybridClassifier") -> "HybridClassifier":
        fit(
            model.to(device),
            digits.train_images,
            digits.train_labels,
            epochs=epochs,
            **TRAINING,
            seed=seed,
            progress=True,
        )
        model.trained = {"seed": seed, "epochs": epochs}
        return model

    config = {} if given is None else given.config or {}
    if not (folder / WEIGHTS).exists():
        hybrid = train(digits_model(seed=seed)) if given is None else given
        save_model(hybrid, folder / WEIGHTS)
    if twin_needed and not (folder / TWIN_WEIGHTS).exists():
        twin = train(classical_twin(digits_model(**config, seed=seed), seed=seed))
        save_model(twin, folder / TWIN_WEIGHTS)


def _explainer(name: str, models: "dict[str, HybridClassifier]") -> Any:
    """A method of `METHODS`, bound to its model."""
    import torch
    from captum.attr import LayerGradCam

    from captum_quantum.attr import QuantumLayerGradCam

    model = models["twin" if name == "twin-gradcam" else "hybrid"]
    if name == "qgradcam":
        return QuantumLayerGradCam(model, model.backbone)
    if name == "qgradcam-path":
        return QuantumLayerGradCam(model, model.backbone, path_steps=PATH_STEPS)
    if name == "random":

        def noise(inputs: "Tensor", target: "Tensor") -> "Tensor":
            return torch.rand(len(inputs), 1, *inputs.shape[2:], device=inputs.device)

        return noise, model
    return LayerGradCam(model, model.backbone)
