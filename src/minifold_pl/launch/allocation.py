"""The job that a process runs in."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from time import monotonic

from minifold_pl.launch import scheduler
from minifold_pl.launch.scheduler import SchedulerError


class Allocation:
    """What Slurm has said in the environment about this job."""

    def __init__(self) -> None:
        environment = os.environ
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        self.job = f"{array}_{task}" if array else environment["SLURM_JOB_ID"]
        self.raw = environment["SLURM_JOB_ID"]
        """As the processes of the job know it."""
        self.restart = int(environment.get("SLURM_RESTART_COUNT", "0") or 0)
        """How often Slurm has put this very job back into the queue."""
        self.nodes = environment.get("SLURM_JOB_NODELIST", "")
        self.partition = environment.get("SLURM_JOB_PARTITION", "")
        self.began = monotonic()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Since this process began."""
        return monotonic() - self.began

    @property
    def ends_at(self) -> float | None:
        """When its time is over, in seconds since 1970; None where nobody says. Asked once."""
        if self._end is None:
            self._end = 0.0
            with suppress(ValueError):
                self._end = float(os.environ.get("SLURM_JOB_END_TIME", "0"))
            if not self._end:
                with suppress(SchedulerError, ValueError):
                    state = scheduler.states([self.job], patience=5.0).get(self.job)
                    if state is not None:
                        self._end = datetime.fromisoformat(state.end).astimezone().timestamp()
        return self._end or None
