"""What training and validation draw: each draw a function of the seed, the epoch and the chain's name or the step."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.types import ProteinBatch


class Draws(NamedTuple):
    """The random part of one training or validation example, already on the device."""

    t: Tensor
    """(b) timesteps 1 … T − 1."""
    noise: Tensor
    """(b l 3) centred standard normal noise."""
    clamped: Tensor | None = None
    """(b) 1 where FAPE is clamped and 0 where it is not; None for what is expected of the draw."""


def training_draws(
    batch: ProteinBatch, schedule: CosineSchedule, *, seed: int, epoch: int, copies: int, clamp_share: float
) -> Draws:
    """Timesteps and noise of ``copies`` · b examples, copy-major, and which of them have their FAPE clamped."""
    drawn = []
    for copy in range(copies):
        generators = [keyed_generator(seed, "train", epoch, copy, name) for name in batch.names]
        t = [torch.randint(1, schedule.timesteps, (), generator=g) for g in generators]
        drawn.append((torch.stack(t), centered_noise(batch.residue_mask, generators)))
    clamped = _clamped(batch, clamp_share, seed=seed, epoch=epoch, copies=copies)
    return _stack(drawn, batch.tokens.device)._replace(clamped=clamped)


def fixed_draws(batch: ProteinBatch, schedule: CosineSchedule, *, seed: int, copies: int) -> Draws:
    """One timestep in each of ``copies`` equal bands: chains see all noise levels, epochs see the same."""
    drawn = []
    edges = torch.linspace(1, schedule.timesteps, copies + 1).round().long().tolist()
    for low, high in pairwise(edges):
        generators = [keyed_generator(seed, "val", low, name) for name in batch.names]
        t = [torch.randint(low, high, (), generator=g) for g in generators]
        drawn.append((torch.stack(t), centered_noise(batch.residue_mask, generators)))
    return _stack(drawn, batch.tokens.device)


def conditions_dropped(batch: ProteinBatch, p: float, *, seed: int, epoch: int) -> Tensor:
    """The batch's tokens, (b n); those of each chain with probability ``p`` as null tokens."""
    if p == 0:
        return batch.tokens
    draws = [torch.rand((), generator=keyed_generator(seed, "p_uncond", epoch, name)) for name in batch.names]
    drop = (torch.stack(draws) < p).to(batch.tokens.device)
    return torch.where(drop[:, None], null_tokens(batch.tokens), batch.tokens)


def self_conditions(p: float, *, seed: int, epoch: int, batch_idx: int) -> bool:
    """Whether a step has a first pass whose estimate starts the second."""
    step = keyed_generator(seed, "self_conditioning", epoch, batch_idx)
    return bool(torch.rand((), generator=step) < p)


def recycles_drawn(most: int, *, seed: int, epoch: int, batch_idx: int) -> int:
    """Passes after the first, 0 to ``most``."""
    if most == 0:
        return 0
    # The same on all ranks, so that none waits for another's further passes.
    key = keyed_generator(seed, "recycles", epoch, batch_idx)
    return int(torch.randint(most + 1, (), generator=key))


def _clamped(batch: ProteinBatch, share: float, *, seed: int, epoch: int, copies: int) -> Tensor | None:
    if share == 1:
        return None
    draws = [
        torch.rand((), generator=keyed_generator(seed, "fape_clamp", epoch, copy, name))
        for copy in range(copies)
        for name in batch.names
    ]
    return (torch.stack(draws) < share).to(batch.tokens.device, torch.float32)


def _stack(copies: list[tuple[Tensor, Tensor]], device: torch.device) -> Draws:
    t = torch.cat([t for t, _ in copies])
    noise = torch.cat([noise for _, noise in copies])
    return Draws(t.to(device), noise.to(device))
