"""What happened to a run, line by line."""

from __future__ import annotations

from pathlib import Path

from minifold_pl.run.events import append_event, read_events


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
