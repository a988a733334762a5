"""``events.jsonl``: what happened to a run, one JSON object a line.

Every line has

``time``
    UTC, ISO 8601, of the clock of the machine that wrote it. Lines stand in the order in which they were written;
    clocks jump, so nothing is to be concluded from the order of their times.
``event``
    What happened, one word (see ``docs/run_folder.md``).
``attempt``
    Which start of the run wrote it, from 1 (the number of the lease); absent from tools that own no folder.
``epoch``, ``step``
    Where training stood: finished epochs, applied optimizer steps; absent before training has begun.

and what else belongs to the event, as plain values.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from minifold_pl.run import fence

_AT_MOST_EVERY: Final = 1.0
"""Seconds between two calls that wait for the disk: a storm of events must not slow the run."""
_KEPT: Final = 1000
"""Lines that are kept in memory while the file cannot be written; the oldest go first."""

_waiting: dict[Path, deque[str]] = {}
_places: dict[Path, Callable[[], Mapping[str, int]]] = {}
_synced: dict[Path, float] = {}


def append_event(path: Path, event: str, **details: Any) -> None:
    """Add one line with a single write, so that several processes may add lines at once.

    A line is whole or, at the worst, cut at its end by a full disk; the next one begins on a line of its own. A
    file that cannot be written is no reason to stop a run: the line waits in memory for the next event.

    Args:
        path: The run's ``events.jsonl``.
        event: What happened, e.g. ``started``, ``resumed``, ``halted``.
        details: Plain values; ``epoch`` and ``step`` are added where :func:`locate_events` says them.

    Raises:
        LeaseLost: Another process owns the run folder now.
    """
    guard = fence.guard_of(path)
    record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    if guard is not None:
        record["attempt"] = guard.number
    key = _key(path)
    if key in _places:
        record |= _places[key]()
    waiting = _waiting.setdefault(key, deque(maxlen=_KEPT))
    waiting.append(json.dumps(_plain({**record, **details})))
    if not fence.may_note(path):
        return
    try:
        _write(path, key, waiting)
    except OSError:
        return
    del _waiting[key]


def locate_events(path: Path, place: Callable[[], Mapping[str, int]] | None) -> None:
    """Have every event of this process say where training stands.

    Args:
        path: The run's ``events.jsonl``.
        place: Gives ``epoch`` and ``step``; None ends it.
    """
    if place is None:
        _places.pop(_key(path), None)
    else:
        _places[_key(path)] = place


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in the order in which they were written; a line that was cut is left out."""
    try:
        stream = open(path, "rb")  # noqa: SIM115  # a generator; closed below
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict) and isinstance(content.get("event"), str):
                yield content


def _write(path: Path, key: Path, waiting: deque[str]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        while waiting:
            data = ("\n" * _is_cut(descriptor) + waiting[0] + "\n").encode()
            if os.write(descriptor, data) < len(data):
                raise OSError(f"{path}: the disk took a part of a line only")
            waiting.popleft()
        if monotonic() - _synced.get(key, -math.inf) > _AT_MOST_EVERY:
            os.fsync(descriptor)
            _synced[key] = monotonic()
    finally:
        os.close(descriptor)


def _is_cut(descriptor: int) -> bool:
    """Whether the last line is cut; one that another process is just writing looks so for a moment."""
    end = -1
    while end != (end := os.fstat(descriptor).st_size):
        if end == 0 or os.pread(descriptor, 1, end - 1) == b"\n":
            return False
        sleep(0.005)
    return True


def _key(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it, which has no NaN and no paths."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
