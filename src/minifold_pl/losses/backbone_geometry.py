"""Local geometry of predicted N, Cα, C and O: bonds, angles, peptide planes, φ and ψ.

Coordinates in model units, ideal values those of :mod:`minifold_pl.constants`. Atoms are N, Cα, C, O. No term reaches
across a chain break or a missing residue.
"""

from __future__ import annotations

from math import cos, pi, radians

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import (
    C_ATOM,
    C_N_BOND,
    C_N_CA_ANGLE,
    C_O_BOND,
    CA_ATOM,
    CA_C_BOND,
    CA_C_N_ANGLE,
    N_ATOM,
    N_CA_BOND,
    N_CA_C_ANGLE,
    O_ATOM,
)
from minifold_pl.geometry.measures import bond_angle_cosines, bond_mask, dihedral, distance
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import to_model_units
from minifold_pl.losses.reduction import PerChain, chain_mean, zero_masked


@full_precision
def backbone_bond_per_chain(
    atoms: Float[Tensor, "b l 4 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Squared deviation of N–Cα, Cα–C, C=O and the peptide's C–N from their ideal lengths.

    .. math:: L = |M|^{-1} \sum_{(a, b) \in M} (\lVert \hat x_a - \hat x_b \rVert - d_{ab})^2

    Every bond counts the same; result in model units². Mini-Fold v14, "Backbone Bond Loss".
    """
    n, ca, c, o = zero_masked(atoms, mask).unbind(2)
    inside = torch.stack(
        [
            distance(x, y) - to_model_units(ideal)
            for x, y, ideal in ((n, ca, N_CA_BOND), (ca, c, CA_C_BOND), (c, o, C_O_BOND))
        ],
        dim=-1,
    )
    peptide = distance(c[:, :-1], n[:, 1:]) - to_model_units(C_N_BOND)
    joined = bond_mask(mask, bonded)
    errors = torch.cat((inside.flatten(1), peptide), 1)
    return chain_mean(errors**2, torch.cat((mask.repeat_interleave(3, 1), joined), 1))


@full_precision
def backbone_angle_per_chain(
    atoms: Float[Tensor, "b l 4 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Squared deviation of the cosines of N–Cα–C, Cα–C–N and C–N–Cα from those of the ideal angles.

    .. math:: L = |M|^{-1} \sum_{m \in M} (\cos\hat\theta_m - \cos\theta_m)^2

    In cosines, as the Cα angles are: their gradient is finite at 0° and 180°. Mini-Fold v14, "Backbone Angle Loss".
    """
    n, ca, c, _ = zero_masked(atoms, mask).unbind(2)
    joined = bond_mask(mask, bonded)
    errors = [
        _cosine(n, ca, c) - cos(radians(N_CA_C_ANGLE)),
        _cosine(ca[:, :-1], c[:, :-1], n[:, 1:]) - cos(radians(CA_C_N_ANGLE)),
        _cosine(c[:, :-1], n[:, 1:], ca[:, 1:]) - cos(radians(C_N_CA_ANGLE)),
    ]
    return chain_mean(torch.cat(errors, 1) ** 2, torch.cat((mask, joined, joined), 1))


@full_precision
def omega_per_chain(
    atoms: Float[Tensor, "b l 4 3"],
    true: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    known: Bool[Tensor, "b l 4"],
    bonded: Bool[Tensor, "b l"],
) -> PerChain:
    r"""Mean of :math:`1 - \cos(\hat\omega - \omega)`: 0 to 2, ω the true one where it is known, else 180°.

    The write-up compares with 180° throughout; cis prolines are real, and are not to be straightened. ``known`` are the
    observed atoms of ``true``. Mini-Fold v14, "Omega Dihedral Loss".
    """
    predicted = _omega(zero_masked(atoms, mask))
    native = _omega(_observed(true, known))
    there = known[:, :-1, CA_ATOM] & known[:, :-1, C_ATOM] & known[:, 1:, N_ATOM] & known[:, 1:, CA_ATOM]
    reference = native.where(there, torch.full_like(native, pi))
    return chain_mean(1 - torch.cos(predicted - reference), bond_mask(mask, bonded))


@full_precision
def phi_psi_per_chain(
    atoms: Float[Tensor, "b l 4 3"],
    true: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    known: Bool[Tensor, "b l 4"],
    bonded: Bool[Tensor, "b l"],
) -> PerChain:
    r"""Mean of :math:`1 - \cos` of the errors of φ and ψ: 0 to 2.

    φ (C–N–Cα–C) and ψ (N–Cα–C–N) are read from the predicted atoms of neighbouring residues, and ψ once more from O
    (N–Cα–C–O, which lies opposite): the first two turn the frames, the third trains the ψ that places O. An angle
    counts where all four true atoms are observed. Mini-Fold v14, "Direct angle supervision".
    """
    predicted, native = _phi_psi(zero_masked(atoms, mask)), _phi_psi(_observed(true, known))
    joined = bond_mask(mask, bonded)
    n, ca, c, o = (known[..., k] & mask for k in (N_ATOM, CA_ATOM, C_ATOM, O_ATOM))
    own = n & ca & c
    counted = (joined & c[:, :-1] & own[:, 1:], joined & own[:, :-1] & n[:, 1:], own & o)
    errors = [1 - torch.cos(x - y) for x, y in zip(predicted, native, strict=True)]
    return chain_mean(torch.cat(errors, 1), torch.cat(counted, 1))


def _observed(true: Tensor, known: Tensor) -> Tensor:
    """``true`` with 0 in place of what was not observed, whatever stands there."""
    return true.where(known.unsqueeze(-1), true.new_zeros(()))


def _cosine(a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "b m"]:
    return bond_angle_cosines(torch.stack((a, b, c), dim=-2)).squeeze(-1)


def _omega(atoms: Float[Tensor, "b l 4 3"]) -> Float[Tensor, "b l-1"]:
    n, ca, c, _ = atoms.unbind(2)
    return dihedral(ca[:, :-1], c[:, :-1], n[:, 1:], ca[:, 1:])


def _phi_psi(atoms: Float[Tensor, "b l 4 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """φ of residues 2… and ψ of residues …l − 1, (b l-1) each, and the dihedral of O, (b l)."""
    n, ca, c, o = atoms.unbind(2)
    phi = dihedral(c[:, :-1], n[:, 1:], ca[:, 1:], c[:, 1:])
    psi = dihedral(n[:, :-1], ca[:, :-1], c[:, :-1], n[:, 1:])
    return phi, psi, dihedral(n, ca, c, o)
