"""A process that dies at a chosen place."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning.pytorch as pl

PLACES = (
    "on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_start",
    "on_validation_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_epoch_start", "sampling",
)  # fmt: skip


class KillAt(pl.Callback):
    """Send a signal to this process at a place of the training, once.

    Args:
        place: A hook of :data:`PLACES`; ``sampling`` is each batch that the DDIM evaluation draws.
        count: How often the hook is passed before, in this process.
        signal_name: ``SIGKILL``, ``SIGTERM`` …
    """

    def __init__(self, place: str, count: int, signal_name: str = "SIGKILL") -> None:
        if place not in PLACES:
            raise ValueError(f"place {place!r}, known: {PLACES}")
        self.left = count
        self.number = signal.Signals[signal_name]
        if place == "sampling":
            self.setup = self._wrap  # type: ignore[method-assign]
        else:
            setattr(self, place, self._pass)

    def _wrap(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        sample = pl_module.sample

        def sampled(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            return sample(*args, **kwargs)

        pl_module.sample = sampled

    def _pass(self, *args: Any, **kwargs: Any) -> None:
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        self.left -= 1
