"""The part of point attention that touches every pair: the weights, and the pair features that they gather."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from minifold_pl.geometry.precision import without_autocast


def attend_pairs(
    queries: Float[Tensor, "b h i c"],
    keys: Float[Tensor, "b h j c"],
    key_bias: Float[Tensor, "b h j"],
    pair: Float[Tensor, "c i j p"],
    weight: Float[Tensor, "h p"],
    bias: Float[Tensor, " h"],
    pair_bias: Float[Tensor, "b h i j"] | None,
    scale: float,
) -> tuple[Float[Tensor, "b h i j"], Float[Tensor, "b i h p"]]:
    r"""Weights :math:`w_{ij} = \mathrm{softmax}_j(q_i k_j + c_j + s\,b_{ij})` and sums :math:`\sum_j w_{ij} z_{ij}`.

    ``pair``, the largest tensor of its layer, gets its gradient through :math:`b = W z + b_0` and through the sum. Both
    are one batched product here, not two tensors of that size and their total, which were half of the layer's
    training step. It may have ``c`` rows where the others have ``k · c``, copy-major (all chains, then all chains
    again): the copies of a chain then read one set of pair features, in one product. Under autocast the products with
    ``pair`` are in half precision, as a linear map's would be; the rest keeps the precision of ``queries``.

    Args:
        queries: scaled queries.
        keys: keys.
        key_bias: :math:`c`, which also keeps masked keys out.
        pair: pair features :math:`z`.
        weight: :math:`W`.
        bias: :math:`b_0`.
        pair_bias: :math:`b`, where it is known already; ``weight`` and ``bias`` are not used then.
        scale: :math:`s`.
    """
    device = pair.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        pair, weight, bias = pair.to(half), weight.to(half), bias.to(half)
    keys, key_bias = keys.to(queries.dtype), key_bias.to(queries.dtype)
    if pair_bias is not None:
        pair_bias = pair_bias.to(queries.dtype)
    return _AttendPairs.apply(queries, keys, key_bias, pair, weight, bias, pair_bias, scale)


def repeat_rows(x: Float[Tensor, "c ..."], rows: int) -> Float[Tensor, "r ..."]:
    """``x`` again and again, copy-major, up to ``rows``; ``x`` itself where it has as many."""
    return x if len(x) == rows else x.repeat(rows // len(x), *(1,) * (x.ndim - 1))


class _AttendPairs(torch.autograd.Function):
    """Arguments and results of :func:`attend_pairs`, all products in the precision of their arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        key_bias: Tensor,
        pair: Tensor,
        weight: Tensor,
        bias: Tensor,
        pair_bias: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.scale, ctx.from_pair = scale, pair_bias is None
        with without_autocast(pair):
            if pair_bias is None:
                pair_bias = repeat_rows(
                    rearrange(F.linear(pair, weight, bias), "c i j h -> c h i j"), len(queries)
                )
            logits = pair_bias.to(queries.dtype, copy=True, memory_format=torch.contiguous_format)
            logits.flatten(0, 1).baddbmm_(queries.flatten(0, 1), keys.flatten(0, 1).mT, beta=scale)
            logits += key_bias.unsqueeze(2)
            weights = logits.softmax(-1)
            by_query = rearrange(weights.to(pair.dtype), "(k c) h i j -> c i (k h) j", c=len(pair))
            gathered = rearrange(by_query @ pair, "c i (k h) p -> (k c) i h p", h=queries.shape[1])
        ctx.save_for_backward(queries, keys, pair, weight, weights)
        return weights, gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, pair, weight, weights = ctx.saved_tensors
        d_weights, d_gathered = gradients
        chains, heads = len(pair), queries.shape[1]
        with without_autocast(pair):
            d_gathered = rearrange(d_gathered, "(k c) i h p -> c i (k h) p", c=chains)
            through_pair = rearrange(d_gathered @ pair.mT, "c i (k h) j -> (k c) h i j", h=heads)
            d_weights = d_weights + through_pair
            d_logits = weights * d_weights
            d_logits = d_logits - weights * d_logits.sum(-1, keepdim=True)
            d_queries, d_keys = d_logits @ keys, d_logits.mT @ queries
            d_bias = d_logits * ctx.scale
            by_query = rearrange(weights.to(pair.dtype), "(k c) h i j -> c i j (k h)", c=chains)
            d_pair = None
            if not ctx.from_pair:
                if ctx.needs_input_grad[3]:
                    d_pair = by_query @ d_gathered
                return d_queries, d_keys, d_logits.sum(2), d_pair, None, None, d_bias, None
            if chains < len(queries):
                d_bias = rearrange(d_bias, "(k c) h i j -> k c h i j", c=chains).sum(0)
            d_bias = rearrange(d_bias.to(pair.dtype), "c h i j -> c i j h")
            if ctx.needs_input_grad[3]:
                both = torch.cat((d_bias, by_query), dim=-1)
                maps = weight.expand(*d_gathered.shape[:2], -1, -1)
                d_pair = both @ torch.cat((maps, d_gathered), dim=2)
            d_weight = d_bias.flatten(0, 2).mT @ pair.flatten(0, 2)
        return d_queries, d_keys, d_logits.sum(2), d_pair, d_weight, d_bias.sum((0, 1, 2)), None, None
