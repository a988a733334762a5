"""Saves by two processes: one writes, both know what came of it, and neither waits for the other for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ports import free_port

from minifold_pl.checkpoint.contents import read_checkpoint, verify
from minifold_pl.run.events import read_events


def _together(folder: Path, way: str, refusals: int, poison: int = -1) -> list[str]:
    """How each of two processes ended."""
    port = free_port()
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "tests.callbacks.ddp_saves",
        str(folder),
        way,
        str(refusals),
        str(poison),
    ]
    processes = [
        subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [line for text in told for line in text.splitlines() if line.startswith("ended")]


def _events(folder: Path) -> list[str]:
    return [event["event"] for event in read_events(folder / "events.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["foreground", "background"])
def test_both_go_on_after_refused_saves_and_the_checkpoints_are_those_of_one_writer(
    tmp_path: Path, way: str
) -> None:
    assert _together(tmp_path, way, refusals=2) == ["ended: done"] * 2
    folder = tmp_path / "checkpoints"
    newest = read_checkpoint(folder / "resume-00000008.ckpt")
    assert newest["state_dict"]["weight"].item() == -8.0
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 4
    assert all(verify(path).manifest for path in folder.glob("*.ckpt"))
    assert _events(tmp_path).count("save_failed") == 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["foreground", "background"])
def test_both_end_when_saves_keep_failing(tmp_path: Path, way: str) -> None:
    assert _together(tmp_path, way, refusals=1000) == ["ended: SaveKeepsFailing"] * 2
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))
    assert _events(tmp_path).count("save_failed") == 4


@pytest.mark.slow
def test_both_halt_on_weights_that_are_no_numbers(tmp_path: Path) -> None:
    assert _together(tmp_path, "foreground", refusals=0, poison=6) == ["ended: RunHalted"] * 2
    assert _events(tmp_path)[-1] == "non_finite_weights"
