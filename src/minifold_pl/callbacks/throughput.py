"""How fast training goes and how much of it is padding."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import lightning.pytorch as pl

from minifold_pl.types import ProteinBatch


class Throughput(pl.Callback):
    """Log ``perf/steps_per_s``, ``perf/residues_per_s``, ``perf/padding_share`` and ``perf/data_wait_share``.

    Each is a figure for a whole training epoch; validation and sampling are not counted. Under DDP, residues
    are those of all ranks.

    It is always on.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting: a run that goes on within an epoch starts no epoch."""
        self._reset(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._reset(trainer)

    def _reset(self, trainer: pl.Trainer) -> None:
        self._residues = self._places = self._batches = 0
        self._busy = self._waited = 0.0
        self._last_end = perf_counter()
        self._steps_before = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Time since the last batch's end was spent waiting for data (or validating)."""
        self._start = perf_counter()
        self._waited += self._start - self._last_end

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self._last_end = perf_counter()
        self._busy += self._last_end - self._start
        self._batches += 1
        if isinstance(batch, ProteinBatch):
            self._residues += int(batch.lengths.sum())
            self._places += batch.residue_mask.numel()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation inside the epoch is no waiting for data."""
        self._last_end = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's figures."""
        elapsed = self._busy + self._waited
        if not self._batches or elapsed <= 0:
            return
        steps = trainer.global_step - self._steps_before
        values = {
            "perf/steps_per_s": steps / elapsed,
            "perf/residues_per_s": self._residues * trainer.world_size / elapsed,
            "perf/data_wait_share": self._waited / elapsed,
        }
        if self._places:
            values["perf/padding_share"] = 1 - self._residues / self._places
        pl_module.log_dict(values)
