"""The pointwise feed-forward branch that every block of this room shares."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from minifold_pl.nn.formulation import Formulated
from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.textbook.transition import transition


class Transition(Formulated):
    """LayerNorm, widen, ReLU, narrow (AlphaFold 2, suppl. Algorithms 9 and 15). Returns the residual delta.

    ReLU, not GELU: its output is all that the backward pass needs, half the memory.

    Args:
        d: channels in and out.
        hidden: channels between.
    """

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.widen = nn.Linear(d, hidden)
        self.narrow = residual_linear(hidden, d)

    def forward(self, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Residual delta of ``x``."""
        if self.formulation == "textbook":
            return transition(self, x)
        # In one list of rows: under a compiler with dynamic lengths nn.Linear's own flattening costs two copies of the
        # widest tensor there is, and only on a tensor that is no view is writing in place free.
        rows = self.norm(x).flatten(0, -2)
        return self.narrow(self.widen(rows).relu_()).view(x.shape)
