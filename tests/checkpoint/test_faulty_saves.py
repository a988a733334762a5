"""Whatever happens to saves, a good checkpoint is left, and nothing damaged is ever loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.checkpoint.faulty_saves import series


def test_a_short_series_of_faulty_saves(tmp_path: Path) -> None:
    report = series(tmp_path, saves=60, seed=7)
    assert report.problems == []
    assert report.killed >= 20
    assert report.noticed >= 3


@pytest.mark.slow
def test_a_thousand_faulty_saves(tmp_path: Path) -> None:
    report = series(tmp_path, saves=1000, seed=0)
    assert report.problems == []
    assert report.killed >= 400
    assert report.noticed >= 100
