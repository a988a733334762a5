"""``metrics.csv``: every logged number, one row a step, whole across restarts."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from minifold_pl.checkpoint.atomic import atomic_write_text

STEP = "step"


class MetricsCSV(Logger):
    """A CSV logger for runs that are killed and resumed.

    Rows are keyed by the step; values that are logged for one step in several calls share its row. New columns may
    come at any time. When a run goes on from step ``s``, rows of later steps, which the resumed run will
    write again, are dropped, so that no step stands twice.

    Args:
        path: The file.
        flush_every: Rows between writes to disk; :meth:`save` writes at once.
    """

    def __init__(self, path: Path, flush_every: int = 20) -> None:
        super().__init__()
        self.path = path
        self.flush_every = flush_every
        self._columns: list[str] = [STEP]
        self._rows: list[dict[str, str]] = []
        self._written = 0
        self._header_changed = True
        if path.is_file():
            self._columns, self._rows = _read(path)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """One file a run: there are no versions."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are in ``config.yaml``."""

    @rank_zero_only
    def resume_from(self, step: int) -> None:
        """Drop the rows of steps after ``step``."""
        kept = [row for row in self._rows if int(row[STEP]) <= step]
        if len(kept) != len(self._rows):
            self._rows = kept
            self._header_changed = True
            self.save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``."""
        place = str(0 if step is None else step)
        if not self._rows or self._rows[-1][STEP] != place:
            if len(self._rows) - self._written >= self.flush_every:
                self.save()
            self._rows.append({STEP: place})
        elif self._written == len(self._rows):
            # The row is on disk already: write the file anew, once, when it is next saved.
            self._header_changed = True
        row = self._rows[-1]
        for name, value in metrics.items():
            if name not in self._columns:
                self._columns.append(name)
                self._header_changed = True
            row[name] = f"{float(value):.9g}" if name != "epoch" else str(int(value))

    @rank_zero_only
    def save(self) -> None:
        """Bring the file up to date: whole and in one step where columns are new, else by appending."""
        if self._header_changed:
            lines = [_line(self._columns)] + [self._format(row) for row in self._rows]
            atomic_write_text(self.path, "".join(lines))
            self._header_changed = False
        elif self._written < len(self._rows):
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write("".join(self._format(row) for row in self._rows[self._written :]))
        self._written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _format(self, row: Mapping[str, str]) -> str:
        return _line([row.get(column, "") for column in self._columns])


def _line(values: list[str]) -> str:
    # Names come from the code and numbers from %g: neither holds a comma, a quote or a line break.
    return ",".join(values) + "\n"


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [STEP])
        rows: list[dict[str, str]] = []
        for row in reader:
            # A line cut off by a kill or a full disk is left out; the resumed run writes it again.
            if not (row.get(STEP) or "").isdigit() or None in row.values():
                continue
            rows.append({k: v for k, v in row.items() if v})
    return columns, rows
