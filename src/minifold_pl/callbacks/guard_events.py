"""How a guard tells what it found: in the run's events and on the dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn

from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder


def run_folder(trainer: pl.Trainer) -> RunFolder:
    """The folder of the run that is training."""
    return RunFolder(Path(trainer.default_root_dir))


def record(
    trainer: pl.Trainer, event: str, *, step: int, values: Mapping[str, float] | None = None, **details: Any
) -> None:
    """Append an event and log its numbers, on the first rank.

    A disk that takes no event does not end the training: it is said on the terminal instead.

    Args:
        trainer: Of the run.
        event: What happened.
        step: Optimizer steps before this one.
        values: Numbers for ``metrics.csv`` and W&B, written at once.
        details: Plain values for ``events.jsonl``.
    """
    if not trainer.is_global_zero:
        return
    place = {"epoch": trainer.current_epoch, "step": step}
    try:
        append_event(run_folder(trainer).events, event, **place, **details)
    except OSError as error:
        rank_zero_warn(f"event {event} at step {step} could not be written ({error}): {details}")
    if values:
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)


def sum_over_ranks(trainer: pl.Trainer, values: list[float]) -> list[float]:
    """The sum of each value over all ranks; every rank must call it at the same place."""
    if trainer.world_size == 1:
        return values
    # float32: MPS and some backends know no float64, and the counts are small.
    total = torch.tensor(values, device=trainer.strategy.root_device, dtype=torch.float32)
    torch.distributed.all_reduce(total)
    return total.tolist()
