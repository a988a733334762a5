"""Bringing a run on its way: settle its settings, write its plan, submit its first job."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.launch import scheduler
from minifold_pl.launch.environment import outside_of_jobs
from minifold_pl.launch.job import SubmissionError, submit
from minifold_pl.launch.lead import lead_for
from minifold_pl.launch.plan import Plan, jobs_folder, write_plan
from minifold_pl.launch.record import append_job, chain, read_jobs, unfinished
from minifold_pl.launch.scheduler import SchedulerError
from minifold_pl.launch.supervisor import output_of
from minifold_pl.run import exit_codes
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker
from minifold_pl.run.stop_order import withdraw_stop


class Refused(Exception):
    """A run that cannot be submitted; the message says why and what to do.

    Args:
        reason: One or two lines.
        exit_code: Of the command.
    """

    def __init__(self, reason: str, exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One run that a person wants."""

    folder: Path
    arguments: tuple[str, ...]
    """Of ``fit``, without those that are for one start alone."""
    once: tuple[str, ...] = ()


def settle(wish: Wish) -> str:
    """The config of a run with everything resolved, as ``fit`` understands it: later edits of a file change nothing.

    Raises:
        Refused: ``fit`` would refuse it; with its words.
    """
    command = [sys.executable, "-m", "minifold_pl", "fit", *wish.arguments, f"--run.dir={wish.folder}"]
    done = subprocess.run(
        [*command, "--print_config"],
        capture_output=True,
        text=True,
        check=False,
        env=outside_of_jobs(os.environ),
    )
    if done.returncode != 0:
        told = [line for line in done.stderr.splitlines() if line.strip()][-2:]
        raise Refused("\n".join(told).removeprefix("error: "), done.returncode)
    return done.stdout


def after_halt(folder: Path, allowed: bool) -> tuple[str, ...]:
    """The arguments with which a halted run goes on.

    Raises:
        Refused: It halted, and the person has not said that they know.
    """
    marker = read_marker(RunFolder(folder).marker)
    if marker is None or marker.state is not RunState.HALTED:
        return ()
    if not allowed:
        raise Refused(
            f"{folder} halted at step {marker.step}: {marker.reason}\n"
            "When the cause is put right, --after-halt goes on with it.",
            exit_codes.HALTED,
        )
    return ("--run.after_halt", str(marker.attempt))


def refuse_a_second(folder: Path) -> None:
    """One chain of jobs a run.

    Raises:
        Refused: There is one already.
    """
    lines = read_jobs(folder)
    now = chain(lines)
    jobs = list(now.jobs)
    if now.over is None and jobs and shutil.which("scontrol"):
        with suppress(SchedulerError):
            live = [state for state in scheduler.states(jobs, patience=10.0).values() if state.live]
            if live:
                told = ", ".join(f"job {one.job} ({one.state.lower()})" for one in live)
                raise Refused(f"{folder} is on its way already: {told}; `minifold-pl stop {folder}` ends it")
    for line in unfinished(lines):
        if line.get("host") == socket.gethostname() and "partition" not in line and _lives(int(line["pid"])):
            raise Refused(f"{folder} is looked after already, by process {line['pid']} on this machine")


def start(plan: Plan, config: str) -> str:
    """Submit a run, or start its supervisor; the id of the job or of the process.

    Raises:
        Refused: The scheduler does not take it.
        OSError: The run folder cannot be written.
    """
    _prepare(plan, config)
    if plan.cluster == "local":
        job = str(_start_supervisor(plan))
        append_job(
            plan.folder, "submitted", cluster="local", job=job, after=None, begin_s=0, name=plan.name,
            log=str(output_of(plan.folder)),
        )  # fmt: skip
        return job
    try:
        lead = lead_for(plan)
        job = submit(plan, lead=lead)
    except SubmissionError as error:
        append_job(plan.folder, "not_submitted", job=None, why=str(error))
        raise Refused(f"Slurm did not take the job: {error}") from error
    _note_submitted(plan, job, jobs_folder(plan.folder) / f"{job}_0_log.out", lead)
    return job


def start_array(plans: Sequence[Plan], configs: Sequence[str], parallel: int, place: Path) -> list[str]:
    """Submit several runs as one array; the ids of its jobs.

    Args:
        plans: Of the runs; the resources of the first count.
        configs: Of the runs.
        parallel: First jobs that may run at the same time.
        place: Where the array's script lies.

    Raises:
        Refused: The scheduler does not take it.
        OSError: A run folder cannot be written.
    """
    for plan, config in zip(plans, configs, strict=True):
        _prepare(plan, config)
    place.mkdir(parents=True, exist_ok=True)
    lead = lead_for(plans[0])
    try:
        first = submit(
            plans[0],
            lead=lead,
            plans=[plan.path for plan in plans],
            parallel=parallel,
            folder=place,
        )
    except SubmissionError as error:
        raise Refused(f"Slurm did not take the array: {error}") from error
    jobs = [f"{first}_{n}" for n in range(len(plans))]
    for plan, job in zip(plans, jobs, strict=True):
        _note_submitted(plan, job, jobs_folder(plan.folder) / f"{job}_0_log.out", lead)
    return jobs


def _prepare(plan: Plan, config: str) -> None:
    write_plan(plan)
    atomic_write_text(jobs_folder(plan.folder) / "config.yaml", config)
    withdraw_stop(plan.run)
    append_job(plan.folder, "submission", cluster=plan.cluster, name=plan.name, once=list(plan.once))


def _note_submitted(plan: Plan, job: str, log: Path, lead: float) -> None:
    append_job(
        plan.folder, "submitted", cluster="slurm", job=job, after=None, begin_s=0, name=plan.name, log=str(log),
        partition=plan.resources.partition, lead=round(lead, 1),
    )  # fmt: skip


def _start_supervisor(plan: Plan) -> int:
    """A process of its own, which outlives this one and its terminal."""
    with output_of(plan.folder).open("ab") as output:
        child = subprocess.Popen(
            [plan.python, "-u", "-m", "minifold_pl.launch.supervisor", str(plan.path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=outside_of_jobs(os.environ),
        )
    return child.pid


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        # A zombie has ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True
