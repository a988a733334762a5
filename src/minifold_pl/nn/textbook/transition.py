"""Transition, AlphaFold 2, suppl. Algorithms 9 and 15, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from minifold_pl.nn.transition import Transition


def transition(module: Transition, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
    """What ``module`` computes."""
    a = module.widen(module.norm(x))
    return module.narrow(a.relu())
