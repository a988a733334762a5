"""Notice that training has stopped moving, say where it stands, and end the process."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
from torch.utils.hooks import RemovableHandle

from minifold_pl.callbacks.data_workers import kill_workers
from minifold_pl.callbacks.guard_events import record, run_folder
from minifold_pl.run.exit_codes import RETRY

LONGEST_TICK = 5.0
"""Seconds between two looks at most."""


class Silence:
    """How long nothing has moved, in time in which this process could have moved.

    Time is added up look by look, and no look adds more than two ticks: a process that was stopped (``SIGSTOP``), or
    a machine that slept, has not been silent meanwhile. The wall clock plays no part.

    Args:
        tick: Seconds between two looks.
        now: Reading of a monotonic clock, s.
    """

    def __init__(self, tick: float, now: float) -> None:
        self.tick = tick
        self.seconds = 0.0
        self._last = now
        self._beats = -1

    def look(self, now: float, beats: int) -> float:
        """Seconds of silence up to ``now``, where ``beats`` counts the signs of life so far."""
        self.seconds += min(now - self._last, 2 * self.tick)
        self._last = now
        if beats != self._beats:
            self._beats, self.seconds = beats, 0.0
        return self.seconds


class HangWatch(pl.Callback):
    """End a process that does nothing any more, so that its next start can go on.

    A collective whose other end has died, a file system that answers nothing, a data worker that is stuck: the
    process lives and holds its machine. A thread watches for signs of life (a batch, a pass through any part of the
    model, a checkpoint). After ``seconds`` without one it writes the stack of every thread to
    ``stacks-rank<n>.txt`` in the run folder, an event ``hang``, and, with ``end``, ends the process with the code
    "start me again" (75): the run goes on from its last checkpoint, as after a kill.

    A process that was stopped and goes on is not taken for one that hangs, nor does the wall clock matter. A hang
    inside code that never lets Python run is beyond a thread of this process; the heartbeat of the run folder's
    lease shows it.

    .. code-block:: yaml

        hang_watch: {seconds: 1800, end: true}

    Args:
        seconds: Silence that counts as a hang; longer than the longest batch, save or file read. Null: no watch.
        end: End the process; false only tells.
    """

    def __init__(self, seconds: float | None = 1800.0, end: bool = True) -> None:
        if seconds is not None and seconds <= 0:
            raise ValueError(f"seconds must be above 0, got {seconds}; null switches the watch off")
        self.seconds = seconds
        self.end = end
        self._beats = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._handles: list[RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start watching."""
        if self.seconds is None:
            return
        self._stop()
        self._over = threading.Event()
        # Sampling calls the parts of the model for minutes, without any hook of the trainer.
        self._handles = [part.register_forward_pre_hook(self._beat) for part in pl_module.children()]
        self._thread = threading.Thread(
            target=self._watch, args=(trainer, self.seconds, self._over), name="hang watch", daemon=True
        )
        self._thread.start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop watching."""
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop watching."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop watching."""
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _beat(self, *args: Any, **kwargs: Any) -> None:
        self._beats += 1

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = _beat
    on_validation_start = on_validation_batch_start = on_validation_batch_end = on_validation_end = _beat
    on_train_epoch_start = on_train_epoch_end = on_save_checkpoint = _beat

    def _watch(self, trainer: pl.Trainer, limit: float, over: threading.Event) -> None:
        tick = min(LONGEST_TICK, limit / 4)
        silence = Silence(tick, monotonic())
        told = False
        while not over.wait(tick):
            seconds = silence.look(monotonic(), self._beats)
            if seconds < limit:
                if told and trainer.is_global_zero:
                    record(trainer, "hang_over", step=trainer.global_step)
                told = False
            elif not told:
                told = True
                self._tell(trainer, seconds)
                if self.end:
                    leave(RETRY)

    def _tell(self, trainer: pl.Trainer, seconds: float) -> None:
        path = run_folder(trainer).path / f"stacks-rank{trainer.global_rank}.txt"
        with contextlib.suppress(OSError):
            _write_stacks(path, seconds, trainer.global_step)
        print(
            f"nothing has moved for {seconds:.0f} s at step {trainer.global_step}; stacks in {path}"
            + ("; ending, start again to go on" if self.end else ""),
            file=sys.stderr,
            flush=True,
        )
        # Whatever is wrong with the run folder must not keep a hanging process alive.
        with contextlib.suppress(Exception):
            record(
                trainer, "hang", step=trainer.global_step, seconds=round(seconds, 1), stacks=path.name,
                ends=self.end,
            )  # fmt: skip


def _write_stacks(path: Path, seconds: float, step: int) -> None:
    with path.open("a") as file:
        print(
            f"process {os.getpid()}: nothing has moved for {seconds:.0f} s at step {step}",
            file=file,
            flush=True,
        )
        faulthandler.dump_traceback(file, all_threads=True)
        print(file=file)


def leave(code: int, end: Callable[[int], Any] = os._exit) -> None:
    """End the process from a thread, its workers too; nothing is waited for."""
    kill_workers()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    end(code)
