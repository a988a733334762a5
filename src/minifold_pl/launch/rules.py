"""What follows when training has ended: over, again here, or the successor's turn.

One place, for the jobs of a cluster and for a machine of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from minifold_pl.launch.plan import Limits
from minifold_pl.run import exit_codes
from minifold_pl.run.marker import Marker, RunState

STOPPED_BY: Final = {128 + 1: "SIGHUP", 128 + 10: "SIGUSR1", 128 + 12: "SIGUSR2", 128 + 15: "SIGTERM"}
"""Exit codes of a process that had such a signal before it listened: during Python's own start."""


class Next(StrEnum):
    """What to do."""

    END = "end"
    """The run is over, or somebody has to look: cancel the successor."""
    AGAIN = "again"
    """Start here again."""
    LEAVE = "leave"
    """Give the machine back; the successor goes on."""


class Outcome(StrEnum):
    """How a chain ended."""

    DONE = "done"
    HALTED = "halted"
    STOPPED = "stopped"
    GAVE_UP = "gave_up"
    TAKEN = "taken"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a start of training ended."""

    code: int
    """Exit code; 128 + n where signal n ended it."""
    asked: str | None = None
    """The signal that asked it to stop, if one did."""
    progress: bool = False
    """Whether there is a newer checkpoint than before."""
    marker: Marker | None = None
    """What the run folder says."""
    told: str = ""
    """Its last words."""
    stop: str | None = None
    """Why a person wants the run to end."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Before this start ended."""

    fruitless: int = 0
    idle: int = 0
    restarts: int = 0
    here: int = 0
    """Fruitless ones in this allocation."""
    gpu_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows."""

    next: Next
    why: str
    code: int = exit_codes.RETRY
    """With which the job ends."""
    outcome: Outcome | None = None
    """For an end."""
    delay: float = 0.0
    """Seconds until the next start."""
    asked: str | None = None
    """The signal that the start ended by, if it was one from outside."""


def judge(
    ended: Ended, counts: Counts, limits: Limits, *, may_leave: bool, asked_here: str | None = None
) -> Verdict:
    """What follows a start that has ended.

    Args:
        ended: How.
        counts: What was before.
        limits: When to give up.
        may_leave: Whether somebody else would go on.
        asked_here: A signal that the watching process itself had: it is to end, too.
    """
    state = None if ended.marker is None else ended.marker.state
    if ended.code == exit_codes.DONE and state is RunState.DONE:
        assert ended.marker is not None
        return _end(Outcome.DONE, ended.marker.reason or "finished", exit_codes.DONE)
    if ended.stop is not None and state is not RunState.HALTED:
        return _end(Outcome.STOPPED, ended.stop, exit_codes.DONE)
    if ended.code == exit_codes.HALTED:
        reason = ended.marker.reason if ended.marker is not None and state is RunState.HALTED else ended.told
        return _end(Outcome.HALTED, reason, exit_codes.HALTED)
    if ended.code == exit_codes.TAKEN:
        return _end(Outcome.TAKEN, ended.told or "another process goes on with the run", exit_codes.TAKEN)
    if ended.code == exit_codes.WRONG_USE:
        return _end(Outcome.GAVE_UP, ended.told or "wrong settings", exit_codes.WRONG_USE)
    asked = asked_here or ended.asked or STOPPED_BY.get(ended.code)
    why = f"stopped by {asked}" if asked else _how(ended)
    idle = 0 if ended.progress else counts.idle + 1
    fruitless = 0 if ended.progress else counts.fruitless + (asked is None)
    if fruitless >= limits.max_fruitless:
        return _end(
            Outcome.GAVE_UP,
            f"{fruitless} starts in a row failed without a newer checkpoint; the last one: {_how(ended)}",
            exit_codes.HALTED,
        )
    if idle >= limits.max_idle:
        return _end(
            Outcome.GAVE_UP,
            f"{idle} starts in a row ended without a newer checkpoint; the last one: {why}. Is the time limit too "
            "short for a start and a save?",
            exit_codes.HALTED,
        )
    beyond = over_budget(counts.restarts, counts.gpu_hours, limits)
    if beyond is not None:
        return _end(Outcome.GAVE_UP, f"{beyond}; the last start: {why}", exit_codes.HALTED)
    if asked is not None:
        kind = Next.LEAVE if may_leave or asked_here else Next.AGAIN
        return Verdict(next=kind, why=why, asked=asked)
    delay = 0.0 if not fruitless else min(limits.backoff * 2 ** (fruitless - 1), limits.longest_backoff)
    here = 0 if ended.progress else counts.here + 1
    # A second failure on the same machine may be the machine's fault.
    return Verdict(next=Next.LEAVE if may_leave and here >= 2 else Next.AGAIN, why=why, delay=delay)


def over_budget(restarts: int, gpu_hours: float, limits: Limits) -> str | None:
    """Why there may be no further start, or None."""
    if limits.max_restarts is not None and restarts >= limits.max_restarts:
        return f"the limit of {limits.max_restarts} restarts is reached (--max-restarts)"
    if limits.max_gpu_hours is not None and gpu_hours >= limits.max_gpu_hours:
        return f"{gpu_hours:.2f} GPU-hours are used, the limit is {limits.max_gpu_hours:g} (--max-gpu-hours)"
    return None


def _end(outcome: Outcome, why: str, code: int) -> Verdict:
    return Verdict(next=Next.END, outcome=outcome, why=why, code=code)


def _how(ended: Ended) -> str:
    if ended.code == exit_codes.DONE:
        how = "ended with code 0, though the run is not done"
    elif ended.code > 128:
        how = f"killed by signal {ended.code - 128}"
    else:
        how = f"exit code {ended.code}"
    return f"{how}: {ended.told}" if ended.told else how
