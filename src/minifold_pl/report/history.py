"""How a run went: its starts, the faults it survived, and its epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from minifold_pl.loggers.csv_table import EPOCH, read_rows
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.history import Attempt, run_status

_FAULTS: Final = {
    "nonfinite_batch": "batches with a NaN or infinite loss or gradient, left out",
    "non_finite_weights": "saves refused because weights were not finite",
    "loss_spike": "loss spikes",
    "early_sign": "early signs that the model cannot learn",
    "rolled_back": "returns to an older checkpoint",
    "tripwire": "modules without gradient",
    "record_quarantined": "damaged records, replaced",
    "hang": "hangs",
    "save_failed": "saves that failed",
    "checkpoint_damaged": "damaged checkpoints, passed over",
    "log_not_written": "logs that could not be written for a while",
    "marker_not_written": "markers that could not be written",
    "taken_over": "folders taken over from a dead process",
    "wandb_offline": "starts without an answer from W&B",
}
_KILLED: Final = "killed"
_FAILED: Final = ("retry", "interrupted", "failed", "halted", _KILLED)
_SHOWN: Final = (*_FAULTS, "config_changed", "code_changed", "after_halt", "tripwire_recovered", "hang_over")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the table of epochs."""

    number: int
    """Counted from 1, as the training's own table does."""
    step: int
    values: Mapping[str, float]
    status: str
    """``NEW BEST``, ``pat n`` or nothing."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the run."""

    number: int
    began: str
    seconds: float | None
    first_step: int | None
    last_step: int | None
    end: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class History:
    """What the run folder tells of the run's course."""

    state: str
    """``done``, ``running``, ``halted``, ``stopped`` or empty."""
    reason: str
    step: int
    epoch: int
    starts: tuple[Start, ...]
    resumes: int
    ends: Mapping[str, int]
    """How often a start ended otherwise than well: killed, retry, interrupted, …"""
    faults: tuple[tuple[str, int], ...]
    """What went wrong and was survived, in words, and how often."""
    notes: tuple[Mapping[str, str], ...]
    """Events worth a line: time, event, details."""
    epochs: tuple[Epoch, ...]
    columns: tuple[str, ...]
    """Of the epochs' values."""

    @property
    def seconds(self) -> float | None:
        """Of all starts together, as far as clocks tell."""
        known = [start.seconds for start in self.starts if start.seconds is not None]
        return sum(known) if known else None


def read_history(folder: RunFolder) -> History:
    """Read ``state.json``, ``events.jsonl`` and ``metrics.csv``; a missing file tells nothing."""
    status = run_status(folder)
    events = list(read_events(folder.events))
    running = status.owner is not None and not status.owner_gone
    starts = _starts(status.attempts, running) or _starts_without_numbers(events)
    counts = Counter(str(event.get("event")) for event in events)
    ends = Counter(start.end for start in starts if start.end in _FAILED)
    epochs, columns = _epochs(folder)
    marker = status.marker
    return History(
        state=str(marker.state) if marker else "",
        reason=marker.reason if marker else "",
        step=max([marker.step if marker else 0, *(epoch.step for epoch in epochs)]),
        epoch=max([marker.epoch if marker else 0, *(epoch.number for epoch in epochs)]),
        starts=starts,
        resumes=counts["resumed"],
        ends=dict(ends),
        faults=tuple((words, counts[name]) for name, words in _FAULTS.items() if counts[name]),
        notes=tuple(_note(event) for event in events if event.get("event") in _SHOWN),
        epochs=epochs,
        columns=columns,
    )


def _starts(attempts: Iterable[Attempt], running: bool) -> tuple[Start, ...]:
    found = [
        Start(
            number=one.number,
            began=one.began,
            seconds=_seconds(one.began, one.last_seen),
            first_step=one.first_step,
            last_step=one.last_step,
            end=one.end or _KILLED,
            reason=one.reason,
        )
        for one in attempts
        # A start that only looked, such as one that found the run done, trained nothing.
        if one.first_step is not None or one.end
    ]
    if found and running and found[-1].end == _KILLED:
        last = found[-1]
        found[-1] = Start(**{**last.__dict__, "end": "running"})
    return tuple(found)


def _starts_without_numbers(events: Iterable[Mapping[str, Any]]) -> tuple[Start, ...]:
    """Of runs whose events do not say which start they belong to."""
    found: list[dict[str, Any]] = []
    for event in events:
        name, time, step = event.get("event"), str(event.get("time", "")), event.get("step")
        if name in ("started", "resumed"):
            found.append(
                {"began": time, "seen": time, "first": step, "last": step, "end": _KILLED, "reason": ""}
            )
        elif found:
            found[-1].update(seen=time, last=step if isinstance(step, int) else found[-1]["last"])
            if name in ("done", *_FAILED):
                found[-1].update(end=name, reason=str(event.get("reason") or event.get("signal") or ""))
    return tuple(
        Start(
            number=number,
            began=one["began"],
            seconds=_seconds(one["began"], one["seen"]),
            first_step=one["first"],
            last_step=one["last"],
            end=one["end"],
            reason=one["reason"],
        )
        for number, one in enumerate(found, 1)
    )


def _seconds(began: str, ended: str) -> float | None:
    """Between two times; None where a clock went back or is not readable."""
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds >= 0 else None


def _note(event: Mapping[str, Any]) -> dict[str, str]:
    known = ("time", "event", "attempt", "epoch", "step")
    details = ", ".join(
        f"{name}: {_words(value)}"
        for name, value in event.items()
        if name not in known and value not in (None, "")
    )
    at = {name: str(event[name]) for name in known if event.get(name) is not None}
    return {**at, "details": details if len(details) <= 400 else details[:400] + " …"}


def _words(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _epochs(folder: RunFolder) -> tuple[tuple[Epoch, ...], tuple[str, ...]]:
    """One line an epoch: the last value of every column in it, and where the patience stood."""
    by_epoch: dict[int, tuple[int, dict[str, float]]] = {}
    order: dict[str, None] = {}
    for path in (folder.metrics, folder.performance):
        for columns, step, row, _, _ in read_rows(path):
            if step is None:
                order.update(dict.fromkeys(columns))
            elif EPOCH in row and row[EPOCH].isdigit():
                epoch = int(row[EPOCH])
                last, values = by_epoch.get(epoch, (0, {}))
                values.update(
                    {name: float(cell) for name, cell in row.items() if name != EPOCH and _is_number(cell)}
                )
                by_epoch[epoch] = max(last, step), values
    epochs = []
    for epoch, (step, values) in sorted(by_epoch.items()):
        wait = values.get("patience/wait")
        measured = any(name.startswith("val/") for name in values)
        status = "" if wait is None or not measured else "NEW BEST" if wait == 0 else f"pat {int(wait)}"
        # Lightning counts a step from 0; what is told elsewhere is the number of applied ones.
        epochs.append(Epoch(number=epoch + 1, step=step + 1, values=values, status=status))
    used = {name for epoch in epochs for name in epoch.values}
    return tuple(epochs), tuple(name for name in order if name in used)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
