"""RUNNING, DONE, HALTED or STOPPED: the truth about a run is a marker in its folder, never an exit code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run import fence
from minifold_pl.run.events import read_events


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    DONE = "done"
    HALTED = "halted"
    STOPPED = "stopped"
    """By a person; it may be taken up again."""


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
    """The marker; where it is missing or damaged, what the events beside it say; None where nothing began.

    A run that halted must not train on because a file of it was lost.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {name.name: content[name.name] for name in fields(Marker) if name.name in content}
        return Marker(**{**known, "state": RunState(content["state"])})
    except (OSError, ValueError, TypeError, KeyError):
        return _from_events(path.with_name("events.jsonl"))


_STATES: Final = {
    "started": RunState.RUNNING,
    "resumed": RunState.RUNNING,
    "done": RunState.DONE,
    "halted": RunState.HALTED,
    "stopped": RunState.STOPPED,
}
"""The events that come with a marker, and its state; a start that ended in another way left the marker as it was."""


def _from_events(path: Path) -> Marker | None:
    last: dict[str, Any] | None = None
    try:
        for event in read_events(path):
            if event["event"] in _STATES:
                last = event
    except OSError:
        # As far as it could be read.
        pass
    if last is None:
        return None
    numbers = {name: last[name] for name in ("epoch", "step", "attempt") if isinstance(last.get(name), int)}
    return Marker(state=_STATES[last["event"]], reason=str(last.get("reason", "")), **numbers)
