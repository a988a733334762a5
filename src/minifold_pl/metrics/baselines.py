"""What trivial predictions look like: the rows that stand beside a model in every table.

Each takes true Cα positions and gives a "prediction" of the same shape, in Å; masked residues are 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HELIX_RISE = 1.5
"""Å a residue along the axis of an α helix (Pauling, Corey & Branson 1951)."""
HELIX_TURN = 100.0
"""Degrees a residue: 3.6 residues a turn."""
HELIX_RADIUS = 2.3
"""Å, axis to Cα; with rise and turn it gives a Cα–Cα distance of 3.83 Å."""
_JOINT = 3.8
"""Å between two chains laid end to end."""


def truth(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 3"]:
    """The true chain: what a perfect model scores."""
    return _valid(ca, mask)


def mirrored_truth(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 3"]:
    """The true chain in a mirror: every distance right, every hand wrong."""
    return _valid(ca * ca.new_tensor([-1.0, 1.0, 1.0]), mask)


def centroid(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 3"]:
    """Every residue at the mean of the chain."""
    mean = _valid(ca, mask).sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
    return _valid(mean.expand_as(ca), mask)


def ideal_helix(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 3"]:
    """One straight right-handed α helix."""
    place = torch.arange(ca.shape[1], device=ca.device, dtype=ca.dtype)
    angle = place * math.radians(HELIX_TURN)
    helix = torch.stack([HELIX_RADIUS * angle.cos(), HELIX_RADIUS * angle.sin(), HELIX_RISE * place], dim=-1)
    return _valid(helix.expand_as(ca), mask)


def random_chain(
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    pool: Sequence[Float[Tensor, "m 3"]],
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "b l 3"]:
    """A window of another real chain, drawn from ``pool`` by the target's own CPU generator.

    The chain is drawn among those at least as long as the target, and then where its window begins. For a
    target longer than all of them, randomly drawn chains are laid end to end. Leave the target itself out
    of the pool.

    Raises:
        ValueError: an empty pool or a chain in it without residues, or not one generator per target.
    """
    if not pool or any(len(chain) == 0 for chain in pool):
        raise ValueError(
            "the pool of random chains is empty or holds an empty chain; give at least one real chain"
        )
    if len(generators) != len(ca):
        raise ValueError(
            f"{len(generators)} generators for {len(ca)} targets; every target draws from its own"
        )
    drawn = torch.zeros_like(ca)
    for row, valid, generator in zip(drawn, mask, generators, strict=True):
        # Places are kept: a target with a gap gets a window as long as its whole extent.
        length = int(valid.nonzero().max()) + 1 if valid.any() else 0
        row[:length] = _window(length, pool, generator).to(row)
    return _valid(drawn, mask)


def _window(length: int, pool: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, "l 3"]:
    long_enough = [chain for chain in pool if len(chain) >= length]
    chain = _pick(long_enough or pool, generator)
    while len(chain) < length:
        following = _pick(pool, generator)
        ahead = chain[-1] - chain[-2] if len(chain) > 1 else chain.new_tensor([1.0, 0.0, 0.0])
        joint = chain[-1] + _JOINT * ahead / ahead.norm()
        chain = torch.cat([chain, following - following[0] + joint])
    start = int(torch.randint(len(chain) - length + 1, (), generator=generator))
    return chain[start : start + length]


def _pick(chains: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    return chains[int(torch.randint(len(chains), (), generator=generator))]


def _valid(x: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 3"]:
    return x.where(mask[..., None], x.new_zeros(()))
