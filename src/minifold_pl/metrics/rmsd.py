"""Root mean square deviation."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.metrics.pose import kabsch_distances, masked_mean


def rmsd(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Least root mean square deviation over all rigid motions (no mirroring), Å; NaN without residues.

    Infinite for a prediction that is not finite at a valid residue.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    return masked_mean(kabsch_distances(pred, true, mask).square(), mask).sqrt()
