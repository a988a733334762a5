"""Saves that the system refuses, and saves off the training thread."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint
from minifold_pl.callbacks.saving import SaveKeepsFailing
from minifold_pl.checkpoint.contents import read_checkpoint, verify
from minifold_pl.checkpoint.io import AtomicCheckpointIO, save
from minifold_pl.checkpoint.newest import find_newest
from minifold_pl.checkpoint.rotation import Rotation, resume_name
from minifold_pl.checkpoint.snapshot import Snapshots
from minifold_pl.run.events import read_events
from minifold_pl.run.halt import RetryLater, RunHalted


class Disk:
    """Refuses writes of checkpoints at the level of the system's calls."""

    def __init__(self) -> None:
        self.refusals = 0
        """How many more saves are refused."""
        self.code = errno.ENOSPC
        self.delay = 0.0
        self.threads: list[str] = []

    def refuse(self, times: int, code: int = errno.ENOSPC) -> None:
        self.refusals, self.code = times, code


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".partial") and ".ckpt." in name and ".json." not in name:
            disk.threads.append(threading.current_thread().name)
            time.sleep(disk.delay)
            if disk.refusals:
                disk.refusals -= 1
                raise OSError(disk.code, os.strerror(disk.code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    yield disk


@pytest.fixture
def fit(tiny, make_trainer) -> Callable[..., pl.Trainer]:
    """Train with our checkpoint plugin, two epochs of three steps unless told otherwise."""

    def run(*callbacks: pl.Callback, ckpt_path: str | None = None, **settings: Any) -> pl.Trainer:
        trainer = make_trainer(*callbacks, **{"max_epochs": 2, "plugins": [AtomicCheckpointIO()], **settings})
        trainer.fit(tiny, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


def _events(folder: Path) -> list[str]:
    return [event["event"] for event in read_events(folder / "events.jsonl")]


def _steps(folder: Path) -> list[int]:
    steps = []
    for path in sorted((folder / "checkpoints").glob("resume-*.ckpt")):
        assert verify(path).manifest
        steps.append(read_checkpoint(path)["global_step"])
    return steps


def _often(**settings: Any) -> ResumeCheckpoint:
    return ResumeCheckpoint(**{"every_n_steps": 1, "keep_last": -1, "retry_after": 0.0, **settings})


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_training_goes_on_and_tries_again_at_the_next_step(
    fit, disk: Disk, tmp_path: Path, caplog, code: int, background: bool
) -> None:
    disk.refuse(2, code)
    trainer = fit(_often(background=background))
    assert trainer.global_step == 6
    steps = _steps(tmp_path)
    # A failure in the background is met at a later boundary, so one step more may go by.
    assert steps == [3, 4, 5, 6] if not background else set(steps) >= {5, 6} and 1 not in steps
    assert _events(tmp_path)[:3] == ["save_failed", "save_failed", "saved"]
    failed = next(read_events(tmp_path / "events.jsonl"))
    assert (failed["step"], failed["file"]) == (1, "resume-00000001.ckpt")
    assert os.strerror(code) in failed["error"]
    assert "COULD NOT SAVE step 1" in caplog.text
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_save_that_is_owed_is_made_up_for_between_the_regular_ones(fit, disk: Disk, tmp_path: Path) -> None:
    disk.refuse(1)
    fit(_often(every_n_steps=None))
    assert _steps(tmp_path) == [4, 6]


def test_tries_are_spaced_out(fit, disk: Disk, tmp_path: Path) -> None:
    disk.refuse(1)
    fit(_often(retry_after=0.3), limit_train_batches=3, max_epochs=1)
    # All but the first wait; the end of training does not come before one has succeeded.
    assert _events(tmp_path) == ["save_failed", "saved"]
    assert _steps(tmp_path) == [3]


@pytest.mark.parametrize("background", [False, True])
def test_so_many_failures_in_a_row_end_the_run_to_be_started_again(
    fit, disk: Disk, tmp_path: Path, background: bool
) -> None:
    fit(_often(), max_epochs=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    disk.refuse(1000, errno.EROFS)
    newest = find_newest(tmp_path / "checkpoints").path
    with pytest.raises(
        SaveKeepsFailing, match=r"3 saves in a row.*Read-only file system.*start again"
    ) as ended:
        fit(_often(max_failures=3, background=background), max_epochs=9, ckpt_path=str(newest))
    assert isinstance(ended.value, RetryLater)
    assert _events(tmp_path).count("save_failed") == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_on_a_full_disk_the_oldest_gives_way_to_the_new_one_if_a_newer_is_whole(
    fit, disk: Disk, tmp_path: Path
) -> None:
    fit(_often(keep_last=2), max_epochs=1)
    assert _steps(tmp_path) == [2, 3]
    disk.refuse(1)
    fit(_often(keep_last=3, every_n_steps=None), ckpt_path=str(find_newest(tmp_path / "checkpoints").path))
    assert _steps(tmp_path) == [3, 6]
    assert _events(tmp_path)[-2:] == ["checkpoint_removed", "saved"]


def test_on_a_full_disk_the_only_whole_one_and_those_kept_for_good_stay(
    fit, disk: Disk, tmp_path: Path
) -> None:
    fit(_often(keep_last=2, keep_every_n_steps=2), max_epochs=1)
    newest = tmp_path / "checkpoints" / "resume-00000003.ckpt"
    assert _steps(tmp_path) == [2, 3]
    disk.refuse(1)
    fit(_often(keep_last=-1), max_epochs=2, ckpt_path=str(newest))
    assert "checkpoint_removed" not in _events(tmp_path)
    assert _steps(tmp_path) == [2, 3, 5, 6]


def test_what_may_give_way() -> None:
    assert Rotation(last=2).surplus([5, 1, 3]) == [1]
    assert Rotation(last=2, every=2).surplus([1, 2, 3, 4, 5, 6]) == [1, 3]
    assert Rotation(last=-1).surplus([1, 2, 3]) == []
    for wrong in ({"last": 0}, {"last": -2}, {"every": 0}):
        with pytest.raises(ValueError, match="got"):
            Rotation(**wrong)


def test_the_newest_whole_one_never_gives_way(tmp_path: Path) -> None:
    rotation = Rotation(last=3)
    for step in (1, 2, 4):
        save({"global_step": step, "state_dict": {}}, tmp_path / resume_name(step))
    assert rotation.make_room(tmp_path) == tmp_path / resume_name(1)
    newest = tmp_path / resume_name(4)
    newest.write_bytes(newest.read_bytes()[:-9])
    assert rotation.make_room(tmp_path) is None
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [resume_name(2), resume_name(4)]
    assert Rotation(last=-1).make_room(tmp_path) is None
    assert Rotation(last=1, every=2).make_room(tmp_path) is None


def test_a_best_one_that_could_not_be_written_is_kept_and_written_later(
    fit, disk: Disk, tmp_path: Path, tiny
) -> None:
    # The largest value is that of the first epoch, after 3 steps; the tries after that meet other weights.
    disk.refuse(3)
    fit(BestCheckpoint(mode="max"), _often(every_n_steps=None, every_n_epochs=0), max_epochs=4)
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == 3
    assert best["state_dict"]["weight"].item() == -3.0
    saved = next(e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "saved")
    assert (saved["file"], saved["step"], saved["score"]) == ("best.ckpt", 3, 5.0)


def test_a_better_one_takes_the_place_of_one_that_waits(fit, disk: Disk, tmp_path: Path) -> None:
    disk.refuse(4)
    fit(BestCheckpoint(), _often(every_n_steps=None, every_n_epochs=0), max_epochs=4)
    saved = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "saved"]
    assert [(e["file"], e["step"]) for e in saved] == [("best.ckpt", 6), ("resume-00000012.ckpt", 12)]


def test_other_checkpoints_do_not_speak_of_a_best_one_that_is_not_on_the_disk(
    fit, disk: Disk, tmp_path: Path
) -> None:
    best = BestCheckpoint()
    seen: list[tuple[float | None, bool]] = []

    class Look(pl.Callback):
        def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
            if trainer.global_step == 4:
                state = checkpoint["callbacks"][best.state_key]
                seen.append((state["best_model_score"], (tmp_path / "checkpoints" / "best.ckpt").exists()))

    disk.refuse(3)
    # The one of step 3, twice the one that waits; then that of step 4 itself.
    fit(best, Look(), _often(every_n_epochs=0, every_n_steps=4), max_epochs=2)
    assert seen == [(None, False)]
    assert best.best_score == 3.0


@pytest.mark.parametrize("background", [False, True])
def test_weights_that_are_no_numbers_are_never_saved_and_halt_the_run(
    fit, tiny, tmp_path: Path, background: bool
) -> None:
    class Poison(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                module.weight.data.fill_(float("nan"))

    with pytest.raises(RunHalted, match=r"NaN or infinity after step 4 in state_dict\.weight.*not saved"):
        fit(Poison(), _often(background=background))
    assert _steps(tmp_path) == [1, 2, 3]
    last = list(read_events(tmp_path / "events.jsonl"))[-1]
    assert (last["event"], last["step"], last["tensors"]) == ("non_finite_weights", 4, ["state_dict.weight"])


def test_in_the_background_the_files_are_those_of_the_foreground(
    fit, disk: Disk, tiny, tmp_path: Path
) -> None:
    disk.delay = 0.05
    fit(_often(background=True), BestCheckpoint())
    assert _steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    for step in range(1, 7):
        content = read_checkpoint(tmp_path / "checkpoints" / f"resume-{step:08d}.ckpt")
        # Weights move by -1 a step, and moved on while this was written.
        assert content["state_dict"]["weight"].item() == -float(step)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["state_dict"]["weight"].item() == -6.0
    # The last is made while training waits: nobody would wait for it afterwards.
    assert disk.threads.count("checkpoint") == 9
    assert disk.threads[-1] == "MainThread"
    assert not any(thread.name == "checkpoint" for thread in threading.enumerate())


def test_the_stall_of_a_background_save_is_not_its_writing_time(fit, disk: Disk, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []

    class Rows(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            rows.append(metrics)

    disk.delay = 0.2
    fit(
        _often(every_n_steps=2, every_n_epochs=0, background=True),
        max_epochs=1,
        logger=Rows(),
        limit_train_batches=3,
    )
    costs = [row for row in rows if "perf/save_seconds" in row]
    assert len(costs) == 2
    assert costs[0]["perf/save_seconds"] >= 0.2
    assert (
        costs[0]["perf/checkpoint_bytes"]
        == (tmp_path / "checkpoints" / "resume-00000002.ckpt").stat().st_size
    )
    assert costs[1]["perf/save_stall_seconds"] >= 0.2


def test_a_refused_commit_ends_the_run_and_leaves_what_is_there(
    fit, tiny, make_trainer, tmp_path: Path
) -> None:
    class TakenOver(RetryLater):
        pass

    def refuse() -> None:
        raise TakenOver("another process owns this folder")

    fit(_often(), max_epochs=1)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    for background in (False, True):
        with pytest.raises(TakenOver):
            fit(
                _often(background=background, keep_last=1),
                plugins=[AtomicCheckpointIO(before_commit=refuse)],
                ckpt_path=str(tmp_path / "checkpoints" / "resume-00000003.ckpt"),
            )
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before


def test_an_exception_in_training_waits_for_the_write_that_is_under_way(
    fit, disk: Disk, tiny, tmp_path: Path
) -> None:
    disk.delay = 0.2
    tiny.fail_in_epoch = 1
    with pytest.raises(RuntimeError, match="one line"):
        fit(_often(every_n_steps=3, every_n_epochs=0, background=True))
    assert _steps(tmp_path) == [3]
    assert _events(tmp_path) == ["saved"]


def test_what_the_last_process_left_behind_is_tidied_up_at_the_start(fit, tiny, tmp_path: Path) -> None:
    fit(_often(), max_epochs=1)
    folder = tmp_path / "checkpoints"
    (folder / ".resume-00000004.ckpt.0123-4567.partial").write_bytes(b"half")
    (folder / "resume-00000004.ckpt.json").write_text("{}")
    cut = folder / "resume-00000003.ckpt"
    cut.write_bytes(cut.read_bytes()[:-100])
    fit(_often(keep_last=9), ckpt_path=str(folder / "resume-00000002.ckpt"))
    assert sorted(p.name for p in folder.glob("*") if p.suffix != ".json") == [
        "resume-00000001.ckpt", "resume-00000002.ckpt", "resume-00000003.ckpt", "resume-00000003.ckpt.damaged",
        "resume-00000004.ckpt", "resume-00000005.ckpt", "resume-00000006.ckpt",
    ]  # fmt: skip
    assert not list(folder.glob(".*"))
    damaged = next(e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "checkpoint_damaged")
    assert (damaged["file"], damaged["step"]) == ("resume-00000003.ckpt.damaged", 3)


def test_a_start_from_an_older_one_sets_the_newer_aside(fit, tmp_path: Path) -> None:
    fit(_often())
    folder = tmp_path / "checkpoints"
    fit(_often(every_n_steps=None), max_epochs=1, ckpt_path=str(folder / "resume-00000002.ckpt"))
    assert _steps(tmp_path) == [1, 2, 3]
    assert sorted(p.name for p in folder.glob("*.superseded")) == [
        f"resume-0000000{step}.ckpt.superseded" for step in (3, 4, 5, 6)
    ]
    assert find_newest(folder).step == 3
    assert _events(tmp_path).count("checkpoint_superseded") == 4


def test_a_foreign_value_in_the_state_is_an_error_and_no_failed_save(fit, tmp_path: Path) -> None:
    class Foreign(pl.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"path": Path("x")}

    for background in (False, True):
        with pytest.raises(ValueError, match="plain state only"):
            fit(Foreign(), _often(background=background))
    assert "save_failed" not in _events(tmp_path)


def test_rows_that_could_not_be_written_hold_the_checkpoint_back(fit, tmp_path: Path) -> None:
    class Behind(pl.loggers.logger.DummyLogger):
        behind: OSError | None = OSError(errno.EROFS, "Read-only file system")

        def save(self) -> None:
            if not list(read_events(tmp_path / "events.jsonl")):
                return
            self.behind = None

    fit(_often(), logger=Behind(), max_epochs=1)
    assert _events(tmp_path) == ["save_failed", "saved", "saved", "saved"]
    assert _steps(tmp_path) == [2, 3]


def test_state_that_shares_memory_shares_it_in_the_copy(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    empty = torch.zeros(0)
    state = {"a": weight, "b": [weight, (weight.t(), empty)], "n": 3, "s": {1, 2}}
    snapshots = Snapshots()
    snapshots.reserve(state)
    copy = snapshots.take(state)
    weight.zero_()
    assert copy["a"] is copy["b"][0]
    assert copy["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copy["b"][1][0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert copy["n"] == 3
    again = snapshots.take(state)
    assert again["a"].data_ptr() == copy["a"].data_ptr()
    snapshots.give_away()
    assert snapshots.take(state)["a"].data_ptr() != again["a"].data_ptr()


def test_module_states_keep_the_versions_of_their_parts(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    copy = Snapshots().take({"state_dict": state})["state_dict"]
    assert copy._metadata == state._metadata
    save({"state_dict": copy}, tmp_path / "a.ckpt")
