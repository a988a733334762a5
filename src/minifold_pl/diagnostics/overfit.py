"""Can a model learn a few chains by heart, and do its samples then become them?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.losses.objective import final_weights, weighted_total
from minifold_pl.metrics import baselines
from minifold_pl.metrics.contact import ContactMetrics
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm_search import searched_scores
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.draws import Draws
from minifold_pl.modules.one_step import dashboard_times, one_step
from minifold_pl.modules.optim import build_optimizer
from minifold_pl.types import ProteinBatch

LOSS: Final = "loss"
TM: Final = "tm_score"
MIRROR: Final = "tm_to_mirror"
REACHED: Final = 0.9
"""TM of the samples from which on the chains count as learnt by heart."""
SAME_FOLD: Final = 0.5
"""TM from which on two chains have the same fold (Xu & Zhang 2010)."""
_MEASURED_SHARE: Final = 0.1
"""At most this share of the time goes into measuring, apart from the first and the last time."""
_POINTS: Final = 12
"""Measurements at most."""
_WARMUP: Final = 20


@dataclass(frozen=True, kw_only=True)
class OverfitConfig:
    """How long and how hard to train."""

    seconds: float = 60.0
    """Training ends after this time, measuring included."""
    steps: int | None = None
    """Training ends after this many steps at the latest; null for no limit."""
    lr: float = 2e-3
    """Peak of AdamW's learning rate: 20 steps of warm-up, then a cosine to 0 at the end."""
    noise_draws: int = 4
    """Noised copies of each chain in a step."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}: give a time above 0")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}: give at least 1, or null for no limit")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}: give a learning rate above 0")
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws is {self.noise_draws}: give at least 1")


class OverfitPoint(NamedTuple):
    """One measurement."""

    step: int
    seconds: float
    values: dict[str, float]
    """``loss`` is the total at final weights on fixed noise; see :func:`measure`."""


@dataclass
class OverfitResult:
    """What happened."""

    points: list[OverfitPoint] = field(default_factory=list)
    skipped: int = 0
    """Steps whose loss was not finite; their gradients were not used."""

    def verdict(self) -> str:
        """What the first and the last measurement say, in a sentence or two."""
        first, last = self.points[0], self.points[-1]
        before, after = first.values[LOSS], last.values[LOSS]
        if not math.isfinite(after):
            return f"the loss is {after} after {last.step} steps: lower the learning rate"
        told = f"the loss went from {before:.4g} to {after:.4g} in {last.step} step{'s' if last.step != 1 else ''}"
        if self.skipped:
            told += f" ({self.skipped} of them had no finite loss and were left out)"
        if after >= 0.9 * before:
            return f"{told}: it does not fall. More time, or another --lr, may help; else look for a fault"
        if TM not in last.values:
            return f"{told}: the model learns this batch"
        tm = last.values[TM]
        reached = f"samples have TM {tm:.3f} to the truth, {first.values[TM]:.3f} before"
        if tm >= REACHED:
            return f"{told}; {reached}: the sampler reaches what was learnt by heart"
        if last.values[MIRROR] > tm + 0.1:
            return f"{told}; {reached}, but {last.values[MIRROR]:.3f} to its mirror image: the hand is not learnt"
        if tm >= SAME_FOLD:
            return f"{told}; {reached}: the fold, not yet the structure. More time may help"
        return f"{told}; {reached}: the samples do not follow. More time may help; if not, look for a fault"


def overfit(
    module: MinifoldModule,
    batch: ProteinBatch,
    config: OverfitConfig,
    on_point: Callable[[OverfitPoint], None] = lambda point: None,
) -> OverfitResult:
    """Train ``module`` on ``batch`` alone and measure how far it gets.

    The losses, learning-rate groups and self-conditioning are the module's own; conditions are not dropped, weights
    not averaged, gradients clipped to norm 1. The module is changed.
    """
    torch.manual_seed(config.seed)
    start = monotonic()
    optimizer = build_optimizer(module, replace(module.optimizer_config, lr=config.lr, weight_decay=0.0))
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for p in module.parameters() if p.requires_grad]
    result = OverfitResult()

    def note(step: int) -> float:
        began = monotonic()
        module.eval()
        point = OverfitPoint(step, began - start, measure(module, batch, config.seed))
        module.train()
        result.points.append(point)
        on_point(point)
        return monotonic() - began

    cost = note(0)
    trained_since, step = monotonic(), 0
    while (done := _done(config, step, monotonic() - start + cost)) < 1:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / _WARMUP) * (1 + math.cos(math.pi * done)) / 2
        total = training_loss(module, batch, step, config)
        optimizer.zero_grad()
        if bool(total.isfinite()):
            total.backward()
            clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        else:
            result.skipped += 1
        step += 1
        if monotonic() - trained_since > max(cost / _MEASURED_SHARE, config.seconds / _POINTS):
            cost = note(step)
            trained_since = monotonic()
    if result.points[-1].step != step:
        note(step)
    return result


def measure(module: MinifoldModule, batch: ProteinBatch, seed: int) -> dict[str, float]:
    """Losses on fixed noise, and what comes out: the structures of stage 2, the contacts of stage 1.

    ``tm_score`` and ``rmsd`` are those of full-length samples, ``tm_to_mirror`` that of the same samples to the
    mirror image of the truth; ``one_step_tm_…`` of one step from that timestep. Means over the chains.
    """
    with torch.no_grad():
        if isinstance(module, ContactClassifierModule):
            output = module(batch)
            terms = module.terms(output, batch)
            metrics = ContactMetrics().to(batch.tokens.device)
            metrics.update(output, batch)
            values = {LOSS: _total(terms, module.weights), **terms, **metrics.compute()}
            # A score that is not defined here is left out; a loss that is not finite is what there is to know.
            return {
                name: float(value) for name, value in values.items()
                if name == LOSS or name in terms or bool(torch.isfinite(value))
            }  # fmt: skip
        assert isinstance(module, DiffusionModule)
        step = one_step(module, batch, dashboard_times(module.noise_schedule.timesteps), seed=seed)
        # A term that no chain counts for is no term; one that is not finite makes the total so.
        terms = {
            name: term.value[term.counted].mean()
            for name, term in step.terms.items()
            if bool(term.counted.any())
        }
        true, mask = batch.ca.float(), batch.ca_mask
        sampled = module.sample(batch, seed=seed, keys=batch.names, confidence=False).x0.float()
        mirror = baselines.mirrored_truth(true, mask)
        return {
            LOSS: float(_total(terms, final_weights(module.loss_weights))),
            **{f"{LOSS}/{name}": float(term) for name, term in terms.items()},
            TM: float(searched_scores(sampled, true, mask).tm.mean()),
            MIRROR: float(searched_scores(sampled, mirror, mask).tm.mean()),
            "rmsd": float(rmsd(sampled, true, mask).mean()),
            **{
                f"one_step_tm_t{t:03d}": float(searched_scores(x0, true, mask).tm.mean())
                for t, x0 in zip(step.times, step.x0, strict=True)
            },
        }


def training_loss(module: MinifoldModule, batch: ProteinBatch, step: int, config: OverfitConfig) -> Tensor:
    """The total at final weights, on noise that is a function of the step."""
    if isinstance(module, ContactClassifierModule):
        return module.losses(batch)[0]
    assert isinstance(module, DiffusionModule)
    times, noise = [], []
    for copy in range(config.noise_draws):
        keys = [keyed_generator(config.seed, "overfit", step, copy, name) for name in batch.names]
        times += [torch.randint(1, module.noise_schedule.timesteps, (), generator=g) for g in keys]
        noise.append(centered_noise(batch.residue_mask, keys))
    device = batch.tokens.device
    draws = Draws(torch.stack(times).to(device), torch.cat(noise).to(device))
    coin = torch.rand((), generator=keyed_generator(config.seed, "overfit again", step))
    again = bool(coin < module.self_conditioning)
    prediction, target = module.predict_structure(batch, batch.tokens, module.target(batch), draws, again)
    return weighted_total(module.objective(prediction, target), final_weights(module.loss_weights))


def _total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum, NaN where a term is not finite."""
    parts = [weights[name] * term for name, term in terms.items() if weights[name] != 0]
    total = torch.stack(parts).sum()
    return total if bool(total.isfinite()) else torch.full_like(total, torch.nan)


def _done(config: OverfitConfig, step: int, seconds: float) -> float:
    """The share of the budget that is used up."""
    return max(seconds / config.seconds, 0.0 if config.steps is None else step / config.steps)
