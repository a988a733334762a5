"""What runs in each job: ``python -m minifold_pl.launch.watchdog PLAN``.

It queues its successor, starts training through ``srun``, and when that has ended decides by :mod:`rules` whether
to start it again here, to leave it to the successor, or to cancel the successor because the run is over. The successor
is queued *before* training takes the run folder's lease: whatever kills this job afterwards, and however, there is
somebody who goes on. Where several look after one folder, the lease lets one of them train.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from minifold_pl.launch import scheduler
from minifold_pl.launch.giving_up import give_up
from minifold_pl.launch.job import SubmissionError, submit
from minifold_pl.launch.lead import lead_for, measured
from minifold_pl.launch.plan import Plan, jobs_folder, read_plan
from minifold_pl.launch.record import append_job, chain, read_jobs, seconds_between, successor_of, unfinished
from minifold_pl.launch.rules import Ended, Next, Outcome, Verdict
from minifold_pl.launch.scheduler import SchedulerError
from minifold_pl.launch.tally import Tally
from minifold_pl.launch.tries import (
    Signals,
    attempts_after,
    made_progress,
    newest_attempt,
    run_once,
    told_to_stop,
)
from minifold_pl.run import exit_codes
from minifold_pl.run.lease import owner_of

FOR_EVER: Final = 10 * 365 * 86400
"""Seconds: a job waits for whoever trains as long as it has time."""
_LOOK: Final = 30.0
"""Seconds between two looks at what may change while training runs."""


class Allocation:
    """The job that this process runs in."""

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

    @property
    def seconds(self) -> float:
        """Since this process began."""
        return monotonic() - self.began


class Watchdog:
    """Looks after a run for the length of one job."""

    def __init__(self, plan: Plan, here: Allocation, signals: Signals) -> None:
        self.plan = plan
        self.here = here
        self.signals = signals
        self.successor: str | None = None
        self.lead = lead_for(plan)
        self.tally = Tally(plan, here.job, here.restart)
        self._end_time: float | None = None
        self._last_look = 0.0
        self._warned = False

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.plan.folder

    @property
    def output(self) -> Path:
        """Where this job prints."""
        return jobs_folder(self.folder) / f"{self.here.job}_0_log.out"

    def watch(self) -> int:
        """Look after the run until it is over or the job is; the exit code of the job."""
        lines = read_jobs(self.folder)
        successor = any(line.get("after") for line in lines if line.get("job") == self.here.job)
        self._note_the_lost()
        over = self.tally.over_already(successor=successor)
        if over is not None:
            return self._end(over)
        self._queue_successor()
        self._began()
        while True:
            verdict = self.tally.judge(
                self._try(),
                may_leave=self.successor is not None,
                asked_here=self.signals.first,
                gpu_hours=self._gpu_hours(),
            )
            if verdict.next is Next.END:
                return self._end(verdict)
            if verdict.next is Next.LEAVE or verdict.asked:
                # A signal that training had: somebody wants the machine, whether there is a successor or not.
                return self._leave(verdict)
            if not self._wait(verdict):
                return self._leave(Verdict(next=Next.LEAVE, why=f"stopped by {self.signals.first}"))

    def _note_the_lost(self) -> None:
        """Jobs that ended without a word: killed with everything in them, or on a machine that was lost."""
        seen = {(self.here.job, self.here.restart)}
        lines = read_jobs(self.folder)
        for line in unfinished(lines):
            job, restart = str(line.get("job")), int(line.get("restart") or 0)
            if (job, restart) in seen:
                continue
            state = "REQUEUED"
            if job != self.here.job:
                with suppress(SchedulerError):
                    known = scheduler.states([job], patience=5.0).get(job)
                    state = "UNKNOWN" if known is None else known.state
                    if known is not None and known.state in ("RUNNING", "COMPLETING", "SUSPENDED"):
                        continue
            starts = attempts_after(self.plan.run, int(line.get("attempt_before") or 0))
            until = max([str(one.last_seen) for one in starts], default=str(line.get("time", "")))
            spent = seconds_between(str(line.get("time", "")), until)
            append_job(
                self.folder,
                "lost",
                job=job,
                restart=restart,
                state=state,
                # What Slurm took away is not the run's fault; a crash that took everything along may be.
                asked=state not in ("FAILED", "OUT_OF_MEMORY", "COMPLETED"),
                why=f"the job ended without a word ({state.lower()})",
                progress=made_progress(starts),
                seconds=round(spent, 1),
                gpu_hours=round(spent * int(line.get("gpus") or 0) / 3600, 5),
            )

    def _queue_successor(self) -> None:
        """Have somebody who goes on, whatever happens to this job; after a requeue it is there already."""
        known = successor_of(read_jobs(self.folder), self.here.job)
        if known is not None and self.successor is None:
            try:
                state = scheduler.states([known], patience=10.0).get(known)
            except SchedulerError:
                # Nobody answers; where it is gone the next look tells.
                self.successor = known
                return
            if state is not None and state.live:
                self.successor = known
                return
            append_job(self.folder, "successor_gone", job=self.here.job, successor=known)
        try:
            self.lead = lead_for(self.plan)
            self.successor = submit(self.plan, lead=self.lead, after=self.here.job)
        except SubmissionError as error:
            self._say(f"no successor could be queued: {error}; trying again while the run trains")
            append_job(self.folder, "not_submitted", job=self.here.job, why=str(error))
            return
        append_job(
            self.folder,
            "submitted",
            cluster="slurm",
            job=self.successor,
            after=self.here.job,
            begin_s=0,
            name=self.plan.name,
            log=str(jobs_folder(self.folder) / f"{self.successor}_0_log.out"),
        )

    def _began(self) -> None:
        append_job(
            self.folder,
            "began",
            job=self.here.job,
            restart=self.here.restart,
            node=self.here.nodes,
            partition=self.here.partition,
            nodes=self.plan.resources.nodes,
            gpus=self.plan.resources.all_gpus,
            log=str(self.output),
            pid=os.getpid(),
            host=socket.gethostname(),
            lead=round(self.lead, 1),
            successor=self.successor,
            attempt_before=newest_attempt(self.plan.run),
        )
        requeued = f", put back into the queue {self.here.restart} times" if self.here.restart else ""
        self._say(f"job {self.here.job} on {self.here.nodes}{requeued}; successor {self.successor or 'none'}")

    def _try(self) -> Ended:
        self.tally.begin(newest_attempt(self.plan.run))
        return run_once(
            self._command(),
            self.plan.run,
            self.signals,
            output=self.output,
            environment=os.environ,
            every=self._look,
            several=self.plan.resources.processes > 1,
        )

    def _command(self) -> list[str]:
        asked = self.plan.resources
        several = ["--label"] if asked.processes > 1 else []
        return [
            "srun", "--kill-on-bad-exit=1", "--unbuffered", f"--nodes={asked.nodes}",
            f"--ntasks={asked.processes}", f"--ntasks-per-node={asked.tasks}", f"--cpus-per-task={asked.cpus}",
            *several, *asked.srun,
            self.plan.python, "-u", "-m", "minifold_pl", *self.tally.arguments(), f"--run.wait={FOR_EVER}",
        ]  # fmt: skip

    def _look(self, seconds: float) -> None:
        """While training runs: have a successor, keep to the budget, warn in time."""
        limit = self.plan.limits.max_gpu_hours
        if limit is not None and not self._warned:
            used = chain(read_jobs(self.folder)).gpu_hours + self._gpu_hours()
            if used >= limit:
                self._ask_to_leave(f"{used:.2f} GPU-hours are used")
        if monotonic() - self._last_look < _LOOK:
            return
        self._last_look = monotonic()
        if self.successor is None:
            self._queue_successor()
        needed = measured(self.plan.run) if self.plan.lead is None else None
        if needed is None or needed <= self.lead or self._warned:
            return
        end = self._ends_at()
        if end is not None and end - needed < datetime.now(UTC).timestamp():
            self._ask_to_leave(
                f"a save takes longer than Slurm was told: {needed:.0f} s before the time limit"
            )

    def _ends_at(self) -> float | None:
        if self._end_time is None:
            with suppress(ValueError):
                self._end_time = float(os.environ.get("SLURM_JOB_END_TIME", "0"))
            if not self._end_time:
                self._end_time = 0.0
                with suppress(SchedulerError, ValueError):
                    state = scheduler.states([self.here.job], patience=5.0).get(self.here.job)
                    if state is not None:
                        self._end_time = datetime.fromisoformat(state.end).astimezone().timestamp()
        return self._end_time or None

    def _ask_to_leave(self, why: str) -> None:
        self._warned = True
        self._say(f"{why}: asking the run to save and leave")
        with suppress(SchedulerError):
            scheduler.signal_steps(self.here.job)

    def _wait(self, verdict: Verdict) -> bool:
        """Whether there is a next start here."""
        if verdict.delay:
            self._say(f"{verdict.why}; starting again in {verdict.delay:.0f} s")
        else:
            self._say(f"{verdict.why}; starting again")
        end = monotonic() + verdict.delay
        while monotonic() < end and self.signals.first is None and told_to_stop(self.plan.run) is None:
            sleep(0.2)
        return self.signals.first is None

    def _leave(self, verdict: Verdict) -> int:
        if self.successor is None:
            self._queue_successor()
        if self.successor is not None and verdict.delay:
            with suppress(SchedulerError):
                scheduler.hold_back(self.successor, verdict.delay)
        append_job(
            self.folder,
            "left",
            job=self.here.job,
            restart=self.here.restart,
            seconds=round(self.here.seconds, 1),
            gpu_hours=round(self._gpu_hours(), 5),
            why=verdict.why,
            successor=self.successor,
            delay=verdict.delay,
        )
        follower = "this job, put back into the queue," if self.successor is None else f"job {self.successor}"
        self._say(f"{verdict.why}; {follower} goes on")
        if self.successor is None:
            try:
                scheduler.requeue(self.here.job)
            except SchedulerError as error:
                self._say(f"neither a successor could be queued nor this job put back: {error}")
                scheduler.say(self.here.job, f"{verdict.why}; no successor could be queued")
        return exit_codes.RETRY

    def _end(self, verdict: Verdict) -> int:
        assert verdict.outcome is not None
        known = self.successor or successor_of(read_jobs(self.folder), self.here.job)
        cancelled = None
        if known is not None and not self._goes_on_for_another(verdict):
            try:
                scheduler.cancel([known])
                cancelled = known
            except SchedulerError as error:
                # It starts, finds the run ended, and leaves.
                self._say(f"job {known} could not be cancelled: {error}")
        if verdict.outcome is Outcome.GAVE_UP:
            give_up(self.plan.run, verdict.why)
        if verdict.outcome in (Outcome.GAVE_UP, Outcome.HALTED):
            scheduler.say(self.here.job, verdict.why)
        append_job(
            self.folder,
            "ended",
            job=self.here.job,
            restart=self.here.restart,
            seconds=round(self.here.seconds, 1),
            gpu_hours=round(self._gpu_hours(), 5),
            outcome=verdict.outcome.value,
            why=verdict.why,
            cancelled=cancelled,
        )
        self._say(f"{verdict.outcome.value.replace('_', ' ')}: {verdict.why}")
        return verdict.code

    def _goes_on_for_another(self, verdict: Verdict) -> bool:
        """Whether the process that took the folder belongs to this chain, and needs the successor."""
        if verdict.outcome is not Outcome.TAKEN:
            return False
        with suppress(OSError, ValueError):
            owner = owner_of(self.plan.run)
            ours = {self.here.raw, self.here.job, self.successor}
            return owner is not None and owner.job.removeprefix("job ").split(",")[0] in ours
        return True

    def _gpu_hours(self) -> float:
        return self.here.seconds * self.plan.resources.all_gpus / 3600

    def _say(self, line: str) -> None:
        with suppress(OSError):
            print(f"[{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} watchdog] {line}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Look after the run of a plan; of an array's plans, the one of this task."""
    signals = Signals()
    here = Allocation()
    place = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) if len(arguments) > 1 else 0
    plan = read_plan(Path(arguments[place]))
    watchdog = Watchdog(plan, here, signals)
    with suppress(OSError):
        if len(arguments) > 1:
            _print_to(watchdog.output)
    return watchdog.watch()


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
