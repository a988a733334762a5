"""``metrics.csv`` and ``perf.csv``: every logged number, one row a step, whole across restarts."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from minifold_pl.loggers.csv_table import EPOCH, STEP, CsvTable
from minifold_pl.run.events import append_event
from minifold_pl.run.fence import may_write

PERFORMANCE: Final = "perf/"
"""Names of what depends on the machine and the moment: times, memory, throughput."""
_FLUSH_EVERY = 10.0
"""Seconds; what is newer may be in memory only, and a checkpoint puts all of it on the disk."""


class MetricsCSV(Logger):
    """A CSV logger for runs that are killed and resumed.

    ``metrics.csv`` is a function of the training alone: a run that was killed and resumed, however often, ends
    with the bytes of the run that was not. So what differs from run to run, every name that begins with ``perf/``,
    goes to ``perf.csv`` beside it.

    Rows are keyed by the step; values that are logged for one step in several calls share its row, also when
    another step was logged between them. New columns may come at any time. Where the file cannot be written, a
    warning and an event say so, the numbers stay in memory and are written when it can be.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._tables = {
            "metrics": CsvTable(path),
            "perf": CsvTable(path.with_name("perf.csv")),
        }
        self._troubled: set[str] = set()
        self._flushed = monotonic()

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
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``."""
        values = {name: _text(name, value) for name, value in metrics.items() if name != STEP}
        parts: dict[str, dict[str, str]] = {"metrics": {}, "perf": {}}
        for name, value in values.items():
            if name != EPOCH:
                parts["perf" if name.startswith(PERFORMANCE) else "metrics"][name] = value
        for table, part in parts.items():
            if part:
                if EPOCH in values:
                    part[EPOCH] = values[EPOCH]
                self._tables[table].add(0 if step is None else int(step), part)
        if monotonic() - self._flushed > _FLUSH_EVERY:
            self._flush(durable=False)

    @rank_zero_only
    def save(self) -> None:
        """Put every row so far on the disk."""
        self._flush(durable=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to carry so that :meth:`resume_from` is exact: the rows that may still grow."""
        return {"rows": self._tables["metrics"].state()} if getattr(rank_zero_only, "rank", 0) == 0 else {}

    @rank_zero_only
    def resume_from(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Make the files what they were after ``step`` optimizer steps; Lightning counts the first step as 0.

        Args:
            step: Rows of this and later steps, which the resumed run will log again, are dropped.
            state: What :meth:`state_dict` gave for the checkpoint; without it, values that were logged for the last
                step after the checkpoint was made stay.
        """
        self._tables["metrics"].go_back(step, (state or {}).get("rows"))
        self._tables["perf"].go_back(step)
        self.save()

    def _flush(self, *, durable: bool) -> None:
        if not may_write(self.path):
            return
        self._flushed = monotonic()
        for name, table in self._tables.items():
            try:
                table.flush(durable=durable)
            except OSError as error:
                if name not in self._troubled:
                    self._troubled.add(name)
                    told = f"{table.path.name} cannot be written ({error.strerror or error})"
                    warnings.warn(f"{told}: its numbers are kept in memory and written later", stacklevel=2)
                    self._note("log_not_written", file=table.path.name, error=error.strerror or str(error))
            else:
                if name in self._troubled:
                    self._troubled.remove(name)
                    self._note("log_written_again", file=table.path.name)

    def _note(self, event: str, **details: Any) -> None:
        append_event(self.path.with_name("events.jsonl"), event, **details)


def _text(name: str, value: float) -> str:
    return str(int(value)) if name == EPOCH else f"{float(value):.9g}"
