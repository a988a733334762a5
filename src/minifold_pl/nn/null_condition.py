"""What the denoiser is given in place of a sequence."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.nn.embeddings import LinearRelativePosition
from minifold_pl.nn.masking import keep, pair_mask


class NullCondition(nn.Module):
    """Learned features of no sequence in particular: the same vector for every residue, pairs told apart by separation.

    In place of a pass of encoder and pair stack over MASK tokens, it costs one lookup a pair. The pair features are
    normalised, as the pair stack's are.

    Args:
        d_single: channels of the single features.
        d_pair: channels of the pair features.
        max_rel: largest sequence separation told apart.
    """

    def __init__(self, d_single: int, d_pair: int, max_rel: int = 32) -> None:
        super().__init__()
        self.single = nn.Parameter(torch.randn(d_single))
        self.relative_position = LinearRelativePosition(d_pair, max_rel)
        self.norm = nn.LayerNorm(d_pair)

    def forward(
        self, mask: Bool[Tensor, "b l"], residue_index: Int[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l l p"]]:
        """Single and pair features, 0 where there is no residue."""
        single = self.single.expand(*mask.shape, -1)
        return keep(single, mask), keep(self.norm(self.relative_position(residue_index)), pair_mask(mask))
