"""Gated attention along one axis, AlphaFold 2, suppl. Algorithms 13 and 14 without the triangle bias, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from minifold_pl.nn.masking import NO_WEIGHT

if TYPE_CHECKING:
    from minifold_pl.nn.axial import AxialAttention


def axial_attention(
    module: AxialAttention, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l l d"]:
    """What ``module`` computes, with all l × l × l × heads weights at once."""
    z = module.norm(pair)
    q, k, v = (
        rearrange(F.linear(z, weight), "b i j (h d) -> b i j h d", h=module.heads)
        for weight in module.qkv.weight.chunk(3)
    )
    # the other residue of the pair is the query's row or column, n the key's place along it
    along = "bijhd,binhd->bijhn" if module.axis == "row" else "bijhd,bnjhd->bijhn"
    logits = torch.einsum(along, q, k) / q.shape[-1] ** 0.5
    weights = (logits + ~mask[:, None, None, None, :] * NO_WEIGHT).softmax(-1)
    sums = "bijhn,binhd->bijhd" if module.axis == "row" else "bijhn,bnjhd->bijhd"
    x = torch.einsum(sums, weights.to(v.dtype), v)
    return module.out(module.gate(z).sigmoid() * rearrange(x, "b i j h d -> b i j (h d)"))
