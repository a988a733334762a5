"""Distributions of two dihedrals: shares of the basins, and how far two distributions are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BINS: Final = 18
"""A side: squares of 20°. Narrower ones find finite sets of one distribution farther apart, and tell less."""
_TURN: Final = 360.0


class Basin(NamedTuple):
    """A rectangle of two dihedrals, degrees; it may reach across ±180°."""

    name: str
    centre: tuple[float, float]
    half_width: tuple[float, float]

    def holds(self, angles: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Which pairs of dihedrals lie in it; its borders belong to it."""
        away = np.abs((angles - np.asarray(self.centre) + 180.0) % _TURN - 180.0)
        return np.asarray((away <= np.asarray(self.half_width)).all(-1))


PSEUDO_BASINS: Final = (
    Basin("helix", (50.0, 50.0), (20.0, 20.0)),
    Basin("strand", (-170.0, -170.0), (45.0, 45.0)),
)
"""Of two consecutive Cα dihedrals: the windows of P-SEA (Labesse et al. 1997), which tell helix and strand by them."""
PHI_PSI_BASINS: Final = (
    Basin("α", (-75.0, -35.0), (45.0, 45.0)),
    Basin("β", (-115.0, 145.0), (65.0, 65.0)),
    Basin("left α", (60.0, 45.0), (35.0, 45.0)),
)
"""Of φ and ψ: rectangles that hold nearly all of the right-handed helical, extended and left-handed regions."""


def basin_share(angles: Float[np.ndarray, "n 2"], basin: Basin) -> float:
    """Share of the pairs in a basin; NaN without pairs."""
    return float(basin.holds(angles).mean()) if len(angles) else float("nan")


def histogram(angles: Float[np.ndarray, "n 2"], bins: int = BINS) -> Int[np.ndarray, "k k"]:
    """Pairs of each square, from −180° on; rows are the first dihedral. 180° is −180°."""
    place = (
        np.floor((np.asarray(angles, dtype=np.float64) + 180.0) % _TURN / _TURN * bins).astype(np.int64)
        % bins
    )
    return np.bincount(place[:, 0] * bins + place[:, 1], minlength=bins * bins).reshape(bins, bins)


def jensen_shannon(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"], bins: int = BINS) -> float:
    r"""Jensen–Shannon distance of two sets of dihedral pairs: 0 the same, 1 nothing in common.

    .. math:: \sqrt{\tfrac12 D(P \,\|\, M) + \tfrac12 D(Q \,\|\, M)}, \qquad M = \tfrac12 (P + Q)

    of the histograms P and Q, with logarithms to base 2 (Lin 1991; its root is a metric, Endres & Schindelin 2003).
    Finite sets of the same distribution are apart, too: compare with :func:`sampling_distance`. NaN where a set is
    empty.
    """
    if not len(a) or not len(b):
        return float("nan")
    p, q = (histogram(x, bins).ravel() / len(x) for x in (a, b))
    return float(np.sqrt(max(0.0, (_divergence(p, (p + q) / 2) + _divergence(q, (p + q) / 2)) / 2)))


def sampling_distance(
    truth: Float[np.ndarray, "n 2"], size: int, bins: int = BINS, *, draws: int = 20, seed: int = 0
) -> float:
    """What :func:`jensen_shannon` gives on average for ``size`` pairs drawn from ``truth`` itself.

    A model whose samples come no nearer cannot be told from the truth by this number. NaN where either is empty.
    """
    if not len(truth) or size < 1:
        return float("nan")
    rng = np.random.default_rng(seed)
    drawn = (truth[rng.integers(len(truth), size=size)] for _ in range(draws))
    return float(np.mean([jensen_shannon(truth, x, bins) for x in drawn]))


def wrapped(degrees: Sequence[float] | Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Angles in −180° … 180°, the upper end left out."""
    return np.asarray((np.asarray(degrees, dtype=np.float64) + 180.0) % _TURN - 180.0)


def _divergence(p: np.ndarray, m: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / m[there])).sum())
