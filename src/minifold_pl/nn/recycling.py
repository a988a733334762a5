"""The trunk's last word, read again before it speaks anew."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import NO_WEIGHT, keep
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.types import SequenceFeatures


class Recycling(nn.Module):
    """Adds what the previous pass made of a sequence to what the next one begins with (AlphaFold 2, suppl. 1.10).

    The previous pair and single features come back through a LayerNorm and a map that starts at 0 (Algorithm 32,
    without the distances of its structure). As our pair stack leaves the single features as they are, each residue
    also takes a weighted mean of its previous pair features, one a head, through another map that starts at 0.

    Args:
        d_single: channels of the single features.
        d_pair: channels of the pair stack's features.
        heads: weighted means of each residue's pairs.
    """

    def __init__(self, d_single: int, d_pair: int, heads: int = 4) -> None:
        super().__init__()
        self.norm_single, self.norm_pair = nn.LayerNorm(d_single), nn.LayerNorm(d_pair)
        self.single = residual_linear(d_single, d_single)
        self.pair = residual_linear(d_pair, d_pair)
        self.attention = nn.Linear(d_pair, heads)
        self.pooled = residual_linear(heads * d_pair, d_single)

    def forward(
        self,
        features: SequenceFeatures,
        single: Float[Tensor, "b l d"],
        pair: Float[Tensor, "b l l p"],
        mask: Bool[Tensor, "b l"],
    ) -> tuple[SequenceFeatures, Float[Tensor, "b l l p"]]:
        """``features`` with the previous ``single`` and ``pair`` (0 before the first pass), and what adds to pairs."""
        single, pair = self.norm_single(single), self.norm_pair(pair)
        logits = self.attention(pair).masked_fill(~mask[:, None, :, None], NO_WEIGHT)
        means = torch.einsum("bijh,bijp->bihp", logits.softmax(2), pair)
        seen = self.single(single) + self.pooled(rearrange(means, "b i h p -> b i (h p)"))
        return features._replace(single=keep(features.single + seen, mask)), self.pair(pair)


def recycled(
    recycling: Recycling,
    pair_stack: PairStack,
    features: SequenceFeatures,
    mask: Bool[Tensor, "b l"],
    residue_index: Int[Tensor, "b l"],
    *,
    recycles: int,
) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l l p"]]:
    """Single and pair features of the last of ``recycles`` + 1 passes, which alone has a gradient."""
    single = torch.zeros_like(features.single)
    length = mask.shape[1]
    pair = features.pair.new_zeros(len(mask), length, length, pair_stack.d_pair)
    wanted = torch.is_grad_enabled()
    for turn in range(recycles + 1):
        last = turn == recycles
        with torch.set_grad_enabled(wanted and last):
            known, added = recycling(features, single, pair, mask)
            single, pair = known.single, pair_stack(known, mask, residue_index, added)
        if wanted and not last:
            # Half-precision copies of weights that were made without a graph must not serve the pass with one.
            torch.clear_autocast_cache()
    return single, pair
