"""One record a step, none of steps that are taken again, and none lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minifold_pl.callbacks.ddim_records import DDIMRecords
from minifold_pl.run.events import read_events


def values(folder: Path) -> list[str]:
    return [json.loads(line)["value"] for line in (folder / "ddim.jsonl").read_text().splitlines()]


def test_a_step_has_one_row_and_future_or_broken_ones_go(tmp_path: Path) -> None:
    written = DDIMRecords()
    for step, value in ((2, "a"), (4, "b"), (4, "c"), (6, "d")):
        written.add(tmp_path, {"step": step, "value": value})
    assert values(tmp_path) == ["a", "c", "d"]
    with open(tmp_path / "ddim.jsonl", "a") as file:
        file.write('{"step": 3')
    DDIMRecords().take_up(tmp_path, 4, [])
    assert values(tmp_path) == ["a", "c"]


def test_what_the_disk_does_not_take_waits_for_the_next(tmp_path: Path) -> None:
    written = DDIMRecords()
    written.add(tmp_path, {"step": 2, "value": "a"})
    (tmp_path / "ddim.jsonl").rename(tmp_path / "aside")
    (tmp_path / "ddim.jsonl").mkdir()
    with pytest.warns(UserWarning, match="ddim.jsonl cannot be written .*kept"):
        written.add(tmp_path, {"step": 4, "value": "b"})
    for step, value in ((4, "c"), (6, "d")):
        written.add(tmp_path, {"step": step, "value": value})
    waiting = written.waiting
    assert [record["value"] for record in waiting] == ["c", "d"]
    (tmp_path / "ddim.jsonl").rmdir()
    (tmp_path / "aside").rename(tmp_path / "ddim.jsonl")
    written.write(tmp_path)
    assert values(tmp_path) == ["a", "c", "d"]
    assert written.waiting == []
    told = [event["event"] for event in read_events(tmp_path / "events.jsonl")]
    assert told == ["log_not_written", "log_written_again"]
    DDIMRecords().take_up(tmp_path, 4, waiting)
    assert values(tmp_path) == ["a", "c"]
