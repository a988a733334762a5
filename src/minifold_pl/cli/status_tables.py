"""Where runs stand, for eyes: one run in full, several as a table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from minifold_pl.launch.status import ACTIVE, Report, Start, State
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.sparkline import curve_line

_STYLES: Final = {
    State.RUNNING: "green", State.DONE: "bold green", State.STARTING: "cyan", State.QUEUED: "cyan",
    State.STOPPING: "yellow", State.STOPPED: "yellow", State.INTERRUPTED: "yellow", State.UNKNOWN: "yellow",
    State.HALTED: "bold red", State.FAILED: "bold red", State.LOST: "bold red", State.NEW: "",
}  # fmt: skip
_STARTS: Final = 10
"""Rows of starts that are shown; the first and the last of more."""
_IN_A_HEADER: Final = frozenset({"time", "event", "attempt", "epoch", "step", "code", "fingerprint", "data"})


def one_run(report: Report) -> RenderableType:
    """A run in full."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for name, told in _facts(report):
        lines.add_row(name, Text(told))
    state = Text.assemble((str(report.path), "bold"), "  ", (report.state.upper(), _STYLES[report.state]))
    if report.why:
        state.append(f"  {report.why}")
    parts: list[RenderableType] = [state, lines]
    if report.starts:
        parts += [Text(""), _starts(report.starts)]
    if report.events:
        parts += [Text(""), _events(report)]
    told = advice(report)
    if told:
        parts += [Text(""), Text(told)]
    return Group(*parts)


