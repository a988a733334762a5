"""Ending a run for good, cleanly, wherever it is: queued, starting, training here or elsewhere, dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic, sleep
from typing import Final

from minifold_pl.launch.record import read_jobs
from minifold_pl.launch.scheduler import SchedulerError, cancel, signal_steps
from minifold_pl.launch.slurm_query import QueuedJob, SlurmAbsent, SlurmSilent, queued_jobs
from minifold_pl.launch.status import jobs_of, supervisor_lives
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunEnded
from minifold_pl.run.lease import acquire
from minifold_pl.run.lease_file import Seen, newest
from minifold_pl.run.marker import RunState, read_marker
from minifold_pl.run.owner import known_to_be_gone, this_machine
from minifold_pl.run.signs_of_life import Life, look_for_life
from minifold_pl.run.stop_order import StopOrder, order_stop, stop_order, withdraw_stop
from minifold_pl.run.stopped import mark_stopped

_POLL: Final = 1.0
_SIGNAL_AFTER: Final = 5.0
"""Seconds in which a trainer finds the order by itself; then it is signalled, too."""
_KILL_WAIT: Final = 60.0
"""Seconds for killed jobs to end, and for a dead owner's heartbeat to time out."""


class Outcome(StrEnum):
    """What became of it."""

    STOPPED = "stopped"
    ALREADY = "already stopped"
    DONE = "done"
    """There was nothing to stop, or it was done before the order arrived."""
    HALTED = "halted"
    ORDERED = "ordered"
    """The order stands; the run has not ended yet."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run was ended."""

    outcome: Outcome
    order: StopOrder | None
    cancelled: tuple[str, ...] = ()
    """Jobs that were taken out of the queue."""
    killed: tuple[str, ...] = ()
    """Jobs, or a process, that were killed."""
    left: str = ""
    """Who is still there."""
    scheduler: str = ""
    """What is wrong with the scheduler; empty where nothing is."""


@dataclass
class _Ended:
    cancelled: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    signalled: set[str] = field(default_factory=set)
    scheduler: str = ""


