"""How far each residue is from its true place, once the prediction has been superposed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.superpose import superpose


@full_precision
def kabsch_distances(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l"]:
    """Distance of each residue to its true place in the pose of least RMSD, Å.

    Masked residues get 0 and take no part. A prediction with a NaN or inf at a valid residue has no pose:
    its distances are infinite, so that it scores worst and does not drop out of an average.
    """
    zero = pred.new_zeros(())
    pred, true = pred.where(mask[..., None], zero), true.where(mask[..., None], zero)
    sound = pred.isfinite().all(-1).all(-1)
    moved = superpose(pred.where(sound[:, None, None], zero), true, mask)
    distances = (moved - true).square().sum(-1).sqrt()
    return distances.where(sound[:, None], torch.inf).where(mask, zero)


def masked_mean(values: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, " b"]:
    """Mean over the valid residues of each chain; NaN where there are none."""
    return values.where(mask, values.new_zeros(())).sum(-1) / mask.sum(-1)
