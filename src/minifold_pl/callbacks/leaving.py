"""Leave where a signal asks for it: all processes at the same boundary."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from minifold_pl.run import stop
from minifold_pl.run.stop import STOP_SIGNALS, RunInterrupted
from minifold_pl.run.stop_order import REQUEST


def leave_where_asked(trainer: pl.Trainer) -> None:
    """Raise where a stop was requested of any process; all ranks call it together.

    Raises:
        RunInterrupted: With the signal's name, or that of an order to stop.
    """
    name = stop.requested()
    if trainer.world_size > 1:
        names = [*(signal.name for signal in STOP_SIGNALS), REQUEST]
        mine = 0 if name is None else names.index(name) + 1
        flag = torch.tensor(mine, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        name = names[int(flag) - 1] if int(flag) else None
    if name is not None:
        raise RunInterrupted(name)


class Boundaries:
    """Places between pieces of work at which a run may leave, the same number on every rank.

    Args:
        trainer: Asked for the other ranks.
        most: Pieces of the rank that has most of them.
    """

    def __init__(self, trainer: pl.Trainer, most: int) -> None:
        self.trainer = trainer
        self.left = most

    def __call__(self) -> None:
        """Before a piece of work."""
        if self.left > 0:
            self.left -= 1
            leave_where_asked(self.trainer)

    def finish(self) -> None:
        """Meet the ranks that have more pieces."""
        while self.left > 0:
            self()
