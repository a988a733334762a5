"""A run's state, from what its folder, its owner and the scheduler say together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minifold_pl.launch import status
from minifold_pl.launch.slurm_query import AccountedJob, NoAccounting, QueuedJob, SlurmAbsent, SlurmSilent
from minifold_pl.launch.status import OVER, Report, State, find_runs, is_run, reports
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, write_marker
from minifold_pl.run.stop_order import order_stop
from minifold_pl.run.stopped import mark_stopped

HOLDER = """
import sys
from pathlib import Path
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
folder = RunFolder(Path(sys.argv[1]))
held = acquire(folder)
append_event(folder.events, "settings", host="n1", job="job 7, restart 0")
if sys.argv[2] == "trains":
    append_event(folder.events, "started", epoch=0, step=0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(folder: RunFolder) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder.path), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Scheduler:
    """What it would say."""

    def __init__(self) -> None:
        self.queue: dict[str, QueuedJob] = {}
        self.accounts: list[AccountedJob] | Exception = NoAccounting("")
        self.trouble: Exception | None = None
        self.asked: list[str] = []

    def queued(self, jobs: list[str]) -> dict[str, QueuedJob]:
        self.asked = list(jobs)
        if jobs and self.trouble is not None:
            raise self.trouble
        return {job: self.queue[job] for job in jobs if job in self.queue}

    def accounted(self, jobs: list[str]) -> tuple[AccountedJob, ...]:
        if isinstance(self.accounts, Exception):
            raise self.accounts
        return tuple(one for one in self.accounts if one.job in jobs)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    one = Scheduler()
    monkeypatch.setattr(status, "queued_jobs", one.queued)
    monkeypatch.setattr(status, "accounted_jobs", one.accounted)
    return one


def _job(job: str, state: str, reason: str = "") -> QueuedJob:
    return QueuedJob(
        job=job, state=state, reason=reason, start=None, end=None, left=None, nodes="n1", partition="low"
    )


def _submitted(folder: RunFolder, job: str, after: str | None = None) -> None:
    append_event(folder.path / "jobs.jsonl", "submitted", cluster="slurm", job=job, after=after, log="")


def _report(folder: RunFolder) -> Report:
    (one,) = reports([folder.path])
    return one


def test_a_marker_that_says_running_is_believed_only_while_its_owner_lives(
    folder: RunFolder, holder, scheduler: Scheduler
) -> None:
    scheduler.trouble = SlurmAbsent("none")
    write_marker(folder.marker, Marker(state=RunState.RUNNING))
    process = holder("trains")
    assert _report(folder).state is State.RUNNING
    process.kill()
    process.wait()
    lost = _report(folder)
    assert lost.state is State.LOST
    assert "ended without a word" in lost.why
    assert lost.starts[-1].end == "killed"


def test_an_owner_that_does_not_train_yet_is_starting(
    folder: RunFolder, holder, scheduler: Scheduler
) -> None:
    holder("imports")
    assert _report(folder).state is State.STARTING


def test_a_dead_owner_whose_successor_waits_is_queued_and_not_lost(
    folder: RunFolder, holder, scheduler: Scheduler
) -> None:
    process = holder("trains")
    process.kill()
    process.wait()
    _submitted(folder, "8", after="7")
    scheduler.queue["8"] = _job("8", "PENDING", "Resources")
    told = _report(folder)
    assert told.state is State.QUEUED
    assert told.why == "job 8 pending (Resources)"
    # The job that trained is known from its own word, too.
    assert scheduler.asked == ["7", "8"]


def test_a_job_that_runs_while_nobody_trains_is_between_two_starts(
    folder: RunFolder, scheduler: Scheduler
) -> None:
    _submitted(folder, "7")
    scheduler.queue["7"] = _job("7", "RUNNING")
    assert _report(folder).state is State.STARTING


def test_a_silent_scheduler_makes_unknown_what_only_it_could_tell(
    folder: RunFolder, holder, scheduler: Scheduler
) -> None:
    _submitted(folder, "7")
    scheduler.trouble = SlurmSilent("squeue did not answer within 8 s")
    told = _report(folder)
    assert told.state is State.UNKNOWN
    assert "did not answer" in told.why
    # What the folder tells needs no scheduler.
    holder("trains")
    assert _report(folder).state is State.RUNNING


def test_jobs_that_are_gone_before_training_began_are_lost(folder: RunFolder, scheduler: Scheduler) -> None:
    _submitted(folder, "7")
    told = _report(folder)
    assert told.state is State.LOST
    assert "never began" in told.why


@pytest.mark.parametrize(
    ("end", "details", "state"),
    [
        ("retry", {"reason": "disk full"}, State.INTERRUPTED),
        ("interrupted", {"signal": "SIGTERM"}, State.INTERRUPTED),
        ("failed", {"error": "KeyError", "message": "no such thing"}, State.FAILED),
    ],
)
def test_a_run_that_ended_in_order_and_waits_for_nobody_says_how(
    folder: RunFolder, scheduler: Scheduler, end: str, details: dict[str, str], state: State
) -> None:
    with acquire(folder):
        append_event(folder.events, "started", epoch=0, step=0)
        append_event(folder.events, end, epoch=0, step=3, **details)
    write_marker(folder.marker, Marker(state=RunState.RUNNING))
    told = _report(folder)
    assert told.state is state
    assert told.why in details.values()
    assert told.starts[-1].end == end


