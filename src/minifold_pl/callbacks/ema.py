"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.profiler import record_function

from minifold_pl.callbacks.profile_table import EMA as PROFILED


class EMA(WeightAveraging):
    """Average the weights after every optimizer step; validate, sample and publish with the average.

    The decay grows from 0 as ``(1 + n) / (10 + n)`` up to ``decay``, so that a short run is not an average of its
    random start (the warm-up of TensorFlow's ``ExponentialMovingAverage``).

    In a checkpoint ``state_dict`` holds the average, ``current_model_state`` the raw weights that training goes on
    with.

    .. code-block:: yaml

        ema: {decay: 0.999}

    Args:
        decay: Weight of the old average, below 1; 0 switches averaging off.
        warmup: Grow the decay from 0 over the first updates.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.warmup = warmup
        self._swapped = False
        # Buffers are constants here; averaging them would only round them.
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        with record_function(PROFILED):
            torch._foreach_lerp_(averages, currents, 1 - decay)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average, unless it is switched off."""
        if self.decay > 0:
            super().setup(trainer, pl_module, stage)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See :meth:`on_train_start`."""
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the module's weights: those that it reads itself come after the average was made."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step, unless averaging is switched off."""
        return self.decay > 0 and super().should_update(step_idx, epoch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average, unless a guard has dropped the step: then no weight has a gradient."""
        if all(p.grad is None for p in pl_module.parameters()):
            self._latest_update_step = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate with the average."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the raw weights."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the average out of the module where a validation was cut off: what is saved now is as before it."""
        if self._swapped:
            self._swap_models(pl_module)
            self._swapped = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        if self.decay > 0:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save both sets of weights, where there are two."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load both sets of weights, where there are two."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
