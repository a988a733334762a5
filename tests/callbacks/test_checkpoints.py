"""Which checkpoints a run keeps."""

from __future__ import annotations

import torch

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint


def _names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_latest_stay_although_the_metric_is_on_a_plateau(tiny, make_trainer, tmp_path) -> None:
    make_trainer(ResumeCheckpoint(keep_last=2)).fit(tiny)
    assert _names(tmp_path) == ["resume-00000012.ckpt", "resume-00000015.ckpt"]


def test_every_nth_epoch_is_saved_and_the_end_of_training(tiny, make_trainer, tmp_path) -> None:
    make_trainer(ResumeCheckpoint(every_n_epochs=2, keep_last=-1)).fit(tiny)
    assert _names(tmp_path) == ["resume-00000006.ckpt", "resume-00000012.ckpt", "resume-00000015.ckpt"]


def test_the_best_is_one_file_with_the_best_weights(tiny, make_trainer, tmp_path) -> None:
    make_trainer(BestCheckpoint()).fit(tiny)
    assert _names(tmp_path) == ["best.ckpt"]
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["state_dict"]["weight"].item() == -6.0  # after 2 epochs of 3 steps, where val/total is 3
    assert best["global_step"] == 6


def test_the_best_may_be_the_largest(tiny, make_trainer, tmp_path) -> None:
    make_trainer(BestCheckpoint(mode="max")).fit(tiny)
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 3


def test_a_resumed_run_does_not_take_a_worse_epoch_for_the_best(tiny, make_trainer, tmp_path) -> None:
    make_trainer(BestCheckpoint(), ResumeCheckpoint(), max_epochs=3).fit(tiny)
    latest = tmp_path / "checkpoints" / "resume-00000009.ckpt"
    make_trainer(BestCheckpoint(), ResumeCheckpoint()).fit(tiny, ckpt_path=str(latest), weights_only=True)
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 6


def test_a_moved_run_keeps_its_best_and_drops_its_oldest(tiny, make_trainer, tmp_path) -> None:
    make_trainer(BestCheckpoint(), ResumeCheckpoint(keep_last=2), max_epochs=3).fit(tiny)
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "checkpoints").rename(moved / "checkpoints")
    trainer = make_trainer(
        BestCheckpoint(), ResumeCheckpoint(keep_last=2), max_epochs=4, default_root_dir=moved
    )
    latest = moved / "checkpoints" / "resume-00000009.ckpt"
    trainer.fit(tiny, ckpt_path=str(latest), weights_only=True)
    assert _names(moved) == ["best.ckpt", "resume-00000009.ckpt", "resume-00000012.ckpt"]
    assert torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 6
