"""Where a run stands: what its folder says, whether its owner lives, and what the scheduler knows of its jobs.

None of the three is believed alone. A marker says what was true when it was written, a queue knows nothing of a
trainer that lives on on a lost machine, and a heartbeat nothing of a job that waits.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minifold_pl.launch.record import read_jobs, seconds_between, unfinished
from minifold_pl.launch.slurm_query import (
    AccountedJob,
    NoAccounting,
    QueuedJob,
    SlurmAbsent,
    SlurmSilent,
    accounted_jobs,
    queued_jobs,
)
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.history import Attempt, attempts
from minifold_pl.run.lease_file import Seen, newest
from minifold_pl.run.marker import Marker, RunState, read_marker
from minifold_pl.run.owner import known_to_be_gone, process_start
from minifold_pl.run.progress import Progress, last_starts, progress
from minifold_pl.run.signs_of_life import Life, look_for_life
from minifold_pl.run.stop_order import StopOrder, stop_order


class State(StrEnum):
    """Where a run stands, in a word."""

    NEW = "new"
    """Submitted or made, and nothing has begun."""
    QUEUED = "queued"
    """Nobody trains; a job waits for its turn."""
    STARTING = "starting"
    """A process or a job is there and does not train yet, or is between two starts."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Ordered to stop, and not there yet."""
    STOPPED = "stopped"
    DONE = "done"
    HALTED = "halted"
    """It ended itself for good, or was given up."""
    INTERRUPTED = "interrupted"
    """It ended in order, to be started again, and nobody is there to do it."""
    FAILED = "failed"
    """Its last start ended with an error, and nobody is there to start it again."""
    LOST = "lost"
    """The marker says that it runs; its owner is dead, and no job goes on with it."""
    UNKNOWN = "unknown"
    """The scheduler, or the disk, does not say."""


OVER = frozenset({State.DONE, State.HALTED, State.STOPPED})
"""Nothing more will happen by itself."""
ACTIVE = frozenset({State.QUEUED, State.STARTING, State.RUNNING, State.STOPPING})
"""Something will happen by itself."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the training, and why it ended."""

    number: int
    job: str
    """Job or supervisor; empty where a person started it."""
    host: str
    began: str
    first_step: int | None
    last_step: int | None
    end: str
    """As :attr:`minifold_pl.run.history.Attempt.end`; ``runs``, or ``killed`` where it left no word."""
    why: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is known of a run."""

    path: Path
    state: State
    why: str
    """Of the state, in a sentence; may be empty."""
    marker: Marker | None
    order: StopOrder | None
    life: Life
    owner: str
    """Who has the folder, or had it last and died; empty where nobody does."""
    progress: Progress
    starts: tuple[Start, ...]
    jobs: tuple[QueuedJob, ...] = ()
    """Those that the queue knows to run or wait."""
    gpu_hours: float | None = None
    """None where nobody counted."""
    gpu_hours_by: str = ""
    """Who counted: ``sacct``, ``run folder``."""
    scheduler: str = ""
    """What is wrong with asking it; empty where nothing is, or nothing was asked."""
    hangs: str = ""
    """Since when nothing moves; empty where something does."""
    events: tuple[Mapping[str, Any], ...] = field(default=())
    """The last ones."""

    @property
    def restarts(self) -> int:
        """Starts after the first one."""
        return max(0, len(self.starts) - 1)


def find_runs(root: Path, depth: int = 4) -> list[Path]:
    """Run folders below ``root``, in the order of their paths."""
    found: list[Path] = []
    try:
        names = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in names:
        if not entry.is_dir(follow_symlinks=True) or entry.name.startswith("."):
            continue
        path = Path(entry.path)
        if is_run(path):
            found.append(path)
        elif depth > 1:
            found += find_runs(path, depth - 1)
    return found


def is_run(path: Path) -> bool:
    """Whether a run was started, or submitted, in this folder."""
    folder = RunFolder(path)
    return (
        any(place.exists() for place in (folder.marker, folder.events, folder.lease, path / "jobs.jsonl"))
        or (folder.config.is_file() and folder.checkpoints.is_dir())
    )  # fmt: skip


def reports(
    paths: Sequence[Path], *, last_events: int = 8, patience: float | None = None
) -> tuple[Report, ...]:
    """Where each run stands; owners are watched, and the scheduler is asked, once for all of them.

    Args:
        paths: Run folders.
        last_events: How many of the last events to tell.
        patience: Seconds to watch for heartbeats at most; None: as long as it takes to be sure.
    """
    folders = [RunFolder(path) for path in paths]
    lines = [read_jobs(path) for path in paths]
    lives = look_for_life(folders, patience=patience)
    events = [list(read_events(folder.events)) for folder in folders]
    owners = [_owner(folder) for folder in folders]
    # Queues and accounts remember for good: everything that was ever submitted, and jobs of a person's own scripts.
    names = [
        _jobs(job_lines, told, owner) for job_lines, told, owner in zip(lines, events, owners, strict=True)
    ]
    every = sorted({job for one in names for job in one})
    queue, trouble = _queue(every)
    accounts = _accounts(every)
    return tuple(
        _report(
            folder, one_lines, one_events, life, owner,
            {job: queue[job] for job in jobs if job in queue},
            None if accounts is None else [one for one in accounts if one.job in jobs],
            trouble if jobs else "", last_events,
        )
        for folder, one_lines, one_events, life, owner, jobs in zip(
            folders, lines, events, lives, owners, names, strict=True
        )
    )  # fmt: skip


def supervisor_lives(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Process id of the supervisor that looks after the run on this very machine; None where none is seen."""
    for line in unfinished(lines):
        if _is_local(line) and line.get("host") == socket.gethostname():
            pid = line.get("pid")
            if isinstance(pid, int) and _is_supervisor(pid, str(line.get("started", ""))):
                return pid
    return None