@pytest.mark.parametrize("state", [RunState.DONE, RunState.HALTED])
def test_a_run_that_is_over_says_why(folder: RunFolder, scheduler: Scheduler, state: RunState) -> None:
    write_marker(folder.marker, Marker(state=state, reason="because", step=9))
    told = _report(folder)
    assert (told.state, told.why) == (State(state.value), "because")
    assert told.state in OVER


def test_an_order_is_stopping_while_somebody_trains_and_stopped_afterwards(
    folder: RunFolder, holder, scheduler: Scheduler
) -> None:
    process = holder("trains")
    order = order_stop(folder, by="ada@login1", reason="enough")
    assert _report(folder).state is State.STOPPING
    process.kill()
    process.wait()
    assert _report(folder).state is State.STOPPED
    with acquire(folder):
        mark_stopped(folder, order)
    told = _report(folder)
    assert told.state is State.STOPPED
    assert "ada@login1" in told.why
    # Looking for the order owns the folder for a moment: that is no start.
    assert len(told.starts) == 1


def test_a_supervisor_of_this_machine_is_seen_and_another_process_with_its_id_is_none(
    folder: RunFolder, scheduler: Scheduler
) -> None:
    code = "import time, sys; print('x', flush=True); time.sleep(60)"
    for name, state in (("minifold_pl.launch.supervisor", State.STARTING), ("something.else", State.NEW)):
        process = subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        append_event(
            folder.path / "jobs.jsonl", "began",
            job=str(process.pid), pid=process.pid, host=socket.gethostname(), restart=0, gpus=0,
        )  # fmt: skip
        try:
            assert _report(folder).state is state
        finally:
            process.kill()
            process.communicate()


def test_each_start_says_its_job_and_why_it_ended(folder: RunFolder, scheduler: Scheduler) -> None:
    scheduler.accounts = [
        AccountedJob(job="1", state="NODE_FAIL", seconds=3600, gpus=2, start=None, end=None, exit_code="0:0"),
        AccountedJob(job="2", state="COMPLETED", seconds=1800, gpus=2, start=None, end=None, exit_code="0:0"),
    ]
    _submitted(folder, "1")
    _submitted(folder, "2", after="1")
    for job, end in (("1", None), ("2", "done")):
        with acquire(folder):
            append_event(folder.events, "settings", host=f"n{job}", job=f"job {job}, restart 0")
            append_event(folder.events, "started", epoch=0, step=0)
            if end:
                append_event(folder.events, end, reason="finished", epoch=1, step=5)
    write_marker(folder.marker, Marker(state=RunState.DONE, reason="finished"))
    told = _report(folder)
    assert [(one.job, one.host, one.end, one.why) for one in told.starts] == [
        ("1", "n1", "killed", "job 1 node_fail"),
        ("2", "n2", "done", "finished"),
    ]
    assert told.restarts == 1
    assert (told.gpu_hours, told.gpu_hours_by) == (3.0, "sacct")


def test_without_accounts_the_run_folder_counts_gpu_hours(folder: RunFolder, scheduler: Scheduler) -> None:
    jobs = folder.path / "jobs.jsonl"
    append_event(jobs, "began", job="1", restart=0, gpus=2, partition="low")
    append_event(jobs, "left", job="1", restart=0, gpu_hours=1.25)
    append_event(jobs, "began", job="2", restart=0, gpus=2, partition="low")
    append_event(jobs, "ended", job="2", restart=0, gpu_hours=0.5, outcome="done")
    told = _report(folder)
    assert (told.gpu_hours, told.gpu_hours_by) == (1.75, "run folder")


def test_a_hang_is_told_until_something_moves(folder: RunFolder, holder, scheduler: Scheduler) -> None:
    holder("trains")
    append_event(folder.events, "hang", seconds=60)
    assert _report(folder).hangs
    append_event(folder.events, "hang_over")
    assert not _report(folder).hangs


def test_saves_in_a_row_do_not_hide_what_else_happened(folder: RunFolder, scheduler: Scheduler) -> None:
    append_event(folder.events, "rolled_back", attempt=1)
    for step in range(50):
        append_event(folder.events, "saved", attempt=1, step=step)
    assert [(e["event"], e.get("step")) for e in _report(folder).events] == [
        ("rolled_back", None),
        ("saved", 49),
    ]


def test_runs_are_found_below_a_folder_and_not_inside_of_each_other(
    tmp_path: Path, folder: RunFolder
) -> None:
    deep = RunFolder(tmp_path / "a" / "b" / "seed-1")
    for one in (folder, deep):
        one.create()
        append_event(one.events, "settings")
    inner = RunFolder(folder.path / "samples")
    inner.create()
    append_event(inner.events, "settings")
    (tmp_path / ".hidden").mkdir()
    assert find_runs(tmp_path) == [deep.path, folder.path]
    assert not is_run(tmp_path)
    assert find_runs(tmp_path / "nowhere") == []


def test_looking_writes_nothing(folder: RunFolder, holder, scheduler: Scheduler) -> None:
    process = holder("trains")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.1)
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")}
    reports([folder.path], patience=0.3)
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")} == before
    os.kill(process.pid, signal.SIGCONT)
