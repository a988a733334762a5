"""Batches with a loss or a gradient that is NaN or infinite are left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from minifold_pl.callbacks.guard_events import record, sum_over_ranks
from minifold_pl.callbacks.rollback import Rollback, Rollbacks, left_out, roll_back
from minifold_pl.modules.epoch_means import EpochMeans
from minifold_pl.modules.ranks import from_all_ranks

SKIPPED = "skipped"
"""In the output of a training step: its loss stands for nothing."""


class NonFiniteGuard(pl.Callback):
    """Leave out batches whose loss is NaN or infinite, and optimizer steps whose gradient is.

    - A batch with a bad loss gives no gradient, and its losses enter no mean. In an accumulation window, and
      under DDP where only some ranks met one, the gradient is the mean over the batches that are left.
    - A window that has no good batch, or whose gradient is not finite, is dropped: weights, optimizer state and
      EMA stay as they are. It still counts as a step: ``global_step``, learning rate, data order and the epoch's
      end are functions of the batches that went by, and a resumed run is where the undisturbed one was.
    - Each such step is an event ``nonfinite_batch`` with the names of the chains and of the losses or modules, and
      ``guard/nonfinite_batches`` counts them.
    - After ``max_in_a_row`` such steps in a row the run goes back once to a checkpoint before the first of them and
      leaves the data in between out; where that is not allowed (again), it halts with a diagnosis.

    Under fp16's loss scaling, gradients that overflow lower the scale; they are faults only where the scale has
    come down to 1. The steps between are dropped and not told.

    It also passes over the steps that a rollback leaves out, without computing them.

    .. code-block:: yaml

        nan_guard: {max_in_a_row: 20, rollbacks: 1}

    Args:
        max_in_a_row: Steps in a row with something that is not finite, after which the run ends.
        rollbacks: How often the run may go back before it halts, whatever made it go back.
    """

    def __init__(self, max_in_a_row: int = 20, rollbacks: int = 1) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_in_a_row must be at least 1, got {max_in_a_row}")
        if rollbacks < 0:
            raise ValueError(f"rollbacks must be at least 0, got {rollbacks}")
        self.max_in_a_row = max_in_a_row
        self.rollbacks = rollbacks
        self.in_a_row = 0
        """Steps up to now with something not finite, without a clean one between."""
        self.first_of_row = 0
        self.nonfinite_batches = 0
        """Batches left out since the run began, over all ranks."""
        self.applied_steps = 0
        """Steps that moved the weights, since the run began."""
        self._window: list[dict[str, Any]] = []
        self._batches = 0
        self._made: tuple[Rollback, ...] = ()
        self._unwrap: Callable[[], None] = lambda: None

    # --- the training step -----------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand between the training step and its gradient: no hook of Lightning's lies there."""
        self._unwrap()
        inner = pl_module.training_step
        own = pl_module.__dict__.get("training_step")

        @functools.wraps(inner)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            return self._step(trainer, pl_module, inner, *args, **kwargs)

        def unwrap() -> None:
            if own is None:
                pl_module.__dict__.pop("training_step", None)
            else:
                pl_module.training_step = own  # type: ignore[method-assign]

        pl_module.training_step = guarded  # type: ignore[method-assign]
        self._unwrap = unwrap

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn which steps are left out."""
        self._window, self._batches = [], 0
        self._made = from_all_ranks(
            trainer.world_size, Rollbacks.of(trainer).read() if trainer.is_global_zero else ()
        )[0]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the training step back."""
        self._unwrap()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the training step back."""
        self._unwrap()

    def _step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        inner: Callable[..., Any],
        batch: Any,
        batch_idx: int,
        *more: Any,
    ) -> Any:
        self._batches += 1
        if left_out(self._made, trainer.global_step):
            self._window.append({})
            return {"loss": _no_gradient(trainer, pl_module), SKIPPED: True}
        means = getattr(pl_module, "epoch_means", None)
        before = means.copy() if isinstance(means, EpochMeans) else None
        output = inner(batch, batch_idx, *more)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or bool(torch.isfinite(loss).all()):
            return output
        terms: list[str] = []
        if isinstance(means, EpochMeans) and before is not None:
            terms = [name for name in means.nonfinite() if "_weighted/" not in name]
            means.take(before)
        self._window.append(
            {
                "batch": batch_idx,
                "rank": trainer.global_rank,
                "loss": str(loss.item()),
                "chains": list(getattr(batch, "names", ())),
                "terms": terms,
            }
        )
        return {"loss": _no_gradient(trainer, pl_module), SKIPPED: True}

    # --- the optimizer step ----------------------------------------------------------------------

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Make the gradient that of the good batches, or drop it."""
        _unscale(trainer, optimizer)
        step = trainer.global_step
        mine, batches = self._window, self._batches
        self._window, self._batches = [], 0
        skipped, every = map(round, sum_over_ranks(trainer, [len(mine), batches]))
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        bad_modules: list[str] = []
        if skipped == every:
            _drop(parameters)
        else:
            gradients = [p.grad for p in parameters if p.grad is not None]
            if skipped:
                torch._foreach_mul_(gradients, every / (every - skipped))
            # Also a gradient whose norm overflows: clipping it would make it 0.
            if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
                if not _scale_can_fall(trainer):
                    bad_modules = _nonfinite_gradients(pl_module)
                _drop(parameters)
            else:
                self.applied_steps += 1
        if skipped or bad_modules:
            found = [b for rank in from_all_ranks(trainer.world_size, mine) for b in rank if b]
            if found or bad_modules:
                self._tell(trainer, pl_module, step, found, bad_modules)
                return
        if skipped < every:
            self.in_a_row = 0

    def _tell(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        step: int,
        found: list[dict[str, Any]],
        modules: list[str],
    ) -> None:
        self.first_of_row = self.first_of_row if self.in_a_row else step
        self.in_a_row += 1
        self.nonfinite_batches += len(found)
        chains = sorted({name for batch in found for name in batch["chains"]})
        terms = sorted({term for batch in found for term in batch["terms"]})
        record(
            trainer,
            "nonfinite_batch",
            step=step,
            values={"guard/nonfinite_batches": float(self.nonfinite_batches)},
            what="gradient" if modules else "loss",
            chains=chains,
            terms=terms,
            modules=modules,
            batches=[{k: batch[k] for k in ("batch", "rank", "loss")} for batch in found],
            in_a_row=self.in_a_row,
        )
        if self.in_a_row >= self.max_in_a_row:
            weights = nonfinite_weights(pl_module)
            what = [
                f"{self.in_a_row} steps in a row ({self.first_of_row} to {step}) were not finite",
                *([f"losses {', '.join(terms)}"] if terms else []),
                *([f"gradients of {', '.join(modules)}"] if modules else []),
                f"weights of {', '.join(weights)}" if weights else "all weights are finite",
                *([f"last chains {_some(chains)}"] if chains else []),
            ]
            go_back_or_halt(trainer, "; ".join(what), self.first_of_row, step, broken_weights=bool(weights))

    # --- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counters; checkpoints are made at the end of windows, where no batch is pending."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        for name in _COUNTERS:
            setattr(self, name, state_dict[name])


