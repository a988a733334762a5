"""The figures of a report, light and dark."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from minifold_pl.diagnostics.dihedrals import pseudo_pairs
from minifold_pl.plots.gradients import gradient_figure
from minifold_pl.plots.losses import loss_figure
from minifold_pl.plots.one_step import one_step_figure
from minifold_pl.plots.ramachandran import PSEUDO, DihedralSet, ramachandran_figure
from minifold_pl.plots.reliability import reliability_figure
from minifold_pl.plots.style import ThemeName, picture
from minifold_pl.report.structures import Chain
from minifold_pl.results.figure_data import SUMMARY, FigureData, NoFigureData
from minifold_pl.results.one_step import NoScores, OneStepScores, read_one_step
from minifold_pl.results.run_curves import NoCurves, read_curves
from minifold_pl.run.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LENGTH: Final = re.compile(r'\b(width|height)="([\d.]+)pt"')
_POINT: Final = 96 / 72
"""CSS pixels."""
_FEWEST_PAIRS: Final = 50
"""Of dihedrals: fewer show nothing."""


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
class Drawing:
    """A figure to be drawn in each theme."""

    name: str
    """Its id in the page."""
    title: str
    caption: str
    draw: Callable[[ThemeName], Figure]


def pictures(folder: RunFolder | None, evaluations: Sequence[Path], chains: Sequence[Chain]) -> list[Picture]:
    """What can be drawn from the files of a run, of its evaluations and samples; what was not measured is left out."""
    drawings = [] if folder is None else [*_of_run(folder)]
    places = [*evaluations, *([] if folder is None else [folder.path])]
    dihedrals = [*_dihedrals_of_evaluation(evaluations)] or [*_dihedrals(chains)]
    more = [*_one_step(places), *dihedrals, *_reliability(evaluations)]
    return [drawn(drawing) for drawing in [*drawings, *more]]


def _one_step(places: Sequence[Path]) -> Iterator[Drawing]:
    """Of the first place that has such scores."""
    for place in places:
        with contextlib.suppress(NoScores):
            yield _one_step_drawing(read_one_step(place), place)
            return


def _one_step_drawing(scores: OneStepScores, place: Path) -> Drawing:
    return Drawing(
        name="one-step",
        title="One step from noise",
        caption=f"How good one step from noise of each level is, beside what needs no sequence. From {place}.",
        draw=lambda theme: one_step_figure(scores.curves, about=scores.about, theme=theme),
    )


def _dihedrals_of_evaluation(evaluations: Sequence[Path]) -> Iterator[Drawing]:
    """Of the first evaluation that has them; the numbers are those of its summary."""
    for place in evaluations:
        with contextlib.suppress(NoFigureData):
            data = FigureData(place)
            drawings = [_dihedral_drawing(data, kind) for kind in data.kinds()]
            if drawings:
                yield from drawings
                return


def _reliability(evaluations: Sequence[Path]) -> Iterator[Drawing]:
    """Of the first evaluation whose model has a confidence."""
    for place in evaluations:
        with contextlib.suppress(NoFigureData):
            yield _reliability_drawing(FigureData(place))
            return


def _reliability_drawing(data: FigureData) -> Drawing:
    sets = data.reliability()
    return Drawing(
        name="reliability",
        title="Reliability of the confidence",
        caption=f"Mean lDDT-Cα of the residues that are given each confidence. Numbers from {data.folder / SUMMARY}.",
        draw=lambda theme: reliability_figure(sets, about=data.about, theme=theme),
    )


def _dihedral_drawing(data: FigureData, kind: str) -> Drawing:
    sets, numbers = data.dihedrals(kind)
    pseudo = kind == PSEUDO
    what = "Consecutive Cα dihedrals" if pseudo else "φ and ψ"
    return Drawing(
        name="ramachandran" if pseudo else "phi-psi",
        title="Cα dihedrals" if pseudo else "Ramachandran plot",
        caption=f"{what} of truth, samples and one-step estimates. Numbers from {data.folder / SUMMARY}.",
        draw=lambda theme: ramachandran_figure(sets, kind, numbers=numbers, about=data.about, theme=theme),
    )


def _dihedrals(chains: Sequence[Chain]) -> Iterator[Drawing]:
    """Cα dihedrals of the newest samples beside those of their truths, at the residues that are observed."""
    known = [chain for chain in chains if chain.truth and len(chain.samples[-1].ca) <= len(chain.shape)]
    truth = _pairs([(chain.shape, chain) for chain in known])
    samples = _pairs([(chain.samples[-1].ca, chain) for chain in known])
    if len(truth) < _FEWEST_PAIRS or not len(samples):
        return
    sets = [
        DihedralSet(name="truth", angles=truth, told=f"{len(known)} chains"),
        DihedralSet(name="samples", angles=samples, told="the newest sample of each of these chains"),
    ]
    yield Drawing(
        name="ramachandran",
        title="Cα dihedrals",
        caption="Consecutive Cα dihedrals of the samples in this report and of their truths, from their PDB files.",
        draw=lambda theme: ramachandran_figure(sets, theme=theme),
    )


def _pairs(traces: Sequence[tuple[np.ndarray, Chain]]) -> np.ndarray:
    found = [np.zeros((0, 2))]
    for trace, chain in traces:
        ca = np.full_like(chain.shape, np.nan)
        ca[: len(trace)] = trace
        mask = np.isfinite(ca).all(-1) & np.isfinite(chain.shape).all(-1)
        given = (np.nan_to_num(ca).astype(np.float32), mask, chain.bonded)
        found.append(pseudo_pairs(*(torch.from_numpy(np.ascontiguousarray(one))[None] for one in given)))
    return np.concatenate(found)


def _of_run(folder: RunFolder) -> Iterator[Drawing]:
    try:
        run = read_curves(folder.path)
    except NoCurves:
        return
    if run.train or run.val:
        yield Drawing(
            name="losses",
            title="Losses",
            caption="Every loss term, training and validation, with learning rate and patience, from metrics.csv.",
            draw=lambda theme: loss_figure([run], theme=theme),
        )
    if run.gradients:
        yield Drawing(
            name="gradients",
            title="Gradients",
            caption="Gradient norm of each module before clipping, with what the guards noted, from metrics.csv.",
            draw=lambda theme: gradient_figure(run, theme=theme),
        )


def drawn(drawing: Drawing) -> Picture:
    """The figure in both themes."""
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
