"""N, C and O of every residue, in the frame that the denoiser predicts for it."""

from __future__ import annotations

from math import cos, radians, sin

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minifold_pl.constants import CA_C_BOND, N_CA_BOND, N_CA_C_ANGLE
from minifold_pl.geometry.backbone import place_oxygen
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import to_model_units
from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import keep

_IDEAL_N = (N_CA_BOND * cos(radians(N_CA_C_ANGLE)), N_CA_BOND * sin(radians(N_CA_C_ANGLE)), 0.0)
_IDEAL_C = (CA_C_BOND, 0.0, 0.0)
"""Å, in the frame of N, Cα and C: Cα at the origin, C along x, N in the xy plane at y > 0."""


class BackboneAtomHead(nn.Module):
    """Local places of N, Cα, C and O: ideal geometry plus a learned residual; O from a learned ψ.

    Cα is the frame's origin, so that noise and x0 remain those of the Cα trace. N and C start at their ideal places and
    O where ψ puts it, in the plane of the peptide; what the network adds starts at 0 and stays below ``reach``.
    0.135 M parameters at the defaults (Mini-Fold v14).

    Everything it returns is in model units: its ideal lengths are in Å and pass through
    :func:`minifold_pl.geometry.units.to_model_units`. In Å they stood ten times too far out (the write-up's worst bug).

    Args:
        d: channels of the denoiser's single features.
        hidden: channels of the hidden layer.
        reach: Å; the largest residual of N, C and O along each axis.
    """

    def __init__(self, d: int = 512, hidden: int = 256, reach: float = 0.25) -> None:
        super().__init__()
        if not reach > 0:
            raise ValueError(f"reach is {reach}: give a length in Å above 0")
        self.reach = reach
        self.norm = nn.LayerNorm(d)
        self.hidden = nn.Sequential(nn.Linear(d, hidden), nn.ReLU())
        self.offsets = residual_linear(hidden, 9)
        self.psi = residual_linear(hidden, 2, std=1e-3)
        with torch.no_grad():
            self.psi.bias.copy_(
                torch.tensor([0.0, 1.0])
            )  # sine and cosine: ψ starts at 0, between its two basins

    def forward(self, single: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 4 3"]:
        """N, Cα, C and O seen from each residue's frame, in model units; 0 where masked."""
        hidden = self.hidden(self.norm(single))
        return keep(_local_atoms(self.psi(hidden), self.offsets(hidden), self.reach), mask.unsqueeze(-1))


@full_precision
def _local_atoms(
    psi: Float[Tensor, "b l 2"], offsets: Float[Tensor, "b l 9"], reach: float
) -> Float[Tensor, "b l 4 3"]:
    n = psi.new_tensor(_IDEAL_N).expand(*psi.shape[:-1], 3)
    c = psi.new_tensor(_IDEAL_C).expand(*psi.shape[:-1], 3)
    ca = torch.zeros_like(n)
    o = place_oxygen(n, ca, c, torch.atan2(psi[..., 0], psi[..., 1]))
    d_n, d_c, d_o = (reach * torch.tanh(offsets.unflatten(-1, (3, 3)))).unbind(-2)
    return to_model_units(torch.stack((n + d_n, ca, c + d_c, o + d_o), dim=-2))