def _is_local(line: Mapping[str, Any]) -> bool:
    return "partition" not in line and str(line.get("job")) == str(line.get("pid"))


def _is_supervisor(pid: int, started: str) -> bool:
    """Ids are used again: it has to be one of our processes, started when the supervisor was."""
    if started and process_start(pid) != started:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(b"minifold_pl" in word for word in words)


def _owner(folder: RunFolder) -> Seen | None:
    try:
        seen = newest(folder.lease)
    except OSError:
        return None
    return None if seen is None or seen.released else seen


def slurm_job_of(job: str) -> str:
    """The id in what an owner says of its job: ``job 12, restart 0``; empty where it has none."""
    return job.removeprefix("job ").split(",")[0] if job.startswith("job ") else ""


def _jobs(
    lines: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], owner: Seen | None
) -> set[str]:
    named = {
        str(line["job"])
        for line in lines
        if line.get("job")
        and (line.get("cluster") == "slurm" or (line["event"] == "began" and not _is_local(line)))
    }
    named |= {
        slurm_job_of(str(event["job"]))
        for event in events
        if event["event"] == "settings" and event.get("job")
    }
    if owner is not None and owner.owner is not None:
        named.add(slurm_job_of(owner.owner.job))
    return named - {""}


def _queue(jobs: Sequence[str]) -> tuple[dict[str, QueuedJob], str]:
    try:
        return queued_jobs(jobs), ""
    except SlurmAbsent:
        return {}, "there is no Slurm on this machine"
    except SlurmSilent as error:
        return {}, f"Slurm does not answer: {error}"


def _accounts(jobs: Sequence[str]) -> tuple[AccountedJob, ...] | None:
    try:
        return accounted_jobs(jobs)
    except (NoAccounting, SlurmAbsent, SlurmSilent):
        return None


