"""Local distance difference test on Cα atoms: needs no superposition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.metrics.finite import require_finite_truth

INCLUSION_RADIUS = 15.0
"""Å: pairs nearer than this in the truth count."""
TOLERANCES = (0.5, 1.0, 2.0, 4.0)
"""Å."""


def lddt_ca(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Share of the true distances below 15 Å that are kept to 0.5, 1, 2 and 4 Å, mean of the four; 0 to 1.

    Mariani et al. 2013, Bioinformatics 29:2722, with Cα atoms alone; the share is taken over all pairs of
    the chain at once. Distances know no handedness: a mirror image scores 1. Two unrelated chains score
    about 0.3. NaN where no two valid residues are near each other; distances that are not numbers are not kept.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    kept, pairs = _kept(pred, true, mask)
    return kept.sum(-1) / pairs.sum(-1)


def lddt_ca_per_residue(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l"]:
    """:func:`lddt_ca` over the pairs of each residue; NaN where masked or without neighbours."""
    kept, pairs = _kept(pred, true, mask)
    return kept / pairs


@full_precision
def kept_shares(
    other: Float[Tensor, "b l 3"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    tolerances: Sequence[float],
) -> Float[Tensor, "b l k"]:
    """Share of each residue's distances below 15 Å in ``ca`` that ``other`` keeps to each of ``tolerances`` (Å).

    As in :func:`lddt_ca_per_residue`, one tolerance after the other and with neither of the two for the truth: what is
    not finite is near nothing and keeps nothing. 0 where masked or without neighbours.
    """
    distance = _distances(ca)
    error = (_distances(other) - distance).abs()
    pair = _pairs(distance, mask)
    kept = torch.stack([((error < tolerance) & pair).sum(-1) for tolerance in tolerances], -1)
    return (kept / pair.sum(-1, keepdim=True).clamp(min=1)).to(ca.dtype)


@full_precision
def _kept(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
    """Per residue: the kept distances, each worth the share of tolerances that it meets, and all of them."""
    require_finite_truth(true, mask)
    distance = _distances(true)
    error = (_distances(pred) - distance).abs()
    pair = _pairs(distance, mask)
    met = torch.zeros_like(error, dtype=torch.uint8)
    for tolerance in TOLERANCES:
        met += (error < tolerance) & pair
    return (met.sum(-1) / len(TOLERANCES)).to(pred.dtype), pair.sum(-1).to(pred.dtype)


def _pairs(distance: Float[Tensor, "b l l"], mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l l"]:
    """Two different valid residues that are near each other."""
    others = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None, :] & others & (distance < INCLUSION_RADIUS)


def _distances(x: Float[Tensor, "b l 3"]) -> Float[Tensor, "b l l"]:
    """In float64: near a tolerance, float32 takes other pairs for kept."""
    x = x.double()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
