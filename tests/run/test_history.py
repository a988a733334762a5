"""A run, start by start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.history import attempts, run_status
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, write_marker


def test_a_run_that_was_killed_stopped_and_done_is_told_start_by_start(folder: RunFolder) -> None:
    with acquire(folder):
        append_event(folder.events, "started", epoch=0, step=0)
        append_event(folder.events, "saved", epoch=0, step=5)
    with acquire(folder):
        append_event(folder.events, "resumed", epoch=0, step=5)
        append_event(folder.events, "saved", epoch=1, step=9)
        append_event(folder.events, "saved", epoch=1, step=12)
        append_event(folder.events, "interrupted", signal="SIGTERM", epoch=1, step=12)
    with acquire(folder):
        append_event(folder.events, "settings")
    with acquire(folder):
        append_event(folder.events, "resumed", epoch=1, step=12)
        append_event(folder.events, "done", reason="finished", epoch=2, step=18)
    append_event(folder.events, "submitted", job=7)
    killed, stopped, nothing, done = attempts(read_events(folder.events))
    assert (killed.number, killed.first_step, killed.last_step, killed.end) == (1, 0, 5, "")
    assert (stopped.first_step, stopped.last_step, stopped.end, stopped.reason) == (
        5,
        12,
        "interrupted",
        "SIGTERM",
    )
    assert stopped.counts["saved"] == 2
    assert (nothing.first_step, nothing.last_step, nothing.end) == (None, None, "")
    assert (done.number, done.end, done.reason) == (4, "done", "finished")
    assert killed.began <= killed.last_seen


def test_the_status_of_a_running_a_dead_and_a_done_run(
    folder: RunFolder, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    empty = run_status(folder)
    assert (empty.marker, empty.attempts, empty.owner) == (None, (), None)
    assert not folder.path.exists()
    holder = spawn(
        "held = rooms.acquire(folder); append_event(folder.events, 'started', step=0); say('held'); sys.stdin.read()"
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    running = run_status(folder)
    assert running.owner is not None
    assert running.owner.pid == holder.pid
    assert not running.owner_gone
    assert len(running.attempts) == 1
    holder.kill()
    holder.wait()
    assert run_status(folder).owner_gone
    with acquire(folder):
        write_marker(folder.marker, Marker(state=RunState.DONE))
    done = run_status(folder)
    assert done.owner is None
    assert not done.owner_gone
    assert done.marker is not None
    assert done.marker.attempt == 2


def test_a_status_can_be_asked_for_on_a_folder_that_may_only_be_read(folder: RunFolder) -> None:
    with acquire(folder):
        append_event(folder.events, "started", step=0)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in Path(folder.path).rglob("*"))
    run_status(folder)
    assert sorted((str(p), p.stat().st_mtime_ns) for p in Path(folder.path).rglob("*")) == before
    assert os.access(folder.events, os.R_OK)
