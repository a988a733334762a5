"""Leave when another process has taken the run over."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from minifold_pl.run.events import locate_events
from minifold_pl.run.lease import Lease


class LeaseKeeper(pl.Callback):
    """Train only while the run folder is ours, and have events say where training stands.

    Every write asks for itself whether the folder is still ours; this callback sees to it that a process that was
    stopped and taken over does not compute for nothing until its next write. It asks the heartbeat's thread, not the
    disk.

    It is always on, in the process that owns the folder (rank 0).

    Args:
        lease: The right to write to the run folder.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell events where training stands."""
        events = self.lease.folder.events
        locate_events(events, lambda: {"epoch": trainer.current_epoch, "step": trainer.global_step})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Training stands nowhere any more."""
        locate_events(self.lease.folder.events, None)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave before the work of a batch is done for nothing."""
        self._ask()

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave before the work of a batch is done for nothing."""
        self._ask()

    def _ask(self) -> None:
        if self.lease.lost:
            self.lease.check()
