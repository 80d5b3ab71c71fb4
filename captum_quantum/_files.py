"""Files: atomic writes, JSON, locks."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captum_quantum import _checks


def replace(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Writes a file atomically: readers see the old content or the new, never a part.

    Args:
        path (Path): The file.
        content (str, bytes or Iterable[str]): What to write, as a whole or in pieces.

    Raises:
        OSError: If writing fails; the old file is then unchanged.
    """
    pieces = (content,) if isinstance(content, (str, bytes)) else content
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def to_json(content: Any) -> str:
    """Formats plain data as JSON, with null for NaN and infinity, which JSON does not have.

    Args:
        content (Any): Mappings, lists, tuples, strings, numbers, None.

    Returns:
        str: The JSON text, indented, with a newline at the end.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(key): plain(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        return value

    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def sync_folder(folder: Path) -> None:
    """Flushes the folder's entries (its files' names) to the disk, on POSIX systems.

    Args:
        folder (Path): The folder.

    Raises:
        OSError: If that fails.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder if it does not exist and locks it against other processes.

    The lock belongs to the operating system: it is released when the process ends, also by SIGKILL.
    Forked processes, such as the workers of a DataLoader, do not hold it.

    Args:
        folder (Path): The folder, which gets a file named ``.lock``.

    Raises:
        BlockingIOError: If the folder is locked already.
        OSError: If the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Where the file system has no locks, filelock would take a file's existence for one, and that
    # would outlive a killed process.
    lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        acquired = lock.acquire()
    except Timeout:
        must = "a folder that no other process is writing to"
        _checks.refuse("output", must, f"{str(folder)!r}, which one is", BlockingIOError)
    with acquired:
        yield
