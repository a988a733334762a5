"""Starts of a run that got nowhere: after a few of them somebody has to look."""

from __future__ import annotations

import json
from pathlib import Path

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run.halt import RunHalted


def begin_start(path: Path, step: int, *, limit: int | None, last_failure: str = "") -> int:
    """Count a start, unless as many as allowed before it got nowhere.

    A start gets somewhere when the next one finds a checkpoint with more steps. One that dies without a word
    (killed for memory, a crash of the interpreter) counts as one that fails with a message.

    Args:
        path: File of the run that holds the count.
        step: Optimizer steps in the checkpoint that this start goes on from; 0 without one.
        limit: Starts from the same step that may end without progress; None for no limit.
        last_failure: How the last one ended, for the message.

    Returns:
        How many starts before this one, from the same step, got nowhere.

    Raises:
        RunHalted: There were ``limit`` of them.
    """
    before = _read(path)
    count = before["without_progress"] if before["step"] == step else 0
    if limit is not None and count >= limit:
        how = (
            f"; the last one: {last_failure}"
            if last_failure
            else ", the last one without a word (out of memory?)"
        )
        raise RunHalted(f"{count} starts from step {step} ended without a newer checkpoint{how}")
    _write(path, count + 1, step)
    return count


def forgive_start(path: Path) -> None:
    """The start ends because it was asked to, by a signal: not its fault if it got nowhere."""
    before = _read(path)
    if before["without_progress"]:
        _write(path, before["without_progress"] - 1, before["step"])


def forget_starts(path: Path) -> None:
    """Somebody has looked: count anew."""
    path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(content[name]) for name in ("without_progress", "step")}
    except (OSError, ValueError, TypeError, KeyError):
        # A count that was lost costs some starts more, not the run.
        return {"without_progress": 0, "step": -1}


def _write(path: Path, count: int, step: int) -> None:
    atomic_write_text(path, json.dumps({"without_progress": count, "step": step}) + "\n")
