"""Outer product, AlphaFold 2, suppl. Algorithm 10 for one sequence, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from minifold_pl.nn.outer_product import OuterProduct


def outer_product(module: OuterProduct, single: Float[Tensor, "b l d"]) -> Float[Tensor, "b l l c"]:
    """What ``module`` computes, with the l × l × hidden² products at once."""
    m = module.norm(single)
    a, b = module.left(m), module.right(m)
    return module.out(torch.einsum("biu,bjv->bijuv", a, b).flatten(-2))
