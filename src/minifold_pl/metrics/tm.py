"""TM-score (Zhang & Skolnick 2004, Proteins 57:702) at the pose of least RMSD."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.metrics.pose import kabsch_distances, masked_mean, normaliser

SMALLEST_D0 = 0.5
"""Å; the TM-score program's floor, reached at 21 residues and below."""


def tm_d0(length: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The distance at which a residue scores ½, in Å: 1.24 (L − 15)^⅓ − 1.8, at least 0.5."""
    return (1.24 * (length - 15).clamp(min=0).float() ** (1 / 3) - 1.8).clamp(min=SMALLEST_D0)


def tm_from_distances(
    distances: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"], length: Int[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    r""":math:`L^{-1} \sum_i 1 / (1 + (d_i / d_0)^2)`; distances in Å.

    L, and d0 from it, is ``length``; the residues in ``mask`` where not given.
    """
    d0 = tm_d0(normaliser(mask, length)).to(distances.dtype)
    return masked_mean(1 / (1 + (distances / d0[:, None]).square()), mask, length)


def tm_kabsch(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """TM-score in the pose of least RMSD, 0 to 1; coordinates in Å.

    It is what the write-up's tables show: never above the TM-score program's value, which is maximised
    over poses. Two unrelated chains score 0.08 to 0.10 here and 0.16 to 0.19 there, so the thresholds of
    the literature (0.5: same fold) do not apply. NaN for a chain without residues.

    ``length``: residues to normalise by, d0 included, such as those of a reference that a model covers in
    part; those in ``mask`` where not given.
    """
    return tm_from_distances(kabsch_distances(pred, true, mask), mask, length)
