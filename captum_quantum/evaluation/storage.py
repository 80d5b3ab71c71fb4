"""A folder of results, to which each batch is appended, so that a killed run can be resumed.

The folder holds ``configuration.json`` (what results depend on), ``part-0.csv``, ``part-1.csv``,
... (the results of each process) and, at the end, ``values.csv`` instead of the parts. The rows of
a batch are written at once and are on the disk before the next batch begins. A batch of which a
kill or a full disk has left only some rows is removed when the run is resumed.
"""

import contextlib
import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from captum_quantum import _checks, _files

CONFIGURATION, VALUES = "configuration.json", "values.csv"
FUNCTION = -1
"""The target where a function of the model's output is explained; no label is negative."""
_COLUMNS = ("batch", "batch_size", "checksum", "index", "label", "target", "method")


class BatchResult(NamedTuple):
    """The results of one batch.

    Attributes:
        number (int): Index of the batch in the loader.
        checksum (str): Of its inputs, labels and masks: eight hexadecimal digits.
        start (int): Index of the batch's first sample in the data set.
        labels (ndarray): Shape ``(batch,)``, int64.
        targets (ndarray): The classes that were explained, shape ``(batch,)``, int64; `FUNCTION`
            where a function of the output was.
        values (ndarray): Shape ``(n_rows, batch, n_metrics)``, float64, NaN where undefined: a row
            for each method, followed by one for each of its null maps.
    """

    number: int
    checksum: str
    start: int
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Table(NamedTuple):
    """The columns of the CSV files: formats results as lines and parses lines.

    Attributes:
        methods (Sequence[str]): Names of the methods, without commas, quotes and line breaks.
        metrics (Sequence[str]): Names of the metrics, without commas, quotes and line breaks.
        nulls (Sequence[str]): Names of the null maps of each method.
    """

    methods: Sequence[str]
    metrics: Sequence[str]
    nulls: Sequence[str] = ()

    @property
    def rows(self) -> list[str]:
        """The names in the column ``method``: ``METHOD`` and ``METHOD | NULL``."""
        return [row for m in self.methods for row in (m, *(f"{m} | {null}" for null in self.nulls))]

    @property
    def header(self) -> str:
        """The first line."""
        return _csv([(*_COLUMNS, *self.metrics)])

    def format(self, batch: BatchResult) -> str:
        """Formats the results of a batch.

        Args:
            batch (BatchResult): The results.

        Returns:
            str: A line for each row and sample, with numbers in full precision.
        """
        size = len(batch.labels)
        return _csv(
            (batch.number, size, batch.checksum, batch.start + i, *classes, method, *numbers)
            for method, values in zip(self.rows, batch.values.tolist(), strict=True)
            for i, (numbers, *classes) in enumerate(
                zip(values, batch.labels, batch.targets, strict=True)
            )
        )

    def parse(self, lines: Sequence[str]) -> BatchResult:
        """Parses the lines of a batch.

        Args:
            lines (Sequence[str]): All lines of one batch, without their ends.

        Returns:
            BatchResult: The results.

        Raises:
            ValueError, IndexError, csv.Error: If the lines are not exactly what `format` returns
                for the results of one batch.
        """
        rows = list(csv.reader(lines))
        number, size, checksum, start = rows[0][:4]
        labels, targets = np.array([row[4:6] for row in rows[: int(size)]], dtype=np.int64).T
        values = np.array([row[len(_COLUMNS) :] for row in rows], dtype=np.float64)
        values = values.reshape(len(self.rows), int(size), len(self.metrics))
        batch = BatchResult(int(number), checksum, int(start), labels, targets, values)
        if self.format(batch) != "\n".join(lines) + "\n":
            raise ValueError("not the next line of its batch")
        return batch


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_configuration(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Writes the configuration to a new folder, or compares it with that of an existing one.

    Args:
        folder (Path): The folder.
        configuration (Mapping[str, Any]): What results depend on, as plain data for JSON.

    Raises:
        FileExistsError: If the folder has results of another or an unknown configuration.
        OSError: If the file cannot be read or written.
    """
    path = folder / CONFIGURATION
    if path.exists():
        refuse_other(folder, configuration)
    elif files := sorted(p.name for p in _result_files(folder)):
        _refuse_folder(folder, f"{files[0]} but no {CONFIGURATION}")
    else:
        _files.replace(path, json.dumps(configuration, indent=2) + "\n")


def refuse_other(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Compares a configuration with that of the folder's results, if it has one.

    Args:
        folder (Path): The folder.
        configuration (Mapping[str, Any]): What results depend on, as plain data for JSON.

    Raises:
        FileExistsError: If they differ.
        OSError: If the file cannot be read.
    """
    path = folder / CONFIGURATION
    if not path.exists():
        return
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _refuse_folder(folder, f"a {CONFIGURATION} that is not JSON")
    if differing := difference(written, configuration):
        name, before, now = differing
        _refuse_folder(folder, f"{name} = {before} in {CONFIGURATION}, now {name} = {now}")


def difference(one: Any, other: Any, name: str = "") -> tuple[str, str, str] | None:
    """Finds the first entry in which two configurations differ, or whose order differs.

    Args:
        one (Any): Plain data for JSON.
        other (Any): Plain data for JSON.
        name (str): Name of the entry that is compared, for the result.

    Returns:
        tuple[str, str, str] or None: The entry's name and its two values, as JSON; None if the two
        are the same.
    """
    if json.dumps(one) == json.dumps(other):
        return None
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return name, _short(one), _short(other)
    for key in [*other, *(k for k in one if k not in other)]:
        entry = f"{name}.{key}" if name else key
        if differing := difference(one.get(key), other.get(key), entry):
            return differing
    return f"order of {name or 'configuration'}", _short(list(one)), _short(list(other))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _refuse_folder(folder: Path, got: str) -> NoReturn:
    must = "a folder without results, or with those of the same configuration"
    _checks.refuse("output", must, f"{str(folder)!r} with {got}", FileExistsError)


def _result_files(folder: Path) -> list[Path]:
    merged = folder / VALUES
    return [merged] * merged.exists() + sorted(folder.glob("part-*.csv"))


def recover(folder: Path, table: Table) -> dict[int, BatchResult]:
    """Reads all complete batches and removes the rows of incomplete ones.

    Args:
        folder (Path): The folder, which this process has locked.
        table (Table): The columns.

    Returns:
        dict[int, BatchResult]: The results by batch number.

    Raises:
        OSError: If a file cannot be read, or has other contents than a kill could have left.
    """
    results: dict[int, BatchResult] = {}
    for path in _result_files(folder):
        batches, end = _read(path, table)
        if end < path.stat().st_size:
            if path.name == VALUES:
                _damaged(path, "not complete")
            os.truncate(path, end)
        for batch in batches:
            other = results.setdefault(batch.number, batch)
            if table.format(other) != table.format(batch):
                _damaged(path, f"batch {batch.number} differs from that in another file")
    return results


def _read(path: Path, table: Table) -> tuple[list[BatchResult], int]:
    """The complete batches of a file, and the position in bytes where the last of them ends."""
    text = path.read_bytes().decode(errors="replace")
    header = table.header
    if not text.startswith(header):
        if header.startswith(text) or not text.strip("\0"):
            return [], 0
        _damaged(path, "other columns than those of this call")
    lines = text[len(header) :].split("\n")[:-1]  # without the unfinished last line
    batches: list[BatchResult] = []
    row, end = 0, len(header.encode())
    while row < len(lines):
        try:
            size = int(lines[row].split(",")[1])
            next_row = row + max(size, 1) * len(table.rows)
            if next_row > len(lines):
                if len({tuple(line.split(",")[:3]) for line in lines[row:]}) > 1:
                    raise ValueError("not the next line of its batch")
                break
            batches.append(table.parse(lines[row:next_row]))
        except (ValueError, IndexError, csv.Error) as error:
            _damaged(path, f"line {row + 2} or a later one is wrong ({error})")
        end += sum(len(line.encode()) + 1 for line in lines[row:next_row])
        row = next_row
    return batches, end


def _damaged(path: Path, got: str) -> NoReturn:
    must = "a folder with results as they were written"
    _checks.refuse("output", must, f"{str(path)!r}: {got}", OSError)


class Part:
    """The results of one process: a file that is open for appending.

    Args:
        folder (Path): The folder.
        table (Table): The columns.
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
        """Writes the results of a batch to the disk before it returns.

        Args:
            batch (BatchResult): The results.

        Raises:
            OSError: If that fails, for example because the disk is full. The results of this batch
                are then removed again.
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
            hint = "the results so far are complete, and the same call resumes from them"
            raise OSError(error.errno, f"{error.strerror}; {hint}", str(self.path)) from error

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def merge(folder: Path, table: Table, batches: Iterable[BatchResult]) -> None:
    """Writes ``values.csv`` and removes the parts.

    Args:
        folder (Path): The folder.
        table (Table): The columns.
        batches (Iterable[BatchResult]): The results of all batches.

    Raises:
        OSError: If the file cannot be written; the parts are then unchanged.
    """
    write_values(folder, table, batches)
    for path in folder.glob("part-*.csv"):
        path.unlink()


def write_values(folder: Path, table: Table, batches: Iterable[BatchResult]) -> None:
    """Writes ``values.csv``: the header, then each batch in the order of the data set.

    Args:
        folder (Path): The folder.
        table (Table): The columns.
        batches (Iterable[BatchResult]): The results of all batches.

    Raises:
        OSError: If the file cannot be written; an old one is then unchanged.
    """
    formatted = map(table.format, sorted(batches, key=lambda batch: batch.number))
    _files.replace(folder / VALUES, itertools.chain([table.header], formatted))
