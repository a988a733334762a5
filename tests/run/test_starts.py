"""A run that crashes again and again at one place is not started for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.run.halt import RunHalted
from minifold_pl.run.starts import begin_start, forget_starts, forgive_start


def test_the_fourth_start_from_one_step_halts_and_says_how_the_last_one_ended(tmp_path: Path) -> None:
    counts = [begin_start(tmp_path / "starts", 40, limit=3) for _ in range(3)]
    assert counts == [0, 1, 2]
    with pytest.raises(RunHalted, match=r"3 starts from step 40 .* OutOfMemoryError: 80 GiB"):
        begin_start(tmp_path / "starts", 40, limit=3, last_failure="OutOfMemoryError: 80 GiB")


def test_it_stays_halted_until_somebody_has_looked(tmp_path: Path) -> None:
    for _ in range(2):
        begin_start(tmp_path / "starts", 7, limit=2)
    for _ in range(3):
        with pytest.raises(RunHalted):
            begin_start(tmp_path / "starts", 7, limit=2)
    forget_starts(tmp_path / "starts")
    assert begin_start(tmp_path / "starts", 7, limit=2) == 0


def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    for step in range(20):
        assert begin_start(tmp_path / "starts", step, limit=1) == 0


def test_a_start_that_was_asked_to_end_does_not_count(tmp_path: Path) -> None:
    for _ in range(10):
        assert begin_start(tmp_path / "starts", 5, limit=2) == 0
        forgive_start(tmp_path / "starts")


def test_without_a_limit_it_only_counts(tmp_path: Path) -> None:
    assert [begin_start(tmp_path / "starts", 0, limit=None) for _ in range(9)] == list(range(9))


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"step": null}', b"\xff\xfe\x00"])
def test_a_damaged_count_is_no_reason_to_fail(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / "starts").write_bytes(rubbish)
    assert begin_start(tmp_path / "starts", 3, limit=1) == 0
    with pytest.raises(RunHalted, match="without a word"):
        begin_start(tmp_path / "starts", 3, limit=1)
