"""Bootstrap intervals of a mean over chains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_INDICES_AT_ONCE = 4_000_000
"""32 MB of indices: the number of chains never decides the memory."""


class Interval(NamedTuple):
    """A mean and the interval around it."""

    mean: float
    low: float
    high: float
    n: int
    """How many values the mean is over."""


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, seed: int = 0, *, resamples: int = 2000
) -> Interval:
    """Mean of ``values`` with its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    NaN values (a score with nothing to count in that chain) are left out and ``n`` says how many remain.
    One value has a mean but no spread, so its ends are NaN; without any value everything is NaN. The same
    seed gives the same interval.

    Raises:
        ValueError: ``level`` outside (0, 1), or no resamples.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a probability between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1 (2000 is usual)")
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    n = known.size
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(known.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _INDICES_AT_ONCE // n)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = known[rng.integers(n, size=(part.size, n))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)
