"""How good one step is: TM of x̂0 against the timestep, beside the floors that know no sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from minifold_pl.plots.style import MARKERS, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR_LINES: Final = ("--", ":", "-.")
_NEAR: Final = 0.04
"""Of the axis: a number this near its end is written to its inner side."""


@dataclass(frozen=True, kw_only=True)
class OneStepCurve:
    """TM of x̂0 at some timesteps, mean over chains with its 95 % interval."""

    name: str
    times: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    """NaN where there is no interval."""
    high: Float[np.ndarray, " k"]
    floor: bool = False
    """Of something that is no model, or of the model without the sequence."""


def one_step_figure(
    curves: Sequence[OneStepCurve], *, about: str = "", timesteps: int = 1000, theme: ThemeName = "light"
) -> Figure:
    """Draw TM (pose of least RMSD) of the structure guessed in one step from timestep t.

    Args:
        curves: Models, then floors; floors of one colour, broken.
        about: Stands below the title: how it was measured.
        timesteps: T of the schedule, where the noise is all there is.
        theme: ``light`` or ``dark``.

    Raises:
        ValueError: No curve, or one without timesteps.
    """
    empty = [curve.name for curve in curves if not len(curve.times)]
    if empty or not curves:
        raise ValueError(f"no one-step scores to draw{': ' + ', '.join(empty) if empty else ''}")
    with look(theme) as made:
        figure = made.figure(7.6, 4.9, "One-step estimates against the noise", about)
        axes = figure.add_subplot()
        floors = models = 0
        for curve in curves:
            if curve.floor:
                colour, line, marker = made.theme.muted, FLOOR_LINES[floors % len(FLOOR_LINES)], None
                floors += 1
            else:
                colour, line, marker = made.colour(models), "-", MARKERS[models % len(MARKERS)]
                models += 1
            axes.plot(
                curve.times,
                curve.mean,
                line,
                color=colour,
                marker=marker,
                markersize=5,
                label=curve.name,
                zorder=3,
            )
            known = np.isfinite(curve.low) & np.isfinite(curve.high)
            if known.any() and not (curve.floor and floors > 1):
                axes.fill_between(
                    curve.times[known],
                    curve.low[known],
                    curve.high[known],
                    color=colour,
                    alpha=0.16,
                    linewidth=0,
                )
        shown = curves[0]
        for t, value in zip(shown.times, shown.mean, strict=True):
            if np.isfinite(value):
                # In the middle it would lie over the axis.
                ha = "left" if t < _NEAR * timesteps else "right" if t > (1 - _NEAR) * timesteps else "center"
                aside = {"left": 4, "center": 0, "right": 0}[ha]
                axes.annotate(
                    f"{value:.3f}", (float(t), float(value)), xytext=(aside, 7), textcoords="offset points", ha=ha,
                    fontsize=8, color=made.colour(0), bbox=made.plate, zorder=4,
                )  # fmt: skip
        axes.set(
            xlabel=f"timestep t of {timesteps} (0: clean, {timesteps}: noise alone)",
            ylabel="TM of x̂0, pose of least RMSD", xlim=(0, timesteps), ylim=(0, 1.05),
        )  # fmt: skip
        axes.legend(loc="best")
    return figure
