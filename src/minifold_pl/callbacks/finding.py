"""A trainer's callbacks of one kind."""

from __future__ import annotations

from typing import TypeVar

import lightning.pytorch as pl

Kind = TypeVar("Kind", bound=pl.Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[Kind]) -> list[Kind]:
    """Those that are a ``kind``, in the order in which they run."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    return [callback for callback in callbacks if isinstance(callback, kind)]
