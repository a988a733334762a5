"""Sequence encoder: from tokens to single, pair and pooled features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.constants import CLS, EOS, PAD, VOCABULARY_SIZE
from minifold_pl.nn.embeddings import LinearRelativePosition
from minifold_pl.nn.masking import NO_WEIGHT, keep, pair_mask
from minifold_pl.nn.outer_product import OuterProduct
from minifold_pl.nn.pair_stack import AxialPairBlock
from minifold_pl.nn.transformer import TransformerTower
from minifold_pl.types import SequenceFeatures, token_mask


class SequenceEncoder(Protocol):
    """Anything that turns tokens into features: :class:`ContactEncoder`, or a language model in its place."""

    d_single: int
    d_pair: int
    d_pooled: int

    def encode(self, tokens: Int[Tensor, "b n"]) -> SequenceFeatures:
        """Features of the ``n - 2`` residue places; CLS and EOS are gone."""
        ...


class StructureEncoder(nn.Module):
    """A :class:`SequenceEncoder` that the second stage can take: with a contact head of its own."""

    d_single: int
    d_pair: int
    d_pooled: int

    @property
    def max_residues(self) -> int | None:
        """Longest chain that it can read; None for any."""
        return None

    @property
    def stage_1_heads(self) -> tuple[nn.Module, ...]:
        """Heads that no loss of the second stage reaches."""
        return ()

    contacts: nn.Module
    """The contact head."""

    def use_store(self, path: Path) -> None:
        """Learn which store the chains come from. An encoder that keeps nothing beside it does nothing."""

    def encode(self, tokens: Int[Tensor, "b n"]) -> SequenceFeatures:
        """Features of the ``n - 2`` residue places, 0 where there is no residue."""
        raise NotImplementedError(f"{type(self).__name__} must say how it reads a sequence")

    def contact_logits(self, features: SequenceFeatures) -> Float[Tensor, "b l l"]:
        """Logit of the event that two residues are in contact; symmetric."""
        raise NotImplementedError(f"{type(self).__name__} must say how it predicts contacts")


def residue_mask(tokens: Int[Tensor, "b n"]) -> Bool[Tensor, "b l"]:
    """Residue places (``l = n - 2``, without the first and last token) that hold a residue or MASK."""
    inner = tokens[:, 1:-1]
    return inner.ne(PAD) & inner.ne(CLS) & inner.ne(EOS)


class ContactBlock(nn.Module):
    """Adds the outer product of the single features to the pair features, then refines them along both axes.

    Args:
        d: channels of the single features.
        d_pair: channels of the pair features.
        outer_hidden: channels of each projection of the outer product.
        heads: heads of the axial attention.
        transition: the transition is this many times as wide as ``d_pair``.
    """

    def __init__(
        self, d: int, d_pair: int, outer_hidden: int = 32, heads: int = 4, transition: int = 4
    ) -> None:
        super().__init__()
        if heads and d_pair % heads:
            raise ValueError(f"heads={heads} does not divide d_pair={d_pair}; each head takes d_pair / heads")
        self.outer_product = OuterProduct(d, d_pair, outer_hidden)
        self.axial = AxialPairBlock(d_pair, heads, d_pair // max(heads, 1), transition)

    def forward(
        self, single: Float[Tensor, "b l d"], pair: Float[Tensor, "b l l p"], mask: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "b l l p"]:
        """Refined ``pair``."""
        return self.axial(pair + self.outer_product(single), mask)


class AttentionPool(nn.Module):
    """Weighted mean over residues; a small network gives the weights.

    Args:
        d: channels.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, 1))

    def forward(self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """The mean of ``x`` over ``mask``; 0 when nothing is valid."""
        weight = self.score(x).squeeze(-1).masked_fill(~mask, NO_WEIGHT).softmax(-1)
        return torch.einsum("bl,bld->bd", weight.to(x.dtype), keep(x, mask))


class ContactEncoder(nn.Module):
    """Two transformer towers over the tokens, and a contact block on top of each.

    The second tower reads the first one's output, the second contact block the first one's pair features.
    That the towers are stacked rather than side by side is our reading of the write-up, which only counts
    them.

    Args:
        d: channels of the single and pooled features.
        d_pair: channels of the pair features.
        towers: transformer towers, each with a contact block.
        layers: transformer layers of each tower.
        heads: attention heads of the towers.
        ffn: channels of the towers' transitions.
        outer_hidden: channels of each projection of the outer products.
        pair_heads: heads of the axial attention; 0 leaves it out.
        positions: longest token sequence, CLS and EOS included.
        max_rel: largest sequence separation told apart in the pair features.
        dropout: share of a tower branch's channels dropped while training.
        window: neighbours that each token of a tower reads through one map before it attends; odd, 0 for none.
    """

    def __init__(
        self,
        d: int = 128,
        d_pair: int = 64,
        towers: int = 2,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 512,
        outer_hidden: int = 32,
        pair_heads: int = 4,
        positions: int = 512,
        max_rel: int = 32,
        dropout: float = 0.1,
        window: int = 0,
    ) -> None:
        super().__init__()
        self.d_single, self.d_pair, self.d_pooled = d, d_pair, d
        self.tokens = nn.Embedding(VOCABULARY_SIZE, d)
        self.positions = nn.Embedding(positions, d)
        self.towers = nn.ModuleList(
            TransformerTower(d, layers, heads, ffn, dropout, window) for _ in range(towers)
        )
        self.relative_position = LinearRelativePosition(d_pair, max_rel)
        self.contact_blocks = nn.ModuleList(
            ContactBlock(d, d_pair, outer_hidden, pair_heads) for _ in range(towers)
        )
        self.norm_pair = nn.LayerNorm(d_pair)
        self.pool = AttentionPool(d)

    @property
    def max_residues(self) -> int:
        """Longest chain that the position table holds."""
        return self.positions.num_embeddings - 2

    def forward(self, tokens: Int[Tensor, "b n"]) -> SequenceFeatures:
        """Features of the ``n - 2`` residue places, 0 where there is no residue.

        Raises:
            ValueError: when the chains are longer than the position table.
        """
        residues = residue_mask(tokens)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        pair = self.relative_position(place[None, 1:-1]).expand(len(tokens), -1, -1, -1)
        for x, block in zip(self._read(tokens), self.contact_blocks, strict=True):
            pair = block(keep(x[:, 1:-1], residues), pair, residues)
        single = keep(x[:, 1:-1], residues)
        return SequenceFeatures(
            single=single,
            pair=keep(self.norm_pair(pair), pair_mask(residues)),
            pooled=self.pool(single, residues),
        )

    def singles(self, tokens: Int[Tensor, "b n"]) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b d"]]:
        """Single and pooled features as :meth:`forward` has them, without the cost of pair features."""
        residues = residue_mask(tokens)
        *_, x = self._read(tokens)
        single = keep(x[:, 1:-1], residues)
        return single, self.pool(single, residues)

    def _read(self, tokens: Int[Tensor, "b n"]) -> Iterator[Float[Tensor, "b n d"]]:
        """What each tower makes of the tokens."""
        n = tokens.shape[1]
        if n > self.positions.num_embeddings:
            raise ValueError(
                f"chains of up to {n - 2} residues, but the encoder holds {self.max_residues} "
                f"(positions={self.positions.num_embeddings}); crop them or raise positions"
            )
        place = torch.arange(n, device=tokens.device)
        x = self.tokens(tokens) + self.positions(place)
        mask = token_mask(tokens)
        for tower in self.towers:
            x = tower(x, mask)
            yield x
