"""Files: atomic writes, JSON, locks."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captum_quantum import _checks

_LOCK = ".lock"


def replace(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Writes a file such that it is either the old or the new one, never a part.

    Args:
        path (Path): The file.
        content (str, bytes or Iterable[str]): What to write, as a whole or piece by piece.

    Raises:
        OSError: If that fails; the old file is then as it was.
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
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def to_json(content: Any) -> str:
    """JSON with NaN and infinity as null, which JSON does not have."""

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
    """Makes sure that a file's name is on the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder (if need be) and keeps other processes out of it.

    The lock is the operating system's: it ends with the process, however that ends, and workers
    that the process has forked do not hold it. Systems other than POSIX have none.

    Raises:
        BlockingIOError: If another process holds it.
        OSError: If the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / _LOCK).open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise BlockingIOError(
                _checks.sentence(
                    "output",
                    "a folder that no other process is writing to",
                    f"{str(folder)!r}, which one is",
                )
            ) from error
        yield
