"""A folder of results that are appended batch by batch, so that a killed run can go on.

The folder holds ``configuration.json`` (what was asked for), ``part-0.csv``, ``part-1.csv``, ...
(what each process has found so far) and, at the end, ``values.csv`` in their place. A batch's rows
are written at once and are on the disk before the next batch begins; rows of a batch that is not
whole, which a kill or a full disk may leave behind, are dropped when the run goes on.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from captum_quantum import _checks, _files

CONFIGURATION, VALUES = "configuration.json", "values.csv"
_COLUMNS = ("batch", "batch_size", "checksum", "index", "label", "target", "method")


class BatchResult(NamedTuple):
    """What was found about one batch of samples.

    Attributes:
        number (int): The batch's place in the loader.
        checksum (str): Of its inputs, labels and masks: eight hexadecimal digits.
        start (int): The index of its first sample in the whole data set.
        labels (ndarray): Shape ``(size,)``, int64.
        targets (ndarray): Shape ``(size,)``, int64: the classes that were explained.
        values (ndarray): Shape ``(n_methods, size, n_metrics)``, float64, NaN where undefined.
    """

    number: int
    checksum: str
    start: int
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def same(self, other: "BatchResult") -> bool:
        """Whether all numbers are the same; NaN equals NaN."""
        return self[:3] == other[:3] and all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(self[3:], other[3:], strict=True)
        )


class Table(NamedTuple):
    """The columns of the CSV files, and how results become lines and the reverse.

    Attributes:
        methods (Sequence[str]): Names, without commas, quotes or line breaks.
        metrics (Sequence[str]): Likewise.
    """

    methods: Sequence[str]
    metrics: Sequence[str]

    @property
    def header(self) -> str:
        """The first line."""
        return _csv([(*_COLUMNS, *self.metrics)])

    def format(self, batch: BatchResult) -> str:
        """Formats a batch: a line for each method and sample, numbers in full precision."""
        size = len(batch.labels)
        return _csv(
            (batch.number, size, batch.checksum, batch.start + i, *classes, method, *numbers)
            for method, values in zip(self.methods, batch.values.tolist(), strict=True)
            for i, (numbers, *classes) in enumerate(
                zip(values, batch.labels, batch.targets, strict=True)
            )
        )

    def n_lines(self, first: str) -> int:
        """The number of lines of the batch that begins with the given one."""
        return max(int(first.split(",")[1]), 1) * len(self.methods)

    def parse(self, lines: Sequence[str]) -> BatchResult:
        """The reverse of `format`.

        Args:
            lines (Sequence[str]): The lines of one batch, without their ends.

        Raises:
            ValueError: If the lines are not those of one batch, exactly as they were written.
        """
        rows = list(csv.reader(lines))
        number, size, checksum, start = rows[0][:4]
        labels, targets = (
            np.array([int(row[column]) for row in rows[: int(size)]], dtype=np.int64)
            for column in (4, 5)
        )
        values = np.array([[float(cell) for cell in row[len(_COLUMNS) :]] for row in rows])
        values = values.reshape(len(self.methods), int(size), len(self.metrics))
        batch = BatchResult(int(number), checksum, int(start), labels, targets, values)
        if self.format(batch) != "\n".join(lines) + "\n":
            raise ValueError("not the next line of its batch")
        return batch


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_configuration(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Writes what was asked for, or compares it with what the folder's results were made with.

    Args:
        folder (Path): The folder.
        configuration (Mapping): What JSON can hold.

    Raises:
        FileExistsError: If they differ, or the folder has results of unknown origin.
        OSError: If the file cannot be read or written.
    """
    path = folder / CONFIGURATION
    if not path.exists():
        if files := sorted(p.name for p in _result_files(folder)):
            _refuse_folder(folder, f"{files[0]} but no {CONFIGURATION}")
        _files.replace(path, json.dumps(configuration, indent=2) + "\n")
        return
    refuse_other(folder, configuration)


