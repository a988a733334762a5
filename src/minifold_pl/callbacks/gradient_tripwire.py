"""Notice a module that gets no gradient: shake it, and stop when that does not help."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from minifold_pl.callbacks.guard_events import record
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.modules.optim import parameter_groups
from minifold_pl.run.halt import RunHalted


@dataclass(frozen=True, kw_only=True)
class TripwireLimits:
    """When a module counts as dead; Mini-Fold v12b's figures for its pair stack."""

    noise_below: float = 0.01
    """L2 norm of the gradient under which a step counts towards ``patience``."""
    patience: int = 50
    """Steps in a row below ``noise_below`` from which on each further one gets noise."""
    noise_scale: float = 0.01
    """Standard deviation of the noise that is added to every element of the gradient."""
    halt_below: float = 0.001
    """L2 norm under which a step counts towards ``halt_total``."""
    halt_total: int = 500
    """Steps below ``halt_below``, in a row or not, at which the run halts."""
    after_step: int = 0
    """Steps at the beginning of the run that are not looked at. A fresh model whose output layers begin at 0 sends
    hardly anything back at first: v13_small needs about 75 steps to a norm of 0.01 for its pair stack, more where
    the learning rate warms up over more steps. The write-up's runs began with trained weights."""

    def __post_init__(self) -> None:
        for name in ("noise_below", "halt_below", "noise_scale", "after_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("patience", "halt_total"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.halt_below > self.noise_below:
            raise ValueError(
                f"halt_below ({self.halt_below}) must not be above noise_below ({self.noise_below}): "
                "the run would halt before the noise could help"
            )


@dataclass
class _Count:
    in_a_row: int = 0
    dead_total: int = 0


class GradientTripwire(pl.Callback):
    """Add noise to the gradient of a module that has had none for a while, and halt the run when it stays so.

    Mini-Fold v12b: "if grad norm < 0.01 for 50 consecutive steps, inject gradient noise (scale=0.01)" and "if grad
    norm < 0.001 for 500 total steps, stop training", both for the pair stack. The norm is that before noise and
    clipping; from the 50th step on every step gets noise until the norm is back. The noise is a function of the
    step alone, the same on every rank and after a resume; the counts are saved.

    Events: ``tripwire`` when the noise begins, ``tripwire_recovered`` when the norm is back, ``halted`` at the end.
    Logs ``guard/tripwire/{module}``: 1 where noise begins, 0 where it ends.

    Steps that were dropped because of NaN count neither way. Off unless modules are named.

    .. code-block:: yaml

        tripwire:
          watch: {pair_stack: {noise_below: 0.01, patience: 50, after_step: 1000}}

    Args:
        watch: Limits for all parameters under a name prefix.
    """

    def __init__(self, watch: dict[str, TripwireLimits] | None = None) -> None:
        self.watch = dict(watch or {})
        self._counts = {name: _Count() for name in self.watch}
        self._parameters: dict[str, list[Parameter]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parameters; a prefix that matches nothing is an error."""
        groups = parameter_groups(pl_module.named_parameters(), self.watch)
        self._parameters = {name: [p for _, p in groups[name]] for name in self.watch}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure, count, and act."""
        if all(p.grad is None for p in pl_module.parameters()):
            return
        step = trainer.global_step
        for name, limits in self.watch.items():
            if step < limits.after_step:
                continue
            gradients = [p.grad for p in self._parameters[name] if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
            self._count(trainer, name, limits, norm, step)
            if self._counts[name].in_a_row >= limits.patience:
                self._shake(pl_module, name, limits, step)

    def _count(self, trainer: pl.Trainer, name: str, limits: TripwireLimits, norm: float, step: int) -> None:
        count = self._counts[name]
        tripped = count.in_a_row >= limits.patience
        count.dead_total += norm < limits.halt_below
        count.in_a_row = count.in_a_row + 1 if norm < limits.noise_below else 0
        told: dict[str, Any] = {"module": name, "norm": norm, "below_halt_total": count.dead_total}
        if count.dead_total >= limits.halt_total:
            raise RunHalted(
                f"the gradient of {name} was below {limits.halt_below:g} in {count.dead_total} steps (now "
                f"{norm:.2g}): nothing teaches it. Look for a detached or zero-initialised path, a loss weight of 0 "
                "or a learning rate that has killed it; tripwire.watch holds the limits"
            )
        if count.in_a_row == limits.patience:
            value = {f"guard/tripwire/{name}": 1.0}
            record(trainer, "tripwire", step=step, values=value, noise_scale=limits.noise_scale, **told)
        elif tripped and count.in_a_row == 0:
            record(trainer, "tripwire_recovered", step=step, values={f"guard/tripwire/{name}": 0.0}, **told)

    def _shake(self, pl_module: pl.LightningModule, name: str, limits: TripwireLimits, step: int) -> None:
        # Drawn on the CPU: the same numbers on every device.
        generator = keyed_generator(int(getattr(pl_module, "seed", 0)), "tripwire", name, step)
        for parameter in self._parameters[name]:
            noise = torch.randn(parameter.shape, generator=generator) * limits.noise_scale
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad += noise.to(parameter.grad)

    def state_dict(self) -> dict[str, Any]:
        """The counts of each module."""
        return {name: asdict(count) for name, count in self._counts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a module that is watched since starts at 0."""
        for name in self._counts.keys() & state_dict.keys():
            self._counts[name] = _Count(**state_dict[name])