def _report(
    folder: RunFolder,
    lines: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    life: Life,
    owner: Seen | None,
    queue: Mapping[str, QueuedJob],
    accounts: Sequence[AccountedJob] | None,
    trouble: str,
    last_events: int,
) -> Report:
    marker, order = read_marker(folder.marker), stop_order(folder)
    tries = attempts(events)
    live = tuple(job for job in queue.values() if job.live)
    local = supervisor_lives(lines)
    state, why = _state(
        marker,
        order,
        life,
        tries,
        live,
        local,
        _may_wait(lines, queue, trouble),
        _how_lost(owner),
        any(line["event"] == "submitted" for line in lines),
    )
    starts = _starts(tries, events, lines, accounts, life)
    hours, by = _gpu_hours(lines, events, tries, accounts, life)
    if state is State.UNKNOWN and trouble:
        why = f"{why}; {trouble}" if why else trouble
    return Report(
        path=folder.path,
        state=state,
        why=why,
        marker=marker,
        order=order,
        life=life,
        owner="" if owner is None else owner.who,
        progress=progress(folder, events),
        starts=starts,
        jobs=live,
        gpu_hours=hours,
        gpu_hours_by=by,
        scheduler=trouble,
        hangs=_hangs(events) if state is State.RUNNING else "",
        events=tuple(_telling(events)[-last_events:]) if last_events else (),
    )


def _may_wait(lines: Sequence[Mapping[str, Any]], queue: Mapping[str, QueuedJob], trouble: str) -> bool:
    """Whether a job may be queued that nobody can tell us of."""
    if not trouble or queue:
        return False
    over = False
    for line in lines:
        if line["event"] in ("submission", "submitted"):
            over = False
        elif line["event"] == "ended":
            over = True
    return any(line.get("cluster") == "slurm" for line in lines) and not over


def _state(
    marker: Marker | None,
    order: StopOrder | None,
    life: Life,
    tries: Sequence[Attempt],
    live: Sequence[QueuedJob],
    supervisor: int | None,
    may_wait: bool,
    how_lost: str,
    jobs_gone: bool,
) -> tuple[State, str]:
    marked = None if marker is None else marker.state
    works = [job for job in live if not job.waits]
    waits = [job for job in live if job.waits]
    last = tries[-1] if tries else None
    if life is not Life.LIVES:
        if marked is RunState.DONE and marker is not None and not waits and order is None:
            return State.DONE, marker.reason
        if marked is RunState.HALTED and marker is not None:
            return State.HALTED, marker.reason
    if order is not None:
        if marked is RunState.DONE and life is not Life.LIVES and marker is not None:
            return State.DONE, marker.reason
        busy = life is Life.LIVES or works or supervisor is not None
        return (State.STOPPING if busy else State.STOPPED), str(order).removeprefix("stopped ")
    if life is Life.LIVES:
        trains = last is not None and not last.end and {"started", "resumed"} & set(last.counts)
        return (State.RUNNING if trains else State.STARTING), ""
    if works:
        return State.STARTING, f"{_told(works[0])}; nobody trains at the moment"
    if supervisor is not None:
        return State.STARTING, f"supervisor {supervisor} is there; nobody trains at the moment"
    if waits:
        return State.QUEUED, _told(waits[0])
    if life is Life.UNKNOWN:
        return State.UNKNOWN, "whether its owner lives cannot be seen from here in so short a time"
    if may_wait:
        return State.UNKNOWN, "nobody trains; whether a job is queued is not known"
    if life is Life.GONE:
        return State.LOST, how_lost
    if last is None:
        if jobs_gone:
            return State.LOST, "none of its jobs is queued or runs, and training never began"
        return State.NEW, ""
    if last.end == "failed":
        return State.FAILED, last.reason
    if marked is RunState.DONE and marker is not None:
        return State.DONE, marker.reason
    if last.end in ("retry", "interrupted", "stopped"):
        return State.INTERRUPTED, last.reason
    return State.INTERRUPTED, "its last start ended before training began" if not last.end else last.reason


def _how_lost(owner: Seen | None) -> str:
    if owner is not None and owner.owner is not None and known_to_be_gone(owner.owner, owner.path):
        return "its process has ended without a word"
    return "no sign of life: its process is stopped, or its machine is lost or out of reach"