def several_runs(reports: Sequence[Report]) -> RenderableType:
    """One row a run."""
    table = Table()
    for column, side in (
        ("run", "left"), ("state", "left"), ("step", "right"), ("epoch", "right"), ("left", "right"), ("best", "right"),
        ("restarts", "right"), ("GPU-h", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(column, justify="right" if side == "right" else "left", overflow="fold")
    for one in reports:
        told = one.progress
        best = "" if told.best is None else f"{told.best.monitor} {told.best.score:.4g}"
        table.add_row(
            escape(str(one.path)),
            Text(one.state, style=_STYLES[one.state]),
            _of(told.step, told.total_steps),
            _of(told.epoch, told.total_epochs),
            span(told.seconds_left) if one.state not in (State.DONE, State.HALTED) else "",
            escape(best),
            str(one.restarts) if one.starts else "",
            "" if one.gpu_hours is None else f"{one.gpu_hours:.1f}",
            escape("hangs" if one.hangs else one.why or _jobs(one)),
        )
    return table


def advice(report: Report) -> str:
    """What to type next; empty where nothing is to be done."""
    config = shlex.quote(str(RunFolder(report.path).config))
    path = shlex.quote(str(report.path))
    again = f"minifold-pl submit --again {path}, or fit --config {config}"
    saved = report.progress.saved_step
    where = "" if saved is None else f" from step {saved:,}"
    match report.state:
        case State.LOST | State.INTERRUPTED | State.FAILED:
            return f"goes on{where}: {again}"
        case State.HALTED:
            number = 0 if report.marker is None else report.marker.attempt
            return (
                "when the cause is put right: "
                f"minifold-pl submit --again {path} --after-halt, or "
                f"fit --config {config} --run.after_halt {number}"
            )
        case State.STOPPED:
            number = 0 if report.order is None else report.order.after
            return (
                f"taken up again{where}: minifold-pl submit --again {path}, or "
                f"fit --config {config} --run.after_stop {number}"
            )
        case State.STOPPING:
            return f"it saves and leaves; minifold-pl stop {path} waits for it, --kill ends it at once"
        case State.UNKNOWN:
            return f"starting it again is safe, two never train in one folder: {again}"
    return ""


def span(seconds: float | None) -> str:
    """A time span as people say it."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def _facts(report: Report) -> list[tuple[str, str]]:
    told = report.progress
    rows: list[tuple[str, str]] = []
    if told.step is not None:
        share = f" ({100 * told.step / told.total_steps:.0f} %)" if told.total_steps else ""
        text = f"{_of(told.step, told.total_steps)}{share}"
        if told.epoch is not None:
            text += f", epochs done {_of(told.epoch, told.total_epochs)}"
        if told.saved_step is not None:
            text += f", newest checkpoint at step {told.saved_step:,}"
        rows.append(("step", text))
    if told.seconds_left is not None and report.state not in (State.DONE, State.HALTED):
        text = f"{span(told.seconds_left)} of training at {told.seconds_per_step:.3g} s a step"
        if report.state is State.RUNNING:
            end = datetime.now().astimezone() + timedelta(seconds=told.seconds_left)
            text += f": done about {end:%a %d %b %H:%M} without interruptions"
        rows.append(("left", text))
    if told.best is not None:
        rows.append(("best", f"{told.best.monitor} {told.best.score:.4g} at step {told.best.step:,}"))
        curve = curve_line(RunFolder(report.path), told.best.monitor)
        if curve:
            rows.append(("curve", curve))
    if report.hangs:
        rows.append(
            (
                "hangs",
                f"nothing has moved since {report.hangs} (stacks-rank*.txt in the run folder say where)",
            )
        )
    if report.owner:
        rows.append(("owner" if report.state in ACTIVE else "last owner", report.owner))
    if report.jobs:
        rows.append(("jobs", _jobs(report)))
    if report.scheduler and report.state is not State.UNKNOWN:
        rows.append(("scheduler", report.scheduler))
    if report.starts:
        hours = (
            "" if report.gpu_hours is None else f", GPU-hours {report.gpu_hours:.2f} ({report.gpu_hours_by})"
        )
        rows.append(("starts", f"{len(report.starts)}, restarts {report.restarts}{hours}"))
    return rows


def _jobs(report: Report) -> str:
    told = []
    for job in report.jobs:
        text = f"{job.job} {job.state.lower()}"
        if job.waits:
            text += f" ({job.reason})" if job.reason else ""
        else:
            text += f" on {job.nodes}" if job.nodes else ""
            text += f", {span(job.left)} to its time limit" if job.left is not None else ""
        told.append(text)
    return "; ".join(told)


def _starts(starts: Sequence[Start]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("start", "job", "on", "began (UTC)", "steps", "ended", ""):
        table.add_column(column, justify="right" if column in ("start", "steps") else "left", overflow="fold")
    shown: list[Start | None] = list(starts)
    if len(starts) > _STARTS:
        shown = [starts[0], None, *starts[-(_STARTS - 1) :]]
    for one in shown:
        if one is None:
            table.add_row("…")
            continue
        first = "" if one.first_step is None else f"{one.first_step:,}"
        last = "" if one.last_step is None else f"{one.last_step:,}"
        table.add_row(
            str(one.number), one.job, one.host, _moment(one.began), f"{first} → {last}" if last else "",
            one.end, escape(one.why),
        )  # fmt: skip
    return table


def _events(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("last events (UTC)", "", "step", ""):
        table.add_column(column, justify="right" if column == "step" else "left", overflow="ellipsis")
    for event in report.events:
        step = event.get("step")
        table.add_row(
            _moment(str(event.get("time", ""))),
            escape(str(event["event"])),
            f"{step:,}" if isinstance(step, int) else "",
            escape(_details(event)),
        )
    return table


def _details(event: Any) -> str:
    told = [f"{k} {v}" for k, v in event.items() if k not in _IN_A_HEADER and v not in ("", None, [], {})]
    text = ", ".join(told)
    return text if len(text) <= 160 else f"{text[:160]}…"


def _moment(time: str) -> str:
    try:
        return f"{datetime.fromisoformat(time):%m-%d %H:%M:%S}"
    except ValueError:
        return time


def _of(number: int | None, total: int | None) -> str:
    if number is None:
        return ""
    return f"{number:,}" if total is None else f"{number:,} of {total:,}"
