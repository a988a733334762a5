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

from minifold_pl.callbacks.nonfinite_guard import go_back_or_halt
from minifold_pl.checkpoint.finite import non_finite_tensors
from minifold_pl.checkpoint.io import refuse_foreign_state
from minifold_pl.checkpoint.newest import RESUMABLE
from minifold_pl.checkpoint.snapshot import Snapshots
from minifold_pl.run import stop
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater

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
    taken: bool = False
    """Whether there is a state, though perhaps not in this process's memory."""
    thread: threading.Thread | None = None
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Events that are still to be written, by the training thread."""

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
        after: Called with a checkpoint's path when it is safe on the disk, in the thread that wrote it.
    """

    def __init__(
        self,
        *,
        background: bool = False,
        max_failures: int = 10,
        first_delay: float = 1.0,
        make_room: Callable[[Path], Path | None] = lambda folder: None,
        after: Callable[[Path], object] = lambda path: None,
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
        self._prepared = False
        self._preparing: threading.Thread | None = None
        self._under_way: tuple[Job, Callable[[Job], None]] | None = None

    def prepare(self, trainer: pl.Trainer) -> None:
        """Have the memory for copies ready before the first save: the system takes longer than the copying.

        Once, at a boundary. In a thread; the first save waits for it.
        """
        if not self.background or self._prepared:
            return
        self._prepared = True
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            self._preparing = threading.Thread(
                target=self._snapshots.reserve, args=(state,), name="checkpoint"
            )
            self._preparing.start()

    def due_again(self, trainer: pl.Trainer) -> bool:
        """Whether it is time for another try, or none has failed."""
        return self.failures == 0 or bool(agreed(trainer, monotonic() >= self._next_try))

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
            RolledBack: The weights or the optimizer's moments are not finite; nothing was written, and the next start
                goes on from an older checkpoint.
            RunHalted: So it was, and the run has gone back before or may not.
        """
        self.settle(trainer, wait=True)
        job = Job(path=path, checkpoint={}, step=trainer.global_step, epoch=trainer.current_epoch)
        job.about = dict(about or {})
        # A logger that raises while the state is collected would leave the other processes waiting for this one.
        job.error = agreed(trainer, self._flush(trainer, path.parent))
        if job.saved:
            state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            _refuse_non_finite(trainer, job, state)
            if trainer.fit_loop.epoch_loop._should_accumulate():
                state[RESUMABLE] = False
            job.checkpoint, job.taken = state if trainer.is_global_zero else {}, True
        if job.saved and self.background and not wait:
            self._start(trainer, job, settled)
        else:
            self._write_here(trainer, job, settled)

    def write_again(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        """Write a state that :meth:`keep` has kept, here and now."""
        self.settle(trainer, wait=True)
        job.begun, job.error = perf_counter(), agreed(trainer, self._flush(trainer, job.path.parent))
        self._write_here(trainer, job, settled)

    def keep(self, job: Job) -> Job:
        """A failed job whose state stays in memory as it is now, for :meth:`write_again`."""
        if job.thread is None:
            job.checkpoint = Snapshots().take(job.checkpoint)
        else:
            self._snapshots.give_away()
            job.thread = None
        return job

    def settle(self, trainer: pl.Trainer, *, wait: bool = False) -> None:
        """Take note of a write in the background that has ended; with several processes only when waiting for it.

        Raises:
            SaveKeepsFailing: It failed, once too often.
        """
        if self._under_way is None:
            return
        job, settled = self._under_way
        # Only the writing process has a thread: the others cannot tell whether it has ended.
        if not wait and (trainer.world_size > 1 or (job.thread is not None and job.thread.is_alive())):
            return
        if job.thread is not None:
            begun = perf_counter()
            job.thread.join()
            job.stall += perf_counter() - begun
        self._under_way = None
        self._account(trainer, job, settled)

    def finish(self, trainer: pl.Trainer) -> None:
        """Wait for a write in the background, whatever comes of it; for a process that ends."""
        if self._under_way is not None:
            job = self._under_way[0]
            if job.thread is not None:
                job.thread.join()
            _write_notes(trainer, job)

    def pause(self, trainer: pl.Trainer) -> None:
        """Stand still until the next try is due.

        Raises:
            SaveKeepsFailing: The run is asked to stop meanwhile.
        """
        while not self.due_again(trainer):
            name = agreed(trainer, stop.requested())
            if name is not None:
                raise SaveKeepsFailing(f"{name} came while the last checkpoint could not be written")
            sleep(0.05)

    def _start(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        self._under_way = (job, settled)
        if trainer.is_global_zero:
            try:
                refuse_foreign_state(job.checkpoint)
                if self._preparing is not None:
                    self._preparing.join()
                    self._preparing = None
                job.checkpoint = self._snapshots.take(job.checkpoint)
            except Exception as error:  # the other processes learn of it with the outcome
                job.error = error
            else:
                # Not a daemon: an interpreter that ends waits for it.
                job.thread = threading.Thread(target=self._write, args=(trainer, job), name="checkpoint")
                job.thread.start()
        job.stall = perf_counter() - job.begun

    def _write_here(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        if not job.saved:
            _note_failure(trainer, job)
        elif trainer.is_global_zero:
            self._write(trainer, job)
        job.stall = job.seconds = perf_counter() - job.begun
        self._account(trainer, job, settled)

    def _flush(self, trainer: pl.Trainer, folder: Path) -> OSError | None:
        """A checkpoint must not be newer than its metrics: a resumed run would not write them again."""
        error = _flush_loggers(trainer)
        while error is not None and error.errno in _FULL and self._make_room(folder) is not None:
            error = _flush_loggers(trainer)
        return error

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
                    job.notes.append(("checkpoint_removed", {"file": freed.name, "reason": "disk full"}))
            job.size = job.path.stat().st_size
            job.seconds = perf_counter() - job.begun
            costs = {"seconds": round(job.seconds, 3), "bytes": job.size}
            job.notes.append(("saved", {**_place(job), **costs, **job.about}))
            self._after(job.path)
        except Exception as error:  # reported to the training thread, which decides
            job.error = error
            if isinstance(error, OSError):
                _note_failure(trainer, job)

    def _account(self, trainer: pl.Trainer, job: Job, settled: Callable[[Job], None]) -> None:
        _write_notes(trainer, job)
        own = job.error
        # An error's class may not exist in another process; the system's errors do.
        said = agreed(trainer, own if own is None or isinstance(own, OSError) else str(own))
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


def saver_of(trainer: pl.Trainer) -> Saver | None:
    """The saver that the trainer's callbacks share, if one of them brings it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
        saver = getattr(callback, "saver", None)
        if isinstance(saver, Saver):
            return saver
    return None


def note(trainer: pl.Trainer, event: str, **details: Any) -> None:
    """Append to the run's events, on rank 0."""
    if trainer.is_global_zero:
        append_event(RunFolder(Path(trainer.default_root_dir)).events, event, **details)


def _write_notes(trainer: pl.Trainer, job: Job) -> None:
    while job.notes:
        event, details = job.notes.pop(0)
        note(trainer, event, **details)


def _refuse_non_finite(trainer: pl.Trainer, job: Job, state: dict[str, Any]) -> None:
    found = agreed(trainer, non_finite_tensors(state) if trainer.is_global_zero else [])
    if found:
        note(trainer, "non_finite_weights", **_place(job), tensors=found[:20], count=len(found))
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        why = (
            f"NaN or infinity after step {job.step} in {', '.join(found[:3])}{more}; this state was not saved"
        )
        # All that was saved before is finite.
        go_back_or_halt(trainer, why, first_bad=job.step, at_step=job.step - 1, broken_weights=True)


def _note_failure(trainer: pl.Trainer, job: Job) -> None:
    if trainer.is_global_zero:
        log.warning(
            "COULD NOT SAVE step %d as %s: %s. Training goes on and will try again; older checkpoints are whole",
            job.step, job.path, job.error,
        )  # fmt: skip
    job.notes.append(("save_failed", {**_place(job), "error": str(job.error)}))


def _place(job: Job) -> dict[str, Any]:
    return {"step": job.step, "epoch": job.epoch, "file": job.path.name}


def _flush_loggers(trainer: pl.Trainer) -> OSError | None:
    for logger in trainer.loggers:
        try:
            logger.save()
        except OSError as error:
            return error
        behind = getattr(logger, "behind", None)
        if isinstance(behind, OSError):
            return OSError(
                behind.errno, f"{behind.strerror} for the rows of {logger.name}, which have to be first"
            )
    return None


def _log_costs(trainer: pl.Trainer, job: Job) -> None:
    values = {
        "perf/save_seconds": job.seconds,
        "perf/save_stall_seconds": job.stall,
        "perf/checkpoint_bytes": float(job.size),
    }
    for logger in trainer.loggers:
        logger.log_metrics(values, step=max(trainer.global_step - 1, 0))


def agreed(trainer: pl.Trainer, value: Any) -> Any:
    """What rank 0 says."""
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)
