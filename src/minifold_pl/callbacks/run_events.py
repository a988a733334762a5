"""What a run's folder says about it: its state marker and its events."""

from __future__ import annotations

import json
from typing import Any

import lightning.pytorch as pl

from minifold_pl.callbacks.data_workers import kill_workers, worker_loss
from minifold_pl.callbacks.finding import callbacks_of
from minifold_pl.callbacks.lost_rank import rank_loss
from minifold_pl.callbacks.patience import Patience
from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater, RunHalted
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.stop import RunInterrupted
from minifold_pl.run.stop_order import stop_order
from minifold_pl.run.stopped import mark_stopped


class RunEvents(pl.Callback):
    """Write RUNNING when training starts, DONE when it has ended, and an event for each start, end and failure.

    A process that fails or is killed leaves RUNNING behind: its successor knows there is work to go on with.

    Args:
        folder: The run's folder.
        resumed_from: Checkpoint that this start goes on from.
    """

    def __init__(self, folder: RunFolder, resumed_from: str | None) -> None:
        self.folder = folder
        self.resumed_from = resumed_from
        self._over = False
        """The end of this start is noted."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the start or the resume."""
        if not trainer.is_global_zero:
            return
        self._mark(trainer, RunState.RUNNING, "")
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step, **_equipment(trainer)}
        if self.resumed_from is None:
            append_event(self.folder.events, "started", **place)
            self._note_origin(getattr(pl_module, "initialised", None))
        else:
            append_event(self.folder.events, "resumed", checkpoint=self.resumed_from, **place)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the end and why."""
        if self._over or not trainer.is_global_zero or trainer.interrupted:
            return
        self._over = True
        reason = "finished"
        for callback in callbacks_of(trainer, Patience):
            if callback.spent:
                reason = f"no improvement of {callback.monitor} in {callback.patience} validations"
        append_event(
            self.folder.events, "done", reason=reason, epoch=trainer.current_epoch, step=trainer.global_step
        )
        self._mark(trainer, RunState.DONE, reason)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the end of a run that was killed between its last save and the word that it is done.

        Its next start finds nothing to train, and Lightning passes over the start and the end of training.
        """
        marker = read_marker(self.folder.marker)
        if stage == "fit" and (marker is None or marker.state is not RunState.DONE):
            self.on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Note how it ended; only a halt and an order to stop are for good: all else leaves the run to be resumed."""
        self._over = True
        lost = worker_loss(exception)
        place: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if lost is not None:
            kill_workers()
            # The first process will only learn that this one is gone.
            place |= {"rank": trainer.global_rank} if trainer.world_size > 1 else {}
        elif not trainer.is_global_zero:
            return
        exception = lost or rank_loss(exception, trainer.world_size) or exception
        first = " ".join(str(exception).split())[:500]
        if isinstance(exception, RunHalted):
            append_event(self.folder.events, "halted", reason=exception.reason, **place)
            self._mark(trainer, RunState.HALTED, exception.reason)
        elif isinstance(exception, RetryLater):
            kind = type(exception).__name__
            append_event(self.folder.events, "retry", kind=kind, reason=exception.reason, **place)
        elif isinstance(exception, Exception):
            append_event(self.folder.events, "failed", error=type(exception).__name__, message=first, **place)
        elif isinstance(exception, RunInterrupted) and (order := stop_order(self.folder)) is not None:
            mark_stopped(self.folder, order, **place)
        else:
            name = getattr(exception, "name", type(exception).__name__)
            append_event(self.folder.events, "interrupted", signal=name, **place)

    def _note_origin(self, origin: dict[str, Any] | None) -> None:
        if not origin:
            return
        told = {name: origin[name] for name in ("ckpt", "sha256", "weights", "tensors")}
        append_event(self.folder.events, "initialised", from_step=origin["step"], **told)
        try:
            atomic_write_text(self.folder.origin, json.dumps(origin, indent=1) + "\n")
        except OSError as error:
            append_event(self.folder.events, "origin_not_written", error=str(error))

    def _mark(self, trainer: pl.Trainer, state: RunState, reason: str) -> None:
        marker = Marker(state=state, reason=reason, epoch=trainer.current_epoch, step=trainer.global_step)
        try:
            write_marker(self.folder.marker, marker)
        except OSError as error:
            # A full disk is no reason to end, nor to end in another way: the next start comes to the same end.
            append_event(self.folder.events, "marker_not_written", state=state, error=str(error))


def _equipment(trainer: pl.Trainer) -> dict[str, Any]:
    """What training is done with, and how long an epoch is: for whoever watches the run."""
    batches = trainer.num_training_batches
    gpus = trainer.world_size if trainer.strategy.root_device.type == "cuda" else 0
    told: dict[str, Any] = {"processes": trainer.world_size, "gpus": gpus}
    if isinstance(batches, int) and batches > 0:
        # A window of accumulation that the epoch's end cuts is a step, too.
        told["steps_per_epoch"] = -(-batches // trainer.accumulate_grad_batches)
    return told
