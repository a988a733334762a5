"""Kill ``prepare`` at random moments and go on with it: the store must be the one of an undisturbed run."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def content(store: Path) -> dict[str, str]:
    """sha256 of every file of a store."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.iterdir())}


def start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """``prepare`` as a process, the leader of its own group."""
    code = (
        "import sys\n"
        "from minifold_pl.data.prepare import PrepareSettings, prepare\n"
        "prepare(sys.argv[1], sys.argv[2], PrepareSettings(processes=2))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(out)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
    )


def kill_and_go_on(
    source: Path, folder: Path, kills: int, seed: int
) -> tuple[dict[str, str], dict[str, int]]:
    """The store's content after ``kills`` runs were killed and one went through, and what was seen meanwhile."""
    started = time.monotonic()
    whole = start(source, folder / "whole")
    assert whole.wait() == 0
    seconds = time.monotonic() - started
    expected = content(folder / "whole")
    rng = np.random.default_rng(seed)
    out = folder / "killed"
    seen = {"killed": 0, "finished before": 0, "with a journal": 0}
    while seen["killed"] < kills:
        process = start(source, out)
        time.sleep(rng.uniform(0.0, 1.1 * seconds))
        os.killpg(process.pid, signal.SIGKILL) if rng.random() < 0.5 else process.kill()
        if process.wait() == 0:
            seen["finished before"] += 1
            assert content(out) == expected
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
            continue
        seen["killed"] += 1
        seen["with a journal"] += (folder / ".killed.prepare").exists()
        if out.exists():  # killed after the store was there, before the process ended
            assert content(out) == expected
    last = start(source, out)
    assert last.wait() == 0
    assert content(out) == expected
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not leftovers, leftovers
    return expected, seen
