"""``events.jsonl``: what happened to a run, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def append_event(path: Path, event: str, **details: Any) -> None:
    """Add one line; a line is written whole or, at the worst, cut at the end by a full disk.

    After a cut line it begins a new one, so that one event is lost and not two.

    Args:
        path: The run's ``events.jsonl``.
        event: What happened, e.g. ``started``, ``resumed``, ``best``, ``halted``.
        details: Plain values.
    """
    line = json.dumps(
        {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
    )
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = os.fstat(descriptor).st_size
        cut = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        os.write(descriptor, ("\n" * cut + line + "\n").encode())
    finally:
        os.close(descriptor)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in order; a line that was cut is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
