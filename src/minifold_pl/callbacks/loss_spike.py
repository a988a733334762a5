"""Notice a training loss that has left its range, and go back if asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import isfinite
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from minifold_pl.callbacks.guard_events import record, sum_over_ranks
from minifold_pl.callbacks.nonfinite_guard import SKIPPED
from minifold_pl.callbacks.rollback import roll_back

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class LossSpike(pl.Callback):
    """Compare each step's loss with those before it; tell, and optionally go back, when it stays far above them.

    The measure is the robust z-score ``(loss − median) / (1.4826 · MAD)`` over the last ``window`` steps, which a few
    extreme batches do not move. A diffusion loss swings with its timesteps, so that one high step says nothing:
    ``patience`` steps in a row must be above ``threshold``. After a lasting rise the window fills with the new
    values and that is the range from then on.

    Event ``loss_spike``, and ``guard/loss_spike_z`` where it begins. With ``rollbacks`` the run goes back to the
    newest checkpoint from before the rise and leaves out the data up to where it was noticed; once they are used
    up it halts.

    The loss of a step is the mean over its accumulation window and all ranks, without batches that were left out.

    .. code-block:: yaml

        spike: {threshold: 10, patience: 10, rollbacks: 2}

    Args:
        threshold: Robust z-score above which a step counts; null switches the watch off.
        patience: Steps in a row above it.
        window: Steps that the median is taken over.
        warmup: Steps that are only taken note of, at the beginning.
        rollbacks: How often the run may go back before it halts, whatever made it go back; 0 only tells.
    """

    def __init__(
        self,
        threshold: float | None = 10.0,
        patience: int = 10,
        window: int = 200,
        warmup: int = 100,
        rollbacks: int = 0,
    ) -> None:
        if threshold is not None and threshold <= 0:
            raise ValueError(f"threshold must be above 0, got {threshold}; null switches the watch off")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if rollbacks < 0:
            raise ValueError(f"rollbacks must be at least 0, got {rollbacks}")
        if not 2 * patience < window:
            raise ValueError(
                f"window ({window}) must be more than twice the patience ({patience}): "
                "a spike must not become the median before it is noticed"
            )
        if not 2 <= warmup <= window:
            raise ValueError(f"warmup must lie between 2 and window ({window}), got {warmup}")
        self.threshold = threshold
        self.patience = patience
        self.warmup = warmup
        self.rollbacks = rollbacks
        self.in_a_row = 0
        self._losses: deque[float] = deque(maxlen=window)
        self._alone = False
        """Whether the trunk is taught alone: when that ends the loss is another one."""
        self._window: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with an empty window."""
        self._window = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the losses where another loss begins."""
        alone = bool(getattr(pl_module, "teaches_trunk_alone", False))
        if alone != self._alone:
            self._losses.clear()
            self.in_a_row = 0
        self._alone = alone

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take note; at the end of the accumulation window compare."""
        if self.threshold is None:
            return
        if isinstance(outputs, Mapping) and "loss" in outputs and not outputs.get(SKIPPED):
            self._window.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        mine, self._window = self._window, []
        total = float(torch.stack(mine).sum()) if mine else 0.0
        total, count = sum_over_ranks(trainer, [total, float(len(mine))])
        if count and isfinite(total):
            self._compare(trainer, total / count, trainer.global_step - 1)

    def _compare(self, trainer: pl.Trainer, loss: float, step: int) -> None:
        assert self.threshold is not None
        center, z = 0.0, 0.0
        if len(self._losses) >= self.warmup:
            center, z = robust_z(loss, self._losses)
        self._losses.append(loss)
        self.in_a_row = self.in_a_row + 1 if z > self.threshold else 0
        if self.in_a_row != self.patience:
            return
        first = step - self.patience + 1
        record(
            trainer,
            "loss_spike",
            step=step,
            values={"guard/loss_spike_z": z},
            since_step=first,
            loss=loss,
            median=center,
            z=z,
        )
        if self.rollbacks:
            why = (
                f"the loss has been more than {self.threshold:g} robust standard deviations above its median "
                f"{center:.4g} in steps {first} to {step} (last {loss:.4g})"
            )
            roll_back(trainer, why=why, first_bad=first, at_step=step, allowed=self.rollbacks, leave_out=True)

    def state_dict(self) -> dict[str, Any]:
        """The losses of the window and the count."""
        return {"losses": list(self._losses), "in_a_row": self.in_a_row, "alone": self._alone}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._losses.clear()
        self._losses.extend(state_dict["losses"])
        self.in_a_row = state_dict["in_a_row"]
        self._alone = state_dict.get("alone", False)


def robust_z(value: float, history: deque[float] | list[float]) -> tuple[float, float]:
    """The median of ``history``, and how many robust standard deviations ``value`` lies above it.

    A history without any spread counts as having 0.1 % of its median.
    """
    center = median(history)
    spread = MAD_TO_SIGMA * median(abs(x - center) for x in history)
    return center, (value - center) / max(spread, 1e-3 * abs(center), 1e-12)
