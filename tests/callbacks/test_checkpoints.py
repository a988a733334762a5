"""Which checkpoints a run keeps."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint
from minifold_pl.checkpoint.contents import read_checkpoint
from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.checkpoint.newest import find_newest
from minifold_pl.run.events import read_events


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


def test_a_best_one_amid_a_window_is_not_what_a_run_goes_on_from(tiny, make_trainer, tmp_path) -> None:
    # Validation after batches 1, 2 and 3 of each epoch, a step after 2 and 3.
    make_trainer(
        BestCheckpoint(mode="max"), ResumeCheckpoint(every_n_epochs=0), max_epochs=1,
        accumulate_grad_batches=2, val_check_interval=1,
    ).fit(tiny)  # fmt: skip
    folder = tmp_path / "checkpoints"
    assert torch.load(folder / "best.ckpt", weights_only=True)["resumable"] is False
    assert "resumable" not in torch.load(folder / "resume-00000002.ckpt", weights_only=True)
    assert find_newest(folder).path == folder / "resume-00000002.ckpt"


def test_saves_are_made_where_no_gradient_is_pending_once_a_step(tiny, make_trainer, tmp_path) -> None:
    make_trainer(
        ResumeCheckpoint(every_n_steps=1, every_n_epochs=0, keep_last=-1),
        max_epochs=2,
        accumulate_grad_batches=2,
    ).fit(tiny)
    assert _names(tmp_path) == [f"resume-0000000{step}.ckpt" for step in (1, 2, 3, 4)]
    for path in (tmp_path / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        assert "resumable" not in content
        assert content["global_step"] == int(path.stem.removeprefix("resume-"))


def test_every_nth_step_stays_for_good(tiny, make_trainer, tmp_path) -> None:
    make_trainer(ResumeCheckpoint(every_n_steps=1, keep_last=1, keep_every_n_steps=4)).fit(tiny)
    assert _names(tmp_path) == [f"resume-000000{step}.ckpt" for step in ("04", "08", "12", "15")]


def test_a_save_on_request_holds_what_callbacks_add_and_is_told_by_its_path(
    tiny, make_trainer, tmp_path
) -> None:
    saves = ResumeCheckpoint(every_n_epochs=0)
    told = []

    class Request(pl.Callback):
        def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
            checkpoint["asked"] = trainer.global_step

        def on_train_batch_end(self, trainer, module, *_) -> None:
            # The epoch's last batch, before its validation.
            if trainer.global_step == 3:
                told.append(saves.save_now(trainer))

    make_trainer(Request(), saves, max_epochs=1, plugins=[AtomicCheckpointIO()]).fit(tiny)
    assert told == [tmp_path / "checkpoints" / "resume-00000003.ckpt"]
    assert read_checkpoint(told[0])["asked"] == 3


def test_the_scores_of_a_resumed_run_are_those_of_the_whole_one(tiny, make_trainer, tmp_path) -> None:
    whole = BestCheckpoint()
    make_trainer(whole, ResumeCheckpoint(keep_last=-1), max_epochs=4).fit(tiny)
    resumed = BestCheckpoint()
    start = tmp_path / "checkpoints" / "resume-00000009.ckpt"
    make_trainer(resumed, ResumeCheckpoint(), max_epochs=4).fit(tiny, ckpt_path=str(start), weights_only=True)
    expected = {"monitor": "val/total", "best_model_score": 3.0, "best_step": 6, "current_score": 4.5}
    assert resumed.state_dict() == whole.state_dict() == expected


def test_a_best_one_that_is_gone_is_replaced_by_the_next(tiny, make_trainer, tmp_path) -> None:
    make_trainer(BestCheckpoint(), ResumeCheckpoint(), max_epochs=3).fit(tiny)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    start = tmp_path / "checkpoints" / "resume-00000009.ckpt"
    best = BestCheckpoint()
    make_trainer(best, ResumeCheckpoint(), max_epochs=5).fit(tiny, ckpt_path=str(start), weights_only=True)
    assert best.best_step == 15
    assert best.best_score == pytest.approx(4.2)


@pytest.mark.parametrize("best_first", [True, False])
def test_damaged_checkpoints_that_nothing_goes_on_from_are_set_aside_and_reported_too(
    tiny, make_trainer, tmp_path, best_first: bool
) -> None:
    def callbacks(**settings) -> list[pl.Callback]:
        both = [BestCheckpoint(), ResumeCheckpoint(keep_last=-1, **settings)]
        return both if best_first else both[::-1]

    plugins = [AtomicCheckpointIO()]
    make_trainer(*callbacks(), max_epochs=3, plugins=plugins).fit(tiny)
    folder = tmp_path / "checkpoints"
    for name in ("best.ckpt", "resume-00000003.ckpt"):
        (folder / name).write_bytes((folder / name).read_bytes()[:900])
    start = folder / "resume-00000009.ckpt"
    make_trainer(*callbacks(every_n_steps=1), max_epochs=5, plugins=[AtomicCheckpointIO()]).fit(
        tiny, ckpt_path=str(start), weights_only=True
    )

    assert {name for name in _names(tmp_path) if name.endswith(".damaged")} == {
        "best.ckpt.damaged", "resume-00000003.ckpt.damaged",
    }  # fmt: skip
    assert not (folder / "resume-00000003.ckpt").exists()
    told = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "checkpoint_damaged"]
    assert {(e["file"], e["step"]) for e in told} == {
        ("best.ckpt.damaged", 6), ("resume-00000003.ckpt.damaged", 3),
    }  # fmt: skip
    # Worse than what was lost, and the best there is; nothing spoke of the lost one in between.
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 15
    (scores,) = [
        state
        for key, state in read_checkpoint(folder / "resume-00000010.ckpt")["callbacks"].items()
        if key.startswith("BestCheckpoint")
    ]
    assert (scores["best_model_score"], scores["best_step"]) == (None, -1)


def test_a_score_that_is_no_number_is_never_the_best(tiny, make_trainer, tmp_path, monkeypatch) -> None:
    best = BestCheckpoint()
    monkeypatch.setattr(best, "_measured", lambda trainer: float("nan"))
    make_trainer(best, ResumeCheckpoint(), max_epochs=1).fit(tiny)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_score_that_is_measured_now_and_then_counts_when_it_is(tiny, make_trainer, tmp_path) -> None:
    class NowAndThen(pl.Callback):
        def on_validation_epoch_end(self, trainer, module) -> None:
            if trainer.current_epoch in (1, 3):
                module.log("ddim/tm", 0.5 + 0.1 * trainer.current_epoch)

    best = BestCheckpoint(monitor="ddim/tm", mode="max")
    make_trainer(NowAndThen(), best, ResumeCheckpoint(), max_epochs=5).fit(tiny)
    assert best.best_step == 12
    assert best.current_score == pytest.approx(0.8)


def test_a_metric_that_is_never_logged_is_named(tiny, make_trainer) -> None:
    with pytest.raises(MisconfigurationException, match=r"'val/typo'.*val/total"):
        make_trainer(BestCheckpoint(monitor="val/typo"), max_epochs=1).fit(tiny)


@pytest.mark.parametrize(
    "wrong", [{"every_n_epochs": -1}, {"every_n_steps": 0}, {"keep_last": 0}, {"keep_every_n_steps": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        ResumeCheckpoint(**wrong)
