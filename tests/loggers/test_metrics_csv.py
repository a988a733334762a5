"""metrics.csv and perf.csv: one row a step, also across restarts."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.run.events import read_events


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_values_of_one_step_share_a_row_whatever_came_between(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"val/total": 2.0, "epoch": 0}, step=6)
    logger.save()
    logger.log_metrics({"patience/wait": 0.0}, step=7)
    logger.log_metrics({"loss/total": 3.5}, step=6)
    logger.save()
    rows = _rows(path)
    assert [r["step"] for r in rows] == ["6", "7"]
    assert rows[0] | {"patience/wait": ""} == rows[0]
    assert (float(rows[0]["val/total"]), float(rows[0]["loss/total"])) == (2.0, 3.5)


def test_new_columns_may_come_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    for step in range(3):
        logger.log_metrics({"a": step}, step=step)
        logger.save()
    logger.log_metrics({"b": 1.25}, step=3)
    logger.finalize("success")
    rows = _rows(path)
    assert list(rows[0]) == ["step", "a", "b"]
    assert [r["a"] for r in rows] == ["0", "1", "2", ""]
    assert rows[3]["b"] == "1.25"


def test_a_resumed_run_drops_what_it_will_log_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for step in range(6):
        first.log_metrics({"a": step}, step=step)
    first.save()
    second = MetricsCSV(path)
    second.resume_from(4)
    assert [r["step"] for r in _rows(path)] == ["0", "1", "2", "3"]
    second.log_metrics({"a": 40.0}, step=4)
    second.save()
    rows = _rows(path)
    assert [r["step"] for r in rows] == ["0", "1", "2", "3", "4"]
    assert rows[4]["a"] == "40"


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b\n0,1,2\n1,3")
    logger = MetricsCSV(path)
    logger.log_metrics({"a": 5.0, "b": 6.0}, step=1)
    logger.save()
    assert [r["a"] for r in _rows(path)] == ["1", "5"]


def test_nan_and_inf_are_written_as_such(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"a": float("nan"), "b": float("inf")}, step=0)
    logger.save()
    assert _rows(path) == [{"step": "0", "a": "nan", "b": "inf"}]


def test_what_the_moment_determines_goes_to_a_file_of_its_own(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"perf/steps_per_s": 3.0, "epoch": 1}, step=4)
    logger.save()
    assert not logger.path.exists()
    logger.log_metrics({"loss/total": 1.0, "perf/save_s": 0.5, "epoch": 1}, step=5)
    logger.save()
    assert logger.path.read_text() == "step,epoch,loss/total\n5,1,1\n"
    assert _rows(tmp_path / "perf.csv") == [
        {"step": "4", "epoch": "1", "perf/save_s": "", "perf/steps_per_s": "3"},
        {"step": "5", "epoch": "1", "perf/save_s": "0.5", "perf/steps_per_s": ""},
    ]


def test_a_resume_with_the_state_of_its_checkpoint_is_exact(tmp_path: Path) -> None:
    """A value for a coming step, and values that the last step got after the checkpoint."""
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 2.0}, step=1)
    logger.log_metrics({"for_the_next": 7.0}, step=2)
    logger.save()
    before, state = logger.path.read_bytes(), logger.state_dict()
    logger.log_metrics({"a": 3.0}, step=2)
    logger.log_metrics({"late": 1.0, "perf/x": 1.0}, step=2)
    logger.save()
    second = MetricsCSV(logger.path)
    second.resume_from(2, state)
    assert logger.path.read_bytes() == before
    third = MetricsCSV(logger.path)
    third.resume_from(2)
    assert [r["step"] for r in _rows(logger.path)] == ["0", "1"]


def test_a_file_that_cannot_be_written_stops_nothing_and_is_made_good(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    logger = MetricsCSV(folder / "metrics.csv")
    folder.write_text("in the way")
    logger.log_metrics({"a": 1.0}, step=0)
    with pytest.warns(UserWarning, match=r"metrics\.csv cannot be written .*kept in memory"):
        logger.save()
    logger.log_metrics({"a": 2.0}, step=1)
    logger.save()
    assert list(logger.state_dict()["rows"]) == [0, 1]
    folder.unlink()
    folder.mkdir()
    logger.save()
    assert [r["a"] for r in _rows(logger.path)] == ["1", "2"]
    assert [e["event"] for e in read_events(folder / "events.jsonl")] == [
        "log_not_written",
        "log_written_again",
    ]


def test_a_resume_onto_a_full_disk_still_drops_what_it_will_log_again(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for step in range(4):
        first.log_metrics({"a": step}, step=step)
    first.save()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    second = MetricsCSV(path)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left"):
        patch.setattr("minifold_pl.loggers.csv_table.atomic_write_text", full)
        second.resume_from(2)
        second.log_metrics({"a": 20.0}, step=2)
        assert [r["a"] for r in _rows(path)] == ["0", "1", "2", "3"]
    second.save()
    assert [r["a"] for r in _rows(path)] == ["0", "1", "20"]


def test_rows_are_written_after_a_while_without_being_asked(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("minifold_pl.loggers.metrics_csv.monotonic", lambda: now[0])
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0}, step=0)
    assert not logger.path.exists()
    now[0] = 11.0
    logger.log_metrics({"a": 1.0}, step=1)
    assert len(_rows(logger.path)) == 2
    shutil.rmtree(tmp_path)
