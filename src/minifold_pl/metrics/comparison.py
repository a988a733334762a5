"""Predictions scored beside what trivial predictions score: the rows of every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.metrics import baselines
from minifold_pl.metrics.structure import structure_scores

CENTROID: Final = "centroid"
HELIX: Final = "ideal helix"
MIRROR: Final = "mirrored truth"
TRUTH: Final = "truth"
SEES_ANSWER: Final = (MIRROR, TRUTH)
"""Rows that are made from the answer itself: no model can be compared with them, they show the scale."""

Guesses = Float[Tensor, "g b l 3"]
"""Several predictions of each chain, Å."""
GuessScores = dict[str, dict[str, Tensor]]
"""Row → score → (g, b)."""


def baseline_guesses(true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> dict[str, Guesses]:
    """What needs nothing but the truth's length and place: centroid, ideal helix, mirrored truth and truth.

    For :func:`minifold_pl.metrics.baselines.random_chain` a pool of chains is needed besides.
    """
    return {
        CENTROID: baselines.centroid(true, mask)[None],
        HELIX: baselines.ideal_helix(true, mask)[None],
        MIRROR: baselines.mirrored_truth(true, mask)[None],
        TRUTH: baselines.truth(true, mask)[None],
    }


def score_guesses(
    guesses: Mapping[str, Guesses],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    searched: bool = True,
) -> GuessScores:
    """:func:`structure_scores` of every guess of every row, float64, on the device of ``true``.

    All in one call, as the search for superpositions is fastest on many at once. Rows may hold different numbers of
    guesses; a mean over them is the row's score.
    """
    counts = [len(row) for row in guesses.values()]
    total = sum(counts)
    everything = torch.cat([row.to(true) for row in guesses.values()]).flatten(0, 1)
    repeated = (x.repeat(total, *[1] * (x.ndim - 1)) for x in (true, mask, bonded))
    scores = structure_scores(everything, *repeated, searched=searched)
    by_row = {
        name: value.double().unflatten(0, (total, len(true))).split(counts) for name, value in scores.items()
    }
    return {row: {name: by_row[name][k] for name in by_row} for k, row in enumerate(guesses)}
