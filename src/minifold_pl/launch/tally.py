"""The starts of a run, counted and judged, in the run folder and where that takes nothing, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from minifold_pl.launch.plan import Plan
from minifold_pl.launch.record import append_job, chain, read_jobs
from minifold_pl.launch.rules import Counts, Ended, Next, Outcome, Verdict, judge, over_budget
from minifold_pl.launch.tries import attempts_after, told_to_stop
from minifold_pl.run import exit_codes
from minifold_pl.run.marker import RunState, read_marker


class Tally:
    """Counts the starts of a run for the one who looks after it.

    Args:
        plan: Of the run.
        job: This job, or supervisor.
        restart: How often the job was put back into the queue.
    """

    def __init__(self, plan: Plan, job: str, restart: int = 0) -> None:
        self.plan = plan
        self.job = job
        self.restart = restart
        self.tries = 0
        self._fruitless = 0
        self._idle = 0
        self._here = 0
        self._before = 0

    def arguments(self) -> Sequence[str]:
        """Of the next start of ``minifold-pl``."""
        progressed = chain(read_jobs(self.plan.folder)).progressed
        return [*self.plan.arguments, *(() if progressed else self.plan.once)]

    def begin(self, attempts: int) -> None:
        """A start begins, after so many that left events."""
        self.tries += 1
        self._before = attempts

    def over_already(self, *, successor: bool) -> Verdict | None:
        """Why there is nothing to start.

        Args:
            successor: Somebody else of this submission was here before: what the run folder says is newer than what
                the person knew who submitted.
        """
        stop = told_to_stop(self.plan.run)
        if stop is not None:
            return _end(Outcome.STOPPED, stop, exit_codes.DONE)
        marker = read_marker(self.plan.run.marker)
        if successor and marker is not None and marker.state is RunState.DONE:
            return _end(Outcome.DONE, marker.reason, exit_codes.DONE)
        if successor and marker is not None and marker.state is RunState.HALTED:
            return _end(Outcome.HALTED, marker.reason, exit_codes.HALTED)
        now, limits = chain(read_jobs(self.plan.folder)), self.plan.limits
        # This start would be one more.
        beyond = over_budget(now.starts - 1, now.gpu_hours, limits)
        last = "" if now.last is None else f"; the last one: {now.last.get('why')}"
        if beyond is None and now.fruitless >= limits.max_fruitless:
            beyond = f"{now.fruitless} starts in a row failed without a newer checkpoint{last}"
        if beyond is None and now.idle >= limits.max_idle:
            beyond = f"{now.idle} starts in a row ended without a newer checkpoint{last}"
        return None if beyond is None else _end(Outcome.GAVE_UP, beyond, exit_codes.HALTED)

    def judge(self, ended: Ended, *, may_leave: bool, asked_here: str | None, gpu_hours: float) -> Verdict:
        """What follows a start that has ended; noted.

        Args:
            ended: How it ended.
            may_leave: Whether there is a successor.
            asked_here: A signal that the one who looks after the run had itself.
            gpu_hours: Of this job so far.
        """
        now = chain(read_jobs(self.plan.folder))
        counts = Counts(
            fruitless=max(now.fruitless, self._fruitless),
            idle=max(now.idle, self._idle),
            restarts=max(now.starts, self.tries - 1),
            here=self._here,
            gpu_hours=now.gpu_hours + gpu_hours,
        )
        verdict = judge(ended, counts, self.plan.limits, may_leave=may_leave, asked_here=asked_here)
        failed = not ended.progress and verdict.asked is None
        self._fruitless = 0 if ended.progress else counts.fruitless + failed
        self._idle = 0 if ended.progress else counts.idle + 1
        self._here = 0 if ended.progress else self._here + failed
        starts = attempts_after(self.plan.run, self._before)
        written = append_job(
            self.plan.folder,
            "try",
            job=self.job,
            restart=self.restart,
            code=ended.code,
            asked=verdict.asked,
            why=verdict.why,
            next=verdict.next.value,
            step=max((one.last_step or 0 for one in starts), default=0),
            progress=ended.progress,
            **{"try": self.tries},
        )
        if verdict.next is Next.LEAVE and verdict.asked is None and not written:
            # On a full disk nobody but this process knows how often it has failed.
            return Verdict(next=Next.AGAIN, why=verdict.why, delay=verdict.delay)
        return verdict


def _end(outcome: Outcome, why: str, code: int) -> Verdict:
    return Verdict(next=Next.END, outcome=outcome, why=why, code=code)
