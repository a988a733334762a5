"""``status``, ``stop`` and ``logs`` as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minifold_pl.cli.main import main
from minifold_pl.launch.status import State
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: done, failed, halted."""
    monkeypatch.chdir(tmp_path)
    for name, state in (("a", RunState.DONE), ("b", RunState.RUNNING), ("c", RunState.HALTED)):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.create()
        folder.config.write_text("trainer: {max_epochs: 10}\n")
        append_event(folder.events, "settings", attempt=1, host="n1", job="")
        append_event(folder.events, "started", attempt=1, epoch=0, step=0, steps_per_epoch=100)
        append_event(
            folder.events,
            "saved",
            attempt=1,
            epoch=5,
            step=500,
            file="best.ckpt",
            monitor="val/total",
            score=0.25,
        )
        append_event(folder.events, "saved", attempt=1, epoch=5, step=500, file="resume-00000500.ckpt")
        if state is RunState.RUNNING:
            append_event(folder.events, "failed", attempt=1, error="KeyError", message="[no] such thing")
        write_marker(folder.marker, Marker(state=state, reason="as it is", epoch=5, step=500, attempt=1))
    return tmp_path / "runs"


def test_all_runs_below_a_folder_are_a_table_with_a_row_each(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--all"]) == 0
    told = capsys.readouterr().out
    assert [name in told for name in ("runs/a", "runs/b", "runs/c")] == [True] * 3
    assert "[no] such thing" in told
    assert "500 of 1,000" in told
    assert "val/total 0.25" in told
    assert main(["status"]) == 0
    told = capsys.readouterr().out
    assert "runs/a" not in told  # done
    assert "runs/b" in told


def test_one_run_says_what_happened_and_what_to_type_next(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "runs/b"]) == 0
    told = capsys.readouterr().out
    for part in ("FAILED", "500 of 1,000 (50 %)", "newest checkpoint at step 500", "val/total 0.25 at step 500",
                 "n1", "[no] such thing", "fit --config runs/b/config.yaml"):  # fmt: skip
        assert part in told
    assert main(["status", "runs/c"]) == 0
    assert "--run.after_halt 1" in capsys.readouterr().out


def test_json_holds_the_same_and_more(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "runs/a", "runs/b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    first, second = told["runs"]
    assert (first["state"], second["state"]) == ("done", "failed")
    assert second["progress"]["step"] == 500
    assert second["progress"]["best"] == {"monitor": "val/total", "score": 0.25, "step": 500}
    assert second["starts"][0]["end"] == "failed"
    assert second["events"][-1]["event"] == "failed"


def test_watching_ends_when_all_runs_are_over(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "runs/a", "runs/c", "--watch", "0.2", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert [run["state"] for run in json.loads(line)["runs"]] == ["done", "halted"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "nowhere"], "there is no folder nowhere"),
        (["status", "."], "is no run folder"),
        (["status", "runs/a", "--all"], "not both"),
        (["status", "--root", "nowhere"], "is no folder"),
        (["stop", "nowhere"], "there is no folder nowhere"),
        (["stop", "runs/b", "--wait", "-1"], "negative"),
        (["logs", "."], "is no run folder"),
        (["logs", "runs/a", "-n", "-1"], "negative"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["status", "--watch", "0"], ["status", "--events", "-1"], ["stop"]])
def test_numbers_that_make_no_sense_are_refused(runs: Path, arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_stopping_says_how_to_go_on_and_twice_is_as_once(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stop", "runs/b", "--reason", "wrong data"]) == 0
    told = capsys.readouterr().out
    assert "was stopped by" in told
    assert "(wrong data)" in told
    assert "--run.after_stop 0" in told
    marker = read_marker(runs / "b" / "state.json")
    assert marker is not None
    assert marker.state is RunState.STOPPED
    assert main(["stop", "runs/b"]) == 0
    assert "was already stopped by" in capsys.readouterr().out
    assert main(["status", "runs/b"]) == 0
    assert "STOPPED" in capsys.readouterr().out
    assert main(["stop", "runs/a", "runs/c"]) == 0
    told = capsys.readouterr().out
    assert "is done: as it is (step 500); nothing to stop" in told
    assert "is halted" in told


def test_logs_shows_the_end_of_what_was_printed_last(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "runs/a"]) == 1
    assert "no output of runs/a is kept" in capsys.readouterr().err
    for job in ("7", "8"):
        path = runs / f"{job}.out"
        path.write_text("".join(f"job {job} line {k}\n" for k in range(30)))
        append_event(runs / "a" / "jobs.jsonl", "began", job=job, log=str(path), node="n2", partition="low")
    assert main(["logs", "runs/a", "-n", "2"]) == 0
    told = capsys.readouterr()
    assert told.out == "job 8 line 28\njob 8 line 29\n"
    assert "job 8 on n2" in told.err
    assert main(["logs", "runs/a", "--job", "7", "-n", "1"]) == 0
    assert capsys.readouterr().out == "job 7 line 29\n"
    assert main(["logs", "runs/a", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["logs", "runs/a", "--job", "9"]) == 2


def test_followed_logs_of_a_run_that_waits_begin_with_its_first_line(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def reports(paths: list[Path], **_: object) -> tuple[SimpleNamespace, ...]:
        """Queued twice, then its first job is there, and in the end it is done."""
        looks.append("")
        if len(looks) == 3:
            path = runs / "7.out"
            path.write_text("first line\n")
            append_event(runs / "a" / "jobs.jsonl", "began", job="7", log=str(path), node="n2")
        return (SimpleNamespace(state=State.QUEUED if len(looks) < 3 else State.DONE),)

    monkeypatch.setattr("minifold_pl.launch.status.reports", reports)
    monkeypatch.setattr("minifold_pl.cli.logs._LOOK", 0.01)
    monkeypatch.setattr("minifold_pl.launch.output._POLL", 0.001)
    assert main(["logs", "runs/a", "-f"]) == 0
    told = capsys.readouterr()
    assert told.out == "first line\n"
    assert told.err.count("waiting for its first line") == 1
    assert main(["logs", "runs/b", "-f"]) == 1  # nothing will come
    assert "no output of runs/b is kept" in capsys.readouterr().err


def test_status_needs_no_torch(runs: Path) -> None:
    code = (
        "import sys; from minifold_pl.cli.main import main; code = main(['status', 'runs/a', '--json']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=runs.parent, capture_output=True)
