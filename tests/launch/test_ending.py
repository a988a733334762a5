"""Ending a run for good, wherever it stands."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from minifold_pl.launch import ending
from minifold_pl.launch.ending import Outcome, end_run
from minifold_pl.launch.slurm_query import QueuedJob, SlurmAbsent, SlurmSilent
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.stop_order import order_stop, stop_order

TRAINER = """
import sys, time
from pathlib import Path
from minifold_pl.run import stop
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
folder = RunFolder(Path(sys.argv[1]))
with stop.listening(), acquire(folder, interval=0.2):
    print("held", flush=True)
    while sys.argv[2] == "deaf" or stop.requested() is None:
        time.sleep(0.05)
"""


@pytest.fixture
def trainer(folder: RunFolder) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(folder.path), how], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Jobs and their states; who is cancelled is out."""
    jobs: dict[str, str] = {}

    def queued(names: list[str]) -> dict[str, QueuedJob]:
        if "away" in jobs:
            raise SlurmSilent("Unable to contact slurm controller")
        if not jobs:
            raise SlurmAbsent("no squeue")
        return {
            name: QueuedJob(
                job=name, state=jobs[name], reason="", start=None, end=None, left=None, nodes="", partition=""
            )
            for name in names
            if name in jobs
        }

    def cancel(names: list[str], *, pending_only: bool = True, patience: float = 0) -> None:
        for name in names:
            if not pending_only or jobs[name] == "PENDING":
                jobs[name] = "CANCELLED"

    monkeypatch.setattr(ending, "queued_jobs", queued)
    monkeypatch.setattr(ending, "cancel", cancel)
    monkeypatch.setattr(ending, "signal_steps", lambda job: jobs.update({job: "COMPLETED"}))
    return jobs


def _submitted(folder: RunFolder, *jobs: str) -> None:
    for job in jobs:
        append_event(folder.path / "jobs.jsonl", "submitted", cluster="slurm", job=job, after=None)


def _end(folder: RunFolder, **settings: object) -> ending.Ending:
    return end_run(folder, by="ada@login1", **settings)  # type: ignore[arg-type]


def test_what_trains_leaves_by_itself_and_the_marker_says_stopped(folder: RunFolder, trainer, queue) -> None:
    process = trainer("listens")
    ended = _end(folder, reason="enough", wait=20.0)
    assert ended.outcome is Outcome.STOPPED
    assert process.wait(5) == 0
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.STOPPED
    assert _end(folder).outcome is Outcome.ALREADY
    assert [event["event"] for event in read_events(folder.events)].count("stopped") == 1


def test_queued_jobs_are_cancelled_and_one_that_runs_is_signalled(
    folder: RunFolder, queue, monkeypatch
) -> None:
    monkeypatch.setattr(ending, "_SIGNAL_AFTER", 0.0)
    queue.update({"1": "RUNNING", "2": "PENDING", "9": "PENDING"})
    _submitted(folder, "1", "2")
    ended = _end(folder, wait=10.0)
    assert ended.outcome is Outcome.STOPPED
    assert ended.cancelled == ("2",)
    # Somebody else's.
    assert queue == {"1": "COMPLETED", "2": "CANCELLED", "9": "PENDING"}


def test_a_successor_that_is_queued_meanwhile_is_cancelled_too(folder: RunFolder, queue) -> None:
    queue["1"] = "RUNNING"
    _submitted(folder, "1")

    def told(line: str) -> None:
        assert "job 1" in line
        queue.update({"1": "COMPLETED", "2": "PENDING"})
        _submitted(folder, "2")

    assert _end(folder, wait=10.0, told=told).cancelled == ("2",)


def test_a_silent_scheduler_does_not_keep_the_order_from_standing(folder: RunFolder, queue) -> None:
    queue["away"] = "PENDING"
    _submitted(folder, "1")
    ended = _end(folder)
    assert ended.outcome is Outcome.STOPPED
    assert "Unable to contact" in ended.scheduler
    assert stop_order(folder) is not None


@pytest.mark.parametrize("state", [RunState.DONE, RunState.HALTED])
def test_of_a_run_that_is_over_only_what_is_still_queued_is_taken_away(
    folder: RunFolder, queue, state: RunState
) -> None:
    queue["5"] = "PENDING"
    _submitted(folder, "5")
    write_marker(folder.marker, Marker(state=state, reason="so"))
    ended = _end(folder)
    assert ended.outcome.value == state.value
    assert ended.cancelled == ("5",)
    assert stop_order(folder) is None
    assert read_marker(folder.marker) == Marker(state=state, reason="so")


def test_a_run_that_is_done_before_the_order_reaches_it_stays_done(folder: RunFolder, trainer, queue) -> None:
    trainer("listens")
    write_marker(folder.marker, Marker(state=RunState.RUNNING))

    def told(line: str) -> None:
        write_marker(folder.marker, Marker(state=RunState.DONE, reason="finished"))

    assert _end(folder, wait=20.0, told=told).outcome is Outcome.DONE
    assert stop_order(folder) is None


def test_what_does_not_end_in_time_is_told_and_killed_only_on_request(
    folder: RunFolder, trainer, queue, monkeypatch
) -> None:
    process = trainer("deaf")
    ended = _end(folder, wait=1.0)
    assert ended.outcome is Outcome.ORDERED
    assert str(process.pid) in ended.left
    assert process.poll() is None
    # It was listening to the signal, and did nothing with it.
    ended = _end(folder, wait=0.5, kill=True)
    assert ended.outcome is Outcome.STOPPED
    assert ended.killed == (f"process {process.pid}",)
    assert process.wait(5) == -signal.SIGKILL


def test_a_run_whose_owner_died_is_stopped_without_waiting(folder: RunFolder, trainer, queue) -> None:
    process = trainer("listens")
    process.kill()
    process.wait()
    began = time.monotonic()
    assert _end(folder).outcome is Outcome.STOPPED
    assert time.monotonic() - began < 3


def test_an_order_without_waiting_is_left_for_whoever_trains(folder: RunFolder, trainer, queue) -> None:
    process = trainer("listens")
    assert _end(folder, wait=0.0).outcome is Outcome.ORDERED
    assert process.wait(10) == 0
    assert _end(folder).outcome is Outcome.STOPPED


def test_an_order_given_by_hand_is_finished(folder: RunFolder, queue) -> None:
    order = order_stop(folder, by="ben@login2")
    ended = _end(folder)
    assert (ended.outcome, ended.order) == (Outcome.STOPPED, order)
