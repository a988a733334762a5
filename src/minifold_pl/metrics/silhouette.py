"""How well labelled points lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

_AT_ONCE: Final = 512
"""Rows of the matrix of distances in memory."""


def silhouette(points: Float[np.ndarray, "n d"], labels: Sequence[object]) -> float:
    r"""Mean silhouette width of labelled points, −1 … 1 (Rousseeuw 1987).

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    with the mean Euclidean distance :math:`a_i` to the others of the point's own label, and :math:`b_i` to those of
    the nearest other label. 0 where a label has a single point. NaN with fewer than two labels, or where every point
    has its own.

    Raises:
        ValueError: As many labels as points are needed.
    """
    if len(labels) != len(points):
        raise ValueError(f"{len(points)} points have {len(labels)} labels; give one for each")
    _, kind, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if not 2 <= len(counts) < max(len(points), 2):
        return float("nan")
    x = np.asarray(points, dtype=np.float64)
    member = np.zeros((len(x), len(counts)))
    member[np.arange(len(x)), kind] = 1.0
    squared = (x**2).sum(1)
    widths = np.empty(len(x))
    for start in range(0, len(x), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        distances = np.sqrt(np.maximum(squared[rows, None] + squared - 2 * x[rows] @ x.T, 0.0))
        own = np.arange(start, start + len(distances))
        distances[np.arange(len(distances)), own] = 0.0  # rounding leaves a little there
        sums, mine = distances @ member, kind[own]
        others = counts[mine] - 1
        inside = sums[np.arange(len(sums)), mine] / np.maximum(others, 1)
        means = sums / counts
        means[np.arange(len(means)), mine] = np.inf
        outside = means.min(1)
        larger = np.maximum(inside, outside)
        width = np.divide(outside - inside, larger, out=np.zeros(len(larger)), where=larger > 0)
        widths[rows] = np.where(others > 0, width, 0.0)
    return float(widths.mean())
