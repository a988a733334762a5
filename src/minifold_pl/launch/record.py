"""``jobs.jsonl``: which jobs a run had, how each ended and why, one JSON object a line (``docs/slurm.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from minifold_pl.run.events import append_event, read_events


def jobs_file(folder: Path) -> Path:
    """The file of a run folder."""
    return folder / "jobs.jsonl"


def append_job(folder: Path, event: str, **details: Any) -> bool:
    """Add a line; on a full disk it waits in memory for the next one.

    Returns:
        Whether it is on the disk.
    """
    path = jobs_file(folder)
    before = _size(path)
    append_event(path, event, **details)
    return _size(path) > before


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """The lines in the order of writing; empty where the run was never submitted."""
    return list(read_events(jobs_file(folder)))


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The jobs of a run since it was last submitted by a person, counted."""

    jobs: tuple[str, ...] = ()
    """Ids in the order of submission, the queued successor among them."""
    starts: int = 0
    """How often training was started."""
    fruitless: int = 0
    """Failed starts since the last newer checkpoint."""
    idle: int = 0
    """Starts since the last newer checkpoint that failed or were stopped from outside."""
    progressed: bool = False
    """Whether one of them left a newer checkpoint."""
    gpu_hours: float = 0.0
    """Of all jobs of the run, also of earlier submissions."""
    last: Mapping[str, Any] | None = None
    """The last line that says how a try or a job ended."""
    over: Mapping[str, Any] | None = None
    """The line that ended the chain."""

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self.starts - 1)


def chain(lines: Iterable[Mapping[str, Any]]) -> Chain:
    """Count what ``jobs.jsonl`` says."""
    jobs: list[str] = []
    starts = fruitless = idle = 0
    progressed = False
    hours = 0.0
    last: Mapping[str, Any] | None = None
    over: Mapping[str, Any] | None = None
    for line in lines:
        event = line["event"]
        if event == "submission":
            jobs, starts, fruitless, idle, progressed, last, over = [], 0, 0, 0, False, None, None
        elif event == "submitted":
            jobs.append(str(line.get("job")))
        elif event in ("try", "lost"):
            starts, last = starts + 1, line
            if line.get("progress"):
                fruitless = idle = 0
                progressed = True
            else:
                idle += 1
                fruitless += not line.get("asked")
        elif event in ("left", "ended"):
            last = line
            if event == "ended":
                over = line
        hours += float(line.get("gpu_hours") or 0.0)
    return Chain(
        jobs=tuple(jobs),
        starts=starts,
        fruitless=fruitless,
        idle=idle,
        progressed=progressed,
        gpu_hours=hours,
        last=last,
        over=over,
    )


def successor_of(lines: Iterable[Mapping[str, Any]], job: str) -> str | None:
    """The job that was queued to follow ``job``; None where there is none, or it was found to be gone."""
    found: str | None = None
    for line in lines:
        if line["event"] == "submitted" and line.get("after") == job:
            found = str(line.get("job"))
        elif line["event"] == "successor_gone" and line.get("successor") == found:
            found = None
    return found


def unfinished(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The ``began`` lines of jobs that still run or ended without a word: no ``left``, ``ended``, ``lost`` follows."""
    open_: dict[tuple[str, int], Mapping[str, Any]] = {}
    for line in lines:
        key = (str(line.get("job")), int(line.get("restart") or 0))
        if line["event"] == "began":
            open_[key] = line
        elif line["event"] in ("left", "ended", "lost"):
            open_.pop(key, None)
    return list(open_.values())


def seconds_between(first: str, second: str) -> float:
    """Of two ``time`` fields; 0 where a clock jumped back or a time is none."""
    try:
        return max(0.0, (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
