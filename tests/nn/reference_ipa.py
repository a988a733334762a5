"""Invariant point attention straight from AlphaFold 2, suppl. Algorithm 22, one line of it at a time."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minifold_pl.nn.ipa import InvariantPointAttention
from minifold_pl.types import Frames


def textbook_attention(
    ipa: InvariantPointAttention, single: Tensor, pair: Tensor, frames: Frames, mask: Tensor
) -> Tensor:
    """What ``ipa`` must return, with the l × l × heads × points × 3 tensor in full."""
    h, c, n_q, n_v = ipa.heads, ipa.d_head, ipa.query_points, ipa.value_points
    q, k, v = rearrange(ipa.scalars(single), "b l (three h c) -> three b l h c", three=3, h=h)
    points = rearrange(ipa.points(single), "b l (h p x) -> b l h p x", h=h, x=3)
    q_p, k_p, v_p = points.split((n_q, n_q, n_v), dim=-2)
    bias = ipa.pair_bias(pair)

    def to_global(p: Tensor) -> Tensor:
        return torch.einsum("blxy,blhpy->blhpx", frames.rotation, p) + frames.translation[:, :, None, None]

    w_c, w_l = (2 / (9 * n_q)) ** 0.5, (1 / 3) ** 0.5
    gamma = F.softplus(ipa.head_weight)
    apart = to_global(q_p)[:, :, None] - to_global(k_p)[:, None, :]  # b i j h p x
    squared = apart.square().sum(-1).sum(-1)
    logits = w_l * (torch.einsum("bihc,bjhc->bijh", q, k) / c**0.5 + bias - gamma * w_c / 2 * squared)
    logits = logits.masked_fill(~mask[:, None, :, None], -torch.inf)
    a = logits.softmax(dim=2)

    o_pair = torch.einsum("bijh,bijc->bihc", a, pair)
    o = torch.einsum("bijh,bjhc->bihc", a, v)
    o_p = torch.einsum("bijh,bjhpx->bihpx", a, to_global(v_p))
    o_p = torch.einsum("blxy,blhpx->blhpy", frames.rotation, o_p - frames.translation[:, :, None, None])
    lengths = (o_p.square().sum(-1) + 1e-8).sqrt()
    everything = (o.flatten(2), o_p.flatten(2), lengths.flatten(2), o_pair.flatten(2))
    return ipa.out(torch.cat(everything, dim=-1)) * mask[..., None]
