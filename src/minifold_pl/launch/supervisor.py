"""The same on a machine of one's own: ``python -m minifold_pl.launch.supervisor PLAN``.

It starts training, and again, until the run is over.

It is the watchdog without a scheduler: nobody queues, nobody is preempted, and the one who looks after the run has to
live as long as the run. When it is asked to stop it passes that on, waits for the save and ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep

from minifold_pl.launch.giving_up import give_up
from minifold_pl.launch.plan import Plan, jobs_folder, read_plan
from minifold_pl.launch.record import append_job, chain, read_jobs
from minifold_pl.launch.rules import Next, Outcome, Verdict
from minifold_pl.launch.tally import Tally
from minifold_pl.launch.tries import Signals, newest_attempt, run_once, told_to_stop
from minifold_pl.launch.watchdog import FOR_EVER
from minifold_pl.run import exit_codes
from minifold_pl.run.owner import process_start


def output_of(folder: Path) -> Path:
    """Where the runs of a supervisor print."""
    return jobs_folder(folder) / "local.log"


class Supervisor:
    """Looks after a run on this machine."""

    def __init__(self, plan: Plan, signals: Signals) -> None:
        self.plan = plan
        self.signals = signals
        self.began = monotonic()
        self.job = str(os.getpid())
        self.tally = Tally(plan, self.job)

    def watch(self) -> int:
        """Look after the run until it is over; the exit code."""
        folder = self.plan.folder
        over = self.tally.over_already(successor=False)
        if over is not None:
            return self._end(over)
        append_job(
            folder,
            "began",
            job=self.job,
            restart=0,
            node=socket.gethostname(),
            nodes=1,
            gpus=self.plan.resources.all_gpus,
            log=str(output_of(folder)),
            pid=os.getpid(),
            host=socket.gethostname(),
            started=process_start(os.getpid()),
            attempt_before=newest_attempt(self.plan.run),
        )
        while True:
            self.tally.begin(newest_attempt(self.plan.run))
            ended = run_once(
                [
                    self.plan.python,
                    "-u",
                    "-m",
                    "minifold_pl",
                    *self.tally.arguments(),
                    f"--run.wait={FOR_EVER}",
                ],
                self.plan.run,
                self.signals,
                output=output_of(folder),
                environment=os.environ,
                every=self._look,
            )
            verdict = self.tally.judge(
                ended, may_leave=False, asked_here=self.signals.first, gpu_hours=self._gpu_hours()
            )
            if verdict.next is Next.END:
                return self._end(verdict)
            if verdict.next is Next.AGAIN:
                self._say(f"{verdict.why}; starting again in {verdict.delay:.0f} s")
                end = monotonic() + verdict.delay
                while (
                    monotonic() < end and self.signals.first is None and told_to_stop(self.plan.run) is None
                ):
                    sleep(0.2)
            if self.signals.first is not None:
                return self._leave(f"stopped by {self.signals.first}")

    def _look(self, seconds: float) -> None:
        limit = self.plan.limits.max_gpu_hours
        if limit is not None and self.signals.first is None:
            used = chain(read_jobs(self.plan.folder)).gpu_hours + self._gpu_hours()
            if used >= limit:
                self._say(f"{used:.2f} GPU-hours are used: asking the run to save and leave")
                os.kill(os.getpid(), signal.SIGUSR1)

    def _leave(self, why: str) -> int:
        append_job(
            self.plan.folder, "left", job=self.job, restart=0, seconds=round(monotonic() - self.began, 1),
            gpu_hours=round(self._gpu_hours(), 5), why=why, successor=None, delay=0.0,
        )  # fmt: skip
        self._say(f"{why}; the same submit goes on with the run")
        return exit_codes.RETRY

    def _end(self, verdict: Verdict) -> int:
        assert verdict.outcome is not None
        if verdict.outcome is Outcome.GAVE_UP:
            give_up(self.plan.run, verdict.why)
        append_job(
            self.plan.folder, "ended", job=self.job, restart=0, seconds=round(monotonic() - self.began, 1),
            gpu_hours=round(self._gpu_hours(), 5), outcome=verdict.outcome.value, why=verdict.why, cancelled=None,
        )  # fmt: skip
        self._say(f"{verdict.outcome.value.replace('_', ' ')}: {verdict.why}")
        return verdict.code

    def _gpu_hours(self) -> float:
        return (monotonic() - self.began) * self.plan.resources.all_gpus / 3600

    def _say(self, line: str) -> None:
        with suppress(OSError):
            print(f"[{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} supervisor] {line}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Look after the run of a plan."""
    signals = Signals()
    return Supervisor(read_plan(Path(arguments[0])), signals).watch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
