"""How far each residue is from its true place, once the prediction has been superposed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.superpose import superpose
from minifold_pl.metrics.finite import require_finite_truth

_FARTHEST = 1e100
"""Å."""


@full_precision
def kabsch_distances(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l"]:
    """Distance of each residue to its true place in the pose of least RMSD, Å.

    Masked residues get 0 and take no part. A prediction with a NaN or inf at a valid residue has no pose:
    its distances are infinite, so that it scores worst and does not drop out of an average.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    require_finite_truth(true, mask)
    dtype = pred.dtype
    # float64: a chain of 500 residues far from the origin leaves float32 too few digits for 1e-4 Å.
    pred, true = (x.double().masked_fill(~mask[..., None], 0) for x in (pred, true))
    sound = pred.isfinite().all(-1).all(-1)
    # Products of what a float64 can hold would be infinite, and a covariance NaN.
    pred = pred.masked_fill(~sound[:, None, None], 0).clamp(-_FARTHEST, _FARTHEST)
    moved = superpose(pred, true, mask)
    distances = (moved - true).square().sum(-1).sqrt()
    return distances.masked_fill(~sound[:, None], torch.inf).masked_fill(~mask, 0).to(dtype)


def masked_mean(
    values: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"], length: Int[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Sum over the valid residues of each chain over ``length``: how many there are, where not given.

    NaN for a chain without valid residues when ``length`` is not given, or 0.
    """
    return values.where(mask, values.new_zeros(())).sum(-1) / normaliser(mask, length)


def normaliser(mask: Bool[Tensor, "b l"], length: Int[Tensor, " b"] | None) -> Int[Tensor, " b"]:
    """Residues to normalise a score by: ``length``, or those in ``mask``.

    Raises:
        ValueError: ``length`` is less than the residues that are scored.
    """
    count = mask.sum(-1)
    if length is None:
        return count
    if (length < count).any():
        raise ValueError(
            f"length {length.tolist()} is less than the residues in mask, {count.tolist()}; "
            "give the residues of the whole reference chain, matched or not"
        )
    return length
