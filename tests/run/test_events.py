"""What happened to a run, line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minifold_pl.run.events import append_event, locate_events, read_events


def test_events_come_back_in_order_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "started", step=0)
    append_event(path, "done", reason="finished", step=3)
    with path.open("a") as file:
        file.write('{"event": "cut')
    events = list(read_events(path))
    assert [e["event"] for e in events] == ["started", "done"]
    assert events[1]["step"] == 3
    assert events[0]["time"].endswith("+00:00")


def test_no_events_where_there_is_no_file(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none")) == []


def test_a_line_break_or_odd_letters_in_a_message_do_not_break_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "failed", message="first\nsecond Å \u2028 end")
    append_event(path, "resumed")
    assert [e["event"] for e in read_events(path)] == ["failed", "resumed"]
    assert next(iter(read_events(path)))["message"] == "first\nsecond Å \u2028 end"


def test_an_event_after_a_cut_line_is_not_lost_with_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "started")
    with path.open("a") as file:
        file.write('{"event": "cut')
    append_event(path, "resumed")
    assert [e["event"] for e in read_events(path)] == ["started", "resumed"]


def test_lines_of_many_processes_at_once_are_all_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = (
        "import sys\nfrom pathlib import Path\nfrom minifold_pl.run.events import append_event\n"
        "for number in range(200):\n"
        "    append_event(Path(sys.argv[1]), 'x', who=sys.argv[2], number=number, text='y' * 300)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)]) for who in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    events = list(read_events(path))
    assert sorted((e["who"], e["number"]) for e in events) == [
        (str(w), n) for w in range(6) for n in range(200)
    ]
    assert len(path.read_text().splitlines()) == 1200


def test_values_that_json_does_not_know_are_written_so_that_every_reader_can_read_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    append_event(
        path, "loss_not_finite", loss=float("nan"), worst=[float("inf")], where=tmp_path, names=("a", "b")
    )
    (event,) = read_events(path)
    assert event["loss"] == "nan"
    assert event["worst"] == ["inf"]
    assert event["names"] == ["a", "b"]
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_events_say_where_training_stands_unless_they_say_it_themselves(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    locate_events(path, lambda: {"epoch": 1, "step": 7})
    append_event(path, "saved")
    append_event(path, "rolled_back", step=3)
    locate_events(path, None)
    append_event(path, "after")
    assert [(e.get("epoch"), e.get("step")) for e in read_events(path)] == [(1, 7), (1, 3), (None, None)]


def test_a_file_that_cannot_be_written_keeps_its_events_in_memory_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "events.jsonl"
    append_event(path, "first")
    append_event(path, "second")
    assert list(read_events(path)) == []
    path.parent.mkdir()
    append_event(path, "third")
    assert [e["event"] for e in read_events(path)] == ["first", "second", "third"]


def test_a_storm_of_events_does_not_wait_for_the_disk_each_time(tmp_path: Path, monkeypatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("minifold_pl.run.events.os.fsync", calls.append)
    for number in range(50):
        append_event(tmp_path / "events.jsonl", "skipped", number=number)
    assert len(calls) <= 2


def test_lines_that_are_no_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'5\n[]\n{"time": "x"}\n\xff\xfe\n\n{"event": "done"}\n')
    assert [e["event"] for e in read_events(path)] == ["done"]
