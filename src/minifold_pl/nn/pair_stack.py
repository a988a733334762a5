"""The pair stack: what residues i and j are to each other, refined block by block."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.nn.axial import AxialAttention
from minifold_pl.nn.embeddings import LogRelativePosition, RelativePosition
from minifold_pl.nn.masking import keep, pair_mask
from minifold_pl.nn.outer_product import OuterProduct
from minifold_pl.nn.recompute import run_block
from minifold_pl.nn.transition import Transition
from minifold_pl.nn.triangle import TriangleMultiplication
from minifold_pl.types import SequenceFeatures


class AxialPairBlock(nn.Module):
    """Row attention, column attention, transition; each a residual branch (Mini-Fold v11–v12b).

    Args:
        d: channels of the pair features.
        heads: attention heads; 0 leaves the attention out.
        d_head: channels of each head.
        transition: the transition is this many times as wide as ``d``.
    """

    def __init__(self, d: int, heads: int = 4, d_head: int = 16, transition: int = 3) -> None:
        super().__init__()
        self.row = AxialAttention(d, heads, d_head, axis="row") if heads else None
        self.column = AxialAttention(d, heads, d_head, axis="column") if heads else None
        self.transition = Transition(d, transition * d)

    def forward(self, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l l d"]:
        """Refined ``pair``. Rows of masked residues are finite, but mean nothing."""
        if self.row is not None and self.column is not None:
            pair = pair + self.row(pair, mask)
            pair = pair + self.column(pair, mask)
        return pair + self.transition(pair)


class EnhancedPairBlock(nn.Module):
    """Triangle update outgoing, incoming, row and column attention, transition; residual (Mini-Fold v13).

    Args:
        d: channels of the pair features.
        heads: attention heads; 0 leaves the attention out.
        d_head: channels of each head.
        transition: the transition is this many times as wide as ``d``.
        triangle_hidden: channels of the triangle sums.
    """

    def __init__(
        self, d: int, heads: int = 8, d_head: int = 32, transition: int = 4, triangle_hidden: int = 64
    ) -> None:
        super().__init__()
        self.outgoing = TriangleMultiplication(d, triangle_hidden, outgoing=True)
        self.incoming = TriangleMultiplication(d, triangle_hidden, outgoing=False)
        self.axial = AxialPairBlock(d, heads, d_head, transition)

    def forward(self, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l l d"]:
        """Refined ``pair``. Rows of masked residues are finite, but mean nothing."""
        pair = pair + self.outgoing(pair, mask)
        pair = pair + self.incoming(pair, mask)
        return self.axial(pair, mask)


class PairStack(nn.Module):
    """Pair features from an encoder's: outer product + contact features + relative position, then the blocks.

    The defaults are Mini-Fold v13. v11–v12b: ``block="axial"``, ``blocks=4``, ``heads=4``, ``d_head=16``,
    ``transition=3`` and a :class:`~minifold_pl.nn.embeddings.LinearRelativePosition`.

    Args:
        d_single_in: channels of the encoder's single features.
        d_pair_in: channels of the encoder's pair features.
        d_pair: channels of the pair features here.
        blocks: number of blocks.
        block: "enhanced" (triangle updates, axial attention) or "axial" (axial attention alone).
        relative_position: embedding of the sequence separation, with ``d`` = ``d_pair``; log-spaced when left
            out.
        heads: heads of the axial attention; 0 leaves it out, which halves a block's cost at small width.
        d_head: channels of each head.
        transition: the transitions are this many times as wide as ``d_pair``.
        triangle_hidden: channels of the triangle sums ("enhanced" only).
        outer_hidden: channels of each projection of the outer product.
        checkpoint_activations: keep only each block's input for the backward pass.
    """

    def __init__(
        self,
        d_single_in: int = 128,
        d_pair_in: int = 64,
        d_pair: int = 128,
        blocks: int = 8,
        block: Literal["enhanced", "axial"] = "enhanced",
        relative_position: RelativePosition | None = None,
        heads: int = 8,
        d_head: int = 32,
        transition: int = 4,
        triangle_hidden: int = 64,
        outer_hidden: int = 32,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        relative_position = relative_position or LogRelativePosition(d_pair)
        if relative_position.d != d_pair:
            raise ValueError(
                f"relative_position.d={relative_position.d} differs from d_pair={d_pair}; "
                "give both the same value"
            )
        self.d_pair = d_pair
        self.checkpoint_activations = checkpoint_activations
        self.outer_product = OuterProduct(d_single_in, d_pair, outer_hidden)
        self.contact = nn.Sequential(nn.LayerNorm(d_pair_in), nn.Linear(d_pair_in, d_pair))
        self.relative_position = relative_position
        self.blocks = nn.ModuleList(
            EnhancedPairBlock(d_pair, heads, d_head, transition, triangle_hidden)
            if block == "enhanced"
            else AxialPairBlock(d_pair, heads, d_head, transition)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(d_pair)

    def forward(
        self,
        features: SequenceFeatures,
        mask: Bool[Tensor, "b l"],
        residue_index: Int[Tensor, "b l"],
        added: Float[Tensor, "b l l d"] | None = None,
    ) -> Float[Tensor, "b l l d"]:
        """Normalised pair features, 0 where either residue is masked; ``added`` joins what the blocks begin with."""
        both = pair_mask(mask)
        pair = self.outer_product(keep(features.single, mask)) + self.contact(keep(features.pair, both))
        pair = pair + self.relative_position(residue_index)
        if added is not None:
            pair = pair + added
        for block in self.blocks:
            pair = run_block(block, pair, mask, recompute=self.checkpoint_activations)
        return keep(self.norm(pair), both)
