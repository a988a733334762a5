"""TM-score and GDT maximised over superpositions, with a fixed residue correspondence.

How they are searched for: :mod:`minifold_pl.metrics.pose_search`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.metrics.gdt import GDT_HA_CUTOFFS, GDT_TS_CUTOFFS
from minifold_pl.metrics.pose_search import search_poses
from minifold_pl.types import Frames

_GDT_CUTOFFS = tuple(sorted({*GDT_TS_CUTOFFS, *GDT_HA_CUTOFFS}))


class SearchedScores(NamedTuple):
    """The best value of each score over all poses visited; not all from the same pose."""

    tm: Float[Tensor, " b"]
    gdt_ts: Float[Tensor, " b"]
    gdt_ha: Float[Tensor, " b"]
    pose: Frames
    """The motion of the prediction onto the truth that has this ``tm``, float64."""


class TMSuperposition(NamedTuple):
    """A TM-score and the motion of the prediction onto the truth (Å, float64) that has it."""

    tm: Float[Tensor, " b"]
    pose: Frames


def tm_score(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """TM-score as the TM-score program gives it, 0 to 1; coordinates in Å.

    Normalised by ``length``, d0 included (the residues in ``mask`` where not given). On 800 pairs of real chains of
    16 to 500 residues it is never below TM-align's value for the same fixed alignment. It is above it, with the pose
    that proves it (:func:`tm_superposition`), by 0.001 on average and 0.007 at most from 100 residues on, by 0.02 and
    0.14 below 25, whose d0 is so small that the program's steps miss the top of the peak. Two unrelated chains score
    0.16 to 0.19, 0.5 means the same fold (Xu & Zhang 2010, Bioinformatics 26:889). NaN for a chain without residues,
    0 for a prediction that is not finite.
    """
    return tm_superposition(pred, true, mask, length).tm


@full_precision
def tm_superposition(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> TMSuperposition:
    """:func:`tm_score` and the superposition that proves it; the identity where there is no score."""
    scores, pose = search_poses(pred, true, mask, length, cutoffs=())
    return TMSuperposition(scores[:, 0], pose)


@full_precision
def searched_scores(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> SearchedScores:
    """TM-score, GDT-TS and GDT-HA from one search.

    GDT is maximised per cutoff over the poses of the TM-score program, and from the best of these by superposing
    the residues within that cutoff; LGA searches longer and may find a little more. A search gives a lower bound
    of the true maximum, so a rotated input may differ in the third decimal.
    """
    scores, pose = search_poses(pred, true, mask, length, cutoffs=_GDT_CUTOFFS)
    share = dict(zip(_GDT_CUTOFFS, scores[:, 1:].unbind(-1), strict=True))
    return SearchedScores(
        scores[:, 0],
        torch.stack([share[cutoff] for cutoff in GDT_TS_CUTOFFS]).mean(0),
        torch.stack([share[cutoff] for cutoff in GDT_HA_CUTOFFS]).mean(0),
        pose,
    )


def gdt_ts(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """GDT-TS, 0 to 1: mean share of residues within 1, 2, 4 and 8 Å, each in its best pose found.

    Zemla 2003, Nucleic Acids Res. 31:3370. Normalised by ``length`` (the residues in ``mask`` where not given). NaN
    for a chain without residues, 0 for a prediction that is not finite. For several scores call
    :func:`searched_scores`.
    """
    return searched_scores(pred, true, mask, length).gdt_ts


def gdt_ha(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """As :func:`gdt_ts` with 0.5, 1, 2 and 4 Å."""
    return searched_scores(pred, true, mask, length).gdt_ha
