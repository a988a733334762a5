"""What is done about coordinates that are not numbers.

A prediction may diverge, and then scores worst: TM, GDT and lDDT 0, RMSD and the ratio of radii infinite, a clash with
everything. It never drops out of a mean. A truth may not: whatever is not known of it belongs outside the mask.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def finite_residues(x: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]) -> Bool[Tensor, "*b l"]:
    """Residues whose position is a number, or that are masked."""
    return x.isfinite().all(-1) | ~mask


def require_finite_truth(true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> None:
    """See that every residue in ``mask`` has a place in the truth.

    Raises:
        ValueError: One has none; it names the first.
    """
    known = finite_residues(true, mask)
    if not known.all():
        chain, residue = (~known).nonzero()[0].tolist()
        raise ValueError(
            f"the truth of chain {chain} of the batch is {true[chain, residue].tolist()} at residue {residue}, which "
            "the mask says is known; leave residues without coordinates out of the mask"
        )
