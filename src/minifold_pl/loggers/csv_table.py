"""A CSV file of one row a step that kills, full disks and resumes leave whole."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minifold_pl.checkpoint.atomic import atomic_write_text

STEP: Final = "step"
EPOCH: Final = "epoch"
"""The first two columns; the others follow in alphabetical order, whenever they came."""

Row = dict[str, str]
"""Values of a step by column, as they are written; no entry where there is no value."""


@dataclass
class _File:
    """What lies on the disk."""

    columns: list[str] = field(default_factory=list)
    last: int = -1
    """Step of the last row; -1 without rows."""
    last_row: Row = field(default_factory=dict)
    last_start: int = 0
    """Where the last row begins."""
    end: int = 0
    """Where the next row goes; what lies behind is the rest of a line that was cut."""
    size: int = -1
    """Bytes; another size than we know of means that somebody else has written."""


class CsvTable:
    """One row a step, in the order of steps, columns in alphabetical order: the file depends on the values alone.

    It does not depend on when a column was first seen, on how often the run was started, nor on where it was
    killed. Rows go to the end of the file; a row that is still growing is written over; only a new column, or a
    value for an earlier row, writes the file anew (beside it and renamed). Only rows that are not in the file,
    and the last one, are held in memory.

    Args:
        path: The file; it is neither read nor written before the first call that needs to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: _File | None = None
        self._changed: dict[int, Row] = {}
        self._back: tuple[int, dict[int, Row]] | None = None

    def add(self, step: int, values: Mapping[str, str]) -> None:
        """Set values of a row; they are in memory until :meth:`flush`."""
        self._changed.setdefault(step, {}).update(values)

    def flush(self, *, durable: bool = False) -> None:
        """Bring the file up to date.

        Args:
            durable: Also have the system put it on the disk.

        Raises:
            OSError: Disk full, read-only, …: everything stays in memory, and the next call tries again.
        """
        if self._back is not None:
            step, rows = self._back
            self._rewrite(rows, before=step)
            self._back = None
        if self._changed:
            file = self._look()
            new = {name for row in self._changed.values() for name in row} - set(file.columns)
            if new or min(self._changed) < file.last or not file.columns:
                self._rewrite(self._changed)
            else:
                self._append(file)
            self._changed = {}
        if durable and self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def state(self) -> dict[int, Row]:
        """The rows that may still grow: the last one, and those that could not be written yet.

        With the rows before them, which lie in the file, they are the whole table.
        """
        kept, last = self._changed, {}
        if self._back is not None:
            kept = {
                **self._back[1],
                **{step: {**self._back[1].get(step, {}), **row} for step, row in kept.items()},
            }
        else:
            file = self._look()
            last = {file.last: file.last_row} if file.last >= 0 else {}
        merged = {
            step: dict(sorted({**last.get(step, {}), **kept.get(step, {})}.items()))
            for step in {*last, *kept}
        }
        return dict(sorted(merged.items()))

    def go_back(self, step: int, rows: Mapping[int, Mapping[str, str]] | None = None) -> None:
        """Make the table what it was at ``step`` optimizer steps, from the next :meth:`flush` on.

        Args:
            step: Rows from this one on are dropped (the first step's row is 0).
            rows: What :meth:`state` said then: these rows are put back as they were, and rows behind the first of
                them dropped; ``step`` plays no part.
        """
        back = {place: dict(row) for place, row in (rows or {}).items()}
        self._changed = {}
        self._back = (min(back, default=step), back)

    def _look(self) -> _File:
        """What is in the file; a cut last line does not count."""
        size = self.path.stat().st_size if self.path.exists() else -1
        if self._file is None or self._file.size != size:
            self._file = _File(size=size)
            for columns, step, row, start, end in read_rows(self.path):
                found = self._file
                found.columns, found.end = columns, end
                if step is not None:
                    found.last, found.last_row, found.last_start = step, row, start
        return self._file

    def _append(self, file: _File) -> None:
        """Write the changed rows behind the file's, over the last one where it has grown."""
        rows, start = self._changed, file.end
        if file.last in rows:
            rows[file.last] = {**file.last_row, **rows[file.last]}
            start = file.last_start
        steps = sorted(rows)
        lines = [_line(step, rows[step], file.columns).encode() for step in steps]
        # Should the write be cut short, what is in the file has to be looked up.
        self._file = None
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            end = _write_at(descriptor, b"".join(lines), start)
            os.ftruncate(descriptor, end)
        finally:
            os.close(descriptor)
        self._file = _File(file.columns, steps[-1], rows[steps[-1]], end - len(lines[-1]), end, end)

    def _rewrite(self, changes: Mapping[int, Row], before: int | None = None) -> None:
        """Write the file with ``changes`` merged in; of its rows only those ``before`` a step."""
        rows: dict[int, Row] = {}
        for _, step, row, _, _ in read_rows(self.path):
            if step is not None and (before is None or step < before):
                rows.setdefault(step, {}).update(row)
        for step, row in changes.items():
            rows[step] = {**rows.get(step, {}), **row}
        if not rows and not self.path.exists():
            return
        names = {name for row in rows.values() for name in row}
        columns = [STEP, *([EPOCH] if EPOCH in names else []), *sorted(names - {EPOCH})]
        text = "".join([_header(columns), *(_line(step, rows[step], columns) for step in sorted(rows))])
        self._file = None
        if not _holds(self.path, text.encode()):
            atomic_write_text(self.path, text)


