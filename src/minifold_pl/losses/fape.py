"""Frame-aligned point error."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.measures import length
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import length_beside
from minifold_pl.losses.reduction import PerChain, chain_mean, zero_masked
from minifold_pl.types import Frames


@full_precision
def fape_per_chain(
    pred: Frames,
    pred_points: Float[Tensor, "b j 3"],
    true: Frames,
    true_points: Float[Tensor, "b j 3"],
    frame_mask: Bool[Tensor, "b i"],
    point_mask: Bool[Tensor, "b j"],
    *,
    clamp: float | None = None,
    length_scale: float | None = 10.0,
    unit: Float[Tensor, " b"] | None = None,
    clamped: Float[Tensor, " b"] | None = None,
) -> PerChain:
    r"""Error of every point seen from every frame.

    .. math:: L = \frac{1}{Z\,|F|\,|P|} \sum_{i \in F} \sum_{j \in P}
              \min\bigl(\lVert R_i^\top(\hat x_j - \hat t_i) - R_i^{*\top}(x_j - t_i^*) \rVert,\ c\bigr)

    Frames (b i) and points in model units (of 10 Å, or of each chain's ``unit`` Å), ``clamp`` c and ``length_scale``
    Z in Å; the result is a number of length scales, of model units where Z is None. Invariant under a rigid motion
    of either side, and it sees a mirror image. AlphaFold 2, suppl. Algorithm 28; ``clamp=None``, the published
    behaviour of v11 to v14, is not in there.

    ``clamped`` is the share of each chain's error that is clamped, all of it where None: AlphaFold 2 leaves the error
    of a tenth of its training samples unclamped (suppl. 1.11.5), where it is 0 instead of 1.
    """
    _check_length("clamp", clamp)
    _check_length("length_scale", length_scale)
    error = _errors(
        *_masked(pred, pred_points, frame_mask, point_mask),
        *_masked(true, true_points, frame_mask, point_mask),
    )

    def mean(error: Tensor) -> PerChain:
        if length_scale is not None:
            error = error / length_beside(error, length_scale, unit)
        return chain_mean(error, frame_mask.unsqueeze(-1) & point_mask.unsqueeze(-2))

    if clamp is None:
        return mean(error)
    cut = mean(error.clamp(max=length_beside(error, clamp, unit)))
    if clamped is None:
        return cut
    free, share = mean(error).value, clamped.to(error.dtype)
    # where, not a product alone: 0 · inf is NaN
    return PerChain(torch.where(share < 1, share * cut.value + (1 - share) * free, cut.value), cut.counted)


def fape(
    pred: Frames,
    pred_points: Float[Tensor, "b j 3"],
    true: Frames,
    true_points: Float[Tensor, "b j 3"],
    frame_mask: Bool[Tensor, "b i"],
    point_mask: Bool[Tensor, "b j"],
    *,
    clamp: float | None = None,
    length_scale: float = 10.0,
) -> Float[Tensor, ""]:
    """Mean of :func:`fape_per_chain` over the chains."""
    return fape_per_chain(
        pred,
        pred_points,
        true,
        true_points,
        frame_mask,
        point_mask,
        clamp=clamp,
        length_scale=length_scale,
    ).mean()


def _masked(
    frames: Frames, points: Tensor, frame_mask: Tensor, point_mask: Tensor
) -> tuple[Frames, Float[Tensor, "b j 3"]]:
    known = Frames(zero_masked(frames.rotation, frame_mask), zero_masked(frames.translation, frame_mask))
    return known, zero_masked(points, point_mask)


def _errors(pred: Frames, pred_points: Tensor, true: Frames, true_points: Tensor) -> Float[Tensor, "b i j"]:
    """Distance of every point, seen from every frame, to where it ought to be.

    Both views and their difference in one product: the coordinates of every pair, the largest tensor here, are written
    once.
    """
    turns = torch.cat((pred.rotation.mT, -true.rotation.mT), dim=-1)
    points = torch.cat((pred_points, true_points), dim=-1)
    origins = torch.cat((pred.translation, true.translation), dim=-1)
    shift = torch.einsum("bidx,bix->bid", turns, origins)
    apart = torch.baddbmm(-shift.flatten(1).unsqueeze(-1), turns.flatten(1, 2), points.mT)
    return length(apart.unflatten(1, (-1, 3)), dim=2)


def _check_length(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"fape {name} is {value}: give a positive length in Å")
