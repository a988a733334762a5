"""Triangle multiplicative update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minifold_pl.geometry.precision import full_precision
from minifold_pl.nn import cuequivariance, lean
from minifold_pl.nn.formulation import Formulated
from minifold_pl.nn.linear import gate_linear, residual_linear
from minifold_pl.nn.textbook.triangle import triangle_update

LARGEST_SUM = 1e4
"""Bound on a triangle sum (Mini-Fold v13): below fp16's 65504, so that what follows cannot make inf · 0."""


class TriangleMultiplication(Formulated):
    r"""Residual delta from the two other edges of every triangle (AlphaFold 2, suppl. Algorithms 11 and 12).

    .. math:: \Delta z_{ij} = g_{ij} \odot W\,\mathrm{LN}\Big(\sum_k a_{ik} \odot b_{jk}\Big)

    for outgoing edges; incoming ones sum :math:`a_{ki} \odot b_{kj}`. One matrix multiplication gives both
    projections and their gates, one explicit copy of each brings the channels to the front, and the sum is a plain
    batched matrix product. fp16 sums in fp32, where l terms cannot overflow; bfloat16 needs no such help.
    Departs from the paper by the clamp to ±1e4 before the norm.

    Args:
        d: channels of the pair features.
        hidden: channels of the sum (the write-up's ``tri_mul_dim``).
        outgoing: outgoing edges (True) or incoming ones (False).
    """

    def __init__(self, d: int, hidden: int = 64, outgoing: bool = True) -> None:
        super().__init__()
        self.outgoing = outgoing
        self.norm = nn.LayerNorm(d)
        self.edges = nn.Linear(d, 4 * hidden)
        with torch.no_grad():  # the second half of the rows are the gates
            self.edges.weight[2 * hidden :] = 0.0
            self.edges.bias[2 * hidden :] = 1.0
        self.norm_sum = nn.LayerNorm(hidden)
        self.out = residual_linear(hidden, d)
        self.gate = gate_linear(d, d)

    def forward(self, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l l d"]:
        """Residual delta of ``pair``; masked residues take no part in any sum."""
        if self.formulation == "textbook":
            return triangle_update(self, pair, mask, LARGEST_SUM)
        if self.formulation == "cuequivariance" and (self.training or cuequivariance.usable(pair)):
            return cuequivariance.triangle_update(self, pair, mask)
        if lean.worthwhile(pair):
            rows = rearrange(pair, "b i j d -> (b i j) d")
            edges, gate = lean.normed_maps(rows, self.norm, self.edges, self.gate)
            x = self.out(self.norm_sum(self._gathered(edges, mask, lean.clamped)))
            return lean.gated(x, gate.view(pair.shape))
        # Rows by hand: under a compiler with dynamic lengths nn.Linear's own flattening costs two copies in each pass.
        y = rearrange(self.norm(pair), "b i j d -> (b i j) d")
        x = rearrange(self.norm_sum(self._gathered(self.edges(y), mask, _clamped)), "b i j d -> (b i j) d")
        return (self.out(x) * self.gate(y).sigmoid_()).view(pair.shape)

    def _gathered(
        self,
        edges: Float[Tensor, "n d"],
        mask: Bool[Tensor, "b l"],
        clamped: Callable[[Tensor, float], Tensor],
    ) -> Float[Tensor, "b l l d"]:
        """The bounded sums, of one row of projections and gates for each pair; a view with the channels in front."""
        b, n = mask.shape
        left, right = F.glu(edges, dim=-1).unflatten(0, (b, n, n)).chunk(2, dim=-1)
        del edges  # the widest tensor of all; without a graph nothing else needs it
        left, right = _channels_first(left), _channels_first(right)
        left.mul_(mask[:, None, None, :] if self.outgoing else mask[:, None, :, None])
        return rearrange(clamped(self._sum(left, right), LARGEST_SUM), "b d i j -> b i j d")

    def _sum(self, a: Float[Tensor, "b d l l"], b: Float[Tensor, "b d l l"]) -> Float[Tensor, "b d l l"]:
        product = _full_precision_product if a.dtype == torch.float16 else torch.matmul
        return product(a, b.mT) if self.outgoing else product(a.mT, b)


def _channels_first(edges: Float[Tensor, "b i k d"]) -> Float[Tensor, "b d i k"]:
    """Always a copy, also where the order of the numbers is the same: it is written to."""
    return rearrange(edges, "b i k d -> b d i k").clone(memory_format=torch.contiguous_format)


def _clamped(x: Tensor, largest: float) -> Tensor:
    """In place: nothing else needs a product of two matrices."""
    return F.hardtanh_(x, -largest, largest)


_full_precision_product = full_precision(torch.matmul)