class CsvReader:
    """Reads a table that another process writes: what is new since the last call.

    The last row is left out, as it may still grow, unless it is asked for.

    Args:
        path: The file; it may be missing, and may be replaced by another one at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = -1
        """The highest step in the file."""
        self._given = -1
        self._place = 0
        self._header = b""
        self._columns: list[str] = []

    def new(self, *, all_of_it: bool = False) -> dict[int, Row]:
        """Rows of steps behind those that were given before."""
        found = self._from_place()
        if found is None:
            self._place, self._columns = 0, []
            found = self._from_place() or {}
        if not all_of_it:
            found.pop(self.last, None)
        self._given = max(self._given, *found, -1)
        return found

    def _from_place(self) -> dict[int, Row] | None:
        """New rows from where the last one began; None where that is another file now."""
        try:
            with open(self.path, "rb") as stream:
                header = stream.readline()
        except FileNotFoundError:
            return {}
        before, self._header = self._header, header
        if self._place and header != before:
            return None
        found: dict[int, Row] = {}
        first = self._place > 0
        for columns, step, row, start, _ in read_rows(self.path, self._place, self._columns):
            self._columns = columns
            if step is None:
                continue
            if first and step != self.last:
                return None
            first = False
            # The last row is read again next time.
            self.last, self._place = step, start
            if step > self._given:
                found[step] = row
        return None if first else found


def read_rows(
    path: Path, place: int = 0, columns: list[str] | None = None
) -> Iterator[tuple[list[str], int | None, Row, int, int]]:
    """Columns, step, row, and the bytes from where to where, of each whole line; the header has no step.

    Args:
        path: The file; a missing one has no lines.
        place: Where to begin, at the start of a line.
        columns: The columns, where that is not the file's start.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115  # a generator; closed below
    except FileNotFoundError:
        return
    with stream:
        stream.seek(place)
        columns = columns or []
        for raw in stream:
            start, place = place, place + len(raw)
            if not raw.endswith(b"\n"):
                return
            try:
                cells = next(csv.reader([raw.decode()]), [])
            except (UnicodeDecodeError, csv.Error):
                continue
            if not columns:
                if cells[:1] != [STEP]:
                    return
                columns = cells
                yield columns, None, {}, start, place
            elif len(cells) == len(columns) and cells[0].isdigit():
                row = {name: cell for name, cell in zip(columns[1:], cells[1:], strict=True) if cell}
                yield columns, int(cells[0]), row, start, place


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write_at(descriptor: int, data: bytes, place: int) -> int:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written
    return place


def _header(columns: Iterable[str]) -> str:
    # Names may hold commas; numbers never need quotes.
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(columns)
    return out.getvalue()


def _line(step: int, row: Mapping[str, str], columns: list[str]) -> str:
    return ",".join([str(step), *(row.get(column, "") for column in columns[1:])]) + "\n"
