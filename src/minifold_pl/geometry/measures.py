"""Distances, angles, dihedrals and volumes of chains, safe to differentiate where points fall together.

Lengths keep the unit of the coordinates; angles are radians. The masks say which bonds, triplets and quartets
exist: none reaches across a chain break or a missing residue.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.precision import full_precision

_EPS = 1e-10
"""Added to squared lengths: the root's derivative at 0 is infinite (the write-up's cdist NaN)."""
_SHORT_EPS = 1e-6
"""The same for directions, whose gradient grows as 1/length: at most 1e3, at the price of a relative error of
4e-6 on a Cα–Cα bond in model units."""
_FLATTEST = 1e-4
"""Smallest product of the two sines at which a dihedral is defined."""


def length(v: Float[Tensor, "*batch"], dim: int = -1) -> Float[Tensor, "*rest"]:
    r""":math:`\sqrt{\lVert v \rVert^2 + 10^{-10}}` of the vectors along ``dim``."""
    return ((v * v).sum(dim) + _EPS).sqrt()


@full_precision
def distance(x: Float[Tensor, "*batch 3"], y: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    r""":math:`\sqrt{\lVert x - y \rVert^2 + 10^{-10}}`; leading axes broadcast."""
    return length(x - y)


@full_precision
def pairwise_distances(x: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l l"]:
    """Distance of every residue to every residue (1e-5 on the diagonal)."""
    return length(x.unsqueeze(-2) - x.unsqueeze(-3))


@full_precision
def bond_lengths(ca: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l-1"]:
    """Distance from residue i to i + 1."""
    return length(ca.diff(dim=-2))


@full_precision
def bond_angle_cosines(ca: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l-2"]:
    """Cosine of the angle at residue i + 1 in the triplet (i, i + 1, i + 2): -1 when straight."""
    unit = _unit(ca.diff(dim=-2))
    return -(unit[..., :-1, :] * unit[..., 1:, :]).sum(-1)


@full_precision
def dihedral(
    p0: Float[Tensor, "*batch 3"],
    p1: Float[Tensor, "*batch 3"],
    p2: Float[Tensor, "*batch 3"],
    p3: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch"]:
    """Dihedral in radians, (-π, π], IUPAC sign: looking from p1 to p2, clockwise is positive.

    Where three of the points are collinear the angle is undefined: 0, with gradient 0.
    """
    # only directions matter, and products of unit vectors neither overflow nor underflow
    b1, b2, b3 = _unit(p1 - p0), _unit(p2 - p1), _unit(p3 - p2)
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    sine = length(b2) * (b1 * n2).sum(-1)
    cosine = (n1 * n2).sum(-1)
    # sine² + cosine² = |n1|²|n2|²: the product of the squared sines of the two angles
    defined = sine**2 + cosine**2 > _FLATTEST**2
    one, zero = torch.ones_like(cosine), torch.zeros_like(sine)
    return torch.atan2(sine.where(defined, zero), cosine.where(defined, one))


def pseudo_dihedrals(ca: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l-3"]:
    """Dihedral of the Cα quartet (i … i + 3), radians: about +50° in an α helix, -170° in a strand."""
    first, second, third = ca[..., :-3, :], ca[..., 1:-2, :], ca[..., 2:-1, :]
    return dihedral(first, second, third, ca[..., 3:, :])


@full_precision
def signed_volumes(ca: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l-3"]:
    r""":math:`v_1 \cdot (v_2 \times v_3)` of the three unit bond vectors of the Cα quartet (i … i + 3).

    Between -1 and 1, positive in a right-handed helix, and its sign turns in a mirror.
    """
    unit = _unit(ca.diff(dim=-2))
    v1, v2, v3 = unit[..., :-2, :], unit[..., 1:-1, :], unit[..., 2:, :]
    return (v1 * torch.linalg.cross(v2, v3)).sum(-1)


@full_precision
def radius_of_gyration(x: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]) -> Float[Tensor, "*b"]:
    """Root mean squared distance of the residues in ``mask`` from their mean (1e-5 when there are none)."""
    valid = mask.unsqueeze(-1)
    count = valid.sum(-2).clamp(min=1)
    clean = x.where(valid, x.new_zeros(()))
    mean = (clean.sum(-2) / count).unsqueeze(-2)
    squared = ((clean - mean) ** 2).sum(-1) * mask
    return (squared.sum(-1) / count.squeeze(-1) + _EPS).sqrt()


def bond_mask(mask: Bool[Tensor, "*b l"], bonded: Bool[Tensor, "*b l"]) -> Bool[Tensor, "*b l-1"]:
    """Residues i and i + 1 are both there, and joined."""
    return mask[..., :-1] & mask[..., 1:] & bonded[..., :-1]


def triplet_mask(mask: Bool[Tensor, "*b l"], bonded: Bool[Tensor, "*b l"]) -> Bool[Tensor, "*b l-2"]:
    """Residues i … i + 2 are all there, and joined."""
    bonds = bond_mask(mask, bonded)
    return bonds[..., :-1] & bonds[..., 1:]


def quartet_mask(mask: Bool[Tensor, "*b l"], bonded: Bool[Tensor, "*b l"]) -> Bool[Tensor, "*b l-3"]:
    """Residues i … i + 3 are all there, and joined."""
    triplets = triplet_mask(mask, bonded)
    return triplets[..., :-1] & triplets[..., 1:]


def _unit(v: Tensor) -> Tensor:
    """``v`` over its length; shorter than 1e-3 it fades to 0."""
    return v * ((v * v).sum(-1, keepdim=True) + _SHORT_EPS).rsqrt()
