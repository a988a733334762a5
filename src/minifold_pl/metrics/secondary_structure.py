"""How much of a Cα trace is helix and strand, and whether that is where the truth has them."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.secondary_structure import HELIX, MASKED, STRAND, ca_secondary_structure
from minifold_pl.metrics.finite import finite_residues, require_finite_truth


def helix_content(
    ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"] | None = None
) -> Float[Tensor, " b"]:
    """Share of residues in helices, from Cα alone; NaN for a chain without residues."""
    return content(ca_secondary_structure(ca, mask, bonded), HELIX)


def strand_content(
    ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"] | None = None
) -> Float[Tensor, " b"]:
    """Share of residues in strands, from Cα alone; NaN for a chain without residues."""
    return content(ca_secondary_structure(ca, mask, bonded), STRAND)


def secondary_structure_agreement(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"] | None = None,
) -> Float[Tensor, " b"]:
    """Share of residues whose helix, strand or coil is the truth's (Q3), from Cα alone; NaN without residues.

    All coil agrees with a real chain in about half of its residues. A predicted residue whose position is not a number
    is wrong, whatever the truth's.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    require_finite_truth(true, mask)
    same = ca_secondary_structure(pred, mask, bonded) == ca_secondary_structure(true, mask, bonded)
    return (same & finite_residues(pred, mask) & mask).sum(-1) / mask.sum(-1)


def content(kinds: Int[Tensor, "b l"], kind: int) -> Float[Tensor, " b"]:
    """Share of ``kind`` among the residues that are not masked; NaN where all are."""
    return (kinds == kind).sum(-1) / (kinds != MASKED).sum(-1)
