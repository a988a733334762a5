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
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from minifold_pl.launch import scheduler
from minifold_pl.launch.allocation import Allocation
from minifold_pl.launch.giving_up import give_up
from minifold_pl.launch.lead import lead_for, measured
from minifold_pl.launch.lost import note_the_lost
from minifold_pl.launch.plan import Plan, jobs_folder, read_plan
from minifold_pl.launch.record import append_job, chain, read_jobs
from minifold_pl.launch.rules import Ended, Next, Outcome, Verdict
from minifold_pl.launch.scheduler import SchedulerError
from minifold_pl.launch.successor import Successor
from minifold_pl.launch.tally import Tally
from minifold_pl.launch.tries import Signals, newest_attempt, run_once, told_to_stop
from minifold_pl.run import exit_codes
from minifold_pl.run.lease import owner_of

FOR_EVER: Final = 10 * 365 * 86400
"""Seconds: a job waits for whoever trains as long as it has time."""
_LOOK: Final = 30.0
"""Seconds between two looks at what may change while training runs."""


class Watchdog:
    """Looks after a run for the length of one job."""

    def __init__(self, plan: Plan, here: Allocation, signals: Signals) -> None:
        self.plan = plan
        self.here = here
        self.signals = signals
        self.successor = Successor(plan, here.job, self._say)
        self.lead = lead_for(plan)
        """Seconds before its time limit at which Slurm warns this job."""
        self.tally = Tally(plan, here.job, here.restart)
        self._last_look = monotonic()
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
        mine = [line for line in lines if line["event"] == "submitted" and line.get("job") == self.here.job]
        self.lead = next((float(line["lead"]) for line in mine if "lead" in line), self.lead)
        note_the_lost(self.plan, self.here.job, self.here.restart)
        over = self.tally.over_already(successor=any(line.get("after") for line in mine))
        if over is not None:
            return self._end(over)
        self.successor.queue()
        self._began()
        while True:
            verdict = self.tally.judge(
                self._try(),
                may_leave=self.successor.job is not None,
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
            successor=self.successor.job,
            attempt_before=newest_attempt(self.plan.run),
        )
        requeued = f", put back into the queue {self.here.restart} times" if self.here.restart else ""
        self._say(
            f"job {self.here.job} on {self.here.nodes}{requeued}; successor {self.successor.job or 'none'}"
        )

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
        if self.successor.job is None:
            self.successor.queue()
        needed = measured(self.plan.run) if self.plan.lead is None else None
        if needed is None or needed <= self.lead or self._warned:
            return
        end = self.here.ends_at
        if end is not None and end - needed < datetime.now(UTC).timestamp():
            self._ask_to_leave(
                f"a save takes longer than Slurm was told: {needed:.0f} s before the time limit"
            )

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
        if self.successor.was_cancelled():
            why = f"job {self.successor.job}, which was to go on, was cancelled"
            return self._end(Verdict(next=Next.END, outcome=Outcome.STOPPED, why=why, code=exit_codes.DONE))
        self.successor.have()
        self.successor.hold_back(verdict.delay)
        follower = self.successor.job
        append_job(
            self.folder,
            "left",
            job=self.here.job,
            restart=self.here.restart,
            seconds=round(self.here.seconds, 1),
            gpu_hours=round(self._gpu_hours(), 5),
            why=verdict.why,
            successor=follower,
            delay=verdict.delay,
        )
        self._say(f"{verdict.why}; {f'job {follower}' if follower else 'this job, put back,'} goes on")
        if follower is None:
            try:
                scheduler.requeue(self.here.job)
            except SchedulerError as error:
                self._say(f"neither a successor could be queued nor this job put back: {error}")
                scheduler.say(self.here.job, f"{verdict.why}; no successor could be queued")
        return exit_codes.RETRY

    def _end(self, verdict: Verdict) -> int:
        assert verdict.outcome is not None
        cancelled = None if self._goes_on_for_another(verdict) else self.successor.cancel()
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
            ours = {self.here.raw, self.here.job, self.successor.job}
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
    try:
        return watchdog.watch()
    except Exception as error:
        traceback.print_exc()
        # It counts as a failed start: the successor, if there is one, must not fail in the same way for ever.
        why = f"the watchdog failed: {type(error).__name__}: {error}"
        append_job(
            plan.folder, "try", job=here.job, restart=here.restart, code=exit_codes.FAILED, why=why, step=0
        )
        scheduler.say(here.job, why)
        return exit_codes.FAILED


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
