"""Which checkpoints a run keeps: the latest to resume from, the best to use."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minifold_pl.callbacks.ddim_evaluator import awaited
from minifold_pl.callbacks.rollback import RolledBack
from minifold_pl.callbacks.saving import Job, SaveKeepsFailing, Saver, agreed, note, saver_of
from minifold_pl.checkpoint.newest import find_newest, set_aside_later, sweep
from minifold_pl.checkpoint.rotation import Rotation, resume_name
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted

log = logging.getLogger(__name__)


class ResumeCheckpoint(Checkpoint):
    """Save the whole training state every so often; ``fit`` on the same folder goes on from it.

    Whether a metric improved plays no part: a plateau must not make the newest checkpoint old. Files are
    ``checkpoints/resume-<optimizer steps>.ckpt``.

    A save that fails (disk full, read-only …) is reported and tried again; see
    :class:`~minifold_pl.callbacks.saving.Saver`. When training starts, what killed saves have left behind is
    removed and damaged checkpoints are set aside.

    .. code-block:: yaml

        checkpoints: {every_n_epochs: 1, every_n_steps: 500, keep_last: 2}

    Args:
        every_n_epochs: Epochs between saves at an epoch's end; 0 leaves them out.
        every_n_steps: Optimizer steps between saves, which are made where no gradient is pending.
        keep_last: How many of the latest stay; -1 keeps all.
        keep_every_n_steps: Those whose step is a multiple of it stay for good.
        background: Write in a thread, from a copy of the state, while training goes on.
        max_failures: So many failed saves in a row end the run, to be started again.
        retry_after: Seconds from a failed save to the next try; doubled each time, a minute at most.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        keep_last: int = 2,
        keep_every_n_steps: int | None = None,
        background: bool = False,
        max_failures: int = 10,
        retry_after: float = 1.0,
    ) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must be 0 (never) or more, got {every_n_epochs}")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, or null for never; got {every_n_steps}")
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.rotation = Rotation(last=keep_last, every=keep_every_n_steps)
        self.saver = Saver(
            background=background, max_failures=max_failures, first_delay=retry_after,
            make_room=self.rotation.make_room, after=self.rotation.apply,
        )  # fmt: skip
        self._owed = False
        """A save has failed and was not made up for."""
        self._last_step = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tidy up what the last process left behind; this one owns the folder by now."""
        if stage == "fit" and trainer.is_global_zero:
            tidy(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set aside checkpoints of a future that this start has left: they would win at the next one."""
        if not trainer.is_global_zero or not _folder(trainer).is_dir():
            return
        # A folder that cannot be written now may be later, and then the saves will say what is wrong with it.
        with contextlib.suppress(OSError):
            for path in set_aside_later(_folder(trainer), trainer.global_step):
                log.warning("set aside as %s: it is newer than where this start begins", path)
                note(trainer, "checkpoint_superseded", file=path.name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where the number of steps says so, or where a save is owed."""
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self.saver.prepare(trainer)
        self.saver.settle(trainer)
        step = trainer.global_step
        # A step that was left out does not make the one before it due again.
        due = self.every_n_steps is not None and step % self.every_n_steps == 0 and step != self._last_step
        self._last_step = step
        if due or self._owed:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of an epoch; at the end of training do not leave without it."""
        last = _ends_here(trainer)
        due = self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or self._owed or last:
            self._save(trainer, wait=last)
        while last and self._owed:
            self.saver.pause(trainer)
            self._save(trainer, wait=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See a write in the background through."""
        self.saver.settle(trainer, wait=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """See a write in the background through; its outcome is in the events."""
        self.saver.finish(trainer)

    def save_now(self, trainer: pl.Trainer) -> Path | None:
        """Save here and now, because the process has to leave; all ranks call it together.

        Returns:
            The checkpoint; None where it could not be written, or the weights are not finite: the event says
            which, and the older ones are as they were.
        """
        path = _folder(trainer) / resume_name(trainer.global_step)
        try:
            self.saver.save(trainer, path, self._settled, wait=True)
        except (SaveKeepsFailing, RolledBack, RunHalted) as error:
            log.warning("%s", error)
            return None
        return None if self._owed else path

    def _save(self, trainer: pl.Trainer, wait: bool = False) -> None:
        if not self.saver.due_again(trainer):
            self._owed = True
            return
        self._owed = False
        path = _folder(trainer) / resume_name(trainer.global_step)
        self.saver.save(trainer, path, self._settled, wait=wait)

    def _settled(self, job: Job) -> None:
        self._owed = not job.saved


class BestCheckpoint(Checkpoint):
    """Keep the checkpoint with the best value of a logged metric as ``checkpoints/best.ckpt``.

    A best one that could not be written stays in memory and is tried again. A score that is no number is never
    the best.

    .. code-block:: yaml

        best: {monitor: val/total}

    Args:
        monitor: A logged validation value.
        mode: ``min`` or ``max``.
    """

    FILE: ClassVar[str] = "best.ckpt"

    def __init__(self, monitor: str = "val/total", mode: str = "min") -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, got {mode!r}")
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        """Of the file that is there, or being written."""
        self.best_step = -1
        self.current_score: float | None = None
        """Of the last validation that measured it."""
        self._before: tuple[float | None, int] = (None, -1)
        self._unwritten: Job | None = None

    @property
    def state_key(self) -> str:
        """Scores of another metric are no use."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Share the saver, or have one of its own."""
        self._saver = saver_of(trainer) or Saver()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search anew where the restored scores are those of a file that was damaged, and set aside, or removed."""
        self._forget_what_is_gone(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if this is the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        score = self._measured(trainer)
        if score is None:
            return
        self._saver.settle(trainer, wait=True)
        self._forget_what_is_gone(trainer)
        self.current_score = score
        waiting = None if self._unwritten is None else self._unwritten.about["score"]
        if not (self._better(score, self.best_score) and self._better(score, waiting)):
            return
        self._unwritten = None
        self._before = (self.best_score, self.best_step)
        self.best_score, self.best_step = score, trainer.global_step
        self._saver.save(
            trainer,
            _folder(trainer) / self.FILE,
            self._settled,
            about={"monitor": self.monitor, "score": score},
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Try again what could not be written."""
        if self._unwritten is not None and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._try_again(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not end without it."""
        if _ends_here(trainer):
            self._saver.settle(trainer, wait=True)
            while self._unwritten is not None:
                self._saver.pause(trainer)
                self._try_again(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Scores, under the names that Lightning's own callback has for them."""
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_score,
            "best_step": self.best_step,
            "current_score": self.current_score,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with saved scores."""
        self.best_score = state_dict["best_model_score"]
        self.best_step = state_dict["best_step"]
        self.current_score = state_dict["current_score"]

    def _forget_what_is_gone(self, trainer: pl.Trainer) -> None:
        """Do not wait for something better than a file that is not there, and let no checkpoint speak of it."""
        if not agreed(trainer, (_folder(trainer) / self.FILE).is_file()):
            self.best_score, self.best_step = None, -1

    def _try_again(self, trainer: pl.Trainer) -> None:
        job = self._unwritten
        if job is None or not self._saver.due_again(trainer):
            return
        self._before = (self.best_score, self.best_step)
        self.best_score, self.best_step = job.about["score"], job.step
        self._saver.write_again(trainer, job, self._settled)

    def _settled(self, job: Job) -> None:
        self._unwritten = None
        if not job.saved:
            # Other checkpoints must not speak of a best one that does not exist.
            self.best_score, self.best_step = self._before
            if job.taken:
                self._unwritten = self._saver.keep(job)

    def _better(self, score: float, than: float | None) -> bool:
        if math.isnan(score):
            return False
        return than is None or (score < than if self.mode == "min" else score > than)

    def _measured(self, trainer: pl.Trainer) -> float | None:
        """The monitored value if this validation measured it; scores of samples are measured now and then."""
        now = trainer._logger_connector.metrics["callback"]
        if self.monitor in now:
            return float(now[self.monitor])
        known = trainer.callback_metrics
        if self.monitor in known or self.monitor.startswith("ddim/") or awaited(trainer, self.monitor):
            return None
        raise MisconfigurationException(
            f"best.monitor is {self.monitor!r}, which was not logged; there are {', '.join(sorted(known))}"
        )


def tidy(trainer: pl.Trainer) -> None:
    """Remove what killed saves left behind and set damaged checkpoints aside, with an event for each.

    Every checkpoint of the folder is read, not only those a run would go on from: the best one is what is used in
    the end, and older ones are what is left when the newest is lost. In ``setup``, so that whoever looks for a
    file when training starts finds only whole ones.
    """
    folder = _folder(trainer)
    if not folder.is_dir():
        return
    sweep(folder)
    for damaged in find_newest(folder, set_aside=True).damaged:
        log.warning("damaged checkpoint, now %s: %s", damaged.path, damaged.reason)
        note(trainer, "checkpoint_damaged", file=damaged.path.name, step=damaged.step, reason=damaged.reason)


def _folder(trainer: pl.Trainer) -> Path:
    return RunFolder(Path(trainer.default_root_dir)).checkpoints


def _ends_here(trainer: pl.Trainer) -> bool:
    """Whether this epoch's end is the end of training. The loop's own ``done`` changes its counters."""
    loop = trainer.fit_loop
    epochs, steps = loop.max_epochs, loop.epoch_loop.max_steps
    return (
        (epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs)
        or (steps != -1 and trainer.global_step >= steps)
        or (trainer.should_stop and loop._can_stop_early)
    )
