"""Faults that come from inside a training: callbacks for the small one, each a function of the place alone or once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from minifold_pl.types import ProteinBatch


def fault(name: str, **init_args: Any) -> list[str]:
    """Arguments of ``minifold-pl fit`` that bring in a class of this module."""
    callback = {"class_path": f"tests.resilience.faults.{name}", "init_args": init_args}
    return ["--trainer.callbacks+", str(callback).replace("'", '"').replace("True", "true")]


class PoisonBatches(pl.Callback):
    """The coordinates of some batches are NaN, in every start of the run.

    Args:
        places: Pairs of epoch and batch.
    """

    def __init__(self, places: list[list[int]]) -> None:
        self.places = places

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: ProteinBatch, batch_idx: int
    ) -> None:
        if [trainer.current_epoch, batch_idx] in self.places:
            batch.coords.fill_(float("nan"))


class InfiniteGradient(pl.Callback):
    """One element of the gradient is infinite at some steps, in every start of the run."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step in self.steps:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            gradients[0].view(-1)[0] = float("inf")


class SmallGradients(pl.Callback):
    """The pair stack's gradient is scaled down from a step on."""

    def __init__(self, since: int, factor: float) -> None:
        self.since = since
        self.factor = factor

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step >= self.since:
            for p in pl_module.pair_stack.parameters():  # type: ignore[union-attr,operator]
                if p.grad is not None:
                    p.grad *= self.factor


class Explode(pl.Callback):
    """The weights are blown up at a step, if the step is taken at all: as data that lead astray would do it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        passed_over = all(p.grad is None or not p.grad.any() for p in pl_module.parameters())
        if trainer.global_step == self.step and not passed_over:
            with torch.no_grad():
                for p in pl_module.denoiser.parameters():  # type: ignore[union-attr,operator]
                    p *= 30


class _Once(pl.Callback):
    """Does something at the first batch of a step, in one start of the run only."""

    def __init__(self, step: int, done: str) -> None:
        self.step = step
        self.done = Path(done)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and not self.done.exists():
            self.done.touch()
            self.do(trainer, pl_module)

    def do(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What happens."""
        raise NotImplementedError


class BreakWeight(_Once):
    """A weight becomes NaN, as a fault of the memory would make it."""

    def do(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            next(p for p in pl_module.denoiser.parameters() if p.requires_grad).view(-1)[0] = float("nan")  # type: ignore[union-attr,operator]


class Hang(_Once):
    """Nothing goes on any more."""

    def do(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time.sleep(600)


class StrikeWorker(_Once):
    """A data worker gets a signal."""

    def __init__(self, step: int, done: str, signal_name: str) -> None:
        super().__init__(step, done)
        self.number = signal.Signals[signal_name]

    def do(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        worker = multiprocessing.active_children()[0]
        assert worker.pid is not None
        os.kill(worker.pid, self.number)


class StopMyself(_Once):
    """The process is stopped for some seconds, as a scheduler may do it."""

    def __init__(self, step: int, done: str, seconds: float) -> None:
        super().__init__(step, done)
        self.seconds = seconds

    def do(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        me = os.getpid()
        if os.fork() == 0:
            time.sleep(self.seconds)
            os.kill(me, signal.SIGCONT)
            os._exit(0)
        os.kill(me, signal.SIGSTOP)
