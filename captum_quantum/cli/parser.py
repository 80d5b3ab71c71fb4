"""The arguments of all commands, and `main`, which runs one of them."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from captum_quantum._versions import show_versions

# Importing these two tables does not import PyTorch, so --help answers at once. The module of a
# command, which does, is imported when the command runs.
from captum_quantum.datasets import named_datasets
from captum_quantum.evaluation import named_methods

DEFAULT_METRICS = "grid_pointing_game,insertion_deletion,road"
DEFAULT_NULLS = "area-noise,other-image,rival-class"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv (Sequence[str], optional): The arguments. Default: those of the process.

    Returns:
        int: The exit status: 0 for success; 2 for a wrong argument or file, with the reason in one
        line on stderr; 130 after an interruption.

    Examples:
        >>> from captum_quantum.cli import main
        >>> main(["demo", "--seed", "1", "--output", "demo-output"])  # doctest: +SKIP
        0
    """
    args = _parser().parse_args(argv)
    # `prepare` finds everything that can be wrong with arguments and files before any work. Apart
    # from a full disk, a later error is a bug and keeps its traceback.
    refused: tuple[type[Exception], ...] = (ImportError, OSError, ValueError)
    try:
        work: Callable[[], None] = import_module(f"captum_quantum.cli.{args.command}").prepare(args)
        from captum_quantum._state import threads

        refused = (OSError,)
        # The tensors are small: on one thread they are computed several times faster than on many
        # of a busy machine, and the results do not depend on the number of cores.
        with threads(1):
            work()
    except refused as error:
        line = " ".join(str(error).split())
        print(f"captum-quantum {args.command}: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


class _ShowVersions(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        show_versions()
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    datasets, methods = named_datasets(), named_methods()
    parser = argparse.ArgumentParser(
        prog="captum-quantum",
        description="Explains the decisions of hybrid quantum-classical models.",
    )
    text = "show the versions that a bug report needs and exit"
    parser.add_argument("--version", action=_ShowVersions, nargs=0, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a hybrid quantum-classical model and explain its decisions",
        description="Trains a hybrid quantum-classical model on a data set, explains its decisions "
        "on the test set with QGrad-CAM, and writes qgradcam.png, demo.json and "
        "weights.safetensors. With the default data set it takes about a minute on one CPU core.",
    )
    explain = commands.add_parser(
        "explain",
        help="explain what a trained model sees in a file of your own",
        description="Loads the weights that the demo has written, reads one file and explains the "
        "model's decision: prints it and writes explanation.png and explanation.json.",
        epilog=" ".join(f"{name}: {d.read_help}" for name, d in datasets.items() if d.read),
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="compare attribution methods, also those of a classical model, by metrics",
        description="Compares attribution methods by metrics on the test set: writes a table with "
        "confidence intervals and paired tests, the values of every example, and figures. Each "
        "method is also measured against null maps, which say nothing of the image. Trains the "
        "models first, the demo's unless --weights is given. Metrics that need to know where "
        "the class is, such as grid_pointing_game, use mosaics of several examples. The same "
        "command resumes an interrupted run. Started by torchrun (torchrun --nproc-per-node N -m "
        "captum_quantum evaluate ...), the processes share the work; the numbers are the same.",
        epilog=f"Methods: {'; '.join(f'{n}: {m.description}' for n, m in methods.items())}. "
        "Metrics: those of captum_quantum.metrics.named_metrics(); an unknown name lists them.",
    )

    explain.add_argument("--weights", required=True, type=Path, help="weights file of the demo")
    explain.add_argument("--file", "--image", required=True, type=Path, help="the file to explain")
    text = "number of the class to explain, from 0 on (default: the most probable class)"
    explain.add_argument("--target", type=int, help=text)
    explain.add_argument("--invert", action="store_true", help="swap dark and bright first")
    text = "names separated by commas (default: %(default)s)"
    evaluate.add_argument("--methods", default="qgradcam,gradcam,twin-gradcam", help=text)
    text = f"names separated by commas (default: {DEFAULT_METRICS}, as far as the data set allows)"
    evaluate.add_argument("--metrics", help=text)
    text = "null maps that each method should beat, separated by commas, or none (default: "
    evaluate.add_argument("--nulls", default=DEFAULT_NULLS, help=f"{text}%(default)s)")
    text = "weights file of the demo, made with the same --seed, which also determines the test set"
    evaluate.add_argument("--weights", type=Path, help=f"{text} (default: train a model)")
    number = functools.partial(evaluate.add_argument, type=int)
    number("--limit", help="number of test examples to evaluate (default: all)")
    number("--batch-size", default=64, help="number of examples at a time (default: 64)")
    number("--seeds", default=1, help="number of trainings, with seeds from --seed on (default: 1)")
    epochs = ", ".join(f"{d.training['epochs']} for {name}" for name, d in datasets.items())
    for command in (demo, evaluate):
        command.add_argument("--epochs", type=int, help=f"training epochs (default: {epochs})")
    default = next(iter(datasets))
    names = "; ".join(f"{name}: {d.description}" for name, d in datasets.items())
    names = f"{names} (default: {default})".replace("%", "%%")
    devices = "auto (a GPU if there is one), cpu, cuda or cuda:N (default: auto)"
    for name, command in commands.choices.items():
        several = "one or more, separated by commas: " if command is evaluate else ""
        command.add_argument("--dataset", default=default, help=f"{several}{names}")
        command.add_argument("--device", default="auto", help=devices)
        command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
        text = "folder for the results (default: %(default)s)"
        command.add_argument("--output", type=Path, default=Path(f"{name}-output"), help=text)
    return parser
