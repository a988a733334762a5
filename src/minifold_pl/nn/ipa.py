"""Invariant point attention and the frame update that follows it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minifold_pl.geometry.frames import compose, rotation_from_quaternion_update
from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn.formulation import Formulated
from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import keep
from minifold_pl.nn.pair_attention import attend_pairs, repeat_rows
from minifold_pl.nn.textbook.frame_update import apply_update
from minifold_pl.nn.textbook.ipa import invariant_point_attention
from minifold_pl.types import Frames

_UNREACHABLE = -1e9
"""Logit of a masked key in the fp32 island, where the logits of far residues may reach ±1e6."""
_EPS = 1e-8
"""Under the root of a point's length (AlphaFold 2's own code)."""


_SHARE = math.sqrt(1 / 3)
"""Weight of each of the three parts of a logit: scalars, pairs, points."""


class _Placed(NamedTuple):
    queries: Float[Tensor, "b h l c"]
    keys: Float[Tensor, "b h l c"]
    key_bias: Float[Tensor, "b h l"]
    values: Float[Tensor, "b h l v"]
    origin: Float[Tensor, "b l 3"]


class InvariantPointAttention(Formulated):
    r"""Attention over residues, their frames and their pair features (AlphaFold 2, suppl. Algorithm 22).

    .. math::
        a_{ij} \propto \exp\Big( w_L \big( \tfrac{1}{\sqrt c} q_i \cdot k_j + b_{ij}
            - \tfrac{\gamma w_C}{2} \sum_p \lVert T_i q_{ip} - T_j k_{jp} \rVert^2 \big) \Big)

    Exact, but never spread out over l × l × heads × points × 3: the squared distance is expanded, the
    products of the points ride along with the scalar queries and keys in one matrix product, :math:`|k|^2`
    becomes a bias of the key, and :math:`|q|^2` drops out of the softmax. Expanding cancels leading digits,
    so all of it runs in an fp32 island, about the chain's centroid and in model units: relative error 4e-7
    (in Å and off centre 1.5e-4). It grows with the square of the extent: 2e-6 for parts 100 Å apart, 2e-4 at
    1,000 Å, 2e-2 at 10,000 Å. TensorFloat-32 must stay off, which is torch's default.

    Translations are in model units (Å / 10).

    Args:
        d: channels of the single features.
        d_pair: channels of the pair features.
        heads: attention heads.
        d_head: scalar channels of each head.
        query_points: query and key points of each head.
        value_points: value points of each head.
    """

    def __init__(
        self,
        d: int,
        d_pair: int,
        heads: int = 8,
        d_head: int = 64,
        query_points: int = 8,
        value_points: int = 12,
    ) -> None:
        super().__init__()
        self.heads, self.d_head = heads, d_head
        self.query_points, self.value_points = query_points, value_points
        self.scalars = nn.Linear(d, 3 * heads * d_head)
        self.points = nn.Linear(d, 3 * heads * (2 * query_points + value_points))
        self.pair_bias = nn.Linear(d_pair, heads)
        # softplus of it is 1
        self.head_weight = nn.Parameter(torch.full((heads,), math.log(math.e - 1)))
        self.out = residual_linear(heads * (d_head + d_pair + 4 * value_points), d)

    def forward(
        self,
        single: Float[Tensor, "b l d"],
        pair: Float[Tensor, "c l l p"],
        frames: Frames,
        mask: Bool[Tensor, "b l"],
        pair_bias: Float[Tensor, "b h i j"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Residual delta of ``single``; masked residues are never attended to, and get 0.

        Masked rows of ``frames`` must be finite. ``pair_bias`` is what :meth:`bias_from_pair` made of ``pair``, for
        callers that come back with the same ``pair``; None computes it here. ``pair`` may have fewer rows, see
        :func:`~minifold_pl.nn.pair_attention.attend_pairs`.
        """
        if self.formulation == "textbook":
            pair = repeat_rows(pair, len(single))
            bias = self.bias_from_pair(pair) if pair_bias is None else pair_bias
            return invariant_point_attention(self, single, pair, frames, mask, bias)
        placed = self._place(self.scalars(single), self.points(single), frames, mask)
        weights, pairs = attend_pairs(
            placed.queries, placed.keys, placed.key_bias, pair,
            self.pair_bias.weight, self.pair_bias.bias, pair_bias, _SHARE,
        )  # fmt: skip
        parts = (*self._gather(weights, placed, frames), pairs.flatten(2))
        return keep(self.out(torch.cat([p.to(single.dtype) for p in parts], dim=-1)), mask)

    def bias_from_pair(self, pair: Float[Tensor, "b l l p"]) -> Float[Tensor, "b h i j"]:
        """What the pair features add to the logits of each head: the same for all frames and single features."""
        return rearrange(self.pair_bias(pair), "b i j h -> b h i j")

    @full_precision
    def _place(self, scalars: Tensor, points: Tensor, frames: Frames, mask: Tensor) -> _Placed:
        """Queries and keys whose products are the logits but for the pairs' part, and values."""
        h, n_q, n_v = self.heads, self.query_points, self.value_points
        count = mask.sum(-1)[:, None, None].clamp(min=1)
        centroid = keep(frames.translation, mask).sum(1, keepdim=True) / count
        origin = keep(frames.translation - centroid, mask)

        q, k, v = rearrange(scalars, "b l (three h d) -> three b h l d", three=3, h=h)
        placed = rearrange(points, "b l (n x) -> b l n x", x=3) @ frames.rotation.mT + origin.unsqueeze(2)
        placed = rearrange(placed, "b l (h p) x -> b h l p x", h=h)
        q_p, k_p, v_p = (p.flatten(-2) for p in placed.split((n_q, n_q, n_v), dim=-2))

        weight = _SHARE * math.sqrt(2 / (9 * n_q)) * F.softplus(self.head_weight)[:, None, None]
        key_bias = -0.5 * weight.squeeze(-1) * k_p.square().sum(-1)
        return _Placed(
            queries=torch.cat((q * (_SHARE / math.sqrt(self.d_head)), q_p * weight), dim=-1),
            keys=torch.cat((k, k_p), dim=-1),
            key_bias=key_bias.masked_fill(~mask.unsqueeze(1), _UNREACHABLE),
            values=torch.cat((v, v_p), dim=-1),
            origin=origin,
        )

    @full_precision
    def _gather(self, weights: Tensor, placed: _Placed, frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars, points in the frame of the query, and their lengths: b l, and the rest as one axis."""
        gathered = weights @ placed.values
        out, out_p = gathered.split((self.d_head, 3 * self.value_points), dim=-1)
        out_p = rearrange(out_p, "b h l (p x) -> b l (h p) x", x=3)
        local = (out_p - placed.origin.unsqueeze(2)) @ frames.rotation
        lengths = (local.square().sum(-1) + _EPS).sqrt()
        return rearrange(out, "b h l d -> b l (h d)"), local.flatten(2), lengths


class FrameUpdate(Formulated):
    """Composes a small rotation and translation, read from the single features, on the right of each frame.

    AlphaFold 2, suppl. Algorithm 23 (a quaternion with real part 1), here behind a small network and started
    at almost no update. The update lives in the residue's own frame, so that it turns with the chain. Unlike
    the paper we let gradients flow through the rotations from layer to layer: only the last layer's frames
    meet a loss, and without that flow the earlier rotations would never learn.

    Args:
        d: channels of the single features.
        hidden: channels between the two maps; 0 for a single map (Mini-Fold v11).
    """

    def __init__(self, d: int, hidden: int = 512) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        last = residual_linear(hidden or d, 6, std=1e-3)
        self.update = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), last) if hidden else last

    def forward(self, single: Float[Tensor, "b l d"], frames: Frames, mask: Bool[Tensor, "b l"]) -> Frames:
        """Updated frames; those of masked residues stay as they are. Translations in model units."""
        update = keep(self.update(self.norm(single)), mask)
        if self.formulation == "textbook":
            return apply_update(frames, update)
        return _apply_update(frames, update)


@full_precision
def _apply_update(frames: Frames, update: Float[Tensor, "b l 6"]) -> Frames:
    turn, move = update.split(3, dim=-1)
    return compose(frames, Frames(rotation_from_quaternion_update(turn), move))
