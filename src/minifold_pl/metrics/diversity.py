"""How different the samples of one sequence are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.metrics.finite import finite_residues
from minifold_pl.metrics.tm_search import tm_score


def pairwise_tm(samples: Float[Tensor, "b s l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b p"]:
    """TM-score of every pair of a chain's samples, in the order of ``torch.triu_indices``; coordinates in Å.

    0 where one of the two is not finite.
    """
    count = samples.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=samples.device)
    pairs = len(first)
    sound = finite_residues(samples, mask[:, None].expand(samples.shape[:-1])).all(-1)
    clean = samples.masked_fill(~sound[..., None, None], 0)
    scores = tm_score(
        clean[:, first].flatten(0, 1), clean[:, second].flatten(0, 1), mask.repeat_interleave(pairs, 0)
    )
    scores = scores.unflatten(0, (len(samples), pairs))
    return scores.masked_fill(~(sound[:, first] & sound[:, second]), 0)


def diversity(samples: Float[Tensor, "b s l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, " b"]:
    """1 − mean TM-score over all pairs of a chain's samples: 0 where all are alike, near 0.8 for unrelated ones.

    Coordinates in Å, poses do not matter, mirror images count as different. NaN for fewer than two samples.
    """
    return 1 - pairwise_tm(samples, mask).mean(1)
