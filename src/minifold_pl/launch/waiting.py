"""Waiting for the end of a run that is on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from minifold_pl.launch import scheduler
from minifold_pl.launch.record import chain, read_jobs
from minifold_pl.launch.scheduler import SchedulerError
from minifold_pl.launch.submission import _lives
from minifold_pl.run import exit_codes

_LOOK = 5.0
_CODES = {
    "done": exit_codes.DONE, "stopped": exit_codes.DONE, "taken": exit_codes.TAKEN,
    "halted": exit_codes.HALTED, "gave_up": exit_codes.HALTED,
}  # fmt: skip


def wait_for(folder: Path, cluster: str, told: Callable[[str], None]) -> int:
    """Until a run is over, telling what happens to its jobs; the exit code says how it ended (as that of ``fit``).

    Args:
        folder: The run folder.
        cluster: ``slurm`` or ``local``.
        told: Called with a line for each thing that happens.
    """
    seen = 0
    nobody_since: float | None = None
    while True:
        lines = read_jobs(folder)
        for line in lines[seen:]:
            text = _line(line)
            if text:
                told(text)
        seen = len(lines)
        now = chain(lines)
        if now.over is not None:
            return _CODES.get(str(now.over.get("outcome")), exit_codes.FAILED)
        if _somebody(now.jobs, cluster):
            nobody_since = None
        elif nobody_since is None:
            nobody_since = monotonic()
        elif monotonic() - nobody_since > 3 * _LOOK:
            told("no job of the run is left, and none has said why; the same submit goes on with it")
            return exit_codes.RETRY
        sleep(_LOOK if cluster == "slurm" else 1.0)


def _somebody(jobs: tuple[str, ...], cluster: str) -> bool:
    if cluster == "local":
        return any(_lives(int(job)) for job in jobs[-1:])
    try:
        # The last two: the one that runs and its successor.
        return any(state.live for state in scheduler.states(jobs[-2:], patience=60.0).values())
    except SchedulerError:
        return True


def _line(line: dict[str, object]) -> str:
    job, why = line.get("job"), line.get("why")
    match line["event"]:
        case "began":
            return f"job {job} runs on {line.get('node')}"
        case "try":
            return f"job {job}: {why} (step {line.get('step')})"
        case "lost":
            return f"job {job}: {why}"
        case "ended":
            return f"{str(line.get('outcome')).replace('_', ' ')}: {why}"
        case "not_submitted":
            return f"job {job} could not queue its successor: {why}"
    return ""
