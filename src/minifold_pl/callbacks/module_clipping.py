"""Gradient clipping by module, and the gradient norm of each module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from minifold_pl.modules.epoch_means import EpochMeans
from minifold_pl.modules.optim import REST, parameter_groups

WHOLE = "all"
"""Name under which the norm of the whole gradient is logged."""


class ModuleClipping(pl.Callback):
    """Clip the gradient of each module to its own norm, so that a large module cannot starve a small one.

    Global clipping let the 28.5 M-parameter denoiser of Mini-Fold v12 take 99 % of the budget and starved the
    pair stack. Runs before the optimizer step, when the gradients have been unscaled and what is not finite has
    been dropped (:class:`~minifold_pl.callbacks.nonfinite_guard.NonFiniteGuard`); leave
    ``trainer.gradient_clip_val`` null. Logs ``grad/{module}`` (norm before clipping) and
    ``grad_clipped/{module}`` (share of steps in which it was clipped) as means over the epoch.

    .. code-block:: yaml

        clipping:
          max_norm: {denoiser: 1.0, pair_stack: 0.5, aux: 0.5}
          rest: 1.0

    Clipping of the whole gradient, as v12 had it, with the modules' norms still to be seen (``grad/all`` is the whole):

    .. code-block:: yaml

        clipping:
          max_norm: {denoiser: null, pair_stack: null, aux: null}
          rest: null
          whole: 1.0

    A part with a learning rate of its own, such as the confidence head, is clipped by itself, too, to ``rest``, or to
    ``whole`` where that is null, if it is not in ``max_norm``: nothing else is to learn otherwise for its being there.

    Args:
        max_norm: Largest L2 norm of the gradient for all parameters under a name prefix; null only measures it.
        rest: Largest norm for all other parameters together; null leaves them as they are.
        whole: Largest norm of the gradient of all parameters, after the others; null leaves it as it is.
    """

    def __init__(
        self,
        max_norm: dict[str, float | None] | None = None,
        rest: float | None = None,
        whole: float | None = None,
    ) -> None:
        max_norm = max_norm or {}
        limits = {**max_norm, REST: rest, WHOLE: whole}
        bad = {k: v for k, v in limits.items() if v is not None and v <= 0}
        if bad:
            raise ValueError(f"largest gradient norms must be above 0, got {bad}")
        self.limits: dict[str, float | None] = {**max_norm, REST: rest}
        self.whole = whole
        self._groups: dict[str, list[Parameter]] = {}
        self._alone: dict[str, float | None] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sort the parameters; a prefix that matches nothing is an error."""
        alone = [name for name in getattr(pl_module, "own_rates", {}) if name not in self.limits]
        self._alone = dict.fromkeys(alone, self.whole if self.limits[REST] is None else self.limits[REST])
        prefixes = [name for name in self.limits if name != REST] + alone
        groups = parameter_groups(pl_module.named_parameters(), prefixes)
        self._groups = {name: [p for _, p in named] for name, named in groups.items()}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure, clip and log."""
        values: dict[str, Any] = {}
        for name, parameters in self._groups.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if not gradients:
                continue
            limit = self._alone[name] if name in self._alone else self.limits[name]
            norm = clip_(gradients, limit)
            values[f"grad/{name}"] = norm
            if limit is not None:
                values[f"grad_clipped/{name}"] = (norm > limit).float()
        shared = (group for name, group in self._groups.items() if name not in self._alone)
        everything = [p.grad for group in shared for p in group if p.grad is not None]
        if self.whole is not None and everything:
            norm = clip_(everything, self.whole)
            values |= {f"grad/{WHOLE}": norm, f"grad_clipped/{WHOLE}": (norm > self.whole).float()}
        means = getattr(pl_module, "epoch_means", None)
        if isinstance(means, EpochMeans):
            means.add(values)


def clip_(gradients: list[Tensor], limit: float | None) -> Tensor:
    """Scale ``gradients`` in place to an L2 norm of at most ``limit``; returns the norm before."""
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
    return norm
