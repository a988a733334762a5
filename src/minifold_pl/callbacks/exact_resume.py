"""Go on in the middle of an epoch as if nothing had happened."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.run.halt import RetryLater

METRICS_KEY: Final = "metrics_csv"
"""Where a checkpoint keeps the state of :class:`~minifold_pl.loggers.metrics_csv.MetricsCSV`."""


@runtime_checkable
class StartsAnywhere(Protocol):
    """A batch sampler whose next iteration can leave out the first batches of an epoch."""

    def start_at(self, epoch: int, batch: int) -> None:
        """The next iteration is that of ``epoch`` from ``batch`` on."""


class ExactResume(pl.Callback):
    """Save where the run stands so that a resumed run takes the very next batch, and put the data there.

    Lightning's loops write their counters as they are when a checkpoint is made, which differs from hook to hook,
    and a resumed epoch reads its data from the start. This callback writes the counters that follow from the
    place alone, which is one of

    - after batch k of epoch e, nothing due;
    - after batch k, validation due (its last batch, or ``val_check_interval``) and not finished: the resumed run
      validates first, from the first chain;
    - after batch k, validation done, the epoch's end still to come;
    - between two epochs.

    With accumulation the place must be a window's end, where no gradient is pending.

    It is always on. The loops' fields are Lightning's own (seen with 2.6.6); the tests that resume at every batch
    would notice another version's.
    """

    def __init__(self) -> None:
        self._validated: int | None = None
        self._world = 1
        self._saved_world: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the last fit."""
        self._validated = None
        self._world = trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """How many processes the batches of an epoch were divided among."""
        return {"world": self._world}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note how many there were."""
        self._saved_world = int(state_dict["world"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the validation after the last batch is done; it runs before any callback that saves here."""
        if not trainer.sanity_checking:
            self._validated = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the data where the run stands; the loaders were made before the state was read."""
        loop = trainer.fit_loop
        epoch = _processed(loop.epoch_progress)
        batch = self._batch(trainer) if loop.restarting else 0
        self._agree(trainer, (epoch, batch, trainer.global_step))
        if (epoch, batch) == (0, 0):
            return
        combined, fetcher = loop._combined_loader, loop._data_fetcher
        if combined is None or fetcher is None:
            return
        for loader in combined.flattened:
            sampler = getattr(loader, "batch_sampler", None)
            if isinstance(sampler, StartsAnywhere):
                sampler.start_at(epoch, batch)
        iter(fetcher)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the counters of the place, and first what was logged up to it."""
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, MetricsCSV):
                checkpoint[METRICS_KEY] = logger.state_dict()
        loop = trainer.fit_loop
        state: dict[str, Any] = checkpoint["loops"]["fit_loop"]
        epochs: _Progress = loop.epoch_progress
        batches = loop.epoch_loop.batch_progress
        if _processed(epochs) < epochs.current.ready:
            self._after_batch(trainer, state, batches.total.ready)
        elif loop.epoch_loop._num_ready_batches_reached():
            self._between_epochs(state, _processed(epochs))
        else:
            # ``max_steps``: the epoch's end in the loop's sense, but batches are left for a run that goes on.
            for part in ("current", "total"):
                state["epoch_progress"][part]["processed"] -= 1
            self._after_batch(trainer, state, batches.total.ready)

    def _batch(self, trainer: pl.Trainer) -> int:
        """The batch to begin with; with other processes than before, the one at the same share of the epoch."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        batch = progress.current.ready
        before = self._saved_world or self._world
        if not batch or before == self._world:
            return batch
        moved = batch * before // self._world
        moved -= moved % trainer.accumulate_grad_batches
        rank_zero_warn(
            f"this run had {before} processes and has {self._world} now: from here on its batches are not those "
            f"of the undisturbed run; the epoch goes on at batch {moved} instead of {batch}"
        )
        current = progress.current
        current.reset()
        for name in ("ready", "started", "processed", "completed"):
            setattr(current, name, moved)
        return moved

    def _agree(self, trainer: pl.Trainer, place: tuple[int, int, int]) -> None:
        """All ranks go on from the same place, or none does: their collectives would not meet."""
        places = from_all_ranks(trainer.world_size, place)
        if len(set(places)) > 1:
            told = ", ".join(f"rank {rank}: {found}" for rank, found in enumerate(places))
            raise RetryLater(f"the ranks read different checkpoints (epoch, batch, step of {told})")

    def _between_epochs(self, state: dict[str, Any], epoch: int) -> None:
        _set(state["epoch_progress"]["current"], epoch)
        _set(state["epoch_progress"]["total"], epoch)
        _set(state["epoch_loop.batch_progress"]["current"], 0)
        _whole(state["epoch_loop.batch_progress"]["total"])
        state["epoch_loop.batch_progress"]["is_last_batch"] = False
        for part in ("current", "total"):
            _set(state["epoch_loop.val_loop.batch_progress"][part], 0)

    def _after_batch(self, trainer: pl.Trainer, state: dict[str, Any], taken: int) -> None:
        loop = trainer.fit_loop.epoch_loop
        validated = self._validated == taken
        due = not validated and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        if not due and not validated and not loop._should_accumulate() and _inside_batch(loop.batch_progress):
            # The loop counts the step after the hooks in which checkpoints are made.
            state["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        _whole(state["epoch_loop.batch_progress"]["current"])
        _whole(state["epoch_loop.batch_progress"]["total"])
        validation = state["epoch_loop.val_loop.batch_progress"]
        _set(validation["current"], 0)
        # One batch begun and not processed is how the loop knows a validation that was cut off.
        _set(validation["total"], 0)
        if due:
            validation["total"].update(ready=1, started=1)


def _inside_batch(batches: _Progress) -> bool:
    return batches.current.completed < _processed(batches)


def _processed(progress: _Progress) -> int:
    # The base class declares a tracker with fewer counters than the loops put in.
    return cast(_ProcessedTracker, progress.current).processed


def _set(counts: dict[str, int], value: int) -> None:
    for name in counts:
        counts[name] = value


def _whole(counts: dict[str, int]) -> None:
    _set(counts, counts["ready"])
