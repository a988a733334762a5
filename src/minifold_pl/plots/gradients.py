"""Gradients over a run: the norm of each module's, clipping, guards, and whether loss terms pull together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from minifold_pl.plots.curves import Curve, RunCurves
from minifold_pl.plots.style import LETTERS, MARKERS, Look, ThemeName, look, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVENTS: Final[Mapping[str, str]] = {
    "tripwire": "tripwire: no gradient, noise begins",
    "tripwire_recovered": "tripwire: the gradient is back",
    "nonfinite_batch": "batch left out: NaN or infinite",
    "non_finite_weights": "weights not finite",
    "loss_spike": "loss spike",
    "rolled_back": "went back to a checkpoint",
    "halted": "halted",
    "early_sign": "early sign that it cannot learn",
}
"""Events that are drawn, and what they are called in the figure."""
_LIMITS: Final = (":", "-.", "--", (0, (5, 1, 1, 1, 1, 1)))
"""Lines of clipping limits, from the lowest on."""
_SYMBOLS: Final = 40
"""On a curve."""
_NUMBERED: Final = 12
"""A matrix of up to so many terms has its numbers written in it."""


@dataclass(frozen=True, kw_only=True)
class CosineTable:
    """Cosine similarity of the gradients of every pair of loss terms."""

    terms: tuple[str, ...]
    cosines: Float[np.ndarray, "k k"]
    """Symmetric, 1 on the diagonal; NaN where two terms share no parameters."""
    told: str = ""
    """Where they were measured: checkpoint, step, chains."""


def gradient_figure(
    run: RunCurves, cosines: CosineTable | None = None, *, theme: ThemeName = "light"
) -> Figure:
    """Draw a run's gradient norms and, where they are given, the cosines of its loss terms.

    Norms are means over an epoch, on a logarithmic axis, beside the norms that modules are clipped to.
    Events stand where they happened. A run that logged no norms has a panel that says so.

    Raises:
        ValueError: There are neither norms nor cosines.
    """
    if not run.gradients and cosines is None:
        raise ValueError(f"{run.name} logged no gradient norms, and no cosines are given")
    with look(theme) as made:
        figure = made.figure(13.0 if cosines else 8.5, 6.2, f"Gradients of {shortened(run.name, LETTERS)}")
        places = figure.add_gridspec(
            2, 2 if cosines else 1, height_ratios=[2.2, 1], width_ratios=[1.25, 1] if cosines else None
        )
        norms = figure.add_subplot(places[0, 0])
        clipped = figure.add_subplot(places[1, 0], sharex=norms if run.clipped else None)
        _draw_norms(made, norms, run)
        _draw_clipped(made, clipped, run)
        handles, labels = norms.get_legend_handles_labels()
        if handles:
            # Beside the curves: they may be anywhere on a logarithmic axis.
            figure.legend(handles, labels, loc="outside lower left", ncols=5 if cosines else 3)
        if cosines:
            _draw_cosines(made, figure.add_subplot(places[:, 1]), cosines)
    return figure


def _draw_norms(made: Look, axes: Axes, run: RunCurves) -> None:
    axes.set_title("gradient norm before clipping, mean of each epoch")
    if not run.gradients:
        made.say(axes, "this run logged no gradient norms\n(the `clipping` callback logs them once an epoch)")
        return
    for place, (module, curve) in enumerate(run.gradients.items()):
        colour = made.colour(place)
        axes.plot(
            curve.step, np.where(curve.value > 0, curve.value, np.nan), color=colour,
            label=module, **_marked(curve, place),
        )  # fmt: skip
    axes.set(ylabel="L2 norm", yscale="log")
    if run.clipped:
        axes.tick_params(labelbottom=False)
    else:
        axes.set_xlabel("optimizer step")
    _draw_limits(made, axes, run)
    if any(mark.kind in EVENTS for mark in run.marks):
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for their symbols above the curves
    _draw_events(made, axes, run)


def _marked(curve: Curve, place: int) -> dict[str, Any]:
    """The module's own symbol, never so many that they hide the curve."""
    every = -(-len(curve) // _SYMBOLS)
    return {"marker": MARKERS[place % len(MARKERS)], "markersize": 4, "markevery": every}


def _draw_limits(made: Look, axes: Axes, run: RunCurves) -> None:
    """A line for each limit, named in the legend: lines of modules with the same one would hide each other."""
    limits: dict[float, list[int]] = {}
    for place, module in enumerate(run.gradients):
        if module in run.limits:
            limits.setdefault(run.limits[module], []).append(place)
    for which, (limit, places) in enumerate(sorted(limits.items())):
        colour = made.colour(places[0]) if len(places) == 1 else made.theme.muted
        names = ", ".join(list(run.gradients)[place] for place in places)
        axes.axhline(
            limit, color=colour, linestyle=_LIMITS[which % len(_LIMITS)], linewidth=1.1,
            label=f"clipped to {limit:g}: {names}",
        )  # fmt: skip


def _draw_events(made: Look, axes: Axes, run: RunCurves) -> None:
    for place, (kind, told) in enumerate(EVENTS.items()):
        steps = [mark.step for mark in run.marks if mark.kind == kind]
        if not steps:
            continue
        modules = sorted({mark.told for mark in run.marks if mark.kind == kind and mark.told})
        of = f" ({', '.join(modules)})" if kind.startswith("tripwire") and modules else ""
        often = f" × {len(steps)}" if len(steps) > 1 else ""
        for step in steps:
            axes.axvline(step, color=made.theme.muted, linewidth=0.7, alpha=0.5, zorder=1)
        axes.plot(
            steps, np.full(len(steps), 0.97 - 0.05 * (place % 3)), linestyle="", marker=MARKERS[-1 - place],
            markersize=7, color=made.theme.text, transform=axes.get_xaxis_transform(), label=f"{told}{of}{often}",
            clip_on=False,
        )  # fmt: skip


def _draw_clipped(made: Look, axes: Axes, run: RunCurves) -> None:
    axes.set_title("steps in which the gradient was clipped")
    if not run.clipped:
        made.say(axes, "nothing was clipped by module" if run.gradients else "no clipping was logged")
        return
    axes.set(xlabel="optimizer step", ylabel="% of the epoch's steps")
    order = list(run.gradients)
    for module, curve in run.clipped.items():
        place = order.index(module) if module in order else len(order)
        axes.plot(
            curve.step, 100 * curve.value, color=made.colour(place), **_marked(curve, place),
        )  # fmt: skip
    axes.set_ylim(-4, 104)


def _draw_cosines(made: Look, axes: Axes, table: CosineTable) -> None:
    import matplotlib

    colours = matplotlib.colormaps[made.theme.diverging].with_extremes(bad=made.theme.grid)
    image = axes.imshow(np.ma.masked_invalid(table.cosines), cmap=colours, vmin=-1, vmax=1)
    places = np.arange(len(table.terms))
    axes.set_xticks(places, table.terms, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, table.terms)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title("cosine of the gradients of two loss terms")
    if table.told:
        axes.set_xlabel(table.told, fontsize=8, color=made.theme.muted, loc="left")
    if len(table.terms) <= _NUMBERED:
        _write_numbers(axes, table.cosines)
    axes.figure.colorbar(image, ax=axes, label="cosine: −1 competing, 1 aligned", shrink=0.7)


def _write_numbers(axes: Axes, cosines: Float[np.ndarray, "k k"]) -> None:
    for i, j in np.ndindex(cosines.shape):
        if i == j or not np.isfinite(cosines[i, j]):
            continue
        # The map is dark at both ends, pale in its middle, on either background.
        colour = "#ffffff" if abs(cosines[i, j]) > 0.6 else "#1a1a1a"
        axes.text(j, i, f"{cosines[i, j]:+.2f}", ha="center", va="center", fontsize=7.5, color=colour)


def cosine_table(
    pairs: Mapping[tuple[str, str], float], told: str = "", order: Sequence[str] | None = None
) -> CosineTable:
    """The table of every pair's cosine."""
    terms = tuple(order or dict.fromkeys(term for pair in pairs for term in pair))
    cosines = np.full((len(terms), len(terms)), np.nan)
    np.fill_diagonal(cosines, 1.0)
    for (a, b), cosine in pairs.items():
        i, j = terms.index(a), terms.index(b)
        cosines[i, j] = cosines[j, i] = cosine
    return CosineTable(terms=terms, cosines=cosines, told=told)
