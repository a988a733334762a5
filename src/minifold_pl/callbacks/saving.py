"""Putting a training state on the disk, and what becomes of a save that fails."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, Final

import lightning.pytorch as pl

from minifold_pl.checkpoint.finite import non_finite_tensors
from minifold_pl.checkpoint.io import refuse_foreign_state
from minifold_pl.checkpoint.snapshot import Snapshots
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater, RunHalted

LONGEST_DELAY: Final = 60.0
"""Seconds between two tries at most."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


class SaveKeepsFailing(RetryLater):
    """So many saves in a row failed that going on would only lose more work."""


@dataclass(kw_only=True)
class Job:
    """One state on its way to the disk."""

    path: Path
    checkpoint: dict[str, Any]
    step: int
    epoch: int
    about: dict[str, Any] = field(default_factory=dict)
    """More for the event."""
    begun: float = field(default_factory=perf_counter)
    stall: float = 0.0
    """Seconds for which training stood still."""
    seconds: float = 0.0
    """From the first moment to a file that is safe on the disk."""
    size: int = 0
    """Bytes."""
    error: Exception | None = None
    """Why it is not on the disk."""
    thread: threading.Thread | None = None

    @property
    def saved(self) -> bool:
        """Whether it is safe on the disk; asked when it has ended."""
        return self.error is None


