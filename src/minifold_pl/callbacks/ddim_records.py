"""``ddim.jsonl``: the evaluations of a run, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.utilities import rank_zero_warn

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder

RECORDS: Final = "ddim.jsonl"


class DDIMRecords:
    """Writes the records of one run, of each optimizer step one.

    A disk that takes none does not end the training: a record waits in memory and in the checkpoints, and is written
    with the next one, at the end of an epoch, or at the end.
    """

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []
        self._troubled = False

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The records that are not on the disk yet."""
        return list(self._waiting)

    def take_up(self, folder: Path, step: int, waiting: Iterable[Mapping[str, Any]]) -> None:
        """Go on after ``step`` with what waited then; forget records of steps that will be taken again."""
        self._waiting = [dict(record) for record in waiting if record["step"] <= step]
        try:
            _forget_after(folder / RECORDS, step)
        except OSError as error:
            self._say(folder, error)
        self.write(folder)

    def add(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Add a record, in place of an older one of its step."""
        self._waiting = [past for past in self._waiting if past["step"] != record["step"]]
        self._waiting.append(dict(record))
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Try to write what waits."""
        if not self._waiting:
            return
        path = folder / RECORDS
        steps = {record["step"] for record in self._waiting}
        try:
            kept = [line for line in _lines(path) if json.loads(line)["step"] not in steps]
            atomic_write_text(path, "".join([*kept, *(json.dumps(r) + "\n" for r in self._waiting)]))
        except OSError as error:
            self._say(folder, error)
        else:
            self._waiting = []
            if self._troubled:
                self._troubled = False
                append_event(RunFolder(folder).events, "log_written_again", file=RECORDS)

    def _say(self, folder: Path, error: OSError) -> None:
        """Once for each time that the disk is in trouble."""
        if self._troubled:
            return
        self._troubled = True
        why = error.strerror or str(error)
        rank_zero_warn(f"{RECORDS} cannot be written ({why}): its records are kept and written later")
        append_event(RunFolder(folder).events, "log_not_written", file=RECORDS, error=why)


def _forget_after(path: Path, step: int) -> None:
    lines = _lines(path)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) != len(lines):
        atomic_write_text(path, "".join(kept))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if _is_record(line)]


def _is_record(line: str) -> bool:
    """A line that a kill cut off is none."""
    try:
        return line.endswith("\n") and "step" in json.loads(line)
    except json.JSONDecodeError:
        return False
