"""Asking Slurm, with patience: its controller is restarted, or busy, while jobs run on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

TIMEOUT: Final = 20.0
"""Seconds for one command."""
_PASSING: Final = (
    "Unable to contact", "Connection refused", "Socket timed out", "Connection timed out", "Zero Bytes",
    "communication", "Resource temporarily unavailable", "try again", "Slurm backup controller",
)  # fmt: skip
"""What the commands say where the controller is away for a while."""
LIVE: Final = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "STOPPED"}
)
"""States of a job that is, or will be, on a machine."""


class SchedulerError(Exception):
    """Slurm refused; the message is its own."""


class SchedulerAway(SchedulerError):
    """Slurm did not answer."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job as Slurm sees it."""

    job: str
    state: str
    """E.g. PENDING, RUNNING, PREEMPTED."""
    reason: str = ""
    """Why it waits."""
    nodes: str = ""
    start: str = ""
    end: str = ""
    """When its time is over."""

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in LIVE


def ask(command: Sequence[str], *, patience: float = 60.0) -> str:
    """The output of a Slurm command.

    Args:
        command: With its arguments.
        patience: Seconds for which to try again where the controller does not answer.

    Raises:
        SchedulerAway: It did not answer in that time, or there is no such command.
        SchedulerError: It refused.
    """
    end, delay = monotonic() + patience, 0.5
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            told, away = f"{command[0]} did not answer within {TIMEOUT:.0f} s", True
        except OSError as error:
            raise SchedulerAway(f"{command[0]}: {error.strerror}") from error
        else:
            if done.returncode == 0:
                return done.stdout
            told = (
                " ".join((done.stderr or done.stdout).split()) or f"{command[0]} ended with {done.returncode}"
            )
            away = any(word in told for word in _PASSING)
        if not away:
            raise SchedulerError(told)
        if monotonic() + delay > end:
            raise SchedulerAway(told)
        sleep(delay)
        delay = min(2 * delay, 10.0)


def states(jobs: Sequence[str], *, patience: float = 60.0) -> dict[str, JobState]:
    """The jobs that Slurm still knows, by id; one that is missing has ended some minutes ago.

    Raises:
        SchedulerError: Slurm does not answer.
    """
    found: dict[str, JobState] = {}
    for job in jobs:
        try:
            told = ask(["scontrol", "show", "job", "--oneliner", job], patience=patience)
        except SchedulerAway:
            raise
        except SchedulerError:
            continue
        words = dict(word.split("=", 1) for word in told.split() if "=" in word)
        found[job] = JobState(
            job=job,
            state=words.get("JobState", "UNKNOWN"),
            reason=words.get("Reason", ""),
            nodes=words.get("NodeList", ""),
            start=words.get("StartTime", ""),
            end=words.get("EndTime", ""),
        )
    return found


def cancel(jobs: Sequence[str], *, pending_only: bool = True, patience: float = 60.0) -> None:
    """End jobs; those that have ended are no error.

    Raises:
        SchedulerError: Slurm does not answer, or refuses.
    """
    if not jobs:
        return
    try:
        ask(["scancel", "--quiet", *(["--state=PENDING"] if pending_only else []), *jobs], patience=patience)
    except SchedulerAway:
        raise
    except SchedulerError:
        # It ends with 1, without a word, where a job has ended before.
        left = states(jobs, patience=patience).values()
        if any(one.state == "PENDING" or (one.live and not pending_only) for one in left):
            raise


def signal_steps(job: str, name: str = "USR1") -> None:
    """Ask the training of a running job to save and leave.

    Raises:
        SchedulerError: Slurm does not answer, or refuses.
    """
    ask(["scancel", "--quiet", f"--signal={name}", job], patience=20.0)


def hold_back(job: str, seconds: float) -> None:
    """Let a waiting job start no sooner than in ``seconds``.

    Raises:
        SchedulerError: Slurm does not answer, or refuses.
    """
    ask(
        ["scontrol", "update", f"JobId={job}", f"StartTime=now+{max(1, round(seconds))}seconds"],
        patience=20.0,
    )


def requeue(job: str) -> None:
    """Put a running job back into the queue, where it could not queue a successor.

    Raises:
        SchedulerError: Slurm does not answer, or refuses.
    """
    ask(["scontrol", "update", f"JobId={job}", "Requeue=1"], patience=30.0)
    ask(["scontrol", "requeue", job], patience=30.0)


def say(job: str, comment: str) -> None:
    """Leave a word in the job's own record, which is there when no disk takes one; best effort."""
    try:
        ask(["scontrol", "update", f"JobId={job}", f"Comment={comment[:200]}"], patience=5.0)
    except SchedulerError:
        return
