"""φ and ψ of backbones, predicted or observed."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import C_ATOM, CA_ATOM, N_ATOM
from minifold_pl.geometry.backbone import torsions
from minifold_pl.geometry.measures import bond_mask
from minifold_pl.geometry.precision import full_precision


@full_precision
def phi_psi(
    backbone: Float[Tensor, "b l 4 3"],
    known: Bool[Tensor, "b l 4"],
    bonded: Bool[Tensor, "b l"],
) -> tuple[Float[Tensor, "b l 2"], Bool[Tensor, "b l"]]:
    """φ and ψ of every residue in radians, and which residues have both.

    Those whose own N, Cα and C, the C before and the N after are ``known``, and joined by bonds: not the ends of a
    chain, nor residues beside a break. Å or any other unit.
    """
    backbone = backbone.where(known.unsqueeze(-1), backbone.new_zeros(()))
    phi, psi, _ = torsions(backbone)
    own = known[..., N_ATOM] & known[..., CA_ATOM] & known[..., C_ATOM]
    joined = bond_mask(own, bonded)
    nothing = torch.zeros_like(own[:, :1])
    defined = torch.cat((nothing, joined), 1) & torch.cat((joined, nothing), 1)
    return torch.stack((phi, psi), -1), defined


def phi_psi_pairs(
    backbone: Float[Tensor, "b l 4 3"], known: Bool[Tensor, "b l 4"], bonded: Bool[Tensor, "b l"]
) -> Float[np.ndarray, "n 2"]:
    """φ and ψ, in degrees, of all residues of a batch that have both."""
    angles, defined = phi_psi(backbone, known, bonded)
    return np.degrees(angles[defined].double().cpu().numpy())


@full_precision
def phi_psi_error(
    pred: Float[Tensor, "b l 4 3"],
    true: Float[Tensor, "b l 4 3"],
    known: Bool[Tensor, "b l 4"],
    bonded: Bool[Tensor, "b l"],
) -> Float[Tensor, " b"]:
    """Mean absolute error of φ and ψ in degrees, the short way round; NaN of a chain that has none.

    0 for the truth; 90 for angles drawn at random. It looks at each residue alone: a helix in the wrong place has none.
    """
    predicted, defined = phi_psi(pred, known, bonded)
    native, _ = phi_psi(true, known, bonded)
    away = (
        torch.rad2deg(torch.remainder(predicted - native + torch.pi, 2 * torch.pi) - torch.pi).abs().mean(-1)
    )
    total = away.where(defined, away.new_zeros(())).sum(1)
    return (total / defined.sum(1)).where(defined.any(1), torch.nan)
