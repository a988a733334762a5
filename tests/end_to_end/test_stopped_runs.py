"""A training that a person ends while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.resilience.training import ROOT, Case, make_store, outcome

from minifold_pl.run.events import read_events
from minifold_pl.run.exit_codes import DONE, HALTED
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker
from minifold_pl.run.stop_order import order_stop

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    "MASTER_ADDR": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}
# By its name: the processes of the other ranks are started as this one was.
PROGRAM = [sys.executable, "-m", "minifold_pl"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_ordered_to_stop_saves_says_so_and_is_not_started_again(
    tmp_path: Path, ranks: int
) -> None:
    store = make_store(tmp_path / "store")
    case = Case(ranks=ranks)
    folder = RunFolder(tmp_path / "run")
    process = subprocess.Popen(
        # Without a bound it would end before it is stopped; epochs may change in a run.
        [*PROGRAM, *case.arguments(store, folder.path), "--trainer.max_epochs", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        _until_saved(folder)
        order_stop(folder, by="ada@login1", reason="enough")
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == HALTED, said
    assert "stopped by ada@login1" in said
    assert "Traceback" not in said
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.STOPPED
    assert "enough" in marker.reason
    saved = [event["step"] for event in read_events(folder.events) if event["event"] == "saved"]
    assert max(saved) == marker.step
    assert (folder.checkpoints / f"resume-{marker.step:08d}.ckpt").is_file()
    # Started again as a queued job would be, it refuses, and says what to type.
    refused = _run(*case.arguments(store, folder.path))
    assert refused.returncode == HALTED
    assert "--run.after_stop 1" in refused.stderr
    assert [e["event"] for e in read_events(folder.events)].count("stopped") == 1


@pytest.mark.slow
def test_a_run_taken_up_after_a_stop_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    case = Case()
    whole, folder = tmp_path / "whole", RunFolder(tmp_path / "run")
    assert _run(*case.arguments(store, whole)).returncode == DONE
    order_stop(folder, by="ada@login1")
    assert _run(*case.arguments(store, folder.path)).returncode == HALTED
    # It begins, slow enough to be stopped amid its epochs.
    pace = '{"class_path": "tests.slurm.pace.Pace", "init_args": {"seconds": 2.0}}'
    slow = [*case.arguments(store, folder.path), "--run.after_stop", "0", "--trainer.callbacks+", pace]
    process = subprocess.Popen([*PROGRAM, *slow], env=ENVIRONMENT)
    try:
        _until_saved(folder)
        order_stop(folder, by="ada@login1")
        assert process.wait(120) == HALTED
    finally:
        process.kill()
        process.wait()
    ended = _run(*case.arguments(store, folder.path), "--run.after_stop", "2")
    assert ended.returncode == DONE, ended.stderr
    assert outcome(folder.path) == outcome(whole)
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.DONE


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=300, env=ENVIRONMENT
    )


def _until_saved(folder: RunFolder) -> None:
    end = time.monotonic() + 120
    while not any(event["event"] == "saved" for event in read_events(folder.events)):
        assert time.monotonic() < end
        time.sleep(0.05)
