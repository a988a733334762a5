"""The job that goes on after this one, whatever happens to this one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from minifold_pl.launch import scheduler
from minifold_pl.launch.job import SubmissionError, submit
from minifold_pl.launch.lead import lead_for
from minifold_pl.launch.plan import Plan, jobs_folder
from minifold_pl.launch.record import append_job, read_jobs, successor_of
from minifold_pl.launch.scheduler import SchedulerError


class Successor:
    """Queued before training begins, cancelled when the run is over.

    Args:
        plan: Of the run.
        after: The job that it follows.
        told: Called with lines for the log.
    """

    def __init__(self, plan: Plan, after: str, told: Callable[[str], None]) -> None:
        self.plan = plan
        self.after = after
        self.told = told
        self.job: str | None = None

    def queue(self) -> None:
        """Have one; after Slurm has put this job back into the queue it is there already."""
        known = successor_of(read_jobs(self.plan.folder), self.after)
        if known is not None:
            # Where nobody answers it counts as there.
            if self._state_of(known, unknown="PENDING") in scheduler.LIVE:
                self.job = known
                return
            append_job(self.plan.folder, "successor_gone", job=self.after, successor=known)
        lead = lead_for(self.plan)
        try:
            self.job = submit(self.plan, lead=lead, after=self.after)
        except SubmissionError as error:
            self.told(f"no successor could be queued: {error}; trying again while the run trains")
            append_job(self.plan.folder, "not_submitted", job=self.after, why=str(error))
            return
        append_job(
            self.plan.folder,
            "submitted",
            cluster="slurm",
            job=self.job,
            after=self.after,
            begin_s=0,
            name=self.plan.name,
            lead=round(lead, 1),
            log=str(jobs_folder(self.plan.folder) / f"{self.job}_0_log.out"),
        )

    def was_cancelled(self) -> bool:
        """Whether somebody has cancelled it: who cancels all jobs of a run wants none to come back."""
        return self.job is not None and self._state_of(self.job).startswith("CANCELLED")

    def have(self) -> None:
        """Have one, even where the last one has gone."""
        if self.job is not None and self._state_of(self.job, unknown="PENDING") not in scheduler.LIVE:
            self.job = None
        if self.job is None:
            self.queue()

    def hold_back(self, seconds: float) -> None:
        """It starts no sooner than that; where Slurm does not answer, it does."""
        if self.job is not None and seconds:
            with suppress(SchedulerError):
                scheduler.hold_back(self.job, seconds)

    def cancel(self) -> str | None:
        """Nobody has to go on; the job that was cancelled, if there was one."""
        known = self.job or successor_of(read_jobs(self.plan.folder), self.after)
        if known is None:
            return None
        try:
            scheduler.cancel([known])
        except SchedulerError as error:
            # It starts, finds the run ended, and leaves.
            self.told(f"job {known} could not be cancelled: {error}")
            return None
        return known

    def _state_of(self, job: str, unknown: str = "") -> str:
        """As Slurm says it; empty where it has forgotten the job, ``unknown`` where it does not answer."""
        try:
            state = scheduler.states([job], patience=10.0).get(job)
        except SchedulerError:
            return unknown
        return "" if state is None else state.state
