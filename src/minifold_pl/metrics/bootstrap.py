"""Bootstrap intervals of a mean over chains."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    values: ArrayLike,
    level: float = 0.95,
    seed: int = 0,
    *,
    resamples: int = 2000,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of ``values`` with its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    NaN values (a score with nothing to count in that chain) are left out and ``n`` says how many remain.
    One value has a mean but no spread, so its ends are NaN; without any value everything is NaN. The same
    seed gives the same interval.

    Values of like chains are no independent draws: with ``groups``, one label a value, whole groups are drawn (the
    cluster bootstrap, Davison & Hinkley 1997, section 3.8), and the mean stays that over values. One group has no
    spread.

    Raises:
        ValueError: ``level`` outside (0, 1), no resamples, or not as many labels as values.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a probability between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1 (2000 is usual)")
    known = np.asarray(values, dtype=np.float64).ravel()
    if groups is not None and len(groups) != known.size:
        raise ValueError(f"{len(groups)} labels of {known.size} values; give one each")
    kept = ~np.isnan(known)
    labels = None if groups is None else [label for label, there in zip(groups, kept, strict=True) if there]
    known = known[kept]
    n = known.size
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(known.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    # Sums and sizes of what is drawn: the values themselves, or groups of them.
    places = {label: k for k, label in enumerate(dict.fromkeys(labels or ()))}
    of = np.arange(n) if labels is None else np.array([places[label] for label in labels])
    sums, sizes = np.bincount(of, known), np.bincount(of)
    if sums.size == 1:
        return Interval(mean, float("nan"), float("nan"), n)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _INDICES_AT_ONCE // sums.size)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        drawn = rng.integers(sums.size, size=(part.size, sums.size))
        part[:] = sums[drawn].mean(1) if labels is None else sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)
