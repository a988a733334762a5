"""A run that a person has ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minifold_pl.run import stop
from minifold_pl.run.begin import begin
from minifold_pl.run.code_version import CodeVersion
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.stop_order import REQUEST, RunStopped, order_stop, stop_order, withdraw_stop
from minifold_pl.run.stopped import mark_stopped

CODE = CodeVersion(package="0.1.0", commit="", changed="", python="3.11", libraries={})


def _start(folder: RunFolder, **settings: int) -> None:
    with acquire(folder):
        begin(folder, {"trainer": {}}, trained=True, code=CODE, **settings)


def test_an_order_stands_as_it_was_first_given_until_it_is_withdrawn(folder: RunFolder) -> None:
    assert stop_order(folder) is None
    first = order_stop(folder, by="ada@login1", reason="wrong data")
    assert order_stop(folder, by="ben@login2") == first == stop_order(folder)
    assert "ada@login1" in str(first)
    assert "wrong data" in str(first)
    withdraw_stop(folder)
    withdraw_stop(folder)
    assert stop_order(folder) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"by": 1}', "\0\0\0"])
def test_a_damaged_order_is_an_order(folder: RunFolder, content: str) -> None:
    order_stop(folder, by="ada")
    folder.stop_order.write_text(content)
    assert stop_order(folder) is not None
    with pytest.raises(RunStopped):
        _start(folder)


def test_a_stopped_run_goes_on_only_when_that_very_order_is_named(folder: RunFolder) -> None:
    _start(folder)
    append_event(folder.events, "saved", epoch=1, step=12)
    order = order_stop(folder, by="ada", reason="enough")
    with pytest.raises(RunStopped, match=r"stopped by ada .*enough.*\n.*--run\.after_stop 1"):
        _start(folder)
    marker = read_marker(folder.marker)
    assert marker is not None
    assert (marker.state, marker.step, marker.epoch) == (RunState.STOPPED, 12, 1)
    with pytest.raises(RunStopped):
        _start(folder, after_stop=0)
    assert [event["event"] for event in read_events(folder.events)].count("stopped") == 1
    _start(folder, after_stop=order.after)
    assert stop_order(folder) is None
    # A job script that holds the flag does not override the next order.
    again = order_stop(folder, by="ada")
    assert again.after > order.after
    with pytest.raises(RunStopped):
        _start(folder, after_stop=order.after)


def test_a_run_that_was_never_started_can_be_stopped_too(folder: RunFolder) -> None:
    order_stop(folder, by="ada")
    with pytest.raises(RunStopped, match=r"--run\.after_stop 0"):
        _start(folder)
    _start(folder, after_stop=0)


@pytest.mark.parametrize("state", [RunState.DONE, RunState.HALTED])
def test_a_run_that_is_done_or_halted_stays_so(folder: RunFolder, state: RunState) -> None:
    folder.create()
    write_marker(folder.marker, Marker(state=state, reason="before"))
    mark_stopped(folder, order_stop(folder, by="ada"))
    assert read_marker(folder.marker) == Marker(state=state, reason="before")


def test_the_owner_of_a_folder_sees_an_order_by_its_next_heartbeat(folder: RunFolder) -> None:
    with stop.listening(), acquire(folder, interval=0.05):
        time.sleep(0.2)
        assert stop.requested() is None
        order_stop(folder, by="ada")
        _until(lambda: stop.requested() == REQUEST)


def test_an_owner_that_does_not_train_takes_no_notice(folder: RunFolder) -> None:
    with acquire(folder, interval=0.05):
        order_stop(folder, by="ada")
        time.sleep(0.3)
        assert stop.requested() is None


def test_a_signal_that_came_first_keeps_its_name(folder: RunFolder) -> None:
    with stop.listening(), acquire(folder, interval=0.05):
        signal.raise_signal(signal.SIGUSR1)
        order_stop(folder, by="ada")
        time.sleep(0.3)
        assert stop.requested() == "SIGUSR1"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_order_lies_beside_what_launchers_write(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).stop_order == tmp_path / "jobs" / "stop.json"
