"""How far a run has come, how fast it goes and when it will be done, read from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from minifold_pl.run.folder import RunFolder

BEST: Final = "best.ckpt"
_TAIL: Final = 1 << 16
"""Bytes at the end of a log that hold its last row."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best score of a run so far."""

    monitor: str
    score: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int | None = None
    """Applied optimizer steps that some file speaks of; None where nothing began."""
    epoch: int | None = None
    """Finished epochs."""
    saved_step: int | None = None
    """Where a start after a kill goes on: the newest checkpoint that was reported."""
    total_steps: int | None = None
    """Steps at the end, as far as the config says; patience may end it before. An estimate from epochs."""
    total_epochs: int | None = None
    seconds_per_step: float | None = None
    """With validation, sampling and saves in it; None before it can be told."""
    best: Best | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training to the end; None where it has no end or no pace yet."""
        if self.total_steps is None or self.step is None or self.seconds_per_step is None:
            return None
        return max(0, self.total_steps - self.step) * self.seconds_per_step


def progress(folder: RunFolder, events: Sequence[Mapping[str, Any]]) -> Progress:
    """How far the run has come.

    Args:
        folder: The run folder.
        events: Those of the run, in their order.
    """
    limits = _limits(folder.config)
    step, epoch = _place(events)
    logged = _last_logged_step(folder.metrics)
    if step is not None and logged is not None and _trains(events):
        # Rows are numbered from 0, and come more often than events.
        step = max(step, logged + 1)
    total = _total_steps(events, limits)
    return Progress(
        step=step,
        epoch=epoch,
        saved_step=_last_saved(events),
        total_steps=total,
        total_epochs=limits.get("max_epochs"),
        seconds_per_step=_pace(events),
        best=_best(events),
    )


def last_starts(events: Iterable[Mapping[str, Any]], key: str) -> Any:
    """What the last start that says it says under ``key``; None where none does."""
    found = None
    for event in events:
        if event["event"] in ("started", "resumed") and event.get(key) is not None:
            found = event[key]
    return found


def _limits(config: Path) -> dict[str, int]:
    try:
        trainer = yaml.safe_load(config.read_bytes())["trainer"]
        found = {name: trainer.get(name) for name in ("max_epochs", "max_steps")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, int) and value > 0}


def _place(events: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Of the last event that says where training stands: a run that went back to an older checkpoint stands there."""
    for event in reversed(events):
        if isinstance(event.get("step"), int):
            return event["step"], event["epoch"] if isinstance(event.get("epoch"), int) else None
    return None, None


def _trains(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last start has not ended in order: rows of a log may be ahead of its events then."""
    for event in reversed(events):
        if event["event"] in ("started", "resumed"):
            return True
        if event["event"] in ("done", "halted", "stopped", "retry", "interrupted", "failed", "settings"):
            return False
    return False


def _last_logged_step(path: Path) -> int | None:
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL))
            lines = stream.read().split(b"\n")
    except OSError:
        return None
    # What follows the last line's end was cut.
    for line in reversed(lines[:-1]):
        first = line.split(b",", 1)[0]
        if first.isdigit():
            return int(first)
    return None


def _last_saved(events: Iterable[Mapping[str, Any]]) -> int | None:
    found = None
    for event in events:
        if event["event"] == "saved" and event.get("file") != BEST and isinstance(event.get("step"), int):
            found = event["step"]
    return found


def _total_steps(events: Sequence[Mapping[str, Any]], limits: Mapping[str, int]) -> int | None:
    by_steps = limits.get("max_steps")
    epochs = limits.get("max_epochs")
    by_epochs = None
    if epochs is not None:
        told = last_starts(events, "steps_per_epoch")
        if isinstance(told, int | float) and told > 0:
            by_epochs = round(epochs * told)
        else:
            # Between two epochs' ends the quotient is too large; at an end it is right, and runs save there.
            ratios = [
                event["step"] / event["epoch"]
                for event in events
                if isinstance(event.get("step"), int)
                and isinstance(event.get("epoch"), int)
                and event["epoch"] > 0
            ]
            by_epochs = round(epochs * min(ratios)) if ratios else None
    known = [total for total in (by_steps, by_epochs) if total is not None]
    return min(known) if known else None


def _pace(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the last start that came far enough to tell: from its first step to its last event that says a step."""
    pace = None
    first: tuple[datetime, int] | None = None
    highest = -1
    for event in events:
        if event["event"] in ("settings", "started", "resumed"):
            first = None
        step = event.get("step")
        try:
            now = datetime.fromisoformat(str(event.get("time")))
        except ValueError:
            continue
        if not isinstance(step, int):
            continue
        if first is None:
            first, highest = (now, step), step
        elif step > highest and now > first[0]:
            # What comes later at the same step is no training: waiting, a stop.
            highest = step
            pace = (now - first[0]).total_seconds() / (step - first[1])
    return pace


def _best(events: Iterable[Mapping[str, Any]]) -> Best | None:
    found = None
    for event in events:
        if (
            event["event"] == "saved"
            and event.get("file") == BEST
            and isinstance(event.get("score"), int | float)
        ):
            found = Best(
                monitor=str(event.get("monitor", "")),
                score=float(event["score"]),
                step=int(event.get("step", 0)),
            )
    return found
