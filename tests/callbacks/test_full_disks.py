"""Real disks that are full, read-only, and writable again, under a training that saves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.saving import SaveKeepsFailing
from minifold_pl.checkpoint.contents import read_checkpoint, verify
from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.checkpoint.newest import find_newest
from minifold_pl.run.events import read_events

STATE = 400_000
"""Bytes of a checkpoint, about."""


def _mount(folder: Path, options: str) -> bool:
    try:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB: seven states, or six and a temporary one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount(folder, "size=3m"):
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


class _Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(STATE // 4))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class _At(pl.Callback):
    """Does something to the disk before a step."""

    def __init__(self, **at: Any) -> None:
        self.at = {int(step.removeprefix("step")): what for step, what in at.items()}

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self.at:
            self.at[trainer.global_step]()


def _train(disk: Path, steps: int, events: _At, **settings: Any) -> None:
    saves = ResumeCheckpoint(**{"every_n_steps": 1, "every_n_epochs": 0, "retry_after": 0.0, **settings})
    trainer = pl.Trainer(
        default_root_dir=disk, max_epochs=1, accelerator="cpu", logger=False, callbacks=[events, saves],
        plugins=[AtomicCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(_Model(), DataLoader(torch.zeros(steps, 1)))


def _events(disk: Path) -> list[str]:
    return [event["event"] for event in read_events(disk / "events.jsonl")]


def _fill(disk: Path, leave: int = 0) -> None:
    """Write until nothing, or only so much, is left."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_fills_up_and_is_cleared(disk: Path, background: bool) -> None:
    _train(
        disk,
        8,
        _At(step2=lambda: _fill(disk), step6=lambda: os.unlink(disk / "filler")),
        keep_last=-1,
        background=background,
        max_failures=20,
    )
    folder = disk / "checkpoints"
    steps = [read_checkpoint(path)["global_step"] for path in sorted(folder.glob("*.ckpt"))]
    # One that is written in the background may be met by the filling.
    assert steps[: 1 if background else 2] == [1, 2][: 1 if background else 2]
    assert steps[-1] == 8
    assert not {4, 5} & set(steps)
    assert not list(folder.glob(".*"))
    assert "save_failed" in _events(disk)
    assert all(verify(path).manifest for path in folder.glob("*.ckpt"))


@pytest.mark.slow
def test_on_a_full_disk_the_oldest_gives_way_and_the_newest_never(disk: Path) -> None:
    # Room for the three there are and half of a fourth.
    _train(disk, 8, _At(step3=lambda: _fill(disk, leave=STATE // 2)), keep_last=3)
    folder = disk / "checkpoints"
    assert "checkpoint_removed" in _events(disk)
    assert "save_failed" not in _events(disk)
    assert find_newest(folder).step == 8
    assert all(verify(path).manifest for path in folder.glob("*.ckpt"))


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_the_last_good_state_whole(disk: Path) -> None:
    with pytest.raises(SaveKeepsFailing, match="No space left"):
        _train(disk, 30, _At(step1=lambda: _fill(disk)), keep_last=2, max_failures=4)
    found = find_newest(disk / "checkpoints")
    assert found.step == 1
    assert found.damaged == ()
    os.unlink(disk / "filler")
    _train(disk, 2, _At(), keep_last=2)
    assert find_newest(disk / "checkpoints").step == 2


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_and_writable_again(disk: Path) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

    _train(disk, 6, _At(step2=lambda: remount("ro"), step4=lambda: remount("rw")), keep_last=2)
    folder = disk / "checkpoints"
    assert find_newest(folder).step == 6
    assert _events(disk).count("save_failed") == 2
    failed = next(event for event in read_events(disk / "events.jsonl") if event["event"] == "save_failed")
    assert "Read-only file system" in failed["error"]


@pytest.mark.slow
def test_a_disk_that_stays_read_only_ends_the_run_to_be_started_again(disk: Path) -> None:
    def read_only() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    with pytest.raises(SaveKeepsFailing, match="Read-only"):
        _train(disk, 30, _At(step2=read_only), max_failures=3)
    assert find_newest(disk / "checkpoints").step == 2
