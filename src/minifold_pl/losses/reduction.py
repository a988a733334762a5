r"""How a loss becomes one number: a mean inside each chain, then a mean over the chains.

.. math:: L = |B|^{-1} \sum_{b \in B} |M_b|^{-1} \sum_{m \in M_b} \ell_{bm}

:math:`M_b` are the valid elements of chain b, B the chains that have any. Every chain counts the same,
however long, and its value does not depend on the chains beside it: a sum over chains, divided by their
number, is the same at every batch size.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


class PerChain(NamedTuple):
    """One loss term of every chain of a batch."""

    value: Float[Tensor, " b"]
    """Mean over the chain's valid elements; 0 where it has none."""
    counted: Bool[Tensor, " b"]
    """Chains that have a valid element: only they enter :meth:`mean`."""

    def mean(self) -> Float[Tensor, ""]:
        """Mean over the counted chains; 0, with gradient 0, when there are none."""
        return self.value.sum() / self.counted.sum().clamp(min=1)

    def repeated(self, copies: int) -> PerChain:
        """For ``copies`` noised copies of each chain, copy-major, that share what was judged."""
        return PerChain(self.value.repeat(copies), self.counted.repeat(copies))


def chain_mean(values: Float[Tensor, "b ..."], mask: Bool[Tensor, "b ..."]) -> PerChain:
    """Mean of the ``values`` in ``mask``, chain by chain."""
    # where, not a product: what is masked may be inf, and 0 · inf is NaN
    kept = values.where(mask, values.new_zeros(())).unsqueeze(-1).flatten(1).sum(1)
    count = mask.unsqueeze(-1).flatten(1).sum(1)
    return PerChain(kept / count.clamp(min=1), count > 0)


def zero_masked(x: Float[Tensor, "b l *d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l *d"]:
    """``x`` with 0 in the rows outside ``mask``: what padding holds reaches neither value nor gradient."""
    return x.where(mask.view(*mask.shape, *[1] * (x.dim() - mask.dim())), x.new_zeros(()))


def pair_mask(mask: Bool[Tensor, "b l"], *, separation: int = 1) -> Bool[Tensor, "b l l"]:
    """Ordered pairs of valid residues at least ``separation`` places apart."""
    length = mask.shape[-1]
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    apart = both.new_ones(length, length)
    return both & (apart.tril(-separation) | apart.triu(separation))
