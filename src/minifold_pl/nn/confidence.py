"""How sure a model is of each residue of a structure that it drew: a distribution over lDDT-Cα (pLDDT)."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn.linear import residual_linear

AGREEMENT_TOLERANCES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Å; to which a structure's local distances are compared with those of another guess at it."""


class ConfidenceHead(nn.Module):
    """Logits of bins of a residue's lDDT-Cα, after AlphaFold 2 (suppl. 1.9.6): norm, two hidden layers, logits.

    AlphaFold 2 reads the features that the structure was made from. A sampler's last ones say little: there the chain
    is nearly clean, and any chain looks right. What is read here is a second guess at the same sequence, from noise
    alone: its features, and how far the structure agrees with it. The last map starts at 0: nothing is known yet.

    Args:
        d: channels of the denoiser's last single features.
        bins: of lDDT, equal parts of 0…1.
        hidden: channels of the hidden layers.
    """

    def __init__(self, d: int, bins: int = 50, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.single = nn.Linear(d, hidden)
        self.agreement = nn.Linear(len(AGREEMENT_TOLERANCES), hidden, bias=False)
        self.hidden = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.bins = residual_linear(hidden, bins)

    def forward(
        self, single: Float[Tensor, "b l d"], agreement: Float[Tensor, "b l k"]
    ) -> Float[Tensor, "b l n"]:
        """Logits of the bins.

        Args:
            single: the denoiser's last single features in the second guess.
            agreement: of the distances from each residue to its neighbours in the structure, the share that the second
                guess has too, to each of :data:`AGREEMENT_TOLERANCES`; 0…1.
        """
        # Both ends of the shares' range are as far from 0.
        read = self.single(self.norm(single)) + self.agreement(2 * agreement.to(single.dtype) - 1)
        logits: Tensor = self.bins(self.hidden(read))
        return logits


@full_precision
def expected_lddt(logits: Float[Tensor, "b l n"]) -> Float[Tensor, "b l"]:
    """Mean of the distribution, each bin taken at its middle; 0…1."""
    bins = logits.shape[-1]
    middles = (torch.arange(bins, device=logits.device, dtype=logits.dtype) + 0.5) / bins
    return logits.softmax(-1) @ middles
