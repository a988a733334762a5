"""Pairs of chains laid out for a search of superpositions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.metrics.tm import tm_d0

FARTHEST = 1e4
"""Å from the chain's median: no protein is that long, and float32 cannot hold the squares of more."""


class ChainPairs(NamedTuple):
    """Chains to superpose, their valid residues first, shortest chain first; float64."""

    pred: Float[Tensor, "b l 3"]
    true: Float[Tensor, "b l 3"]
    valid: Bool[Tensor, "b l"]
    whole: Int[Tensor, " b"]
    """Residues to normalise by."""

    def slice(self, rows: slice) -> ChainPairs:
        """Some of the chains, without the padding that they do not need."""
        width = max(1, int(self.valid[rows].sum(-1).max()))
        return ChainPairs(
            self.pred[rows, :width], self.true[rows, :width], self.valid[rows, :width], self.whole[rows]
        )

    @property
    def d0(self) -> Float[Tensor, " b"]:
        """Å, float64."""
        return tm_d0(self.whole).double()


def pack_pairs(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    whole: Int[Tensor, " b"],
) -> tuple[ChainPairs, Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """The valid residues moved to the front in their order, so that runs pass over gaps; the rest is 0.

    Each chain is moved to its median, so that rounding depends neither on where in space it lies nor on a few
    residues far away; those beyond 10,000 Å are brought to that distance. Also returns the medians.
    """
    order = mask.byte().sort(dim=-1, descending=True, stable=True).indices
    order = order[:, : max(1, int(mask.sum(-1).max()))]
    valid = mask.gather(1, order)
    index = order[..., None].expand(-1, -1, 3)

    def pack(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double().gather(1, index)
        middle = x.masked_fill(~valid[..., None], torch.nan).nanmedian(1).values
        x = (x - middle[:, None]).where(valid[..., None], x.new_zeros(()))
        # The largest entry first: the square of a diverged coordinate may be infinite.
        size = x.abs().amax(-1, keepdim=True).clamp(min=1)
        away = size * (x / size).square().sum(-1, keepdim=True).sqrt()
        return torch.where(away > FARTHEST, (x / size) * (FARTHEST / (away / size)), x), middle

    pred, pred_middle = pack(pred)
    true, true_middle = pack(true)
    return ChainPairs(pred, true, valid, whole), pred_middle, true_middle
