"""Train a model for a given time, with nothing around it: the same share of effort for every model that is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.losses.objective import final_weights, weighted_total
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.draws import conditions_dropped, recycles_drawn, self_conditions, training_draws
from minifold_pl.modules.optim import build_optimizer
from minifold_pl.modules.trunk_teaching import hide
from minifold_pl.types import ProteinBatch


@dataclass(frozen=True, kw_only=True)
class ShortTraining:
    """How long and how hard to train; losses, draws and learning-rate groups are the module's own."""

    seconds: float
    """Training ends after this time; the learning rate follows it, so that a slower machine takes fewer steps."""
    lr: float = 2e-3
    """Peak of AdamW's learning rate: a warm-up, then a cosine to 0 at the end."""
    muon_lr: float | None = 4e-3
    """Peak of Muon's for the hidden matrices; None leaves them to AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's; a short training forgets sooner."""
    batch_size: int = 4
    """Chains in a step, of like lengths."""
    noise_draws: int | None = None
    """Noised copies of each chain in a step; the module's own where None."""
    warmup_steps: int = 50
    """Steps over which the rate rises to its peak."""
    trunk_share: float = 0.0
    """First share of the time, in which the losses of encoder and pair stack alone are taught, where the module has
    any: such a step costs a third, and a denoiser has little to learn from a trunk that knows nothing."""
    clip: float = 1.0
    """Largest norm of the gradient: of encoder and pair stack, and of all the rest."""
    ema_decay: float = 0.995
    """Decay of the average of the weights, which is what comes out; it begins at 0.1."""
    seed: int = 0
    """Seed of the order and of all draws."""

    def __post_init__(self) -> None:
        for name in ("seconds", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")
        for name in ("batch_size", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("ema_decay", "trunk_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0 to below 1")


class TrainingPoint(NamedTuple):
    """How training stands."""

    step: int
    epoch: int
    seconds: float
    terms: dict[str, float]
    """Means of the loss terms since the last point, and ``total`` at final weights."""


class TrainingEnd(NamedTuple):
    """What a training came to."""

    steps: int
    chains: int
    """Chains seen, repeats counted."""
    seconds: float
    skipped: int
    """Steps without a finite gradient, which changed nothing."""


class Part(NamedTuple):
    """Something to do on the way."""

    share: float
    """Of the time of training after which it is done, between 0 and 1."""
    do: Callable[[], None]
    """It finds the averaged weights in the module, in evaluation mode."""


def train_for(
    module: DiffusionModule,
    chains: ChainDataset,
    config: ShortTraining,
    on_point: Callable[[TrainingPoint], None] = lambda point: None,
    *,
    every: float = 60.0,
    parts: Sequence[Part] = (),
) -> TrainingEnd:
    """Train ``module`` on ``chains``; it ends with the averaged weights, in evaluation mode.

    Args:
        module: Changed in place.
        chains: One item each is seen in each epoch.
        config: Settings.
        on_point: Called about every ``every`` seconds.
        every: Seconds.
        parts: Done after their shares of the time; the clock stands still meanwhile, and the training does not change.
    """
    torch.manual_seed(config.seed)
    module.train()
    if config.noise_draws is not None:
        module.noise_draws = config.noise_draws
    optimizer = build_optimizer(
        module,
        replace(
            module.optimizer_config,
            lr=config.lr,
            muon_lr=config.muon_lr,
            betas=config.betas,
            weight_decay=0.0,
        ),
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    trained: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    of_trunk = _trunk_parameters(module)
    known = {id(p) for p in of_trunk}
    others = [p for p in trained if id(p) not in known]
    trunk_seconds = config.trunk_share * config.seconds if module.trunk_heads is not None else 0.0
    average = [p.detach().clone() for p in trained]
    weights = final_weights(module.loss_weights)
    waiting = sorted(parts, key=lambda part: part.share)
    start = told = monotonic()
    sums: dict[str, list[float]] = {}
    step = seen = skipped = 0
    for epoch, places in _batches(chains, config):
        elapsed = monotonic() - start
        if elapsed >= config.seconds:
            break
        while waiting and elapsed >= waiting[0].share * config.seconds:
            before = monotonic()
            with _averaged(module, trained, average):
                waiting.pop(0).do()
            start += monotonic() - before
        rate = (
            min(1.0, (step + 1) / config.warmup_steps)
            * (1 + math.cos(math.pi * elapsed / config.seconds))
            / 2
        )
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        batch = collate([chains[epoch, i] for i in places]).to(module.device)
        terms = (_trunk_terms if elapsed < trunk_seconds else _terms)(module, batch, step, config.seed)
        total = weighted_total(terms, {name: weights[name] for name in terms})
        optimizer.zero_grad()
        total.backward()
        norms = [clip_grad_norm_(group, config.clip) for group in (of_trunk, others)]
        if all(bool(norm.isfinite()) for norm in norms):
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, trained, 1 - min(config.ema_decay, (1 + step) / (10 + step)))
        else:
            skipped += 1
        step, seen = step + 1, seen + len(places)
        for name, term in {**terms, "total": total}.items():
            sums.setdefault(name, []).append(float(term.detach()))
        if monotonic() - told > every:
            told = monotonic()
            means = {name: math.fsum(values) / len(values) for name, values in sums.items()}
            on_point(TrainingPoint(step, epoch, told - start, means))
            sums.clear()
    with torch.no_grad():
        torch._foreach_copy_(trained, average)
    module.eval()
    return TrainingEnd(step, seen, monotonic() - start, skipped)


@contextmanager
def _averaged(module: DiffusionModule, trained: list[Tensor], average: list[Tensor]) -> Iterator[None]:
    """With the averaged weights, without gradients; what is drawn meanwhile is not drawn from the training's noise."""
    kept = [p.detach().clone() for p in trained]
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch._foreach_copy_(trained, average)
        module.eval()
        try:
            yield
        finally:
            torch._foreach_copy_(trained, kept)
            module.train()


def _trunk_parameters(module: DiffusionModule) -> list[Tensor]:
    """What the losses of encoder and pair stack reach."""
    parts = (module.encoder, module.pair_stack, module.recycling, module.trunk_heads)
    return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]


def _trunk_terms(module: DiffusionModule, batch: ProteinBatch, step: int, seed: int) -> dict[str, Tensor]:
    """Those of encoder and pair stack, of whole sequences."""
    tokens = hide(module.objective.trunk, batch.tokens, batch, seed, "hidden_residues", step)
    return module.trunk_terms(batch, tokens, _recycles(module, step, seed))


def _recycles(module: DiffusionModule, step: int, seed: int) -> int:
    return recycles_drawn(module.recycles, seed=seed, epoch=step, batch_idx=0)


def _terms(module: DiffusionModule, batch: ProteinBatch, step: int, seed: int) -> dict[str, Tensor]:
    """As in a training step of a run, with the step in place of the epoch in every draw."""
    tokens = conditions_dropped(batch, module.p_uncond, seed=seed, epoch=step)
    tokens = hide(module.objective.trunk, tokens, batch, seed, "hidden_residues", step)
    share = module.objective.fape_clamp_share
    draws = training_draws(
        batch, module.noise_schedule, seed=seed, epoch=step, copies=module.noise_draws, clamp_share=share
    )
    again = self_conditions(module.self_conditioning, seed=seed, epoch=step, batch_idx=0)
    recycles = _recycles(module, step, seed)
    prediction, target = module.predict_structure(batch, tokens, module.target(batch), draws, again, recycles)
    return dict(module.objective(prediction, target))


def _batches(chains: ChainDataset, config: ShortTraining) -> Iterator[tuple[int, Sequence[int]]]:
    """Places of chains of like lengths, epoch after epoch without end."""
    epoch = 0
    lengths = torch.as_tensor([int(n) for n in chains.lengths], dtype=torch.float64)
    while True:
        generator = keyed_generator(config.seed, "short_training", epoch)
        # Lengths blurred by a few residues: neighbours in the order change from epoch to epoch.
        blurred = lengths + 12 * torch.rand(len(lengths), generator=generator, dtype=torch.float64)
        groups = blurred.argsort().split(config.batch_size)
        for place in torch.randperm(len(groups), generator=generator).tolist():
            yield epoch, groups[place].tolist()
        epoch += 1
