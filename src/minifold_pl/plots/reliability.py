"""Does a confidence mean what it says: mean lDDT-Cα of the residues that are given each confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from minifold_pl.metrics.calibration import ReliabilityBin
from minifold_pl.plots.style import MARKERS, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAINT: Final = 0.005
"""Of the residues: bins with fewer are drawn faint, as they say little."""


@dataclass(frozen=True, kw_only=True)
class ReliabilitySet:
    """The table of one confidence, and the numbers told beside it."""

    name: str
    table: Sequence[ReliabilityBin]
    calibration_error: float
    mean_absolute_error: float


def reliability_figure(
    sets: Sequence[ReliabilitySet], *, about: str = "", theme: ThemeName = "light"
) -> Figure:
    """Draw real against predicted lDDT-Cα, on the diagonal where they agree, and how many residues are where.

    Args:
        sets: Tables of the same residues, such as the raw confidence and the calibrated one.
        about: Stands below the title: of what, and how it was measured.
        theme: ``light`` or ``dark``.

    Raises:
        ValueError: No table, or one without residues.
    """
    empty = [one.name for one in sets if not one.table]
    if empty or not sets:
        raise ValueError(f"no reliability to draw{': ' + ', '.join(empty) if empty else ''}")
    with look(theme) as made:
        figure = made.figure(5.8, 7.0, "Reliability of the confidence", about)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        axes.plot((0, 1), (0, 1), "--", color=made.theme.muted, linewidth=1, label="as it says")
        for k, one in enumerate(sets):
            predicted, real, count = (
                np.array([getattr(part, name) for part in one.table], dtype=float)
                for name in ("predicted", "real", "n")
            )
            told = (
                f"{one.name}: calibration error {one.calibration_error:.3f}, "
                f"mean absolute error {one.mean_absolute_error:.3f}"
            )
            share = count / count.sum()
            axes.plot(predicted, real, "-", color=made.colour(k), zorder=2, linewidth=1.2)
            for few in (False, True):
                there = (share < _FAINT) == few
                axes.plot(
                    predicted[there], real[there], MARKERS[k % len(MARKERS)], color=made.colour(k), markersize=5.5,
                    alpha=0.35 if few else 1.0, label=None if few else told, zorder=3,
                )  # fmt: skip
            middle = np.array([(part.low + part.high) / 2 for part in one.table])
            wide = np.array([part.high - part.low for part in one.table]) / len(sets)
            left = middle + wide * (k - (len(sets) - 1) / 2)
            below.bar(left, share, wide * 0.9, color=made.colour(k))
        axes.set(ylabel="lDDT-Cα to the truth", xlim=(0, 1), ylim=(0, 1))
        below.set(xlabel="confidence: lDDT-Cα that is expected", ylabel="share of residues")
        # Above, not in it: a confidence lies anywhere.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3)
    return figure
