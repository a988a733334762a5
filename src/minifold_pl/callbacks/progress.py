"""One line an epoch: the training table as it grows."""

from __future__ import annotations

from time import monotonic

import lightning.pytorch as pl

from minifold_pl.callbacks.patience import status
from minifold_pl.modules.base import MinifoldModule


class EpochLines(pl.Callback):
    """Print epoch, step, losses, time and ``NEW BEST``/``pat n`` after every validation.

    .. code-block:: yaml

        table: {columns: [val/total, ddim/tm_kabsch]}

    Args:
        columns: Logged values to show, a dash where there is none yet; the totals where null.
    """

    def __init__(self, columns: list[str] | None = None) -> None:
        self.columns = columns or ["loss/total", "val/total"]
        self._start = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line; validation of this epoch is behind us."""
        if isinstance(pl_module, MinifoldModule):
            pl_module.log_epoch_means()
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1:>3}", f"step {trainer.global_step:>6}"]
        for name in self.columns:
            value = trainer.callback_metrics.get(name)
            parts.append(f"{name} {float(value):.3f}" if value is not None else f"{name}   –  ")
        parts.append(f"{monotonic() - self._start:5.0f} s")
        if trainer.fit_loop.epoch_loop._should_check_val_epoch():
            parts.append(status(trainer))
        print("  ".join(parts).rstrip(), flush=True)
