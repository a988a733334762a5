"""What ``events.jsonl`` says about a run, start by start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import owner_of
from minifold_pl.run.lease_file import file_name
from minifold_pl.run.marker import Marker, read_marker
from minifold_pl.run.owner import Owner, known_to_be_gone

ENDS: Final = ("done", "halted", "stopped", "retry", "interrupted", "failed")
"""Events with which a start ends; a start without one was killed, or still runs."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a run."""

    number: int
    began: str
    """Time of its first event, UTC of its own machine's clock; clocks jump."""
    last_seen: str
    """Time of its last event."""
    first_step: int | None = None
    """Applied optimizer steps when training began or went on; None where it did not come to that."""
    last_step: int | None = None
    """The highest step of any of its events: at least so far it came."""
    end: str = ""
    """One of :data:`ENDS`; empty where none was written."""
    reason: str = ""
    """Of its end: reason, signal or error."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each event came."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands."""

    marker: Marker | None
    """RUNNING, DONE or HALTED; None for a folder in which no training began."""
    attempts: tuple[Attempt, ...]
    owner: Owner | None
    """Who owns the folder, or left it without giving it back."""
    owner_gone: bool
    """Whether that process is known, from this machine, to have ended."""


def attempts(events: Iterable[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    """The starts of a run in their order; events of tools that own no folder are left out."""
    found: dict[int, Attempt] = {}
    for event in events:
        number = event.get("attempt")
        if not isinstance(number, int):
            continue
        name, time = str(event["event"]), str(event.get("time", ""))
        one = found.get(number) or Attempt(number=number, began=time, last_seen=time)
        one = replace(one, last_seen=time, counts={**one.counts, name: one.counts.get(name, 0) + 1})
        step = event.get("step")
        if isinstance(step, int):
            one = replace(one, last_step=step if one.last_step is None else max(step, one.last_step))
            if name in ("started", "resumed"):
                one = replace(one, first_step=step)
        if name in ENDS:
            told = next((event[key] for key in ("reason", "signal", "message") if event.get(key)), "")
            one = replace(one, end=name, reason=str(told))
        found[number] = one
    return tuple(found[number] for number in sorted(found))


def run_status(folder: RunFolder) -> RunStatus:
    """Where a run stands; writes nothing, asks no owner, and may be called from anywhere at any time."""
    owner = owner_of(folder)
    gone = owner is not None and known_to_be_gone(owner, folder.lease / file_name(owner.number))
    return RunStatus(
        marker=read_marker(folder.marker),
        attempts=attempts(read_events(folder.events)),
        owner=owner,
        owner_gone=gone,
    )
