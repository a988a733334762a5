"""What the distances in a noised chain add to the attention over its residues."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn.linear import residual_linear

FARTHEST = 6.0
"""Model units (60 Å): where the last of the basis functions has its middle. Noise of variance 1 puts residues 2.5 ± 1
apart, at any timestep."""


class DistanceBias(nn.Module):
    r"""A bias of each layer's and head's logits, from pair distances of x_t and of the previous estimate.

    .. math:: b_{ij} = W\, \mathrm{SiLU}\bigl(U\,\phi(\lVert x_i - x_j \rVert)
              + V\,\phi(\lVert \hat x_i - \hat x_j \rVert) + T(t)\bigr),
              \quad \phi_k(d) = \exp\bigl(-(d - \mu_k)^2 / 2 w^2\bigr)

    Distances are taken as they are: how much of them is noise follows from the time, which the hidden layer sees. It
    reads them without frames, which mean little where noise is most of x_t. Invariant under any motion and mirroring
    of the chain; starts at 0. Model units.

    Args:
        layers: layers of the denoiser.
        heads: attention heads of each.
        d_time: channels of the time embedding.
        basis: basis functions, evenly spaced from 0 to 60 Å, as wide as their spacing.
        hidden: channels of the hidden layer.
    """

    def __init__(self, layers: int, heads: int, d_time: int, basis: int = 24, hidden: int = 64) -> None:
        super().__init__()
        if basis < 2:
            raise ValueError(f"basis={basis}: distances need at least 2 basis functions")
        self.layers, self.basis = layers, basis
        self.noised = nn.Linear(basis, hidden, bias=False)
        self.estimated = nn.Linear(basis, hidden, bias=False)
        self.time = nn.Linear(d_time, hidden)
        self.activation = nn.SiLU()
        self.out = residual_linear(hidden, layers * heads)

    def forward(
        self,
        x_t: Float[Tensor, "b l 3"],
        time: Float[Tensor, "b f"],
        estimate: Float[Tensor, "b l 3"] | None = None,
        use_estimate: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "n b h i j"]:
        """The bias of each of ``n`` layers.

        Args:
            x_t: noised positions, finite also where masked.
            time: time embedding.
            estimate: previous x̂0 of the same chains, or None.
            use_estimate: chains that have one; None means all.
        """
        hidden = self.noised(self._basis(x_t)) + self.time(time)[:, None, None]
        # Without an estimate the map sees 0, so that it has a gradient: distributed training waits for it.
        known = x_t.new_zeros(self.basis) if estimate is None else self._basis(estimate)
        if estimate is not None and use_estimate is not None:
            known = known.where(use_estimate[:, None, None, None], known.new_zeros(()))
        hidden = hidden + self.estimated(known)
        return rearrange(self.out(self.activation(hidden)), "b i j (n h) -> n b h i j", n=self.layers)

    @full_precision
    @torch.no_grad()
    def _basis(self, x: Float[Tensor, "b l 3"]) -> Float[Tensor, "b i j k"]:
        """In place, as it is large: positions that are given have no gradient."""
        spacing = FARTHEST / (self.basis - 1)
        middles = torch.arange(self.basis, device=x.device, dtype=x.dtype)
        apart = (pairwise_distances(x) / spacing).unsqueeze(-1) - middles
        return apart.square_().mul_(-0.5).exp_()
