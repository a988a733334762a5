"""Going back to an older checkpoint, and leaving out the steps that led astray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl

from minifold_pl.callbacks.guard_events import record, run_folder
from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.checkpoint.newest import claimed_step, set_aside_later
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.run.halt import RetryLater, RunHalted


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """One return to an older checkpoint."""

    why: str
    at_step: int
    """Where the run was."""
    to_step: int
    """Where it goes on; 0 is the start."""
    leave_out: tuple[int, int] | None = None
    """First and last step whose batches are passed over: the weights stay as they are, time goes on. None: the
    same steps again, because the data had no part in it."""


class RolledBack(RetryLater):
    """The run leaves, and its next start goes on from an older checkpoint."""


class Rollbacks:
    """The rollbacks of a run, in ``rollbacks.json`` of its folder: no checkpoint can know of its own rejection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Rollbacks:
        """Those of the run that is training."""
        return cls(run_folder(trainer).path / "rollbacks.json")

    def read(self) -> tuple[Rollback, ...]:
        """All of them, the oldest first.

        Raises:
            RunHalted: The file is there and cannot be read: going on would train on what was to be left out.
        """
        try:
            rows: list[dict[str, Any]] = json.loads(self.path.read_text())
            return tuple(_from_json(row) for row in rows)
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError) as error:
            raise RunHalted(
                f"{self.path} cannot be read ({error}); mend it, or remove it to train on every batch again"
            ) from error

    def add(self, rollback: Rollback) -> None:
        """Add one, in one step and for good."""
        rows = [asdict(r) for r in (*self.read(), rollback)]
        atomic_write_text(self.path, json.dumps(rows, indent=1) + "\n")


def _from_json(row: dict[str, Any]) -> Rollback:
    steps = row["leave_out"]
    return Rollback(**{**row, "leave_out": None if steps is None else (int(steps[0]), int(steps[1]))})


def roll_back(
    trainer: pl.Trainer, *, why: str, first_bad: int, at_step: int, allowed: int, leave_out: bool
) -> NoReturn:
    """End the run so that its next start goes on from the newest checkpoint before ``first_bad``.

    Later checkpoints are set aside, not removed. All ranks call it together.

    Args:
        trainer: Of the run.
        why: What was found.
        first_bad: The first step that went wrong.
        at_step: The step that the run is at.
        allowed: Rollbacks that one run may make; 0 for none.
        leave_out: Pass over the batches from the checkpoint up to ``at_step``: the same steps on the same data would
            end in the same way.

    Raises:
        RolledBack: It is done; start again.
        RunHalted: The run has gone back as often as is allowed.
    """
    told: list[str] = []
    if trainer.is_global_zero:
        try:
            told = [_go_back(trainer, why, first_bad, at_step, allowed, leave_out)]
        except RunHalted as halt:
            told = [halt.reason, "halted"]
    message, *halted = from_all_ranks(trainer.world_size, told)[0]
    if halted:
        raise RunHalted(message)
    raise RolledBack(message)


def _go_back(
    trainer: pl.Trainer, why: str, first_bad: int, at_step: int, allowed: int, leave_out: bool
) -> str:
    rollbacks = Rollbacks.of(trainer)
    made = len(rollbacks.read())
    if made >= allowed:
        raise RunHalted(f"{why}; the run has gone back {made} times before" if made else why)
    folder = run_folder(trainer).checkpoints
    _finish_saves(trainer)
    # A checkpoint of the step before the first bad one may hold the weights that made it bad.
    good = [step for path in folder.glob("*.ckpt") if 0 <= (step := claimed_step(path)) < first_bad]
    to_step = max(good, default=0)
    rollback = Rollback(
        why=why, at_step=at_step, to_step=to_step, leave_out=(to_step, at_step) if leave_out else None
    )
    # First the checkpoints, then the note: killed in between, the run meets the same fault again and comes here
    # again. The other way round it would go on from the checkpoint that was to be left.
    try:
        aside = set_aside_later(folder, to_step)
        rollbacks.add(rollback)
    except OSError as error:
        raise RunHalted(f"{why}; going back to step {to_step} failed: {error}") from error
    record(
        trainer,
        "rolled_back",
        step=at_step,
        values={"guard/rollbacks": float(made + 1)},
        why=why,
        to_step=to_step,
        leave_out=rollback.leave_out,
        set_aside=[path.name for path in aside],
    )
    without = f" and leaves out steps {to_step} to {at_step}" if leave_out else ""
    return f"{why}; the next start goes on from step {to_step}{without}"


def _finish_saves(trainer: pl.Trainer) -> None:
    """A checkpoint that is still being written must not turn up after the others were set aside."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
        finish = getattr(getattr(callback, "saver", None), "finish", None)
        if callable(finish):
            finish(trainer)


def left_out(rollbacks: Sequence[Rollback], step: int) -> bool:
    """Whether the batches of ``step`` are passed over."""
    return any(r.leave_out is not None and r.leave_out[0] <= step <= r.leave_out[1] for r in rollbacks)
