"""RUNNING, DONE or HALTED: the truth about a run is a marker in its folder, never an exit code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run import fence


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    DONE = "done"
    HALTED = "halted"


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A run's state and why."""

    state: RunState
    reason: str = ""
    epoch: int = 0
    step: int = 0
    attempt: int = 0
    """Which start of the run wrote it; 0 where nobody owned the folder. Filled in by :func:`write_marker`."""


def write_marker(path: Path, marker: Marker) -> None:
    """Replace the marker in one step.

    Raises:
        LeaseLost: Another process owns the run folder now.
        OSError: Disk full, read-only, …
    """
    fence.check(path)
    guard = fence.guard_of(path)
    content = asdict(marker) | ({} if guard is None else {"attempt": guard.number})
    atomic_write_text(path, json.dumps(content) + "\n")


def read_marker(path: Path) -> Marker | None:
    """The marker, or None where there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text())
        known = {name.name: content[name.name] for name in fields(Marker) if name.name in content}
        return Marker(**{**known, "state": RunState(content["state"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
