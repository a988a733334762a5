from __future__ import annotations

from pathlib import Path

from minifold_pl.launch.record import append_job, chain, read_jobs, successor_of, unfinished


def note(folder: Path, *lines: tuple[str, dict[str, object]]) -> None:
    for event, details in lines:
        assert append_job(folder, event, **details)


def attempt(progress: bool, asked: str | None = None) -> tuple[str, dict[str, object]]:
    return "try", {"job": "1", "progress": progress, "asked": asked}


def test_failures_are_counted_since_the_last_checkpoint_and_stops_from_outside_apart(tmp_path: Path) -> None:
    note(
        tmp_path, ("submission", {}), attempt(False), attempt(True), attempt(False), attempt(False, "SIGTERM")
    )
    now = chain(read_jobs(tmp_path))
    assert (now.starts, now.restarts, now.fruitless, now.idle, now.progressed) == (4, 3, 1, 2, True)


def test_submitting_again_counts_anew_but_not_the_gpu_hours(tmp_path: Path) -> None:
    note(tmp_path, ("submission", {}), ("submitted", {"job": "1"}), attempt(False))
    note(tmp_path, ("ended", {"job": "1", "outcome": "gave_up", "gpu_hours": 2.5}), ("submission", {}))
    note(tmp_path, ("submitted", {"job": "7"}), ("left", {"job": "7", "gpu_hours": 1.0}))
    now = chain(read_jobs(tmp_path))
    assert (now.jobs, now.starts, now.over, now.gpu_hours) == (("7",), 0, None, 3.5)


def test_a_job_that_was_lost_counts_by_what_it_left(tmp_path: Path) -> None:
    note(
        tmp_path, ("submission", {}), attempt(False), ("lost", {"job": "1", "progress": False, "asked": True})
    )
    assert chain(read_jobs(tmp_path)).fruitless == 1
    note(tmp_path, ("lost", {"job": "2", "progress": False, "asked": False}))
    assert chain(read_jobs(tmp_path)).fruitless == 2


def test_the_successor_is_the_last_that_was_queued_and_not_found_gone(tmp_path: Path) -> None:
    note(tmp_path, ("submitted", {"job": "2", "after": "1"}))
    assert successor_of(read_jobs(tmp_path), "1") == "2" and successor_of(read_jobs(tmp_path), "2") is None
    note(tmp_path, ("successor_gone", {"job": "1", "successor": "2"}))
    assert successor_of(read_jobs(tmp_path), "1") is None
    note(tmp_path, ("submitted", {"job": "3", "after": "1"}))
    assert successor_of(read_jobs(tmp_path), "1") == "3"


def test_unfinished_jobs_are_those_without_a_last_word_each_time_they_began(tmp_path: Path) -> None:
    note(tmp_path, ("began", {"job": "1", "restart": 0}), ("began", {"job": "1", "restart": 1}))
    note(tmp_path, ("left", {"job": "1", "restart": 0}), ("began", {"job": "2", "restart": 0}))
    assert [(one["job"], one["restart"]) for one in unfinished(read_jobs(tmp_path))] == [("1", 1), ("2", 0)]
    note(tmp_path, ("lost", {"job": "1", "restart": 1}), ("ended", {"job": "2", "restart": 0}))
    assert unfinished(read_jobs(tmp_path)) == []


def test_a_folder_that_takes_nothing_is_noticed(tmp_path: Path) -> None:
    assert not append_job(tmp_path / "absent", "try", progress=False)