def _told(job: QueuedJob) -> str:
    text = f"job {job.job} {job.state.lower()}"
    if job.waits and job.reason:
        text += f" ({job.reason})"
    if job.waits and job.start is not None:
        text += f", expected {job.start:%Y-%m-%d %H:%M}"
    return text


def _starts(
    tries: Sequence[Attempt],
    events: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    accounts: Sequence[AccountedJob] | None,
    life: Life,
) -> tuple[Start, ...]:
    """Only those that came so far as to look at their settings: ``stop`` owns the folder for a moment, too."""
    where: dict[int, Mapping[str, Any]] = {}
    followed: dict[int, str] = {}
    for event in events:
        number = event.get("attempt")
        if not isinstance(number, int):
            continue
        if event["event"] == "settings":
            where[number] = event
        if event["event"] == "taken_over":
            followed[number - 1] = str(event.get("reason", ""))
    ended = {one.job: one.state.lower() for one in accounts or ()}
    lost = {str(line.get("job")): str(line.get("why", "")) for line in lines if line["event"] == "lost"}
    real = [one for one in tries if {"settings", "started", "resumed"} & set(one.counts)]
    found = []
    for one in real:
        told = where.get(one.number, {})
        job = slurm_job_of(str(told.get("job", ""))) or _local_job(lines, one.number)
        end, why = one.end, one.reason
        if not end and one is real[-1] and life is Life.LIVES:
            end = "runs"
        elif not end:
            end = "killed"
            state = ended.get(job, "")
            why = (
                lost.get(job)
                or (f"job {job} {state}" if state not in ("", "running") else "")
                or followed.get(one.number, "")
            )
        found.append(
            Start(
                number=one.number,
                job=job,
                host=str(told.get("host", "")),
                began=one.began,
                first_step=one.first_step,
                last_step=one.last_step,
                end=end,
                why=why,
            )
        )
    return tuple(found)


def _local_job(lines: Sequence[Mapping[str, Any]], number: int) -> str:
    """The supervisor that had begun before this start."""
    found = ""
    for line in lines:
        if line["event"] == "began" and _is_local(line) and int(line.get("attempt_before") or 0) < number:
            found = str(line["job"])
        elif line["event"] in ("ended", "left") and str(line.get("job")) == found:
            continue
    return found


def _gpu_hours(
    lines: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    tries: Sequence[Attempt],
    accounts: Sequence[AccountedJob] | None,
    life: Life,
) -> tuple[float | None, str]:
    if accounts:
        return sum(one.gpu_hours for one in accounts), "sacct"
    now = datetime.now(UTC).isoformat()
    if any(line["event"] == "began" for line in lines):
        hours = sum(float(line.get("gpu_hours") or 0.0) for line in lines)
        last = tries[-1].last_seen if tries else ""
        for line in unfinished(lines):
            until = now if life is Life.LIVES else last
            hours += seconds_between(str(line.get("time", "")), until) * int(line.get("gpus") or 0) / 3600
        return hours, "run folder"
    gpus = last_starts(events, "gpus")
    if not isinstance(gpus, int):
        return None, ""
    seconds = sum(seconds_between(one.began, one.last_seen) for one in tries)
    if life is Life.LIVES and tries:
        seconds += seconds_between(tries[-1].last_seen, now)
    return gpus * seconds / 3600, "run folder"


def _telling(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of saves in a row the last one: they would fill the screen."""
    return [
        event
        for event, following in zip_longest(events, events[1:])
        if following is None or event["event"] != "saved" or following["event"] != "saved"
    ]


def _hangs(events: Sequence[Mapping[str, Any]]) -> str:
    for event in reversed(events):
        if event["event"] in ("hang_over", "started", "resumed", "saved"):
            return ""
        if event["event"] == "hang":
            return str(event.get("time", ""))
    return ""


def jobs_of(folder: RunFolder) -> set[str]:
    """Slurm's jobs that a run ever had, as its folder says: submitted, begun, or a person's own."""
    return _jobs(read_jobs(folder.path), list(read_events(folder.events)), _owner(folder))
