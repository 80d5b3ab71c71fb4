"""The command line: ``captum-quantum demo``, ``explain`` and ``evaluate``."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Everything heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.datasets import Digits
    from captum_quantum.evaluation import Report, World
    from captum_quantum.models import HybridClassifier
    from captum_quantum.visualization import Explanation

N_MOSAICS = 200
FIGURE, RESULTS, WEIGHTS = "qgradcam.png", "demo.json", "weights.safetensors"
EXPLAIN_FIGURE, EXPLAIN_RESULTS = "explanation.png", "explanation.json"
EVALUATION, TWIN_WEIGHTS = "evaluation", "twin.safetensors"
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 5e-3}
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

READING = (
    "Red areas raise the score of the class named above the map, blue areas lower it; black lines "
    "outline the digit."
)

Work = Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv (Sequence[str], optional): The arguments. Default: those of the process.

    Returns:
        int: The exit status: 0, or 2 if an argument or a file is wrong, said in one line on stderr.

    Examples:
        >>> from captum_quantum.__main__ import main
        >>> main(["demo", "--seed", "1", "--output", "demo-output"])  # doctest: +SKIP
        0
    """
    args = _parser().parse_args(argv)
    try:
        # All that can be wrong with arguments and files is found here, before any work. What goes
        # wrong later, a full disk apart, is a fault of ours and keeps its traceback.
        work: Work = args.prepare(args)
    except (ImportError, OSError, ValueError) as error:
        return _refuse(args.command, error)
    try:
        work()
    except OSError as error:
        return _refuse(args.command, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _refuse(command: str, error: Exception) -> int:
    line = " ".join(str(error).split())
    print(f"captum-quantum {command}: error: {line}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    from captum_quantum import __version__

    parser = argparse.ArgumentParser(
        prog="captum-quantum",
        description="Explains the decisions of hybrid quantum-classical models.",
    )
    parser.add_argument("--version", action="version", version=f"captum-quantum {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a quantum model on handwritten digits and explain its decisions",
        description="Trains a model (convolutions, a circuit of 8 qubits, a linear layer) on the "
        "handwritten digits that scikit-learn ships, explains its decisions on test images with "
        f"QGrad-CAM, and writes {FIGURE}, {RESULTS} and {WEIGHTS}. About a minute on one core.",
    )
    _add_common(demo, output="demo-output")
    demo.add_argument(
        "--epochs", type=int, default=40, help="passes over the training images (default: 40)"
    )
    demo.set_defaults(prepare=_prepare_demo)

    explain = commands.add_parser(
        "explain",
        help="explain what a trained model sees in an image of one's own",
        description="Loads the weights that the demo has written, reads one image and explains the "
        f"model's decision: prints it and writes {EXPLAIN_FIGURE} and {EXPLAIN_RESULTS}. The image "
        "may be of any size and is turned into gray and 32 x 32 pixels. The model knows digits "
        "that are bright on dark and fill the image from top to bottom; for dark ink on bright "
        "paper, use --invert.",
    )
    explain.add_argument("--weights", required=True, type=Path, help=f"a {WEIGHTS} of the demo")
    explain.add_argument("--image", required=True, type=Path, help="the image file")
    explain.add_argument(
        "--target", type=int, help="the class to explain (default: the most probable one)"
    )
    explain.add_argument(
        "--invert", action="store_true", help="swap dark and bright, for dark digits on bright"
    )
    _add_common(explain, output="explain-output")
    explain.set_defaults(prepare=_prepare_explain)

    evaluate = commands.add_parser(
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
    evaluate.add_argument(
        "--dataset", default="digits", help="digits, the only one so far (default: digits)"
    )
    evaluate.add_argument(
        "--methods", default=DEFAULT_METHODS, help=f"separated by commas ({DEFAULT_METHODS})"
    )
    evaluate.add_argument(
        "--metrics", default=DEFAULT_METRICS, help=f"separated by commas ({DEFAULT_METRICS})"
    )
    evaluate.add_argument(
        "--weights",
        type=Path,
        help=f"a {WEIGHTS} of the demo, made with the same --seed, which fixes what are test "
        "images: another seed is refused (default: train the model)",
    )
    evaluate.add_argument(
        "--epochs", type=int, default=40, help="of the training, where one is needed (default: 40)"
    )
    evaluate.add_argument(
        "--limit", type=int, help="evaluate only that many test images (default: all)"
    )
    evaluate.add_argument(
        "--batch-size", type=int, default=64, help="images at a time (default: 64)"
    )
    evaluate.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="repeat all with this many seeds from --seed on, each with its own split and "
        "training, and sum up over them (default: 1)",
    )
    _add_common(evaluate, output="evaluate-output")
    evaluate.set_defaults(prepare=_prepare_evaluate)
    return parser


def _add_common(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes all that is random (default: 0)")
    parser.add_argument(
        "--output", type=Path, default=Path(output), help=f"folder to write to (default: {output})"
    )


def _check_device(name: str) -> "torch.device":
    import torch

    from captum_quantum import _checks

    kind, _, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or not (name == "cuda" or index.isdecimal()):
        _checks.wrong_value("--device", "auto, cpu, cuda or cuda:N", name)
    n_devices = torch.cuda.device_count()
    if int(index or 0) >= n_devices:
        raise ValueError(
            _checks.sentence(
                "--device", f"one of the {n_devices} CUDA devices that torch finds, or cpu", name
            )
        )
    return torch.device("cuda", int(index or 0))


def _check_folder(folder: Path) -> Path:
    """Makes a folder, and tries whether files can be written there."""
    import tempfile

    from captum_quantum import _checks

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            _checks.sentence(
                "--output",
                "a folder that can be written to",
                f"{str(folder)!r} ({error.strerror or error})",
            )
        ) from error
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _environment(device: "torch.device") -> dict[str, Any]:
    """What the numbers were computed with."""
    import platform
    from importlib import metadata

    import torch

    from captum_quantum import __version__

    names = ("captum", "numpy", "scikit-learn", "torch", "torchquantum")
    versions = {"captum-quantum": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


# --- demo ---------------------------------------------------------------------------------------


def _prepare_demo(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks

    start = time.perf_counter()
    _checks.check_int("--seed", args.seed, 0)
    _checks.check_int("--epochs", args.epochs, 1)
    device = _check_device(args.device)
    output = _check_folder(args.output)
    from captum_quantum.datasets import load_digits

    digits = load_digits(args.seed)

    def work() -> None:
        with _one_thread():
            _demo(digits, device, args.seed, args.epochs, output, start)

    return work


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one core of the CPU.

    The tensors are so small that threads wait for each other longer than they compute: several
    times longer on a busy machine. And the numbers do not depend on the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    qubit_maps = _qubit_maps(explainer, images, predicted)
    timings["qubit_maps_s"] = clock.lap()
    captum_maps = _captum_maps(model, images, predicted)
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
        "qubit_influence": _influence(qubit_maps).mean(dim=0).tolist(),
        "figure_rows": rows,
        **_environment(device),
    }
    save_model(model, output / WEIGHTS)
    _demo_figure(explainer, model, images, labels, probabilities, rows, output / FIGURE)
    timings["figure_s"] = clock.lap()
    timings["total_s"] = time.perf_counter() - start
    results["timings"] = timings
    _write_json(output / RESULTS, results)
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


def _captum_maps(model: "HybridClassifier", images: "Tensor", target: "Tensor") -> "Tensor":
    from captum.attr import LayerGradCam

    maps: Tensor = LayerGradCam(model, model.backbone).attribute(images, target)
    return maps.detach()


def _qubit_maps(
    explainer: "QuantumLayerGradCam", images: "Tensor", target: "Tensor | int"
) -> "Tensor":
    return cast("Tensor", explainer.attribute_qubits(images, target))


def _influence(qubit_maps: "Tensor") -> "Tensor":
    """Each qubit's share of all evidence, for or against: ``(batch, n_qubits)``, sums of 1."""
    strength = qubit_maps.abs().flatten(2).sum(dim=2)
    return strength / strength.sum(dim=1, keepdim=True).clamp_min(1e-30)


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
        verdict = "recognised" if choice == true else f"taken for {_article(choice)}"
        explanations.append(
            _explanation(
                explainer,
                images[row : row + 1],
                f"{_article(true)}, {verdict}",
                [true, _rival(probabilities[row], true)],
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
        f"{_percent(accuracy)} of the test digits.",
        caption=f"{READING}\nPercentages are the model's probabilities. The maps of a row share "
        "one colour scale.",
    )
    save_figure(figure, path)


def _explanation(
    explainer: "QuantumLayerGradCam",
    image: "Tensor",
    title: str,
    targets: list[int],
    probabilities: "Tensor",
    compare_with: "HybridClassifier | None" = None,
) -> "Explanation":
    """Maps of one image for several classes, and the qubits' shares of the first.

    With a model to compare with, Captum's map of the first class comes last.
    """
    import torch

    from captum_quantum.visualization import Explanation

    maps = explainer.attribute_classes(image, targets)
    titles = [f"why {t}?   ({_percent(probabilities[t])})" for t in targets]
    if compare_with is not None:
        first = torch.tensor(targets[:1], device=image.device)
        maps = torch.cat([maps, _captum_maps(compare_with, image, first)], dim=1)
        titles.append(f"why {targets[0]}?")
    shares = _qubit_maps(explainer, image, targets[0])
    return Explanation(image[0, 0], title, maps[0], titles, shares[0])


def _article(digit: int) -> str:
    return f"an {digit}" if digit == 8 else f"a {digit}"


def _percent(share: "Tensor | float") -> str:
    percent = 100 * float(share)
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"


def _rival(probabilities: "Tensor", target: int) -> int:
    """The most probable class other than the target."""
    order: list[int] = probabilities.argsort(descending=True).tolist()
    return next(c for c in order if c != target)


def _print_demo(results: dict[str, Any], output: Path) -> None:
    accuracy, n_test = results["accuracy"], results["n_test"]
    mosaics, agreement, timings = results["mosaics"], results["agreement"], results["timings"]
    lines = [
        (
            "",
            f"A quantum model on handwritten digits (seed {results['seed']}, {results['device']})",
        ),
        ("", ""),
        (_percent(accuracy), f"of {n_test} test images recognised ({round(accuracy * n_test)})"),
        (_percent(results["non_empty_share"]), "of the QGrad-CAM maps show evidence for the class"),
        ("", "that the model chose (the others are empty)"),
        (
            _percent(mosaics["share_on_own_digit"]),
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


# --- explain ------------------------------------------------------------------------------------


def _prepare_explain(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks

    _checks.check_int("--seed", args.seed, 0)
    device = _check_device(args.device)
    from captum_quantum.datasets import read_digit
    from captum_quantum.models import load_model

    image = read_digit(args.image, invert=args.invert)
    model = load_model(args.weights, device=device)
    if args.target is not None:
        _checks.check_int("--target", args.target, 0, model.n_classes - 1)
    output = _check_folder(args.output)
    return lambda: _explain(model, image.to(device), args, output)


def _explain(
    model: "HybridClassifier", image: "Tensor", args: argparse.Namespace, output: Path
) -> None:
    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.training import predict
    from captum_quantum.visualization import plot_explanations, save_figure

    probabilities = predict(model, image)[0]
    predicted = int(probabilities.argmax())
    target = predicted if args.target is None else args.target
    rival = _rival(probabilities, target)
    explainer = QuantumLayerGradCam(model, model.backbone)
    explanation = _explanation(
        explainer, image, f"the model sees {_article(predicted)}", [target, rival], probabilities
    )
    influence = _influence(explanation.qubit_maps[None])[0].tolist()
    figure = plot_explanations(
        [explanation],
        headers=[
            "your image,\nas the model gets it",
            "QGrad-CAM: why\nthis class?",
            "QGrad-CAM: why\nits closest rival?",
            f"QGrad-CAM qubit by qubit:\nthe {len(influence)} maps add up to the first",
        ],
        caption=f"{READING}\nPercentages are the model's probabilities. All maps share one colour "
        "scale.",
    )
    save_figure(figure, output / EXPLAIN_FIGURE)
    _write_json(
        output / EXPLAIN_RESULTS,
        {
            "image": str(args.image),
            "weights": str(args.weights),
            "inverted": args.invert,
            "probabilities": probabilities.tolist(),
            "predicted": predicted,
            "target": target,
            "rival": rival,
            "qubit_influence": influence,
            "map": explanation.maps[0].tolist(),
            "qubit_maps": explanation.qubit_maps.tolist(),
            **_environment(image.device),
        },
    )
    print(f"The model sees {_article(predicted)}. Probabilities:")
    for digit, probability in enumerate(probabilities.tolist()):
        bar = "#" * round(40 * probability)
        print(f"  {digit}  {_percent(probability):>8}  {bar}".rstrip())
    print(f"Most influential qubits (share of all evidence, for or against {_article(target)}):")
    for qubit in sorted(range(len(influence)), key=lambda q: -influence[q])[:3]:
        print(f"  qubit {qubit}  {_percent(influence[qubit]):>8}")
    if not args.invert and float(image.mean()) > 0.5:
        print("The image is mostly bright; if its digit is dark, use --invert.")
    print(f"{output / EXPLAIN_FIGURE}: the picture to look at")
    print(f"{output / EXPLAIN_RESULTS}: all numbers")


# --- evaluate -----------------------------------------------------------------------------------


def _prepare_evaluate(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks, _files
    from captum_quantum.evaluation import storage

    _checks.check_choice("--dataset", args.dataset, ("digits",))
    methods = _read_list("--methods", args.methods, METHODS)
    for name, low in (("seed", 0), ("seeds", 1), ("epochs", 1), ("batch_size", 1)):
        _checks.check_int(f"--{name.replace('_', '-')}", getattr(args, name), low)
    if args.limit is not None:
        _checks.check_int("--limit", args.limit, 1)
    if args.weights is not None and args.seeds > 1:
        _checks.wrong_value("--seeds", "1 with --weights, which are of one seed", args.seeds)
    device = _check_device(args.device)
    from captum_quantum.evaluation import World, versions
    from captum_quantum.metrics import named_metrics

    metrics = _read_list("--metrics", args.metrics, named_metrics())
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
        device = stack.enter_context(_processes(device))
        world = World()

        def claim() -> None:
            _check_folder(args.output)
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
        with rest, _one_thread():
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


def _read_list(option: str, text: str, known: Iterable[str]) -> list[str]:
    """Names that are separated by commas, each known and none twice."""
    from captum_quantum import _checks

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        _checks.wrong_value(option, "names separated by commas", text)
    for name in names:
        _checks.check_choice(option, name, known)
    if len(set(names)) < len(names):
        _checks.wrong_value(option, "different names", text)
    return names


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@contextmanager
def _processes(device: "torch.device") -> Iterator["torch.device"]:
    """Joins the processes that torchrun has started, if it has; yields this one's device."""
    import os
    from datetime import timedelta

    import torch
    from torch import distributed

    from captum_quantum import _checks

    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
        yield device
        return
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                _checks.sentence(
                    "--nproc-per-node",
                    f"at most {torch.cuda.device_count()}, the number of CUDA devices, or --device "
                    "cpu",
                    os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)),
                )
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # The others wait while the first one trains, however long.
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30)
    )
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def _evaluate_seeds(
    args: argparse.Namespace,
    methods: list[str],
    metrics: list[str],
    given: "HybridClassifier | None",
    device: "torch.device",
    world: "World",
) -> None:
    from captum_quantum import _files
    from captum_quantum.evaluation.report import png
    from captum_quantum.evaluation.seeds import SeedReport

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
        content = {**summary.to_dict(), "models": tested, **_environment(device)}
        _files.replace(args.output / f"{EVALUATION}.json", _files.to_json(content))
        text = f"{_accuracies([*tested.values()])}\n\n{summary.markdown()}"
        _files.replace(args.output / f"{EVALUATION}.md", text)
        _files.replace(args.output / f"{EVALUATION}.png", png(summary.figure()))
        _say(f"{_accuracies([*tested.values()])}\n\n{summary}")
    else:
        _say(f"{_accuracies([tested[args.seed]])}\n")
        _say("\n\n".join(f"On {part}: {r}" for part, r in found[args.seed].items()))
    _say("")
    _say(f"{args.output / f'{EVALUATION}.png'}: the picture to look at")
    _say(f"{args.output / f'{EVALUATION}.md'}: the tables")
    _say(f"{args.output / f'{EVALUATION}.json'}: all numbers; every image's in values.csv")


def _accuracies(tested: Sequence[dict[str, Any]]) -> str:
    """What share of the test images each model recognises, seed by seed."""
    shares = [
        f"{name} {', '.join(_percent(models[name]['accuracy']) for models in tested)}"
        for name in tested[0]
    ]
    return f"Test images recognised: {'; '.join(shares)}."


def _say(text: str) -> None:
    """Prints, with ? for what the terminal cannot show."""
    try:
        print(text)
    except UnicodeEncodeError:
        print(text.encode("ascii", "replace").decode())


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
    from captum_quantum.evaluation.report import png
    from captum_quantum.metrics.registry import named_metrics, needs_masks
    from captum_quantum.models import load_model
    from captum_quantum.training import accuracy
    from captum_quantum.visualization import plot_comparison

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
            **_environment(device),
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


if __name__ == "__main__":
    sys.exit(main())
