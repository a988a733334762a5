"""Jobs of a run that ended without a word: killed with everything in them, or on a machine that was lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from minifold_pl.launch import scheduler
from minifold_pl.launch.plan import Plan
from minifold_pl.launch.record import append_job, read_jobs, seconds_between, unfinished
from minifold_pl.launch.scheduler import SchedulerError
from minifold_pl.launch.tries import attempts_after, made_progress

_THERE: Final = ("RUNNING", "COMPLETING", "SUSPENDED")
_OWN_FAULT: Final = ("FAILED", "OUT_OF_MEMORY", "COMPLETED")
"""What Slurm took away is not the run's fault; a crash that took everything along may be."""


def note_the_lost(plan: Plan, job: str, restart: int) -> None:
    """Write down for each such job what it came to, so that it counts.

    Args:
        plan: Of the run.
        job: The job that asks.
        restart: How often it was put back into the queue: its earlier lives may be among them.
    """
    for line in unfinished(read_jobs(plan.folder)):
        other, life = str(line.get("job")), int(line.get("restart") or 0)
        if (other, life) == (job, restart):
            continue
        state = "REQUEUED" if other == job else _state(other)
        if state in _THERE:
            continue
        starts = attempts_after(plan.run, int(line.get("attempt_before") or 0))
        began = str(line.get("time", ""))
        spent = seconds_between(began, max([one.last_seen for one in starts], default=began))
        append_job(
            plan.folder,
            "lost",
            job=other,
            restart=life,
            state=state,
            asked=state not in _OWN_FAULT,
            why=f"the job ended without a word ({state.lower()})",
            progress=made_progress(starts),
            seconds=round(spent, 1),
            gpu_hours=round(spent * int(line.get("gpus") or 0) / 3600, 5),
        )


def _state(job: str) -> str:
    with suppress(SchedulerError):
        known = scheduler.states([job], patience=5.0).get(job)
        if known is not None:
            return known.state
    return "UNKNOWN"
