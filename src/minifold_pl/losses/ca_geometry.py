"""Local geometry of a Cα trace: bonds, angles, handedness, clashes.

Coordinates in model units; ideal lengths and thresholds in Å. No term reaches across a chain break or a
missing residue.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import CA_CA_BOND
from minifold_pl.geometry.measures import (
    bond_angle_cosines,
    bond_lengths,
    bond_mask,
    pairwise_distances,
    quartet_mask,
    signed_volumes,
    triplet_mask,
)
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import length_beside
from minifold_pl.losses.reduction import PerChain, chain_mean, pair_mask, zero_masked

CLASH_THRESHOLD = 3.0
"""Å; nearer Cα atoms clash (Mini-Fold, "Clash Loss"). In nature only a cis peptide (2.95 Å) is nearer."""


@full_precision
def bond_length_per_chain(
    x0: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    ideal: float = CA_CA_BOND,
    unit: Float[Tensor, " b"] | None = None,
) -> PerChain:
    r"""Squared deviation of consecutive Cα–Cα distances from ``ideal``.

    .. math:: L = |M|^{-1} \sum_{i \in M} (\lVert \hat x_{i+1} - \hat x_i \rVert - d)^2

    ``x0`` in model units (of 10 Å, or of each chain's ``unit`` Å), ``ideal`` in Å, result in model units². Blind to
    mirror images.
    """
    lengths = bond_lengths(zero_masked(x0, mask))
    error = lengths - length_beside(lengths, ideal, unit)
    return chain_mean(error**2, bond_mask(mask, bonded))


def bond_length_loss(
    x0: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    ideal: float = CA_CA_BOND,
) -> Float[Tensor, ""]:
    """Mean of :func:`bond_length_per_chain` over the chains."""
    return bond_length_per_chain(x0, mask, bonded, ideal=ideal).mean()


@full_precision
def bond_angle_per_chain(
    x0: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
) -> PerChain:
    r"""Squared error of the cosines of the Cα–Cα–Cα angles, compared with the truth, not with an ideal.

    .. math:: L = |M|^{-1} \sum_{i \in M} (\cos\hat\theta_i - \cos\theta_i)^2

    Free of units. Blind to mirror images.
    """
    error = bond_angle_cosines(zero_masked(x0, mask)) - bond_angle_cosines(zero_masked(true, mask))
    return chain_mean(error**2, triplet_mask(mask, bonded))


def bond_angle_loss(
    x0: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
) -> Float[Tensor, ""]:
    """Mean of :func:`bond_angle_per_chain` over the chains."""
    return bond_angle_per_chain(x0, true, mask, bonded).mean()


@full_precision
def chirality_per_chain(
    x0: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
) -> PerChain:
    r"""Squared error of the normalised signed volumes of Cα quartets.

    .. math:: L = |M|^{-1} \sum_{i \in M} (\hat V_i - V_i)^2, \qquad
              V = \frac{v_1 \cdot (v_2 \times v_3)}{\lVert v_1\rVert \lVert v_2\rVert \lVert v_3\rVert}

    Free of units. A mirror image turns every sign of V, so that it costs :math:`4 \overline{V^2}`.
    """
    error = signed_volumes(zero_masked(x0, mask)) - signed_volumes(zero_masked(true, mask))
    return chain_mean(error**2, quartet_mask(mask, bonded))


def chirality_loss(
    x0: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
) -> Float[Tensor, ""]:
    """Mean of :func:`chirality_per_chain` over the chains."""
    return chirality_per_chain(x0, true, mask, bonded).mean()


@full_precision
def clash_per_chain(
    x0: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    threshold: float = CLASH_THRESHOLD,
    unit: Float[Tensor, " b"] | None = None,
    contacts: Float[Tensor, "b l l"] | None = None,
) -> PerChain:
    r"""Squared overlap of residues that no bond joins.

    .. math:: L = |N|^{-1} \sum_{(i,j) \in N}
              \bigl[(1 + 2 c_{ij}) \max(0,\ \tau - \lVert \hat x_i - \hat x_j \rVert)\bigr]^2

    ``x0`` in model units (of 10 Å, or of each chain's ``unit`` Å), ``threshold`` τ in Å, result in model units²;
    ``contacts`` c: probability of a contact, 0 where it is not given. Mini-Fold, "Clash Loss", which took its threshold
    in the wrong unit and penalised nearly every pair; hence Å here.
    """
    joined = torch.diag_embed(bond_mask(mask, bonded), offset=1)
    apart = pair_mask(mask) & ~(joined | joined.mT)
    distances = pairwise_distances(zero_masked(x0, mask))
    overlap = (length_beside(distances, threshold, unit) - distances).clamp(min=0)
    if contacts is not None:
        overlap = overlap * (1 + 2 * contacts)
    return chain_mean(overlap**2, apart)


def clash_loss(
    x0: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    threshold: float = CLASH_THRESHOLD,
) -> Float[Tensor, ""]:
    """Mean of :func:`clash_per_chain` over the chains."""
    return clash_per_chain(x0, mask, bonded, threshold=threshold).mean()
