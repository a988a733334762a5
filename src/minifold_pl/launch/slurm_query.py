"""What Slurm says about jobs, asked for a person who waits in front of a screen: once, with a short time-out.

``squeue`` knows jobs that are queued, run or ended some minutes ago (``MinJobAge``); ``sacct`` knows all of them for
good, where a site keeps accounts. Both are asked for fields that hold no free text, under fixed separators: ``--json``
needs plug-ins that sites leave out. The names of jobs are the callers'; what is unknown is left out of the answer.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

TIMEOUT: Final = 8.0
"""Seconds for one command."""
_QUEUE_FIELDS: Final = "%i|%T|%r|%S|%e|%L|%N|%P"
_ACCOUNT_FIELDS: Final = "JobID,State,ElapsedRaw,AllocTRES,Start,End,ExitCode"
_LIVE: Final = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
     "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)  # fmt: skip
_WAITING: Final = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
_AWAY: Final = re.compile(
    r"unable to contact|connection (refused|timed out|reset)|timed out|zero bytes|communication|temporarily|"
    r"problem talking|not responding|unable to connect",
    re.IGNORECASE,
)


class SlurmAbsent(Exception):
    """There is no Slurm on this machine."""


class SlurmSilent(Exception):
    """Slurm is there and does not answer, or refuses; the message says what."""


class NoAccounting(Exception):
    """The site keeps no accounts that could be asked."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job as the queue shows it."""

    job: str
    """Id; of an array's task ``12_3``."""
    state: str
    """E.g. PENDING, RUNNING, COMPLETED, PREEMPTED."""
    reason: str
    """Why it waits or ended; empty for none."""
    start: datetime | None
    """Began, or is expected to begin; local time of the cluster."""
    end: datetime | None
    """When its time limit is over."""
    left: float | None
    """Seconds to its time limit; None where it has none, or does not run."""
    nodes: str
    partition: str

    @property
    def live(self) -> bool:
        """Whether it runs or will."""
        return self.state in _LIVE

    @property
    def waits(self) -> bool:
        """Whether it is queued and has not begun."""
        return self.state in _WAITING


@dataclass(frozen=True, kw_only=True)
class AccountedJob:
    """One allocation of a job as the accounts have it; a job that was requeued has several."""

    job: str
    state: str
    seconds: float
    gpus: int
    start: datetime | None
    end: datetime | None
    exit_code: str
    """``code:signal``."""

    @property
    def gpu_hours(self) -> float:
        """GPUs × hours."""
        return self.gpus * self.seconds / 3600


def queued_jobs(jobs: Sequence[str]) -> dict[str, QueuedJob]:
    """Those of ``jobs`` that the queue still knows, by id.

    Raises:
        SlurmAbsent: No ``squeue`` here.
        SlurmSilent: No answer.
    """
    if not jobs:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", f"--format={_QUEUE_FIELDS}"]
    try:
        told = _ask([*command, f"--jobs={','.join(jobs)}"])
    except SlurmSilent as error:
        # It refuses where it knows none of them.
        if "invalid job id" in str(error).lower():
            return {}
        raise
    found: dict[str, QueuedJob] = {}
    for line in told.splitlines():
        fields = line.split("|")
        if len(fields) != 8:
            continue
        job, state, reason, start, end, left, nodes, partition = (field.strip() for field in fields)
        found[job] = QueuedJob(
            job=job,
            state=state,
            reason="" if reason == "None" else reason,
            start=_moment(start),
            end=_moment(end),
            left=None if state in _WAITING else seconds_of(left),
            nodes=nodes,
            partition=partition,
        )
    return found


def accounted_jobs(jobs: Sequence[str]) -> tuple[AccountedJob, ...]:
    """The allocations of ``jobs``, in the order of the accounts.

    Raises:
        NoAccounting: The site keeps none.
        SlurmAbsent: No ``sacct`` here.
        SlurmSilent: No answer.
    """
    if not jobs:
        return ()
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "--noconvert"]
    try:
        told = _ask([*command, f"--format={_ACCOUNT_FIELDS}", f"--jobs={','.join(jobs)}"])
    except SlurmSilent as error:
        if "disabled" in str(error).lower():
            raise NoAccounting(str(error)) from error
        raise
    found = []
    for line in told.splitlines():
        fields = line.split("|")
        if len(fields) != 7:
            continue
        job, state, elapsed, tres, start, end, code = (field.strip() for field in fields)
        found.append(
            AccountedJob(
                job=job,
                # CANCELLED by 1000
                state=state.split(" ")[0],
                seconds=float(elapsed) if elapsed.isdigit() else 0.0,
                gpus=gpus_of(tres),
                start=_moment(start),
                end=_moment(end),
                exit_code=code,
            )
        )
    return tuple(found)


def output_of(job: str) -> str:
    """Where a job prints, as long as the controller remembers it; empty where it does not.

    Raises:
        SlurmAbsent: No ``scontrol`` here.
        SlurmSilent: No answer.
    """
    try:
        told = _ask(["scontrol", "show", "job", job])
    except SlurmSilent as error:
        if "invalid job id" in str(error).lower():
            return ""
        raise
    # One field a line, as it may hold blanks.
    return next((line.strip()[7:] for line in told.splitlines() if line.strip().startswith("StdOut=")), "")


def seconds_of(text: str) -> float | None:
    """Seconds of ``days-hours:minutes:seconds`` with or without its front parts; None for words."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds + 86400 * int(days or 0)


def gpus_of(tres: str) -> int:
    """GPUs in a list of resources: ``cpu=8,gres/gpu=2,gres/gpu:a100=2`` has two."""
    counts = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    if "gres/gpu" in counts:
        return _count(counts["gres/gpu"])
    return sum(_count(number) for name, number in counts.items() if name.startswith("gres/gpu:"))


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a person's shell says about how tables are to look, and to which cluster a question goes."""
    kept = {k: v for k, v in environment.items() if not k.startswith(("SQUEUE_", "SACCT_", "SLURM_BITSTR"))}
    return {**kept, "SLURM_TIME_FORMAT": "standard", "LC_ALL": "C"}


def _ask(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise SlurmAbsent(f"there is no {command[0]} on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmSilent(f"{command[0]} did not answer within {TIMEOUT:.0f} s") from error
    except OSError as error:
        raise SlurmSilent(f"{command[0]}: {error.strerror or error}") from error
    said = " ".join(done.stderr.split())
    if done.returncode:
        raise SlurmSilent(said or f"{command[0]} ended with {done.returncode}")
    # squeue and sacct may end with 0 although nobody answered.
    if not done.stdout and _AWAY.search(said):
        raise SlurmSilent(said)
    return done.stdout
