"""Two processes that train together on a disk that refuses some saves; run by ``test_saving_ddp.py``."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint
from minifold_pl.callbacks.saving import SaveKeepsFailing
from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.run.halt import RunHalted


class Model(pl.LightningModule):
    """One weight that falls by 1 a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/total", float(self.current_epoch), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(8, 1))

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(2, 1))


class Poison(pl.Callback):
    """NaN in the weights after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            module.weight.data.fill_(float("nan"))


def main(folder: Path, background: bool, refusals: int, poison: int) -> None:
    real, left = os.fsync, [refusals]

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if left[0] and ".ckpt." in name and ".json." not in name:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    saves = ResumeCheckpoint(
        every_n_steps=2, keep_last=-1, background=background, retry_after=0.0, max_failures=4
    )
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        callbacks=[Poison(poison), BestCheckpoint(), saves], plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        trainer.fit(Model())
        print("ended: done", flush=True)
    except (SaveKeepsFailing, RunHalted) as end:
        print(f"ended: {type(end).__name__}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "background", int(sys.argv[3]), int(sys.argv[4]))
