"""A tower of transformer layers over tokens."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import keep, key_bias
from minifold_pl.nn.transition import Transition


class TransformerLayer(nn.Module):
    """Self-attention and transition, each a residual branch behind a LayerNorm.

    Args:
        d: channels.
        heads: attention heads; they divide ``d``.
        ffn: channels of the transition.
        dropout: share of a branch's channels dropped while training.
        window: neighbours, itself among them, that each token reads through one map before it attends; odd, 0 for none.
            Attention that knows places as learned vectors finds neighbours late.
    """

    def __init__(self, d: int, heads: int = 8, ffn: int = 512, dropout: float = 0.1, window: int = 0) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"heads={heads} does not divide d={d}; each head takes d / heads channels")
        if window and window % 2 == 0:
            raise ValueError(
                f"window={window}: give an odd number, as many neighbours on either side, or 0 for none"
            )
        self.heads = heads
        self.window = Window(d, window) if window else None
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = residual_linear(d, d)
        self.transition = Transition(d, ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Refined ``x``; masked tokens are never attended to."""
        if self.window is not None:
            x = x + self.dropout(self.window(x, mask))
        q, k, v = rearrange(self.qkv(self.norm(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias(mask, q.dtype))
        x = x + self.dropout(self.out(rearrange(y, "b h n d -> b n (h d)")))
        return x + self.dropout(self.transition(x))


class Window(nn.Module):
    """One map of each token's neighbourhood: a convolution along the chain.

    Args:
        d: channels.
        width: tokens in the neighbourhood, the middle one among them; odd.
    """

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(d)
        self.map = residual_linear(width * d, d)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Residual delta of ``x``; masked tokens, and what lies beyond the ends, count as 0."""
        side = self.width // 2
        padded = F.pad(keep(self.norm(x), mask), (0, 0, side, side))
        return self.map(rearrange(padded.unfold(1, self.width, 1), "b n d k -> b n (k d)"))


class TransformerTower(nn.Module):
    """Transformer layers and a final LayerNorm.

    Args:
        d: channels.
        layers: number of layers.
        heads: attention heads.
        ffn: channels of the transitions.
        dropout: share of a branch's channels dropped while training.
        window: see :class:`TransformerLayer`.
    """

    def __init__(
        self,
        d: int,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 512,
        dropout: float = 0.1,
        window: int = 0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(d, heads, ffn, dropout, window) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Normalised features of every token."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)
