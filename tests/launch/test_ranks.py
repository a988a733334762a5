from __future__ import annotations

import pytest

from minifold_pl.launch import ranks
from minifold_pl.launch.ranks import code_of_the_first, leave_after_the_first


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("srun: error: n1: task 0: Exited with exit code 75\nsrun: error: n2: task 1: Terminated", 75),
        ("srun: error: n1: tasks 0-3: Exited with exit code 70", 70),
        ("srun: error: n1: tasks 0,2: Exited with exit code 2", 2),
        ("srun: error: n1: task 0: Killed", 137),
        ("srun: error: n1: task 1: Exited with exit code 75", 143),
        ("srun: error: n1: task 10: Exited with exit code 75", 143),
        ("", 143),
    ],
)
def test_the_first_processs_own_word_counts(output: str, code: int) -> None:
    assert code_of_the_first(output, 143) == code


@pytest.mark.parametrize(
    ("code", "rank", "step", "waits"),
    [
        (75, "1", "0", True),
        (75, "0", "0", False),
        (0, "1", "0", False),
        (75, "1", "", False),
        (75, "1", "batch", False),
    ],
)
def test_other_processes_of_a_step_wait_where_they_end_with_an_error(
    code: int, rank: str, step: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(ranks, "sleep", slept.append)
    monkeypatch.setattr(ranks.signal, "signal", lambda *_: None)
    monkeypatch.setenv("SLURM_PROCID", rank)
    monkeypatch.setenv("SLURM_STEP_ID", step)
    leave_after_the_first(code)
    assert bool(slept) == waits