def refuse_other(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Compares a configuration with that of the folder's results, if there are any.

    Args:
        folder (Path): The folder.
        configuration (Mapping): What JSON can hold.

    Raises:
        FileExistsError: If they differ.
        OSError: If the file cannot be read.
    """
    path = folder / CONFIGURATION
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _refuse_folder(folder, f"a {CONFIGURATION} that is not JSON")
    if not isinstance(there, dict):
        _refuse_folder(folder, f"a {CONFIGURATION} that is no JSON object")
    if found := difference(there, configuration):
        name, before, now = found
        _refuse_folder(folder, f"{name} = {before} in {CONFIGURATION}, now {name} = {now}")


def difference(one: Any, other: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first place where two configurations differ, the order of their entries included.

    Args:
        one (Any): What JSON can hold.
        other (Any): Likewise.
        name (str): What to call the place at hand.

    Returns:
        tuple[str, str, str] or None: The place's name and what stands there; None if they are the
        same.
    """
    if json.dumps(one) == json.dumps(other):
        return None
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return name, _short(one), _short(other)
    for key in [*other, *(k for k in one if k not in other)]:
        place = f"{name}.{key}" if name else key
        if found := difference(one.get(key), other.get(key), place):
            return found
    return f"order of {name or 'configuration'}", _short(list(one)), _short(list(other))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _refuse_folder(folder: Path, got: str) -> NoReturn:
    raise FileExistsError(
        _checks.sentence(
            "output",
            "a folder without results, or with those of the same configuration",
            f"{str(folder)!r} with {got}",
        )
    )


def _result_files(folder: Path) -> list[Path]:
    whole = folder / VALUES
    return [whole] * whole.exists() + sorted(folder.glob("part-*.csv"))


def recover(folder: Path, table: Table) -> dict[int, BatchResult]:
    """Reads all whole batches and drops what is left of one that a kill has torn.

    Args:
        folder (Path): The folder, held by `locked`.
        table (Table): Its columns.

    Returns:
        dict[int, BatchResult]: The batches by their numbers.

    Raises:
        OSError: If a file is damaged in a way that a kill cannot explain, or cannot be read.
    """
    found: dict[int, BatchResult] = {}
    for path in _result_files(folder):
        batches, end = _read(path, table)
        if end < path.stat().st_size:
            if path.name == VALUES:
                _damaged(path, "not whole")
            os.truncate(path, end)
        for batch in batches:
            if not found.setdefault(batch.number, batch).same(batch):
                _damaged(path, f"batch {batch.number} differs from what another file says of it")
    return found


def _read(path: Path, table: Table) -> tuple[list[BatchResult], int]:
    """The whole batches of a file, and where the last of them ends."""
    text = path.read_bytes().decode(errors="replace")
    header = table.header
    if not text.startswith(header):
        if header.startswith(text) or not text.strip("\0"):
            return [], 0
        _damaged(path, "other columns than those asked for")
    lines = text[len(header) :].split("\n")[:-1]  # what has no line end is torn
    batches: list[BatchResult] = []
    row, end = 0, len(header.encode())
    while row < len(lines):
        try:
            next_row = row + table.n_lines(lines[row])
            if next_row > len(lines):
                if len({tuple(line.split(",")[:3]) for line in lines[row:]}) > 1:
                    raise ValueError("not the next line of its batch")
                break
            batches.append(table.parse(lines[row:next_row]))
        except (ValueError, IndexError, csv.Error) as error:
            _damaged(path, f"line {row + 2} or one after it is wrong ({error})")
        end += sum(len(line.encode()) + 1 for line in lines[row:next_row])
        row = next_row
    return batches, end


def _damaged(path: Path, got: str) -> NoReturn:
    raise OSError(
        _checks.sentence(
            "output", "a folder with results as they were written", f"{str(path)!r}: {got}"
        )
    )


class Part:
    """One process's file of results, open for appending.

    Args:
        folder (Path): The folder.
        table (Table): Its columns.
        rank (int): The number of the process.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(self, folder: Path, table: Table, rank: int) -> None:
        self.path = folder / f"part-{rank}.csv"
        self._table = table
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        _files.sync_folder(folder)

    def append(self, batch: BatchResult) -> None:
        """Writes a batch; when this returns, it is on the disk.

        Raises:
            OSError: If that fails, as on a full disk; the file then ends with the batch before.
        """
        size = os.fstat(self._file).st_size
        header = "" if size else self._table.header
        data = (header + self._table.format(batch)).encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise OSError(
                error.errno,
                f"{error.strerror}; the results so far are whole, and the same call goes on from "
                "them",
                str(self.path),
            ) from error

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def merge(folder: Path, table: Table, batches: Iterable[BatchResult]) -> None:
    """Writes ``values.csv``, in the order of the data set, and removes the parts.

    Raises:
        OSError: If it cannot be written; the parts are then as they were.
    """
    _files.replace(folder / VALUES, csv_pieces(table, batches))
    for path in folder.glob("part-*.csv"):
        path.unlink()


def csv_pieces(table: Table, batches: Iterable[BatchResult]) -> Iterator[str]:
    """The CSV file, piece by piece, in the order of the data set."""
    yield table.header
    yield from map(table.format, sorted(batches, key=lambda batch: batch.number))
