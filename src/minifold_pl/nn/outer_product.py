"""From residues to pairs: the outer product of two projections of the single features."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from minifold_pl.nn.formulation import Formulated
from minifold_pl.nn.textbook.outer_product import outer_product


class OuterProduct(Formulated):
    r""":math:`z_{ij} = W\,\mathrm{vec}(a_i \otimes b_j)` (AlphaFold 2, suppl. Algorithm 10, one sequence).

    The mean over sequences of the original has one member here. ``W`` is contracted with ``b`` first: the
    l × l × hidden² tensor never exists, which takes 1/hidden of the multiplications and of the memory.

    Args:
        d_single: channels of the single features.
        d_pair: channels of the pair features.
        hidden: channels of each projection.
    """

    def __init__(self, d_single: int, d_pair: int, hidden: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_single)
        self.left = nn.Linear(d_single, hidden)
        self.right = nn.Linear(d_single, hidden)
        self.out = nn.Linear(hidden * hidden, d_pair)

    def forward(self, single: Float[Tensor, "b l d"]) -> Float[Tensor, "b l l c"]:
        """Pair features of every two residues."""
        if self.formulation == "textbook":
            return outer_product(self, single)
        y = self.norm(single)
        left, right = self.left(y), self.right(y)
        weight = rearrange(self.out.weight, "c (u v) -> v (u c)", u=left.shape[-1])
        right = rearrange(right @ weight, "b j (u c) -> b u (j c)", u=left.shape[-1])
        pair = rearrange(left @ right, "b i (j c) -> b i j c", j=single.shape[1])
        return pair + self.out.bias
