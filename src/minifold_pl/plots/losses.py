"""Loss curves of one or several runs: every term, training and validation, learning rate and patience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from minifold_pl.plots.curves import TOTAL, Curve, RunCurves
from minifold_pl.plots.style import LETTERS, LINES, Look, ThemeName, look, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Along = Literal["epoch", "step"]

UNITS: Final[Mapping[str, str]] = {
    "fape": "model units",
    "bb_fape": "model units",
    "dist": "model units²",
    "bond": "model units²",
    "bb_bond": "model units²",
    "clash": "model units²",
    "frame_rot": "1 − cos θ",
    "omega": "1 − cos Δω",
    "phi_psi": "1 − cos Δ",
    "chirality": "volume²",
    "angle": "cosine²",
    "bb_angle": "cosine²",
    "rg": "(log Å)²",
    "aux": "nats",
    "class": "nats",
    "architecture": "nats",
    "contact": "nats",
    "contacts": "nats",
    "distogram": "nats",
    "secondary_structure": "nats",
    "hidden_residues": "nats",
    "ddim/tm_score": "TM-score",
    "ddim/lddt_ca": "lDDT-Cα",
    "val/class_accuracy": "share right",
    "val/architecture_accuracy": "share right",
    "val/contact_recall": "recall",
    "val/precision_long_L5": "precision",
}
"""Of terms and scores; a term that is not here is in units of its own."""
TITLES: Final[Mapping[str, str]] = {
    TOTAL: "total (weighted sum)",
    "score": "total at final weights",
    "ddim/tm_score": "samples: TM-score",
    "ddim/lddt_ca": "samples: lDDT-Cα",
    "val/class_accuracy": "CATH class",
    "val/architecture_accuracy": "CATH architecture",
    "val/contact_recall": "contact recall",
    "val/precision_long_L5": "long-range top L/5",
}
_ACROSS: Final = 4
_FEW: Final = 15
"""Up to so many points each has a dot."""
_WIDE_RANGE: Final = 30.0
"""From this ratio of the largest to the smallest value on an axis is logarithmic."""
_ROOM_FOR_GROUP: Final = 0.15
"""Of the rates' axis, above them, for a line of their legend."""
_LETTERS: Final = 22
"""Of a run's name in the legend."""
_REFERENCE_ROW: Final = "other chain"


