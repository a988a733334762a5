"""Angle between predicted and true rotations."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.frames import rotation_angle_cosine
from minifold_pl.geometry.precision import full_precision
from minifold_pl.losses.reduction import PerChain, chain_mean, zero_masked


@full_precision
def frame_rotation_per_chain(
    pred: Float[Tensor, "b l 3 3"], true: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Mean of :math:`1 - \cos\theta`, θ the angle between ``pred`` and ``true``: 0 to 2.

    Invariant when both turn together; the mean over random rotations is 1.5 (the write-up's 1.0 is wrong:
    :math:`E[\cos\theta] = -1/2` on SO(3)). Mini-Fold, "Frame Rotation Loss".
    """
    cosine = rotation_angle_cosine(zero_masked(pred, mask), zero_masked(true, mask))
    return chain_mean(1 - cosine, mask)


def frame_rotation_loss(
    pred: Float[Tensor, "b l 3 3"], true: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Mean of :func:`frame_rotation_per_chain` over the chains."""
    return frame_rotation_per_chain(pred, true, mask).mean()
