"""Is the prediction a possible Cα chain at all? Size, bonds and clashes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import CA_CA_BOND
from minifold_pl.geometry.measures import bond_lengths, bond_mask, pairwise_distances, radius_of_gyration
from minifold_pl.metrics.finite import finite_residues, require_finite_truth

BOND_TOLERANCE = 0.1
"""Å; the share of real trans bonds within it is above 0.99."""
CLASH_DISTANCE = 3.6
"""Å; nearer Cα atoms of unbonded residues are a bump in CASP's assessment of models."""
_FARTHEST = 1e100
"""Å; what lies farther away is moved there, where a float64 holds its square."""


def rg_ratio(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Radius of gyration over the true one; 1 is right. NaN for a chain without residues.

    Infinite for a prediction that is not finite at a valid residue.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    require_finite_truth(true, mask)
    # Squares of a diverged prediction are more than a float32 holds.
    ratio = radius_of_gyration(pred.double().clamp(-_FARTHEST, _FARTHEST), mask) / radius_of_gyration(
        true.double(), mask
    )
    ratio = ratio.masked_fill(~finite_residues(pred, mask).all(-1), torch.inf)
    return ratio.to(pred.dtype).masked_fill(~mask.any(-1), float("nan"))


def ca_bond_share(
    ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Share of the peptide bonds with a Cα–Cα distance of 3.8 ± 0.1 Å; NaN where there is no bond.

    Real chains fall short of 1 by their cis peptides (2.95 Å).
    """
    bonds = bond_mask(mask, bonded)
    sound = (bond_lengths(ca) - CA_CA_BOND).abs() <= BOND_TOLERANCE
    return (sound & bonds).sum(-1) / bonds.sum(-1)


def clash_count(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Int[Tensor, " b"]:
    """Pairs of residues at least two places apart whose Cα atoms are nearer than 3.6 Å.

    A residue whose position is NaN or infinite clashes with every other: a diverged chain is not free of clashes.
    """
    pair = (mask[:, :, None] & mask[:, None, :]).triu(2)
    nowhere = ~finite_residues(ca, mask)
    lost = nowhere[:, :, None] | nowhere[:, None, :]
    return (((pairwise_distances(ca) < CLASH_DISTANCE) | lost) & pair).sum((-1, -2))
