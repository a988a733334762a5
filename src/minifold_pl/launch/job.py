"""One job of a run, written and submitted by submitit."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import Any, Final

from submitit import SlurmExecutor
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from minifold_pl.launch.environment import left_the_job
from minifold_pl.launch.plan import Plan, jobs_folder
from minifold_pl.launch.resources import seconds

WARNING: Final = "USR1"
"""The signal that says that time is almost over."""
_IGNORED: Final = "trap '' TERM USR1 USR2 HUP"
"""The shell and whatever it starts outlive a warning that comes before they listen; Slurm's KILL ends them."""
_TRIES: Final = 6
_REFUSED: Final = (FailedSubmissionError, UncompletedJobError, subprocess.SubprocessError)
"""How submitit tells that sbatch has ended with an error."""


class SubmissionError(Exception):
    """The scheduler did not take the job; the message is its own."""


class _Executor(SlurmExecutor):
    """Submits a command of ours: nothing is pickled, and submitit handles no signal in the job."""

    @classmethod
    def affinity(cls) -> int:
        """A script can be written where there is no Slurm."""
        return 2

    def text(self, command: str) -> str:
        """The batch script."""
        return self._make_submission_file_text(command, "plan")

    def submit_command(self, command: str) -> str:
        """Submit it; the job's id."""
        return str(self._submit_command(command).job_id)

    def array(self, count: int) -> None:
        """Make it an array."""
        self.parameters["map_count"] = count


def script(
    plan: Plan,
    *,
    lead: float,
    after: str | None = None,
    delay: float = 0.0,
    plans: Sequence[Path] = (),
    parallel: int = 256,
    folder: Path | None = None,
) -> str:
    """The batch script of a job.

    Args:
        plan: Of the run; of the first one for an array.
        lead: Seconds before the time limit at which the run is asked to stop.
        after: Job that must have ended first.
        delay: Seconds until it may start.
        plans: Files of the plans of an array's runs.
        parallel: Jobs of an array that may run at the same time.
        folder: Where the scripts and the output of an array lie.
    """
    return _executor(plan, lead, after, delay, plans, parallel, folder).text(_command(plan, plans))


def submit(
    plan: Plan,
    *,
    lead: float,
    after: str | None = None,
    delay: float = 0.0,
    plans: Sequence[Path] = (),
    parallel: int = 256,
    folder: Path | None = None,
) -> str:
    """Submit a job; arguments as in :func:`script`. It takes nothing over from a job that this runs in.

    Returns:
        The job's id.

    Raises:
        SubmissionError: The scheduler does not take it.
    """
    with left_the_job():
        executor = _executor(plan, lead, after, delay, plans, parallel, folder)
        command = _command(plan, plans)
        told = ""
        for n in range(_TRIES):
            if n:
                sleep(min(2.0**n, 10.0))
            try:
                return executor.submit_command(command)
            except OSError as error:
                # No room for the script's file: sbatch takes it as input.
                told = str(error)
                try:
                    return _from_input(executor.text(command))
                except (*_REFUSED, OSError) as second:
                    told = _told(second)
            except _REFUSED as error:
                told = _told(error)
            if not any(
                word in told for word in ("contact", "timed out", "refused", "communication", "again")
            ):
                break
        raise SubmissionError(told)


def _from_input(text: str) -> str:
    done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True, check=True, timeout=60.0)
    return str(_Executor._get_job_id_from_submission_command(done.stdout))


def _told(error: Exception) -> str:
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else str(text)
    return " ".join(text.split()) or type(error).__name__


def _command(plan: Plan, plans: Sequence[Path]) -> str:
    given = [str(path) for path in plans] or [str(plan.path)]
    return shlex.join([plan.python, "-u", "-m", "minifold_pl.launch.watchdog", *given])


def _executor(
    plan: Plan,
    lead: float,
    after: str | None,
    delay: float,
    plans: Sequence[Path],
    parallel: int,
    folder: Path | None,
) -> _Executor:
    asked = plan.resources
    more: dict[str, Any] = {
        "signal": f"{WARNING}@{round(lead)}",
        ("requeue" if asked.requeue else "no-requeue"): True,
        "chdir": os.getcwd(),
    }
    if delay:
        more["begin"] = f"now+{max(1, round(delay))}"
    more |= {name.replace("_", "-"): value for name, value in asked.extra.items() if value is not False}
    parameters: Mapping[str, Any] = {
        "job_name": plan.name,
        "time": max(1, -(-seconds(asked.time) // 60)),
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks,
        "gpus_per_node": asked.gpus or None,
        "cpus_per_task": asked.cpus,
        "mem": asked.mem,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "exclude": asked.exclude,
        "nodelist": asked.nodelist,
        "mail_user": asked.mail_user,
        "mail_type": asked.mail_type,
        "dependency": None if after is None else f"afterany:{after}",
        "setup": [_IGNORED, *asked.setup],
        "stderr_to_stdout": True,
        "use_srun": False,
        "wckey": None,
        "array_parallelism": parallel,
        "additional_parameters": more,
    }
    executor = _Executor(folder or jobs_folder(plan.folder))
    # Not update_parameters(): it renames some and refuses None, which here means the site's default.
    executor.parameters.update({name: value for name, value in parameters.items() if value is not None})
    executor.parameters.setdefault("wckey", None)
    if len(plans) > 1:
        executor.array(len(plans))
    return executor
