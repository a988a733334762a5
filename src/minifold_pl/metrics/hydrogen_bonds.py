"""Backbone hydrogen bonds, and the helices and strands they make (after DSSP).

Kabsch & Sander 1983, Biopolymers 22:2577. Three kinds of residue are told apart: helix (DSSP's H, G and I), strand
(E and B) and coil. Unlike DSSP each atom may take part in any number of bonds.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import C_ATOM, N_ATOM, O_ATOM
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.secondary_structure import HELIX, MASKED, STRAND
from minifold_pl.metrics.secondary_structure import content

BOND_ENERGY = -0.5
"""kcal/mol; a weaker interaction is no hydrogen bond."""
_COUPLING = 332.0 * 0.42 * 0.20
"""kcal/mol Å: charges of 0.42 e on C=O and 0.20 e on N–H."""
_N_H_BOND = 1.01
"""Å."""
_NEAREST = 0.5
"""Å; nearer atoms are as if they were this far apart, as in DSSP."""
_MIN_LADDER_SEPARATION = 3


@full_precision
def hydrogen_bonds(
    backbone: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"] | None = None,
    proline: Bool[Tensor, "b l"] | None = None,
) -> Bool[Tensor, "b i j"]:
    r"""Whether the C=O of residue i accepts a hydrogen bond from the N–H of residue j.

    .. math:: E = 0.42 \cdot 0.20 \cdot 332\; (r_{ON}^{-1} + r_{CH}^{-1} - r_{OH}^{-1} - r_{CN}^{-1})
              < -0.5\ \mathrm{kcal/mol}

    Args:
        backbone: N, Cα, C, O in Å.
        mask: Residues that have all four atoms.
        bonded: Residues i and i + 1 are joined; all are, where not given. The hydrogen lies opposite the C=O of the
            residue before, so the first residue of a segment gives none.
        proline: Residues without a hydrogen; none, where not given.
    """
    backbone = backbone.where(mask[..., None, None], backbone.new_zeros(()))
    n, c, o = backbone[:, :, N_ATOM], backbone[:, :, C_ATOM], backbone[:, :, O_ATOM]
    joined = _joined(mask, bonded)
    before = torch.nn.functional.pad(joined, (1, 0))
    donor = mask & before
    if proline is not None:
        donor = donor & ~proline
    towards = torch.nn.functional.normalize(c - o, dim=-1)
    h = n + _N_H_BOND * torch.nn.functional.pad(towards[:, :-1], (0, 0, 1, 0))
    energy = _COUPLING * (_inverse(o, n) + _inverse(c, h) - _inverse(o, h) - _inverse(c, n))
    length = mask.shape[1]
    place = torch.arange(length, device=mask.device)
    step = place[None, :] - place[:, None]
    # The N–H next to a C=O belongs to the same peptide.
    apart = (step != 0) & (step != 1)
    return (energy < BOND_ENERGY) & mask[:, :, None] & donor[:, None, :] & apart


def backbone_secondary_structure(
    backbone: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"] | None = None,
    proline: Bool[Tensor, "b l"] | None = None,
) -> Int[Tensor, "b l"]:
    """``COIL``, ``HELIX`` or ``STRAND`` from the hydrogen bonds; ``MASKED`` outside ``mask``.

    A helix of n = 4, 3, 5 is between two successive n-turns (the C=O of i bonded to the N–H of i + n). Residues i and j
    are bridged when (i − 1, j) and (j, i + 1), or (j − 1, i) and (i, j + 1) are bonds (parallel), or (i, j) and (j, i),
    or (i − 1, j + 1) and (j − 1, i + 1) (antiparallel); a bridged residue outside α helices is a strand.
    """
    bond = hydrogen_bonds(backbone, mask, bonded, proline)
    joined = _joined(mask, bonded)
    alpha = _helix(bond, joined, 4)
    strand = _bridged(bond, joined) & ~alpha
    helix = alpha
    for turn in (3, 5):
        helix = helix | (_helix(bond, joined, turn) & ~strand)
    kinds = HELIX * helix.long() + STRAND * strand.long()
    return kinds.masked_fill(~mask, MASKED)


def backbone_helix_content(
    backbone: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"] | None = None,
) -> Float[Tensor, " b"]:
    """Share of residues in helices, from hydrogen bonds; NaN for a chain without residues."""
    return content(backbone_secondary_structure(backbone, mask, bonded), HELIX)


def backbone_strand_content(
    backbone: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"] | None = None,
) -> Float[Tensor, " b"]:
    """Share of residues in strands, from hydrogen bonds; NaN for a chain without residues."""
    return content(backbone_secondary_structure(backbone, mask, bonded), STRAND)


def _joined(mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"] | None) -> Bool[Tensor, "b l-1"]:
    joined = mask[:, :-1] & mask[:, 1:]
    return joined if bonded is None else joined & bonded[:, :-1]


def _inverse(x: Float[Tensor, "b i 3"], y: Float[Tensor, "b j 3"]) -> Float[Tensor, "b i j"]:
    apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return 1 / apart.clamp(min=_NEAREST)


def _helix(bond: Bool[Tensor, "b l l"], joined: Bool[Tensor, "b l-1"], turn: int) -> Bool[Tensor, "b l"]:
    """Residues between two successive turns of this length, within one segment."""
    length = bond.shape[1]
    found = torch.zeros(bond.shape[:2], dtype=torch.bool, device=bond.device)
    if length <= turn + 1:
        return found
    whole = joined.unfold(1, turn, 1).all(-1)
    turns = torch.diagonal(bond, turn, 1, 2) & whole
    # A turn at i − 1 and one at i: residues i … i + n − 1.
    start = turns[:, :-1] & turns[:, 1:]
    for k in range(1, turn + 1):
        found[:, k : k + start.shape[1]] |= start
    return found


def _bridged(bond: Bool[Tensor, "b l l"], joined: Bool[Tensor, "b l-1"]) -> Bool[Tensor, "b l"]:
    """Residues that are bridged to another one; both need neighbours on either side."""
    length = bond.shape[1]
    inner = torch.nn.functional.pad(joined[:, :-1] & joined[:, 1:], (1, 1))

    def shifted(first: int, second: int) -> Tensor:
        """bond[i + first, j + second] at (i, j)."""
        padded = torch.nn.functional.pad(bond, (1, 1, 1, 1))
        return padded[:, 1 + first : 1 + first + length, 1 + second : 1 + second + length]

    # One direction of a parallel bridge; the other is its transpose.
    one_way = shifted(-1, 0) & shifted(0, 1).mT
    parallel = one_way | one_way.mT
    antiparallel = (bond & bond.mT) | (shifted(-1, 1) & shifted(-1, 1).mT)
    place = torch.arange(length, device=bond.device)
    apart = (place[:, None] - place).abs() >= _MIN_LADDER_SEPARATION
    bridge = (parallel | antiparallel) & apart & inner[:, :, None] & inner[:, None, :]
    return bridge.any(-1)
