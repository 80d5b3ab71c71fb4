"""The command line: ``captum-quantum demo``, ``explain`` and ``evaluate``."""

import argparse
import sys
from collections.abc import Sequence

from captum_quantum.cli import demo, evaluate, explain
from captum_quantum.cli.options import Work


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv (Sequence[str], optional): The arguments. Default: those of the process.

    Returns:
        int: The exit status: 0, or 2 if an argument or a file is wrong, said in one line on stderr.

    Examples:
        >>> from captum_quantum.cli import main
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

    for command in (demo, explain, evaluate):
        command.add(commands)
    return parser
