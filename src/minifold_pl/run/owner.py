"""Who owns a run folder: what an owner says about itself, and whether it is known to be gone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where process ids mean the same."""

    host: str
    """For people; names of hosts are not unique."""
    boot: str
    """The kernel's id of this boot; empty where there is none, and then no other process is on this machine."""
    pid_namespace: str
    """Containers on one machine have process ids of their own."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that has, or had, a run folder."""

    number: int
    """How often the folder had an owner, this one included."""
    token: str
    """Random."""
    machine: Machine
    pid: int
    started: str
    """When the process started, in the kernel's count: ids are used again."""
    since: str
    """UTC of that machine's clock, for people; never compared."""
    job: str
    """Job id and restart count of the scheduler; empty outside of one."""
    timeout: float
    """Seconds without a heartbeat after which the folder may be taken over."""
    locks: bool
    """Whether the owner holds a ``flock`` on its file: where it can be had, the owner is gone."""

    def __str__(self) -> str:
        job = f", {self.job}" if self.job else ""
        return f"process {self.pid} on {self.machine.host}{job} since {self.since}"

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The owner that wrote ``text``.

        Raises:
            ValueError: It is no such line.
        """
        try:
            content = json.loads(text)
            known = {f.name: content[f.name] for f in fields(cls)}
            return cls(**{**known, "machine": Machine(**content["machine"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not written by an owner: {text[:80]!r}") from error


def this_machine() -> Machine:
    """The machine and container that this process runs on."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return Machine(host=socket.gethostname(), boot=boot, pid_namespace=namespace)


def this_owner(number: int, token: str, timeout: float, locks: bool) -> Owner:
    """What this process says about itself as an owner."""
    job = os.environ.get("SLURM_JOB_ID", "")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Owner(
        number=number,
        token=token,
        machine=this_machine(),
        pid=os.getpid(),
        started=process_start(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        job=f"job {job}, restart {restarts}" if job else "",
        timeout=timeout,
        locks=locks,
    )


def known_to_be_gone(owner: Owner, path: Path, here: Callable[[], Machine] = this_machine) -> bool:
    """Whether it is certain from here that the owner's process has ended; False where nobody can tell.

    Args:
        owner: What it said about itself.
        path: Its file.
        here: This machine.
    """
    machine = here()
    if not machine.boot or machine.boot != owner.machine.boot:
        return False
    if machine.pid_namespace == owner.machine.pid_namespace:
        return _ended(owner)
    return owner.locks and _can_lock(path)


def _ended(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    started = process_start(owner.pid)
    return bool(started) and started != owner.started


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since the boot; ``ended`` for a zombie, empty where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name of the program stands in parentheses and may hold anything.
    columns = stat.rpartition(")")[2].split()
    return "ended" if columns[0] in "ZX" else columns[19]


def _can_lock(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared: several starters that look at the same moment do not take one another for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
