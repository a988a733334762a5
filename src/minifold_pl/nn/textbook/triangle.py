"""Triangle multiplicative update, AlphaFold 2, suppl. Algorithms 11 and 12, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn.masking import pair_mask

if TYPE_CHECKING:
    from minifold_pl.nn.triangle import TriangleMultiplication


def triangle_update(
    module: TriangleMultiplication, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"], largest: float
) -> Float[Tensor, "b l l d"]:
    """What ``module`` computes, with four projections, a sum by einsum, and ``largest`` as its bound."""
    z = module.norm(pair)
    a_p, b_p, a_g, b_g = (
        F.linear(z, weight, bias)
        for weight, bias in zip(module.edges.weight.chunk(4), module.edges.bias.chunk(4), strict=True)
    )
    both = pair_mask(mask).unsqueeze(-1)
    a = a_g.sigmoid() * a_p * both
    b = b_g.sigmoid() * b_p * both
    einsum = full_precision(torch.einsum) if a.dtype == torch.float16 else torch.einsum
    sums = einsum("bikd,bjkd->bijd" if module.outgoing else "bkid,bkjd->bijd", a, b)
    return module.gate(z).sigmoid() * module.out(module.norm_sum(sums.clamp(-largest, largest)))
