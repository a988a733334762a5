"""Following what a run prints from job to job."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from minifold_pl.launch import output
from minifold_pl.launch.output import Output, follow, last_lines, outputs
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(output, "_POLL", 0.01)
    monkeypatch.setattr(output, "output_of", lambda job: "")
    made = RunFolder(tmp_path / "run")
    (made.path / "jobs").mkdir(parents=True)
    return made


def _began(folder: RunFolder, job: str, text: str | None) -> Path:
    path = folder.path / "jobs" / f"{job}.out"
    if text is not None:
        path.write_text(text)
    append_event(folder.path / "jobs.jsonl", "began", job=job, log=str(path), node="n1", partition="low")
    return path


def test_the_newest_job_is_last_also_after_a_requeue(folder: RunFolder) -> None:
    _began(folder, "1", "a")
    _began(folder, "2", "b")
    assert [one.job for one in outputs(folder)] == ["1", "2"]
    _began(folder, "1", None)
    assert [one.job for one in outputs(folder)] == ["2", "1"]


def test_files_that_are_gone_are_left_out_and_a_moved_folder_finds_its_own(
    folder: RunFolder, tmp_path: Path
) -> None:
    _began(folder, "1", None)
    _began(folder, "2", "b")
    moved = RunFolder(folder.path.rename(tmp_path / "moved"))
    (found,) = outputs(moved)
    assert found.path == moved.path / "jobs" / "2.out"


def test_a_start_by_hand_whose_output_went_to_a_file_is_found(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("hello\n")
    append_event(folder.events, "settings", attempt=1, output="")
    append_event(folder.events, "settings", attempt=2, output=str(tmp_path / "train.log"))
    (found,) = outputs(folder)
    assert found.path == tmp_path / "train.log"


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_the_last_lines_are_those_of_the_file_however_long_it_is(folder: RunFolder, count: int) -> None:
    lines = [f"line {k} {'x' * (k % 700)}\n" for k in range(900)] + ["cut"]
    path = _began(folder, "1", "".join(lines))
    text, place = last_lines(path, count)
    assert text.decode() == "".join(lines[-count:] if count else [])
    assert place == path.stat().st_size


def test_an_empty_file_has_no_lines(folder: RunFolder) -> None:
    assert last_lines(_began(folder, "1", ""), 5) == (b"", 0)


def test_what_comes_is_followed_over_jobs_and_truncations_and_nothing_is_lost(folder: RunFolder) -> None:
    first = _began(folder, "1", "old\n")
    (start,) = outputs(folder)
    end = threading.Event()
    told: list[Output | bytes] = []

    def read() -> None:
        told.extend(follow(folder, start, 4, over=end.is_set))

    reader = threading.Thread(target=read)
    reader.start()
    with first.open("a") as stream:
        stream.write("one\n")
    _until(lambda: b"one\n" in told)
    # Two jobs come before the next look; the first of them was short.
    _began(folder, "2", "two\n")
    _began(folder, "3", "three\n")
    _until(lambda: b"three\n" in told)
    # Requeued without --open-mode=append.
    (folder.path / "jobs" / "3.out").write_text("3\n")
    _until(lambda: b"3\n" in told)
    end.set()
    reader.join(20)
    assert not reader.is_alive()
    pieces = [piece if isinstance(piece, bytes) else piece.job for piece in told]
    assert pieces == [b"one\n", "2", b"two\n", "3", b"three\n", b"3\n"]


def _until(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
