"""Stop when validation has not improved for a while, and say so each epoch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from minifold_pl.callbacks.ddim_evaluator import awaited
from minifold_pl.callbacks.finding import callbacks_of


class Patience(EarlyStopping):
    """Early stopping that knows the words of the training table: ``NEW BEST`` and ``pat n``.

    Its count survives a resume, and a run that was killed when it had decided to stop does not train on; ``patience``
    itself is the config's, which may be raised. Logs ``patience/wait``. A score of the DDIM evaluator counts in the
    validations that measured it.

    .. code-block:: yaml

        patience: {monitor: val/total, patience: 15}

    Args:
        monitor: A logged validation value.
        patience: Validations without improvement after which training ends.
        min_delta: Smallest change that counts as improvement.
        mode: ``min`` or ``max``.
    """

    def __init__(
        self, monitor: str = "val/total", patience: int = 15, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        super().__init__(
            monitor=monitor,
            patience=patience,
            min_delta=min_delta,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=False,
            verbose=False,
        )
        self._judged = True

    @property
    def status(self) -> str:
        """``NEW BEST`` or ``pat n`` for the last validation, nothing before the first or where it gave no score."""
        if not self._judged or not torch.isfinite(self.best_score):
            return ""
        return "NEW BEST" if self.wait_count == 0 else f"pat {self.wait_count}"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting towards the configured number."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where the run had stopped; its last checkpoint is older than the word that it is done."""
        if self.spent and trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at the end of the epoch that a resumed run had only to finish."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.spent:
            trainer.should_stop = True

    @property
    def spent(self) -> bool:
        """Whether training ends for lack of improvement."""
        return self.wait_count >= self.patience

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, then log the count."""
        self._judged = not awaited(trainer, self.monitor)
        if self._judged:
            super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking:
            return
        for logger in trainer.loggers:
            logger.log_metrics(
                {"patience/wait": float(self.wait_count)}, step=max(trainer.global_step - 1, 0)
            )


def status(trainer: pl.Trainer) -> str:
    """The status of the trainer's :class:`Patience`, or nothing where it has none."""
    return next((callback.status for callback in callbacks_of(trainer, Patience)), "")
