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

    Rows are keyed by the step; values that are logged for one step in several calls share its row, also when
    another step was logged between them. New columns may come at any time. When a run goes on from step ``s``, rows
    of later steps, which the resumed run will write again, are dropped: no step stands twice.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = [STEP]
        self._rows: dict[int, dict[str, str]] = {}
        self._unwritten: list[int] = []
        self._rewrite = True
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
        """Drop what was logged after ``step`` optimizer steps; Lightning counts the first step as 0."""
        kept = {place: row for place, row in self._rows.items() if place < step}
        if len(kept) != len(self._rows):
            self._rows, self._unwritten, self._rewrite = kept, [], True
            self.save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``."""
        place = 0 if step is None else step
        if place not in self._rows:
            self._rows[place] = {}
            self._unwritten.append(place)
        elif place not in self._unwritten:
            self._rewrite = True
        for name, value in metrics.items():
            if name not in self._columns:
                self._columns.append(name)
                self._rewrite = True
            self._rows[place][name] = str(int(value)) if name == "epoch" else f"{float(value):.9g}"

    @rank_zero_only
    def save(self) -> None:
        """Bring the file up to date: by appending, or anew in one step where columns or earlier rows changed."""
        if self._rewrite:
            lines = [self._format(place) for place in sorted(self._rows)]
            atomic_write_text(self.path, "".join([_line(self._columns), *lines]))
        elif self._unwritten:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write("".join(self._format(place) for place in self._unwritten))
        self._rewrite, self._unwritten = False, []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _format(self, place: int) -> str:
        row = self._rows[place]
        return _line([str(place), *(row.get(column, "") for column in self._columns[1:])])


def _line(values: list[str]) -> str:
    # Names come from the code and numbers from %g: neither holds a comma, a quote or a line break.
    return ",".join(values) + "\n"


def _read(path: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [STEP])
        rows: dict[int, dict[str, str]] = {}
        for row in reader:
            # A line cut off by a kill or a full disk is left out; the resumed run writes it again.
            place = row.pop(STEP, None) or ""
            if place.isdigit() and None not in row.values():
                rows[int(place)] = {name: value for name, value in row.items() if value}
    return columns, rows
