"""Run folder, events, marker and lock."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder, fresh_folder
from minifold_pl.run.lock import RunLock, RunLocked
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker


def test_a_fresh_folder_never_exists_before(tmp_path: Path) -> None:
    made = [fresh_folder(tmp_path / "runs" / "x") for _ in range(3)]
    assert [p.name for p in made] == ["x", "x-2", "x-3"]
    assert all(p.is_dir() for p in made)


def test_a_folder_exists_as_a_run_once_it_has_a_config_or_checkpoints(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.exists()
    folder.config.write_text("{}")
    assert folder.exists()


def test_events_come_back_in_order_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "started", step=0)
    append_event(path, "done", reason="finished", step=3)
    with path.open("a") as file:
        file.write('{"event": "cut')
    events = list(read_events(path))
    assert [e["event"] for e in events] == ["started", "done"]
    assert events[1]["step"] == 3
    assert events[0]["time"].endswith("+00:00")


def test_no_events_where_there_is_no_file(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none")) == []


def test_a_marker_comes_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_marker(path) is None
    marker = Marker(state=RunState.DONE, reason="finished", epoch=2, step=9)
    write_marker(path, marker)
    assert read_marker(path) == marker
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    path.write_text('{"state": "nonsense"}')
    assert read_marker(path) is None
    path.write_text("{")
    assert read_marker(path) is None


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from minifold_pl.run.lock import RunLock
        with RunLock(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"process {holder.pid}"), RunLock(path):
            pass
        holder.kill()
    with RunLock(path):
        assert json.loads(path.read_text())["pid"] != holder.pid


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with pytest.raises(ZeroDivisionError), RunLock(path):
        _ = 1 // 0
    with RunLock(path):
        pass


def test_run_never_imports_torch() -> None:
    code = "import sys, minifold_pl.run.lock, minifold_pl.run.marker, minifold_pl.run.events, minifold_pl.run.folder;"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)
