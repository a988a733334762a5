"""The last climb from the best superposition found, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.chain_pairs import ChainPairs
from minifold_pl.metrics.moments import SUMS, residue_features, rigid_motion, squared_distance_rows
from minifold_pl.metrics.pose_scorer import FEWEST_NEIGHBOURS
from minifold_pl.types import Frames

_STEPS = 10
"""Weighted superpositions of the best pose."""


def highest_tm(pairs: ChainPairs, sums: Float[Tensor, "16 b"]) -> tuple[Float[Tensor, " b"], Frames]:
    r"""TM-score in float64 after a climb from the best pose, and the pose it ends in.

    Superpositions weighted by :math:`w_i = (1 + d_i^2 / d_0^2)^{-2}`. The score is convex in :math:`d_i^2`, so its
    tangent, whose slope is :math:`-w_i / d_0^2`, lies below it: what raises the tangent raises the score at least
    as much.
    """
    features, per_d0 = residue_features(pairs.pred, pairs.true), 1 / pairs.d0.square()
    for step in range(_STEPS + 1):
        rotation, translation = rigid_motion(sums)
        rows = squared_distance_rows(rotation, translation) * per_d0
        squared = torch.bmm(features, rows.T.unsqueeze(-1)).squeeze(-1).clamp(min=0)
        closeness = pairs.valid / (1 + squared)
        if step < _STEPS:
            sums = torch.bmm(closeness.square().unsqueeze(1), features[..., :SUMS]).squeeze(1).T
    return closeness.sum(-1) / pairs.whole, Frames(rotation.movedim(-1, 0), translation.T)


def highest_share(pairs: ChainPairs, sums: Float[Tensor, "16 b"], cutoff: float) -> Float[Tensor, " b"]:
    """The share within ``cutoff``, in float64, after superposing the residues within it as long as that helps."""
    features = residue_features(pairs.pred, pairs.true)
    best = torch.zeros_like(sums[0])
    for _ in range(_STEPS + 1):
        rows = squared_distance_rows(*rigid_motion(sums))
        squared = torch.bmm(features, rows.T.unsqueeze(-1)).squeeze(-1)
        within = (squared <= cutoff**2) & pairs.valid
        count = within.sum(-1)
        better = count > best
        if not better.any():
            break
        best = torch.maximum(best, count.to(best))
        # A pose needs three points; with fewer it stays as it is.
        chosen = torch.bmm(within.to(features).unsqueeze(1), features[..., :SUMS]).squeeze(1).T
        sums = chosen.where(better & (count >= FEWEST_NEIGHBOURS), sums)
    return best / pairs.whole