_COUNTERS = ("in_a_row", "first_of_row", "nonfinite_batches", "applied_steps")


def _no_gradient(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Tensor:
    """A loss of 0 whose gradient is 0, joined to every weight that DDP waits for."""
    weights = [p for p in pl_module.parameters() if p.requires_grad]
    if trainer.world_size == 1 or getattr(trainer.strategy.model, "find_unused_parameters", False):
        # One is enough; the others' gradients stay as absent as they are.
        weights = weights[:1]
    # Not 0 · loss: 0 · NaN is NaN. And not 0 · sum(weight): a weight may not be finite.
    return torch.stack([w.reshape(-1)[:0].sum() for w in weights]).sum()


def _drop(parameters: Iterable[Parameter]) -> None:
    """Without a gradient an optimizer leaves weight and state alone: no decay, no count of steps."""
    for parameter in parameters:
        parameter.grad = None


def _unscale(trainer: pl.Trainer, optimizer: Optimizer) -> None:
    """Divide the gradients by fp16's loss scale, for all callbacks that come behind.

    Lightning leaves that to fused optimizers, which do it inside their step: limits of norms would be compared
    with gradients 65,536 times too large.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)


def _scale_can_fall(trainer: pl.Trainer) -> bool:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1


def _nonfinite_gradients(pl_module: pl.LightningModule) -> list[str]:
    """Names of the modules, two levels deep, with a gradient that is not finite; all where none is by itself."""
    named = [(n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in named if not bool(torch.isfinite(gradient).all())]
    return sorted({".".join(name.split(".")[:2]) for name in bad or [n for n, _ in named]})


def nonfinite_weights(pl_module: pl.LightningModule) -> list[str]:
    """Names of the modules, two levels deep, with a weight that is not finite."""
    bad = [name for name, p in pl_module.named_parameters() if not bool(torch.isfinite(p).all())]
    return sorted({".".join(name.split(".")[:2]) for name in bad})


def go_back_or_halt(
    trainer: pl.Trainer, why: str, first_bad: int, at_step: int, *, broken_weights: bool
) -> NoReturn:
    """End a run that cannot go on, as the trainer's :class:`NonFiniteGuard` allows; all ranks together.

    Args:
        trainer: Of the run.
        why: What was found.
        first_bad: The first step that went wrong.
        at_step: The step that the run is at.
        broken_weights: A weight is NaN or infinite. No data can do that past the guard: the same steps again may
            well go right. Otherwise the data in between are left out.

    Raises:
        RolledBack: The next start goes on from an older checkpoint.
        RunHalted: That has been done before, or is not allowed.
    """
    guards = [c for c in trainer.callbacks if isinstance(c, NonFiniteGuard)]  # type: ignore[attr-defined]
    allowed = guards[0].rollbacks if guards else 0
    roll_back(
        trainer, why=why, first_bad=first_bad, at_step=at_step, allowed=allowed, leave_out=not broken_weights
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
