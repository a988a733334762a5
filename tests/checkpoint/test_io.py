from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from minifold_pl.checkpoint import atomic
from minifold_pl.checkpoint.contents import CheckpointError, read_checkpoint, verify
from minifold_pl.checkpoint.io import AtomicCheckpointIO, save
from minifold_pl.checkpoint.manifest import manifest_path, read_manifest
from minifold_pl.checkpoint.newest import find_newest, latest_valid, sweep

Make = Callable[..., dict[str, Any]]


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, checkpoint_of: Make) -> None:
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint(checkpoint_of(7), tmp_path / "a.ckpt")
    loaded = plugin.load_checkpoint(tmp_path / "a.ckpt")
    expected = checkpoint_of(7)
    assert loaded["global_step"] == 7
    assert loaded["minifold_pl"] == expected["minifold_pl"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], value)
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.json"]


def test_the_manifest_tells_step_epoch_size_and_checksum(tmp_path: Path, checkpoint_of: Make) -> None:
    save(checkpoint_of(42), tmp_path / "a.ckpt")
    manifest = read_manifest(tmp_path / "a.ckpt")
    assert manifest is not None
    assert (manifest.content.step, manifest.content.epoch) == (42, 4)
    assert manifest.content.size == (tmp_path / "a.ckpt").stat().st_size
    assert manifest.content.sha256 == verify(tmp_path / "a.ckpt").sha256
    assert manifest.replaces is None


def test_the_newest_by_step_wins_whatever_the_clock_says(tmp_path: Path, checkpoint_of: Make) -> None:
    for step in (30, 100, 9):
        save(checkpoint_of(step), tmp_path / f"step={step}.ckpt")
    year = 365 * 86400
    os.utime(tmp_path / "step=9.ckpt", (time.time() + year, time.time() + year))
    os.utime(tmp_path / "step=100.ckpt", (time.time() - year, time.time() - year))
    assert latest_valid(tmp_path) == tmp_path / "step=100.ckpt"


def test_one_made_with_gradients_pending_is_the_last_choice(tmp_path: Path, checkpoint_of: Make) -> None:
    save({**checkpoint_of(9), "resumable": False}, tmp_path / "best.ckpt")
    assert find_newest(tmp_path).step == 9
    save(checkpoint_of(5), tmp_path / "resume.ckpt")
    assert find_newest(tmp_path).path == tmp_path / "resume.ckpt"


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest_valid(tmp_path) is None
    assert latest_valid(tmp_path / "absent") is None