def loss_figure(runs: Sequence[RunCurves], *, x: Along = "epoch", theme: ThemeName = "light") -> Figure:
    """Draw the curves of ``runs`` over each other, a colour a run, dashed for training, solid for validation.

    The first panel is the total with the best value of what is monitored, then learning rate and patience, then a
    panel for every term that any of the runs logged. Places where a value was not finite have a cross at the bottom,
    starts after a kill a tick.

    Raises:
        ValueError: There are no runs, or none has a loss.
    """
    if not any(run.train or run.val for run in runs):
        raise ValueError("there are no losses to draw")
    names = list(dict.fromkeys(name for run in runs for name in (*run.train, *run.val) if name != TOTAL))
    scores = sorted({name for run in runs for name in run.scores}, key=list(TITLES).index)
    panels = [*scores, *sorted(names, key=lambda name: (name != "score", name))]
    rows = -(-len(panels) // _ACROSS)
    with look(theme) as made:
        title = shortened(runs[0].name, LETTERS) if len(runs) == 1 else f"{len(runs)} runs"
        figure = made.figure(11.5, 3.1 + 2.05 * rows, f"Losses of {title}")
        places = figure.add_gridspec(1 + rows, _ACROSS, height_ratios=[1.35, *[1.0] * rows])
        _draw_total(made, figure.add_subplot(places[0, :2]), runs, x)
        _draw_rates(made, figure.add_subplot(places[0, 2]), runs, x)
        _draw_waits(made, figure.add_subplot(places[0, 3]), runs, x)
        for k, name in enumerate(panels):
            axes = figure.add_subplot(places[1 + k // _ACROSS, k % _ACROSS])
            _draw_term(made, axes, runs, name, x)
            if k < len(panels) - _ACROSS:
                axes.set_xlabel("")
        # One range for all: a panel of few evaluations is read beside the others.
        end = _end(runs, x)
        for axes in figure.axes:
            if axes.lines:
                axes.set_xlim(-0.02 * end, 1.03 * end)
        _legend(made, figure, runs)
    return figure


def _end(runs: Sequence[RunCurves], x: Along) -> float:
    """How far the runs came."""
    curves = [
        curve
        for run in runs
        for part in (run.train, run.val, run.scores, run.rates)
        for curve in part.values()
    ]
    return max(1.0, *(float(curve.along(x)[-1]) for curve in curves))


def _draw_total(made: Look, axes: Axes, runs: Sequence[RunCurves], x: Along) -> None:
    _draw_pair(made, axes, runs, TOTAL, x)
    for place, run in enumerate(runs):
        curve, best = run.monitored, run.best
        if curve is None or best is None:
            continue
        at, value = float(curve.along(x)[best]), float(curve.value[best])
        told = f"best {run.monitor} {value:.4g} at {x} {at:g}"
        colour = made.colour(place)
        if run.monitor == f"val/{TOTAL}":
            axes.plot(
                at, value, "*", markersize=12, color=colour, markeredgecolor=made.theme.background, zorder=5,
                label=told,
            )  # fmt: skip
        else:
            axes.axvline(at, color=colour, linestyle=":", linewidth=1.2, label=told)
    _draw_starts(made, axes, runs, x)
    _dress(axes, TITLES[TOTAL], "loss", x, log=_is_wide(_values(runs, TOTAL)))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


def _draw_starts(made: Look, axes: Axes, runs: Sequence[RunCurves], x: Along) -> None:
    for place, run in enumerate(runs):
        starts = [mark.along(x) for mark in run.marks if mark.kind == "resumed"]
        if starts:
            axes.plot(
                starts, np.full(len(starts), 0.02), "|", transform=axes.get_xaxis_transform(), markersize=8,
                color=made.colour(place), label=f"resumed ({len(starts)} times)" if len(runs) == 1 else None,
            )  # fmt: skip


def _draw_rates(made: Look, axes: Axes, runs: Sequence[RunCurves], x: Along) -> None:
    highest: dict[str, float] = {}
    for run in runs:
        for group, curve in run.rates.items():
            highest[group] = max(highest.get(group, 0.0), float(curve.value.max()))
    # A group has the same line in every run, and a name in the legend whichever run has it.
    groups = sorted(highest, key=lambda group: -highest[group])
    many, named = len(groups) > 1, set()
    for place, run in enumerate(runs):
        for group in (one for one in groups if one in run.rates):
            curve = run.rates[group]
            axes.plot(
                curve.along(x), curve.value, LINES[groups.index(group) % len(LINES)], color=made.colour(place),
                label=group if many and group not in named else None, **_dots(curve),
            )  # fmt: skip
            named.add(group)
    if not any(run.rates for run in runs):
        made.say(axes, "no learning rate was logged")
        axes.set_title("learning rate")
        return
    _dress(axes, "learning rate", "per step", x)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    if many:
        # Rates start low, stay high and end low: the only place without a curve is above them.
        axes.set_ylim(top=axes.get_ylim()[1] * (1 + _ROOM_FOR_GROUP * len(groups)))
        axes.legend(loc="upper right")


def _draw_waits(made: Look, axes: Axes, runs: Sequence[RunCurves], x: Along) -> None:
    from matplotlib.ticker import MaxNLocator

    if not any(run.waits is not None for run in runs):
        made.say(axes, "no patience was counted")
        axes.set_title("patience")
        return
    highest = max(float(np.nanmax(run.waits.value)) for run in runs if run.waits is not None)
    for place, run in enumerate(runs):
        if run.waits is None:
            continue
        along, wait = run.waits.along(x), run.waits.value
        axes.plot(along, wait, color=made.colour(place), linewidth=1.2)
        new = wait == 0
        axes.plot(
            along[new], wait[new], "o", color=made.colour(place), markersize=4,
            label="new best" if place == 0 else None,
        )  # fmt: skip
        if run.patience is not None and run.patience <= max(5.0, 3 * highest):
            axes.axhline(run.patience, color=made.colour(place), linestyle=":", linewidth=1.2)
            axes.annotate(
                f"ends at {run.patience}", (0.02, run.patience), xycoords=("axes fraction", "data"),
                xytext=(0, 2), textcoords="offset points", fontsize=8, color=made.theme.muted,
            )  # fmt: skip
    _dress(axes, "patience", "validations without a best", x)
    axes.set_ylim(bottom=-0.3, top=max(axes.get_ylim()[1], 1.5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left")


def _draw_term(made: Look, axes: Axes, runs: Sequence[RunCurves], name: str, x: Along) -> None:
    is_score = any(name in run.scores for run in runs)
    if is_score:
        for place, run in enumerate(runs):
            if name in run.scores:
                _draw_curve(made, axes, run.scores[name], x, made.colour(place), "-")
        floor = runs[0].baselines.get(name, {}).get(_REFERENCE_ROW)
        if len(runs) == 1 and floor is not None and np.isfinite(floor):
            axes.axhline(floor, color=made.theme.muted, linestyle=":", linewidth=1.2)
            above = bool(np.nanmax(runs[0].scores[name].value, initial=-np.inf) > floor)
            axes.annotate(
                f"{_REFERENCE_ROW} {floor:.3f}", (0.98, floor), xycoords=("axes fraction", "data"),
                xytext=(0, 3 if above else -3), va="bottom" if above else "top", ha="right",
                textcoords="offset points", fontsize=8, color=made.theme.muted,
                bbox=made.plate,
            )  # fmt: skip
    else:
        _draw_pair(made, axes, runs, name, x)
    if not axes.lines:
        made.say(axes, "every value is NaN or infinite")
    wide = not is_score and _is_wide(_values(runs, name))
    _dress(axes, TITLES.get(name, name), UNITS.get(name, "loss"), x, log=wide)


def _draw_pair(made: Look, axes: Axes, runs: Sequence[RunCurves], name: str, x: Along) -> None:
    for place, run in enumerate(runs):
        if name in run.train:
            _draw_curve(made, axes, run.train[name], x, made.colour(place), "--")
        if name in run.val:
            _draw_curve(made, axes, run.val[name], x, made.colour(place), "-")


def _draw_curve(made: Look, axes: Axes, curve: Curve, x: Along, colour: str, line: str) -> None:
    broken = ~np.isfinite(curve.value)
    if not broken.all():
        faint: dict[str, Any] = {}
        if line == "--":
            faint = {"alpha": 0.75, "linewidth": 1.3, "markerfacecolor": made.theme.background}
        axes.plot(curve.along(x), curve.value, line, color=colour, **faint, **_dots(curve))
    if broken.any():
        axes.plot(
            curve.along(x)[broken], np.full(int(broken.sum()), 0.03), "x", color=colour, markersize=5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _dots(curve: Curve) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3} if len(curve) <= _FEW else {}


def _values(runs: Sequence[RunCurves], name: str) -> np.ndarray:
    parts = [part[name].value for run in runs for part in (run.train, run.val) if name in part]
    return np.concatenate(parts) if parts else np.zeros(0)


def _is_wide(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > _WIDE_RANGE * values.min())


def _dress(axes: Axes, title: str, unit: str, x: Along, *, log: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set(xlabel=x if x == "epoch" else "optimizer step", ylabel=unit)
    if log:
        axes.set_yscale("log")
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


def _legend(made: Look, figure: Figure, runs: Sequence[RunCurves]) -> None:
    from matplotlib.lines import Line2D

    several = runs if len(runs) > 1 else ()
    handles = [
        Line2D([], [], color=made.colour(k), label=shortened(run.name, _LETTERS))
        for k, run in enumerate(several)
    ]
    grey = made.theme.muted
    if any(run.val for run in runs):
        handles.append(Line2D([], [], color=grey, marker="o", markersize=4, label="validation"))
    if any(run.train for run in runs):
        handles.append(
            Line2D(
                [],
                [],
                color=grey,
                linestyle="--",
                marker="o",
                markersize=4,
                label="training (mean of the epoch)",
                markerfacecolor=made.theme.background,
            )
        )
    if any(not np.isfinite(_values(runs, name)).all() for run in runs for name in (*run.train, *run.val)):
        handles.append(Line2D([], [], color=grey, linestyle="", marker="x", label="not finite"))
    figure.legend(handles=handles, loc="outside upper right", ncols=min(len(handles), 5), handlelength=3.2)
