"""The command line, one file a command."""

from captum_quantum.cli.parser import main

__all__ = ["main"]
