"""Training that takes its time: there is something to interrupt."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl


class Pace(pl.Callback):
    """Each batch takes so long.

    Args:
        seconds: Of each batch.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(self.seconds)


class Crash(pl.Callback):
    """Every start fails at its first batch."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        raise RuntimeError("a planted crash")