def end_run(
    folder: RunFolder,
    *,
    by: str,
    reason: str = "",
    wait: float = 120.0,
    kill: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> Ending:
    """End a run for good.

    An order is put into its folder, which every process that trains or is about to finds; queued jobs are cancelled;
    what runs is signalled, saves and leaves. Then the marker says STOPPED. Doing it twice does no more.

    Args:
        folder: The run folder.
        by: User and machine.
        reason: In the user's words.
        wait: Seconds to wait for the end.
        kill: End what is still there then without its consent: steps since the last save are lost.
        told: Called with lines that say on what we wait.

    Raises:
        OSError: The folder cannot be written.
    """
    marker = read_marker(folder.marker)
    before = stop_order(folder)
    over = marker is not None and marker.state in (RunState.DONE, RunState.HALTED)
    done = _Ended()
    if over and before is None and not _who_is_there(folder, done):
        assert marker is not None
        return Ending(
            outcome=Outcome.DONE if marker.state is RunState.DONE else Outcome.HALTED,
            order=None,
            cancelled=tuple(done.cancelled),
            scheduler=done.scheduler,
        )
    order = order_stop(folder, by=by, reason=reason)
    left = _wait_for_the_end(folder, done, wait, told)
    if left and kill:
        told(f"killing {left}")
        _kill(folder, done)
        left = _wait_for_the_end(folder, done, _KILL_WAIT, told)
    outcome = Outcome.ORDERED if left else _note(folder, order, before)
    return Ending(
        outcome=outcome,
        order=None if outcome in (Outcome.DONE, Outcome.HALTED) else order,
        cancelled=tuple(done.cancelled),
        killed=tuple(done.killed),
        left=left,
        scheduler=done.scheduler,
    )


def _wait_for_the_end(folder: RunFolder, done: _Ended, wait: float, told: Callable[[str], None]) -> str:
    began, said = monotonic(), ""
    while True:
        left = _who_is_there(folder, done)
        if not left:
            return ""
        waited = monotonic() - began
        if waited >= wait:
            return left
        if waited >= _SIGNAL_AFTER or wait < _SIGNAL_AFTER:
            _signal(folder, done)
        if left != said:
            told(f"waiting for {left}")
            said = left
        sleep(min(_POLL, max(0.05, wait - waited)))


def _who_is_there(folder: RunFolder, done: _Ended) -> str:
    """Who trains or is about to, in words; takes what waits in the queue out of it, also what has just come there."""
    live = _live_jobs(folder, done)
    waits = [job.job for job in live if job.waits]
    if waits:
        try:
            cancel(waits, patience=5.0)
            done.cancelled += [job for job in waits if job not in done.cancelled]
        except SchedulerError as error:
            done.scheduler = str(error)
    works = [job for job in live if not job.waits]
    supervisor = supervisor_lives(read_jobs(folder.path))
    (life,) = look_for_life([folder])
    if life in (Life.LIVES, Life.UNKNOWN):
        seen = newest(folder.lease)
        return "another process" if seen is None else seen.who
    if works:
        return ", ".join(f"job {job.job} ({job.state.lower()})" for job in works)
    return "" if supervisor is None else f"supervisor {supervisor}"


def _live_jobs(folder: RunFolder, done: _Ended) -> list[QueuedJob]:
    try:
        queue = queued_jobs(sorted(jobs_of(folder)))
    except SlurmAbsent:
        return []
    except SlurmSilent as error:
        # Jobs that start later find the order, and leave.
        done.scheduler = str(error)
        return []
    done.scheduler = ""
    return [job for job in queue.values() if job.live]


def _signal(folder: RunFolder, done: _Ended) -> None:
    """Wake up what has not found the order: a process before its first heartbeat, a supervisor between two starts."""
    supervisor = supervisor_lives(read_jobs(folder.path))
    if supervisor is not None and f"{supervisor}" not in done.signalled:
        done.signalled.add(f"{supervisor}")
        with suppress(OSError):
            os.kill(supervisor, signal.SIGTERM)
    seen = _owner_here(folder)
    if seen is not None and seen.owner is not None and seen.owner.token not in done.signalled:
        done.signalled.add(seen.owner.token)
        with suppress(OSError):
            os.kill(seen.owner.pid, signal.SIGTERM)
    for job in _live_jobs(folder, done):
        if not job.waits and job.job not in done.signalled:
            done.signalled.add(job.job)
            with suppress(SchedulerError):
                signal_steps(job.job)


def _owner_here(folder: RunFolder) -> Seen | None:
    """The owner, where it is a process of this machine that can be signalled."""
    seen = newest(folder.lease)
    if seen is None or seen.released or seen.owner is None or seen.owner.machine != this_machine():
        return None
    if not seen.owner.machine.boot or known_to_be_gone(seen.owner, seen.path):
        return None
    return seen


def _kill(folder: RunFolder, done: _Ended) -> None:
    jobs = [job.job for job in _live_jobs(folder, done)]
    try:
        cancel(jobs, pending_only=False, patience=5.0)
        done.killed += [f"job {job}" for job in jobs]
    except SchedulerError as error:
        done.scheduler = str(error)
    supervisor = supervisor_lives(read_jobs(folder.path))
    seen = _owner_here(folder)
    owner = None if seen is None or seen.owner is None else seen.owner.pid
    for pid in (supervisor, owner):
        if pid is not None:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                done.killed.append(f"process {pid}")


def _note(folder: RunFolder, order: StopOrder, before: StopOrder | None) -> Outcome:
    """Have the marker say STOPPED, unless the run came to another end first."""
    marker = read_marker(folder.marker)
    if marker is not None and marker.state in (RunState.DONE, RunState.HALTED):
        withdraw_stop(folder)
        return Outcome.DONE if marker.state is RunState.DONE else Outcome.HALTED
    if marker is not None and marker.state is RunState.STOPPED and marker.reason == str(order):
        return Outcome.STOPPED if before is None else Outcome.ALREADY
    try:
        with acquire(folder):
            mark_stopped(folder, order)
    except RunEnded:
        # Somebody has begun in this very moment: it finds the order.
        return Outcome.ORDERED
    return Outcome.STOPPED
