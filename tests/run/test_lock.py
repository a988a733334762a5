"""One writer to a run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minifold_pl.run.lock import RunLock, RunLocked


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


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    """A data worker that outlives a killed trainer must not keep the next start out."""
    path = tmp_path / "run.lock"
    code = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        from minifold_pl.run.lock import RunLock
        RunLock(Path(sys.argv[1])).__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(60)
        print(child, flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(RunLocked), RunLock(path):
                pass
            parent.kill()
            parent.wait()
            os.kill(child, 0)  # it still lives
            with RunLock(path):
                pass
        finally:
            os.kill(child, 9)


def test_a_holder_that_has_not_said_its_name_yet_still_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with RunLock(path):
        path.write_text("")
        with pytest.raises(RunLocked, match="another process"), RunLock(path):
            pass