class Saver:
    """Writes checkpoints for a trainer, and keeps count of what failed. All ranks call it together.

    A write that the system refuses (disk full, quota, read-only, input/output error) is reported as event
    ``save_failed`` and leaves what is on the disk as it is; training goes on. :meth:`due_again` says when to try
    again: at the first boundary after 1, 2, 4 … seconds, at most :data:`LONGEST_DELAY`.

    Args:
        background: Write in a thread, from a copy of the state; one at a time.
        max_failures: So many in a row end the run with :class:`SaveKeepsFailing`.
        first_delay: Seconds to the first new try.
        make_room: Called on a full disk with the folder; removes what can be spared, or returns None.
        after: Called with the folder when a checkpoint is safe on the disk, in the thread that wrote it.
    """

    def __init__(
        self,
        *,
        background: bool = False,
        max_failures: int = 10,
        first_delay: float = 1.0,
        make_room: Callable[[Path], Path | None] = lambda folder: None,
        after: Callable[[Path], object] = lambda folder: None,
    ) -> None:
        if max_failures < 1:
            raise ValueError(f"max_failures must be at least 1, got {max_failures}")
        self.background = background
        self.max_failures = max_failures
        self.first_delay = first_delay
        self.failures = 0
        """In a row."""
        self._make_room = make_room
        self._after = after
        self._next_try = 0.0
        self._snapshots = Snapshots()
        self._under_way: tuple[Job, Callable[[Job], None]] | None = None

    def due_again(self, trainer: pl.Trainer) -> bool:
        """Whether it is time for another try, or none has failed."""
        return self.failures == 0 or bool(_agreed(trainer, monotonic() >= self._next_try))

    def save(
        self,
        trainer: pl.Trainer,
        path: Path,
        settled: Callable[[Job], None],
        *,
        wait: bool = False,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Save the state as it is now.

        Args:
            trainer: At a boundary of optimizer steps, in :class:`~minifold_pl.callbacks.exact_resume.ExactResume`'s
                sense.
            path: Where to.
            settled: Called on every rank when the outcome is known: before this returns, or at a later call of this
                object where the write is in the background.
            wait: Write here and now, even where ``background`` is on.
            about: More for the event.

        Raises:
            SaveKeepsFailing: This was one failure too many.
            RunHalted: The weights or the optimizer's moments are not finite; nothing was written.
        """
        self.settle(trainer, wait=True)
        begun = perf_counter()
        job = Job(
            path=path, checkpoint={}, step=trainer.global_step, epoch=trainer.current_epoch, begun=begun
        )
        job.about = dict(about or {})
        job.error = _agreed(trainer, _flush_loggers(trainer))
        if job.saved:
            job.checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self._refuse_non_finite(trainer, job)
            if self.background and not wait:
                self._start(trainer, job, settled)
                return
            if trainer.is_global_zero:
                self._write(trainer, job)
        else:
            _note_failure(trainer, job)
        job.stall = job.seconds = perf_counter() - begun
        self._account(trainer, job, settled)

    def write_again(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        """Write a state that is still in memory, here and now."""
        self.settle(trainer, wait=True)
        job.begun, job.error = perf_counter(), None
        if trainer.is_global_zero:
            self._write(trainer, job)
        job.stall = job.seconds = perf_counter() - job.begun
        self._account(trainer, job, settled)

    def keep(self, job: Job) -> Job:
        """A failed job whose state stays in memory as it is now, for :meth:`write_again`."""
        if job.thread is None and job.checkpoint:
            job.checkpoint = Snapshots().take(job.checkpoint)
        else:
            self._snapshots.give_away()
        return job

    def settle(self, trainer: pl.Trainer, *, wait: bool = False) -> None:
        """Take note of a write in the background that has ended; with several processes only when waiting for it.

        Raises:
            SaveKeepsFailing: It failed, once too often.
        """
        if self._under_way is None:
            return
        job, settled = self._under_way
        if job.thread is not None:
            if not wait and (trainer.world_size > 1 or job.thread.is_alive()):
                return
            begun = perf_counter()
            job.thread.join()
            job.stall += perf_counter() - begun
        self._under_way = None
        self._account(trainer, job, settled)

    def finish(self) -> None:
        """Wait for a write in the background, whatever comes of it; for a process that ends."""
        if self._under_way is not None and self._under_way[0].thread is not None:
            self._under_way[0].thread.join()

    def pause(self) -> None:
        """Stand still until the next try is due."""
        sleep(max(0.0, self._next_try - monotonic()))

    def _start(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        self._under_way = (job, settled)
        if trainer.is_global_zero:
            refuse_foreign_state(job.checkpoint)
            job.checkpoint = self._snapshots.take(job.checkpoint)
            # Not a daemon: an interpreter that ends waits for it.
            job.thread = threading.Thread(target=self._write, args=(trainer, job), name="checkpoint")
            job.thread.start()
        else:
            job.checkpoint = {}
        job.stall = perf_counter() - job.begun

    def _write(self, trainer: pl.Trainer, job: Job) -> None:
        """On rank 0, in either thread."""
        try:
            while True:
                try:
                    trainer.strategy.checkpoint_io.save_checkpoint(job.checkpoint, job.path)
                    break
                except OSError as error:
                    freed = self._make_room(job.path.parent) if error.errno in _FULL else None
                    if freed is None:
                        raise
                    log.warning("the disk is full: removed %s, a newer checkpoint is whole", freed)
                    note(trainer, "checkpoint_removed", file=freed.name, reason="disk full")
            job.size = job.path.stat().st_size
            job.seconds = perf_counter() - job.begun
            note(trainer, "saved", **_place(job), seconds=round(job.seconds, 3), bytes=job.size, **job.about)
            self._after(job.path.parent)
        except Exception as error:  # reported to the training thread, which decides
            job.error = error
            if isinstance(error, OSError):
                _note_failure(trainer, job)

    def _account(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        own = job.error
        # An error's class may not exist in another process; the system's errors do.
        said = _agreed(trainer, own if own is None or isinstance(own, OSError) else str(own))
        if own is not None and not isinstance(own, OSError):
            raise own
        if isinstance(said, str):
            raise RetryLater(f"the checkpoint of step {job.step} could not be written: {said}")
        job.error = said
        settled(job)
        if job.saved:
            job.checkpoint = {}
            self.failures = 0
            _log_costs(trainer, job)
            return
        self.failures += 1
        delay = min(LONGEST_DELAY, self.first_delay * 2 ** (self.failures - 1))
        self._next_try = monotonic() + delay
        if self.failures >= self.max_failures:
            raise SaveKeepsFailing(
                f"{self.failures} saves in a row failed, the last with: {job.error}. The checkpoints of "
                f"{job.path.parent} are as they were; start again when they can be written"
            )

    def _refuse_non_finite(self, trainer: pl.Trainer, job: Job) -> None:
        found = _agreed(trainer, non_finite_tensors(job.checkpoint) if trainer.is_global_zero else [])
        if found:
            if trainer.is_global_zero:
                note(trainer, "non_finite_weights", **_place(job), tensors=found[:20], count=len(found))
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise RunHalted(
                f"NaN or infinity after step {job.step} in {', '.join(found[:3])}{more}. This state was not saved; "
                f"the checkpoints of {job.path.parent} are of the time before. A smaller learning rate, or "
                "clipping, may prevent it"
            )


def saver_of(trainer: pl.Trainer) -> Saver | None:
    """The saver that the trainer's callbacks share, if one of them brings it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
        saver = getattr(callback, "saver", None)
        if isinstance(saver, Saver):
            return saver
    return None


def note(trainer: pl.Trainer, event: str, **details: Any) -> None:
    """Append to the run's events; a disk that refuses that, too, must not end the run."""
    try:
        append_event(RunFolder(Path(trainer.default_root_dir)).events, event, **details)
    except OSError as error:
        log.warning("event %s %s could not be written: %s", event, details, error)


def _note_failure(trainer: pl.Trainer, job: Job) -> None:
    if trainer.is_global_zero:
        log.warning(
            "COULD NOT SAVE step %d as %s: %s. Training goes on and will try again; older checkpoints are whole",
            job.step, job.path, job.error,
        )  # fmt: skip
        note(trainer, "save_failed", **_place(job), error=str(job.error))


def _place(job: Job) -> dict[str, Any]:
    return {"step": job.step, "epoch": job.epoch, "file": job.path.name}


def _flush_loggers(trainer: pl.Trainer) -> OSError | None:
    """A checkpoint must not be newer than the rows of its metrics: a resumed run would not write them again."""
    try:
        for logger in trainer.loggers:
            logger.save()
    except OSError as error:
        return error
    return None


def _log_costs(trainer: pl.Trainer, job: Job) -> None:
    values = {
        "perf/save_seconds": job.seconds,
        "perf/save_stall_seconds": job.stall,
        "perf/checkpoint_bytes": float(job.size),
    }
    for logger in trainer.loggers:
        logger.log_metrics(values, step=max(trainer.global_step - 1, 0))


def _agreed(trainer: pl.Trainer, value: Any) -> Any:
    """What rank 0 says."""
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)
