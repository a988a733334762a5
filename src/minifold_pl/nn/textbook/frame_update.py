"""Frame update, AlphaFold 2, suppl. Algorithm 23, line by line."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.types import Frames


@full_precision
def apply_update(frames: Frames, update: Float[Tensor, "b l 6"]) -> Frames:
    """``frames`` turned by the quaternion (1, b, c, d), normalised, and moved, both in their own systems."""
    turn, move = update.split(3, dim=-1)
    norm = (1 + turn.square().sum(-1)).sqrt()
    a, (b, c, d) = 1 / norm, (turn / norm.unsqueeze(-1)).unbind(-1)
    rows = (
        (a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c),
        (2 * b * c + 2 * a * d, a * a - b * b + c * c - d * d, 2 * c * d - 2 * a * b),
        (2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a - b * b - c * c + d * d),
    )
    rotation = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    moved = torch.einsum("blxy,bly->blx", frames.rotation, move)
    return Frames(frames.rotation @ rotation, frames.translation + moved)
