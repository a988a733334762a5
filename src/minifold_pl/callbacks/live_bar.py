"""The line at the bottom of a terminal: where the epoch is, how it goes, and how long it may go on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, Timer
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from torch import Tensor

from minifold_pl.callbacks.finding import callbacks_of
from minifold_pl.callbacks.patience import Patience

JOB_END: Final = "SLURM_JOB_END_TIME"
"""Slurm says here when it will end the job, in seconds since 1970."""
_TOTAL: Final = "val/total"
_EVERY: Final = 0.5
"""Seconds between two looks at the loss: each waits for a GPU."""


class LiveBar(RichProgressBar):
    """A bar an epoch with its own remaining time, and behind it loss, validation score, patience and time limit.

    ``val/total 0.412 · best 0.398 · patience 3/15 · job ends in 5:12:40``. The score is what ``patience`` monitors. The
    limit is the nearer one of the job's (Slurm's) and of ``trainer.max_time``. It writes to terminals only.

    It is on where standard output is a terminal; ``trainer.enable_progress_bar`` changes that.
    """

    def __init__(self) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_text_delimiter=" · ", metrics_format=".3f"))
        self._outputs: Any = None
        self._shown: dict[str, Any] = {}
        self._looked = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go one batch on."""
        self._outputs = outputs
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new score at once."""
        self._looked = 0.0
        super().on_validation_end(trainer, pl_module)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        now = time.monotonic()
        if now - self._looked >= _EVERY:
            self._looked = now
            self._shown = told(trainer, self._outputs)
        return self._shown

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def told(trainer: pl.Trainer, outputs: Any) -> dict[str, Any]:
    """Loss of the last batch, validation score with its best, patience, and the time that is left; what is known."""
    found: dict[str, Any] = {}
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor):
        found["loss"] = float(loss.detach()) * trainer.accumulate_grad_batches
    patience = next(iter(callbacks_of(trainer, Patience)), None)
    monitor = _TOTAL if patience is None else patience.monitor
    score = trainer.callback_metrics.get(monitor)
    if score is not None:
        found[monitor] = float(score)
    if patience is not None:
        if bool(patience.best_score.isfinite()):
            found["best"] = float(patience.best_score)
        found["patience"] = f"{patience.wait_count}/{patience.patience}"
    left = seconds_left(trainer)
    if left is not None:
        found["job ends in"] = str(timedelta(seconds=int(left)))
    return found


def seconds_left(trainer: pl.Trainer, environment: Mapping[str, str] = os.environ) -> float | None:
    """Until the nearer one of Slurm's limit and ``trainer.max_time``; None without either."""
    limits = [timer.time_remaining() for timer in callbacks_of(trainer, Timer)]
    end = environment.get(JOB_END, "")
    if end.isdigit() and int(end) > 0:
        limits.append(int(end) - time.time())
    known = [limit for limit in limits if limit is not None]
    return max(min(known), 0.0) if known else None


def use_live_bar(trainer: pl.Trainer) -> None:
    """Put it in the place of the trainer's bar, unless the trainer has none or one was chosen in the config."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    for place, callback in enumerate(callbacks):
        if isinstance(callback, ProgressBar):
            callbacks[place] = LiveBar()
