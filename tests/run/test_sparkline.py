"""Curves in one line of text."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.run.folder import RunFolder
from minifold_pl.run.sparkline import BARS, curve_line, read_column, sparkline


def test_the_lowest_value_is_the_lowest_bar_and_the_highest_the_highest() -> None:
    assert sparkline([3.0, 1.0, 2.0]) == "█▁▅"


def test_a_value_that_is_not_finite_is_a_gap_and_no_range_lies_on_the_ground() -> None:
    assert sparkline([1.0, nan, inf, 1.0]) == "▁  ▁"
    assert sparkline([]) == ""
    assert sparkline([nan]) == " "


def test_more_values_than_width_are_averaged_by_share() -> None:
    assert sparkline([0, 2, 4, 6, 8, 10], width=3) == "▁▅█"
    with pytest.raises(ValueError, match="width"):
        sparkline([1.0], width=0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 60))
def test_it_has_a_bar_a_share_and_every_share_of_finite_values_has_one(
    values: list[float], width: int
) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BARS)


def test_cut_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        'step,epoch,val/total,"a,b"\n4,0,2.5,1\n9,1,,1\n14,2,what,1\n19,3,1\n24,4,1.5,1\n29,5,0.1'
    )
    assert read_column(path, "val/total") == [(4, 2.5), (24, 1.5)]
    assert read_column(path, "a,b")[0] == (4, 1.0)
    assert read_column(path, "absent") == read_column(tmp_path / "absent.csv", "x") == []


def test_the_line_of_a_run_says_where_it_began_where_it_is_and_its_best(tmp_path: Path) -> None:
    assert curve_line(RunFolder(tmp_path)) == ""
    (tmp_path / "metrics.csv").write_text("step,epoch,val/total\n1,0,3\n2,1,1\n3,2,2\n")
    assert curve_line(RunFolder(tmp_path)) == "val/total █▁▅ 3.000 → 2.000, best 1.000"
    assert curve_line(RunFolder(tmp_path), higher=True).endswith("best 3.000")
