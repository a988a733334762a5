"""metrics.csv: one row a step, also across restarts."""

from __future__ import annotations

import csv
from pathlib import Path

from minifold_pl.loggers.metrics_csv import MetricsCSV


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
