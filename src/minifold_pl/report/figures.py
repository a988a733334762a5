"""The figures of a report, light and dark."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minifold_pl.plots.gradients import gradient_figure
from minifold_pl.plots.losses import loss_figure
from minifold_pl.plots.one_step import one_step_figure
from minifold_pl.plots.style import ThemeName, picture
from minifold_pl.results.one_step import NoScores, OneStepScores, read_one_step
from minifold_pl.results.run_curves import NoCurves, read_curves
from minifold_pl.run.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LENGTH: Final = re.compile(r'\b(width|height)="([\d.]+)pt"')
_POINT: Final = 96 / 72
"""CSS pixels."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as SVG."""

    name: str
    title: str
    caption: str
    light: str
    dark: str
    width: int
    """CSS pixels."""
    height: int


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    name: str
    title: str
    caption: str
    draw: Callable[[ThemeName], Figure]


def pictures(folder: RunFolder | None, evaluations: Sequence[Path]) -> list[Picture]:
    """What can be drawn from the files of a run and of its evaluations; what was not measured is left out."""
    drawings = [] if folder is None else [*_of_run(folder)]
    places = [*evaluations, *([] if folder is None else [folder.path])]
    return [_picture(drawing) for drawing in [*drawings, *_one_step(places)]]


def _one_step(places: Sequence[Path]) -> Iterator[_Drawing]:
    """Of the first place that has such scores."""
    for place in places:
        with contextlib.suppress(NoScores):
            yield _one_step_drawing(read_one_step(place), place)
            return


def _one_step_drawing(scores: OneStepScores, place: Path) -> _Drawing:
    return _Drawing(
        name="one-step",
        title="One step from noise",
        caption=f"How good one step from noise of each level is, beside what needs no sequence. From {place}.",
        draw=lambda theme: one_step_figure(scores.curves, about=scores.about, theme=theme),
    )


def _of_run(folder: RunFolder) -> Iterator[_Drawing]:
    try:
        run = read_curves(folder.path)
    except NoCurves:
        return
    if run.train or run.val:
        yield _Drawing(
            name="losses",
            title="Losses",
            caption="Every loss term, training and validation, with learning rate and patience, from metrics.csv.",
            draw=lambda theme: loss_figure([run], theme=theme),
        )
    if run.gradients:
        yield _Drawing(
            name="gradients",
            title="Gradients",
            caption="Gradient norm of each module before clipping, with what the guards noted, from metrics.csv.",
            draw=lambda theme: gradient_figure(run, theme=theme),
        )


def _picture(drawing: _Drawing) -> Picture:
    light, dark = (picture(drawing.draw(theme), "svg").decode() for theme in ("light", "dark"))
    size = {side: round(float(length) * _POINT) for side, length in _LENGTH.findall(light[:2000])}
    return Picture(
        name=drawing.name,
        title=drawing.title,
        caption=drawing.caption,
        light=light,
        dark=dark,
        width=size.get("width", 0),
        height=size.get("height", 0),
    )
