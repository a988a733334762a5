"""A run that goes on in the middle of an epoch takes the very next batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from minifold_pl.callbacks.exact_resume import ExactResume
from minifold_pl.data.sampler import LengthBucketBatchSampler

BATCHES = 6


class _Numbers(torch.utils.data.Dataset[float]):
    def __len__(self) -> int:
        return 2 * BATCHES

    def __getitem__(self, key: tuple[int, int]) -> float:
        epoch, index = key
        return 100.0 * epoch + index


class _Recorder(pl.LightningModule):
    """Writes down the batches that it trains on, and where it validates."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch_idx, tuple(batch.tolist())))
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(("validation", self.current_epoch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[float]:
        sampler = LengthBucketBatchSampler([30] * 2 * BATCHES, batch_size=2, shuffle=True, seed=3)
        return DataLoader(_Numbers(), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(2, 1)))


class _SaveAt(pl.Callback):
    """Saves at the n-th time that a hook is passed, and ends the fit there."""

    def __init__(self, hook: str, n: int, path: Path) -> None:
        self.left, self.path = n, path
        setattr(self, hook, self._pass)

    def _pass(self, trainer: pl.Trainer, module: _Recorder, *args: Any) -> None:
        if self.left == 0:
            trainer.save_checkpoint(self.path)
            raise _Stop
        self.left -= 1


class _Stop(BaseException):
    pass


def _train(folder: Path, *more: pl.Callback, ckpt: Path | None = None, **settings: Any) -> _Recorder:
    module = _Recorder()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, num_sanity_val_steps=0, default_root_dir=folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ExactResume(), *more], use_distributed_sampler=False, **settings,
    )  # fmt: skip
    try:
        trainer.fit(module, ckpt_path=ckpt, weights_only=True)
    except _Stop:
        module.seen.append("stopped")
    return module


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_next_batch_is_the_next_one(tmp_path: Path, batch: int, accumulation: int) -> None:
    if (batch + 1) % accumulation:
        pytest.skip("a save lies at the end of a window")
    settings = {"accumulate_grad_batches": accumulation}
    whole = _train(tmp_path, **settings)
    first = _train(tmp_path, _SaveAt("on_train_batch_end", batch, tmp_path / "x.ckpt"), **settings)
    second = _train(tmp_path, ckpt=tmp_path / "x.ckpt", **settings)
    assert first.seen[:-1] + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
def test_around_an_epochs_end_nothing_is_repeated_or_left_out(tmp_path: Path, hook: str) -> None:
    whole = _train(tmp_path)
    first = _train(tmp_path, _SaveAt(hook, 0, tmp_path / "x.ckpt"))
    second = _train(tmp_path, ckpt=tmp_path / "x.ckpt")
    assert first.seen[:-1] + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


def test_a_validation_in_the_middle_of_an_epoch_is_gone_on_from(tmp_path: Path) -> None:
    whole = _train(tmp_path, val_check_interval=3)
    for count in (2, 3, 4, 5):
        first = _train(
            tmp_path, _SaveAt("on_train_batch_end", count, tmp_path / "x.ckpt"), val_check_interval=3
        )
        second = _train(tmp_path, ckpt=tmp_path / "x.ckpt", val_check_interval=3)
        assert first.seen[:-1] + second.seen == whole.seen, count


@pytest.mark.parametrize("steps", [1, 4, 6, 8])
def test_a_run_that_ended_at_its_step_limit_goes_on_where_the_limit_was(tmp_path: Path, steps: int) -> None:
    whole = _train(tmp_path)
    ends = _SaveAt("on_train_epoch_end", (steps - 1) // BATCHES, tmp_path / "x.ckpt")
    first = _train(tmp_path, ends, max_steps=steps)
    second = _train(tmp_path, ckpt=tmp_path / "x.ckpt")
    taken = [entry for entry in first.seen[:-1] + second.seen if entry[0] != "validation"]
    # Lightning validates at the limit, which is no place of the undisturbed run.
    assert taken == [entry for entry in whole.seen if entry[0] != "validation"]
    assert torch.equal(second.weight, whole.weight)


def test_without_it_a_run_goes_on_at_another_batch(tmp_path: Path) -> None:
    """The negative control: Lightning by itself reads the epoch's data from the start."""
    whole = _train(tmp_path)
    first = _train(tmp_path, _SaveAt("on_train_batch_end", 2, tmp_path / "x.ckpt"))
    module = _Recorder()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, num_sanity_val_steps=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert first.seen[:-1] + module.seen != whole.seen


def test_with_another_number_of_processes_the_epoch_goes_on_at_the_same_share(tmp_path: Path) -> None:
    first = _train(tmp_path, _SaveAt("on_train_batch_end", 1, tmp_path / "x.ckpt"))
    assert first.seen[-1] == "stopped"
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content["callbacks"]["ExactResume"]["world"] = 2
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.warns(UserWarning, match="had 2 processes and has 1"):
        second = _train(tmp_path, ckpt=tmp_path / "x.ckpt")
    whole = _train(tmp_path)
    # 2 batches on each of 2 ranks are 4 on one.
    assert second.seen == whole.seen[4:]
