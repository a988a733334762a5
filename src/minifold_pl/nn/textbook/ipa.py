"""Invariant point attention, AlphaFold 2, suppl. Algorithm 22, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn.masking import keep
from minifold_pl.types import Frames

if TYPE_CHECKING:
    from minifold_pl.nn.ipa import InvariantPointAttention

_NO_WEIGHT = -1e9
_EPS = 1e-8


def invariant_point_attention(
    module: InvariantPointAttention,
    single: Float[Tensor, "b l d"],
    pair: Float[Tensor, "b l l p"],
    frames: Frames,
    mask: Bool[Tensor, "b l"],
    pair_bias: Float[Tensor, "b h i j"],
) -> Float[Tensor, "b l d"]:
    """What ``module`` computes, with the l × l × heads × points × 3 differences at once; points in fp32."""
    scalars, points = module.scalars(single), module.points(single)
    weights, *attended = _attend(module, scalars, points, pair_bias, frames, mask)
    from_pairs = torch.einsum("bhij,bijc->bihc", weights.to(pair.dtype), pair)
    parts = [part.flatten(2).to(single.dtype) for part in (*attended, from_pairs)]
    return keep(module.out(torch.cat(parts, dim=-1)), mask)


@full_precision
def _attend(
    module: InvariantPointAttention,
    scalars: Tensor,
    points: Tensor,
    pair_bias: Tensor,
    frames: Frames,
    mask: Tensor,
) -> tuple[Tensor, ...]:
    """Weights (b h i j); values (b i h c), value points (b i h p 3) in the frame of i, and their lengths."""
    n_q, n_v = module.query_points, module.value_points
    q, k, v = rearrange(scalars, "b l (three h c) -> three b l h c", three=3, h=module.heads)
    placed = rearrange(points, "b l (h p x) -> b l h p x", h=module.heads, x=3)
    placed = torch.einsum("blxy,blhpy->blhpx", frames.rotation, placed) + frames.translation[:, :, None, None]
    q_p, k_p, v_p = placed.split((n_q, n_q, n_v), dim=-2)

    w_c, w_l = (2 / (9 * n_q)) ** 0.5, (1 / 3) ** 0.5
    gamma = F.softplus(module.head_weight)[:, None, None]
    apart = q_p[:, :, None] - k_p[:, None, :]  # b i j h p 3
    squared = rearrange(apart.square().sum((-1, -2)), "b i j h -> b h i j")
    products = torch.einsum("bihc,bjhc->bhij", q, k) / module.d_head**0.5
    logits = w_l * (products + pair_bias - gamma * w_c / 2 * squared)
    weights = logits.masked_fill(~mask[:, None, None, :], _NO_WEIGHT).softmax(-1)

    o = torch.einsum("bhij,bjhc->bihc", weights, v)
    o_p = torch.einsum("bhij,bjhpx->bihpx", weights, v_p) - frames.translation[:, :, None, None]
    o_p = torch.einsum("blxy,blhpx->blhpy", frames.rotation, o_p)
    return weights, o, o_p, (o_p.square().sum(-1) + _EPS).sqrt()
