"""Leave at the next boundary when a signal asks for it, with everything saved."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.finding import callbacks_of
from minifold_pl.callbacks.leaving import leave_where_asked
from minifold_pl.run.stop import RunInterrupted


class StopOnSignal(pl.Callback):
    """Answer a stop request: save and raise :class:`~minifold_pl.run.stop.RunInterrupted`.

    While training, at the end of the optimizer step (with accumulation: of the window), so that no applied step
    is lost. In validation or sampling, after the batch that is under way: what is saved is the state before the
    validation, which the next start repeats whole. Before the first batch there is nothing to save.

    Under DDP a request to any rank stops all of them at the same step.

    It is always on, behind every callback that changes state.
    """

    def __init__(self) -> None:
        self._after_step = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave at once where the request came during the start."""
        leave_where_asked(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave after this optimizer step."""
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._after_step = True
            leave_where_asked(trainer)
            self._after_step = False

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave after this batch."""
        if trainer.state.fn == "fit":
            leave_where_asked(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save; the averaged weights that were swapped in for a validation are out again by now."""
        if isinstance(exception, RunInterrupted) and (self._after_step or trainer.validating):
            for callback in callbacks_of(trainer, ResumeCheckpoint):
                callback.save_now(trainer)
