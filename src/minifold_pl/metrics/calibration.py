"""Does a confidence say what it means: of the residues that are given 0.7, is the mean lDDT 0.7?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

RELIABILITY_BINS: Final = 10
"""Equal parts of 0…1."""
KNOTS: Final = 20
"""Of a calibration at most: each is the mean of as many values, so that none is fitted to a few residues."""
FOLDS: Final = 5


class ReliabilityBin(NamedTuple):
    """Residues whose confidence lies in ``low`` … ``high``."""

    low: float
    high: float
    predicted: float
    """Mean confidence."""
    real: float
    """Mean of what it predicts."""
    n: int
    """How many there are."""


def reliability(
    predicted: Float[np.ndarray, " n"], real: Float[np.ndarray, " n"], bins: int = RELIABILITY_BINS
) -> tuple[ReliabilityBin, ...]:
    """The reliability table, bins of equal width; those without any value are left out."""
    predicted, real = _checked(predicted, real)
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            k / bins,
            (k + 1) / bins,
            float(predicted[there].mean()),
            float(real[there].mean()),
            int(there.sum()),
        )
        for k in range(bins)
        if (there := place == k).any()
    )


def calibration_error(table: Sequence[ReliabilityBin]) -> float:
    r"""Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, eq. 3); NaN of nothing.

    .. math:: \mathrm{ECE} = \sum_k \frac{n_k}{n} \lvert \bar p_k - \bar y_k \rvert
    """
    if not table:
        return float("nan")
    count = np.array([one.n for one in table], dtype=np.float64)
    gap = np.array([abs(one.predicted - one.real) for one in table])
    return float((count * gap).sum() / count.sum())


def pool_adjacent_violators(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " n"]:
    r"""The non-decreasing sequence nearest to ``values`` (Ayer et al. 1955), weighted.

    .. math:: \min_{f_1 \le f_2 \le \dots} \sum_i w_i (y_i - f_i)^2
    """
    y = np.asarray(values, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != y.shape or not (w > 0).all():
        raise ValueError("give one weight above 0 for each value")
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(y.tolist(), w.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, its, long = blocks.pop()
            mean = (before * its + mean * total) / (its + total)
            total, length = its + total, long + length
        blocks.append((mean, total, length))
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


@dataclass(frozen=True, kw_only=True)
class CalibrationMap:
    """What a confidence turned out to mean: a non-decreasing map of 0…1, linear between knots, level beyond them."""

    predicted: tuple[float, ...]
    """Of each knot, increasing."""
    real: tuple[float, ...]
    """What the map makes of it, not decreasing."""

    def __post_init__(self) -> None:
        for name, values in (("predicted", self.predicted), ("real", self.real)):
            if not all(0 <= value <= 1 for value in values):
                raise ValueError(f"a calibration's {name} values lie between 0 and 1")
        if not self.predicted or len(self.predicted) != len(self.real):
            raise ValueError("a calibration needs knots, each with a predicted and a real value")
        if (np.diff(self.predicted) <= 0).any() or (np.diff(self.real) < 0).any():
            raise ValueError("a calibration's predicted values increase and its real ones do not decrease")

    @classmethod
    def fit(cls, predicted: ArrayLike, real: ArrayLike, knots: int = KNOTS) -> Self:
        """Isotonic regression of ``real`` on ``predicted``, over groups of as many values each.

        Raises:
            ValueError: There is no value, or one is not within 0…1.
        """
        x, y = _checked(predicted, real)
        if not len(x):
            raise ValueError("nothing to calibrate with: no residue has a confidence and a true lDDT")
        order = np.argsort(x, kind="stable")
        parts = np.array_split(order, min(knots, len(order)))
        at = np.array([x[part].mean() for part in parts])
        # A confidence that many residues share is one knot; rounding must not make two of it.
        at, group = np.unique(np.maximum.accumulate(at.round(9)), return_inverse=True)
        weight = np.bincount(group, [len(part) for part in parts])
        value = np.bincount(group, [y[part].sum() for part in parts]) / weight
        fitted = pool_adjacent_violators(value, weight)
        return cls(predicted=tuple(np.clip(at, 0, 1).tolist()), real=tuple(np.clip(fitted, 0, 1).tolist()))

    def __call__(self, predicted: ArrayLike) -> Float[np.ndarray, "*n"]:
        """Calibrated values."""
        return np.interp(np.asarray(predicted, dtype=np.float64), self.predicted, self.real)


def cross_calibrated(
    predicted: Float[np.ndarray, " n"],
    real: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Float[np.ndarray, " n"] | None:
    """``predicted``, each value calibrated by a map that was fitted without its group; None of a single group.

    The residues of a chain resemble each other, and so do chains of a cluster: a map that has seen some of them is
    better on the others than on any new chain.
    """
    predicted, real = _checked(predicted, real)
    known = np.unique(groups)
    folds = min(folds, len(known))
    if folds < 2:
        return None
    fold = np.empty(len(known), dtype=int)
    fold[np.random.default_rng(seed).permutation(len(known))] = np.arange(len(known)) % folds
    of_value = fold[np.searchsorted(known, groups)]
    found = np.empty(len(predicted))
    for k in range(folds):
        held_out = of_value == k
        found[held_out] = CalibrationMap.fit(predicted[~held_out], real[~held_out])(predicted[held_out])
    return found


def _checked(predicted: ArrayLike, real: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (predicted, real))
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} confidences stand beside {len(y)} true values; give one for each")
    for name, values in (("confidences", x), ("true values", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must be numbers between 0 and 1")
    return x, y
