"""How far samples of one sequence agree: the confidence that goes into the B-factor column."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.lddt import lddt_ca_per_residue

_DISTANCES_AT_ONCE = 4_000_000
"""16 MB: neither many samples nor long chains decide the memory."""


def sample_agreement(samples: Float[Tensor, "s l 3"]) -> Float[Tensor, "s l"]:
    """Mean lDDT-Cα of every residue over the other samples taken as the truth in turn, 0 to 1.

    Mariani et al. 2013, Bioinformatics 29:2722, per residue, with Cα atoms alone. It needs no
    superposition, and tells how reproducible a place is, not how right. A single sample agrees with
    nothing: 0. A residue that has no other within 15 Å in a reference scores 0 there. Coordinates in Å.
    """
    count = len(samples)
    agreement = samples.new_zeros(samples.shape[:2])
    if count < 2:
        return agreement
    length = samples.shape[1]
    at_once = max(1, _DISTANCES_AT_ONCE // length**2)
    for k, reference in enumerate(samples):
        if not reference.isfinite().all():
            continue  # nothing agrees with a diverged sample
        for start in range(0, count, at_once):
            block = samples[start : start + at_once]
            everywhere = torch.ones(block.shape[:2], dtype=torch.bool, device=samples.device)
            score = lddt_ca_per_residue(block, reference.expand_as(block), everywhere).nan_to_num(nan=0.0)
            if start <= k < start + len(block):
                score[k - start] = 0
            agreement[start : start + at_once] += score
    return agreement / (count - 1)
