"""The command line: ``captum-quantum demo`` and ``captum-quantum explain``."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Everything heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.datasets import Digits
    from captum_quantum.models import HybridClassifier
    from captum_quantum.visualization import Explanation

N_MOSAICS = 200
FIGURE, RESULTS, WEIGHTS = "qgradcam.png", "demo.json", "weights.safetensors"
EXPLAIN_FIGURE, EXPLAIN_RESULTS = "explanation.png", "explanation.json"

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
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": 64, "lr": 5e-3}
    losses = fit(
        model, digits.train_images, digits.train_labels, **settings, seed=seed, progress=True
    )
    model.eval()
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


if __name__ == "__main__":
    sys.exit(main())
