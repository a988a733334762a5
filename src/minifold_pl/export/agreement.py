"""How far samples of one sequence agree: the confidence that goes into the B-factor column."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.lddt import lddt_ca_per_residue


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
    everywhere = torch.ones(samples.shape[:2], dtype=torch.bool, device=samples.device)
    # One reference at a time: all pairs of samples at once would need s² l² numbers.
    for k, reference in enumerate(samples):
        score = lddt_ca_per_residue(samples, reference.expand_as(samples), everywhere).nan_to_num(nan=0.0)
        score[k] = 0
        agreement += score
    return agreement / (count - 1)
