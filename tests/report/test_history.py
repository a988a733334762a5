"""Starts, ends and epochs as the run folder tells them."""

from __future__ import annotations

import json
from pathlib import Path

from minifold_pl.report.history import read_history
from minifold_pl.run.folder import RunFolder


def test_starts_have_their_steps_and_ends(made_run) -> None:
    starts = read_history(RunFolder(made_run.folder)).starts
    assert [(one.first_step, one.last_step, one.end, one.reason) for one in starts] == [
        (0, 2000, "killed", ""),
        (2000, 4000, "retry", "SIGTERM"),
        (4000, 6000, "done", "finished"),
    ]


def test_events_of_runs_that_do_not_number_their_starts_are_read_too(tmp_path: Path) -> None:
    events = [
        {"time": "2026-01-01T00:00:00+00:00", "event": "started", "step": 0},
        {"time": "2026-01-01T01:00:00+00:00", "event": "resumed", "step": 50},
        {"time": "2025-12-31T23:00:00+00:00", "event": "done", "reason": "finished", "step": 90},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    history = read_history(RunFolder(tmp_path))
    assert [(one.first_step, one.last_step, one.end) for one in history.starts] == [
        (0, 0, "killed"),
        (50, 90, "done"),
    ]
    assert history.starts[1].seconds is None, "a clock that went back tells no time"
    assert history.resumes == 1


def test_an_epoch_is_one_line_with_the_last_value_of_every_column(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,loss/total,lr/x,patience/wait,val/total\n"
        "4,0,,0.1,,\n9,0,2.5,0.2,0,1.5\n14,1,,0.3,,\n19,1,2.0,,1,1.6\n24,2,,0.4,,\n"
    )
    history = read_history(RunFolder(tmp_path))
    assert [(one.number, one.step, one.status) for one in history.epochs] == [
        (1, 10, "NEW BEST"),
        (2, 20, "pat 1"),
        (3, 25, ""),
    ]
    assert history.epochs[0].values == {"lr/x": 0.2, "loss/total": 2.5, "patience/wait": 0, "val/total": 1.5}
