"""Losses that leave their range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.loss_spike import LossSpike, robust_z
from minifold_pl.callbacks.nonfinite_guard import NonFiniteGuard
from minifold_pl.callbacks.rollback import Rollbacks, RolledBack
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted


class Told(pl.LightningModule):
    """Has the losses that it is told to; its weight moves by 1 a step."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.losses = losses

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return batch.sum() + (self.weight - self.weight.detach()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(list(torch.tensor(self.losses, dtype=torch.float32)), batch_size=1)


def quiet(n: int, seed: int = 0) -> list[float]:
    """Losses as a diffusion model has them: log-normal, now and then one far out."""
    rng = np.random.default_rng(seed)
    losses = np.exp(0.4 * rng.standard_normal(n))
    losses[::37] *= 20
    return losses.tolist()


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [e for e in read_events(RunFolder(folder).events) if e["event"] == name]


SMALL: dict[str, Any] = {"threshold": 10, "patience": 5, "window": 60, "warmup": 30}


def test_the_robust_z_score_is_that_of_a_normal_distribution_whatever_a_few_outliers_do() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    values[:200] = 1e6
    center, z = robust_z(11.0, values.tolist())
    assert center == pytest.approx(3.0, abs=0.3)
    assert z == pytest.approx(4.0, rel=0.15)


def test_single_outliers_are_no_spike(make_trainer, tmp_path) -> None:
    make_trainer(LossSpike(**SMALL), max_epochs=1).fit(Told(quiet(400)))
    assert events(tmp_path, "loss_spike") == []


def test_a_rise_that_stays_is_told_once_and_becomes_the_range(make_trainer, tmp_path) -> None:
    losses = quiet(100) + [30 * x for x in quiet(150, seed=1)]
    make_trainer(LossSpike(**SMALL), max_epochs=1).fit(Told(losses))
    (event,) = events(tmp_path, "loss_spike")
    assert 100 <= event["since_step"] <= 115
    assert event["step"] == event["since_step"] + 4
    assert event["median"] == pytest.approx(1.0, abs=0.3)


class Phases(Told):
    """Another loss, thirty times as large, from the second epoch on."""

    announced = True

    @property
    def teaches_trunk_alone(self) -> bool:
        return self.announced and self.current_epoch < 1

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch if self.current_epoch < 1 else 30 * batch, batch_idx)


@pytest.mark.parametrize("announced", [True, False])
def test_where_another_loss_begins_the_old_one_is_forgotten(make_trainer, tmp_path, announced: bool) -> None:
    module = Phases(quiet(100))
    module.announced = announced
    make_trainer(LossSpike(**SMALL), max_epochs=2).fit(module)
    assert len(events(tmp_path, "loss_spike")) == (0 if announced else 1)


def test_before_the_warmup_is_over_nothing_is_compared(make_trainer, tmp_path) -> None:
    make_trainer(LossSpike(**SMALL), max_epochs=1).fit(Told(quiet(20) + [1e4] * 8 + quiet(10)))
    assert events(tmp_path, "loss_spike") == []


def test_with_accumulation_the_mean_of_the_window_counts(make_trainer, tmp_path) -> None:
    losses = quiet(160) + [200.0, 1.0] * 10
    callback = LossSpike(**SMALL)
    make_trainer(callback, max_epochs=1, accumulate_grad_batches=2).fit(Told(losses))
    (event,) = events(tmp_path, "loss_spike")
    assert (event["since_step"], event["loss"]) == (80, pytest.approx(100.5))


def test_batches_that_were_left_out_do_not_count(make_trainer) -> None:
    losses = quiet(50)
    losses[10:13] = [float("nan")] * 3
    callback = LossSpike(**SMALL)
    make_trainer(NonFiniteGuard(), callback, max_epochs=1).fit(Told(losses))
    assert len(callback._losses) == 47


@pytest.mark.parametrize("stop", [20, 100, 102, 104])
def test_a_resume_anywhere_notices_the_same_spike_at_the_same_step(make_trainer, tmp_path, stop) -> None:
    losses = quiet(100) + [40.0] * 6 + quiet(10)
    make_trainer(LossSpike(**SMALL), ResumeCheckpoint(every_n_steps=1, keep_last=-1), max_epochs=1).fit(
        Told(losses)
    )
    whole = events(tmp_path, "loss_spike")
    assert len(whole) == 1
    again = LossSpike(**SMALL)
    content = torch.load(tmp_path / "checkpoints" / f"resume-{stop:08d}.ckpt", weights_only=True)
    again.load_state_dict(content["callbacks"]["LossSpike"])
    make_trainer(again, max_epochs=1).fit(Told(losses[stop:]))
    second = events(tmp_path, "loss_spike")[1]
    assert second["step"] + stop == whole[0]["step"]
    assert {k: second[k] for k in ("loss", "median", "z")} == {
        k: whole[0][k] for k in ("loss", "median", "z")
    }


def test_a_run_may_go_back_and_leaves_out_what_led_to_the_spike(make_trainer, tmp_path) -> None:
    losses = quiet(100) + [40.0] * 6 + quiet(14)

    def attempt() -> Told:
        told = Told(losses)
        saved = sorted((tmp_path / "checkpoints").glob("resume-*.ckpt"))
        trainer = make_trainer(
            NonFiniteGuard(),
            LossSpike(**SMALL, rollbacks=1),
            ResumeCheckpoint(every_n_epochs=0, every_n_steps=15, keep_last=-1),
            max_epochs=1,
        )
        if saved:
            # These loaders start an epoch from its beginning; the place in the data is another callback's business.
            told.losses = losses[int(saved[-1].stem.split("-")[1]) :]
        trainer.fit(told, ckpt_path=str(saved[-1]) if saved else None, weights_only=True)
        return told

    with pytest.raises(RolledBack, match="goes on from step 90 and leaves out steps 90 to 104"):
        attempt()
    (rollback,) = Rollbacks(tmp_path / "rollbacks.json").read()
    assert (rollback.to_step, rollback.leave_out) == (90, (90, 104))
    told = attempt()
    # 120 steps, of which 15 were left out.
    assert told.weight.item() == -105
    assert len(events(tmp_path, "loss_spike")) == 1


def test_a_run_that_has_gone_back_often_enough_halts(make_trainer, tmp_path) -> None:
    for _ in range(2):
        trainer = make_trainer(LossSpike(**SMALL, rollbacks=1), max_epochs=1)
        with pytest.raises((RolledBack, RunHalted)) as end:
            trainer.fit(Told(quiet(100) + [40.0] * 20))
    assert isinstance(end.value, RunHalted)
    assert "gone back 1 times" in end.value.reason


def test_null_switches_it_off(make_trainer, tmp_path) -> None:
    make_trainer(LossSpike(threshold=None), max_epochs=1).fit(Told(quiet(150) + [1e6] * 30))
    assert events(tmp_path, "loss_spike") == []


@pytest.mark.parametrize(
    "kwargs", [{"threshold": 0}, {"patience": 0}, {"window": 15}, {"warmup": 1}, {"rollbacks": -1}]
)
def test_impossible_settings_are_refused(kwargs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        LossSpike(**kwargs)