def test_a_checkpoint_of_another_program_without_manifest_counts_too(
    tmp_path: Path, checkpoint_of: Make
) -> None:
    save(checkpoint_of(5), tmp_path / "ours.ckpt")
    torch.save(checkpoint_of(6), tmp_path / "theirs.ckpt")
    assert latest_valid(tmp_path) == tmp_path / "theirs.ckpt"


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "empty", "bit flipped", "text", "zeroed tail"])
def test_a_damaged_newest_is_refused_and_the_older_one_taken(
    tmp_path: Path, checkpoint_of: Make, damage: str, with_manifest: bool
) -> None:
    save(checkpoint_of(1), tmp_path / "old.ckpt")
    newest = tmp_path / "new.ckpt"
    save(checkpoint_of(2), newest)
    whole = newest.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    broken = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "bit flipped": bytes(flipped),
        "text": b"not a checkpoint at all\n" * 20,
        "zeroed tail": whole[:-600] + bytes(600),
    }[damage]
    newest.write_bytes(broken)
    if not with_manifest:
        manifest_path(newest).unlink()

    with pytest.raises(CheckpointError, match=r"new\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(newest)
    assert latest_valid(tmp_path) == tmp_path / "old.ckpt"
    assert newest.exists()

    found = find_newest(tmp_path, set_aside=True)
    assert (found.path, found.step) == (tmp_path / "old.ckpt", 1)
    assert [damaged.path for damaged in found.damaged] == [tmp_path / "new.ckpt.damaged"]
    assert not newest.exists()
    assert not manifest_path(newest).exists()
    assert find_newest(tmp_path).damaged == ()
    assert read_checkpoint(tmp_path / "old.ckpt")["global_step"] == 1


def test_every_flipped_bit_is_noticed(tmp_path: Path, checkpoint_of: Make) -> None:
    path = tmp_path / "a.ckpt"
    save(checkpoint_of(1, size=8), path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        bit = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            verify(path)
    path.write_bytes(whole)
    verify(path)


def test_a_damaged_manifest_is_said_so(tmp_path: Path, checkpoint_of: Make) -> None:
    save(checkpoint_of(1), tmp_path / "a.ckpt")
    manifest_path(tmp_path / "a.ckpt").write_text("{")
    with pytest.raises(CheckpointError, match="manifest"):
        verify(tmp_path / "a.ckpt")


class _Foreign:
    pass


def test_state_that_could_not_be_loaded_is_refused_when_saved(tmp_path: Path, checkpoint_of: Make) -> None:
    checkpoint = checkpoint_of(1)
    checkpoint["callbacks"]["mine"] = {"history": [1.0, _Foreign()]}
    with pytest.raises(ValueError, match=r"\['mine'\]\['history'\]\[1\].*_Foreign"):
        save(checkpoint, tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_older_checkpoint_and_no_litter(
    tmp_path: Path, checkpoint_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    save(checkpoint_of(1), path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    # fsync is where a delayed allocation reports it; write is where a plain one does.
    for target, name in ((os, "fsync"), (atomic.HashingWriter, "write")):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, full)
            with pytest.raises((OSError, RuntimeError)):
                save(checkpoint_of(2), path)
        assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.json"]
        assert read_checkpoint(path)["global_step"] == 1
    save(checkpoint_of(3), path)
    assert read_checkpoint(path)["global_step"] == 3


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_leaves_the_older_checkpoint(tiny_disk: Path, checkpoint_of: Make) -> None:
    path = tiny_disk / "last.ckpt"
    save(checkpoint_of(1), path)
    with pytest.raises((OSError, RuntimeError)):
        save(checkpoint_of(2, size=1024), path)
    assert sorted(os.listdir(tiny_disk)) == ["last.ckpt", "last.ckpt.json"]
    assert read_checkpoint(path)["global_step"] == 1
    assert latest_valid(tiny_disk) == path


class _KilledError(BaseException):
    """Stands for a SIGKILL: nothing catches it, and what cleans up is switched off."""


@pytest.mark.parametrize("call", range(12))
def test_a_kill_at_any_system_call_of_a_save_leaves_a_valid_file_of_one_of_the_two_steps(
    tmp_path: Path, checkpoint_of: Make, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    path = tmp_path / "last.ckpt"
    save(checkpoint_of(1), path)
    calls = iter(range(1000))

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) >= call:
                raise _KilledError
            return real(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying(os.replace))
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        try:
            save(checkpoint_of(2), path)
            finished = True
        except _KilledError:
            finished = False
    step = read_checkpoint(path)["global_step"]
    assert step in ({2} if finished else {1, 2})
    assert latest_valid(tmp_path) == path

    monkeypatch.setattr(atomic, "_OWN_MARK", "the next process")
    sweep(tmp_path)
    save(checkpoint_of(3), path)
    assert read_checkpoint(path)["global_step"] == 3
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.json"]


def test_a_half_finished_overwrite_does_not_outrank_a_newer_file(
    tmp_path: Path, checkpoint_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoint_of(10), tmp_path / "last.ckpt")
    save(checkpoint_of(15), tmp_path / "best.ckpt")
    replace = os.replace

    def die_at_the_checkpoint(source: Any, target: Any) -> None:
        if str(target).endswith(".ckpt"):
            raise _KilledError
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die_at_the_checkpoint)
        with pytest.raises(_KilledError):
            save(checkpoint_of(20), tmp_path / "last.ckpt")
    # last.ckpt claims step 20 and holds step 10.
    assert verify(tmp_path / "last.ckpt").step == 10
    assert latest_valid(tmp_path) == tmp_path / "best.ckpt"


_SAVER = """
import sys
import torch
from minifold_pl.checkpoint.io import save
path = sys.argv[1]
step = int(sys.argv[2])
while True:
    save({"global_step": step, "epoch": 0, "state_dict": {"w": torch.full((200_000,), float(step))}}, path)
    print(step, flush=True)
    step += 1
"""


def test_real_kills_inside_saves_never_lose_the_last_finished_step(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    draw = random.Random(1)
    finished = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(path), str(finished + 1)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        finished = int(child.stdout.readline())
        time.sleep(draw.uniform(0.0, 0.05))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        finished = int(rest[-1]) if rest else finished
        checkpoint = read_checkpoint(path)
        assert checkpoint["global_step"] in (finished, finished + 1)
        assert torch.all(checkpoint["state_dict"]["w"] == checkpoint["global_step"])
        finished = checkpoint["global_step"]


def test_removing_takes_the_manifest_along_and_may_be_repeated(tmp_path: Path, checkpoint_of: Make) -> None:
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint(checkpoint_of(1), tmp_path / "a.ckpt")
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_link_is_verified_against_what_it_points_to(tmp_path: Path, checkpoint_of: Make) -> None:
    save(checkpoint_of(1), tmp_path / "a.ckpt")
    (tmp_path / "last.ckpt").symlink_to("a.ckpt")
    assert verify(tmp_path / "last.ckpt").manifest
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "last.ckpt")
    assert verify(tmp_path / "a.ckpt").manifest


class _Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.layer(batch).pow(2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_lightning_saves_and_resumes_through_it(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=4)

    def trainer(epochs: int) -> Trainer:
        return Trainer(
            default_root_dir=tmp_path,
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[AtomicCheckpointIO()],
        )

    first = trainer(1)
    first.fit(_Line(), loader)
    found = latest_valid(tmp_path / "checkpoints")
    assert found is not None
    assert verify(found).step == 2

    second = trainer(2)
    second.fit(_Line(), loader, ckpt_path=str(found))
    assert second.global_step == 4
