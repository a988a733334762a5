"""The figures of a report that ``plot`` makes: of the model itself, and of structures on their truths."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli import plot
from minifold_pl.cli.errors import UserError
from minifold_pl.results.figure_data import CONTACTS, EMBEDDING, FigureData, NoFigureData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minifold_pl.plots.style import ThemeName
    from minifold_pl.report.figures import Picture
    from minifold_pl.report.page import Report

_CHAINS = 128
"""Whose embeddings are drawn, at most."""


def more_pictures(report: Report, *, with_model: bool) -> tuple[list[Picture], list[str]]:
    """Superposed structures, and with a model contact maps and embeddings.

    Args:
        report: What is known so far.
        with_model: Whether to run the checkpoint.

    Returns:
        The figures, and why one is missing that could be expected.
    """
    from minifold_pl.cli.plot_checkpoint import measure_contacts, measure_embedding
    from minifold_pl.cli.plot_records import draw_structure
    from minifold_pl.report.evaluated import evaluated_files
    from minifold_pl.report.figures import Drawing, drawn

    found: list[Picture] = []
    told: list[str] = []

    def add(name: str, title: str, caption: str, made: Callable[[], Callable[[ThemeName], Figure]]) -> None:
        try:
            found.append(drawn(Drawing(name=name, title=title, caption=caption, draw=made())))
        except (UserError, ValueError) as error:
            told.append(f"The figure of {title[0].lower()}{title[1:]} is left out: {error}")

    data = [] if report.store is None else ["--data", str(report.store.path)]
    evaluation = next((path for path in report.evaluations if evaluated_files(path)), None)
    if evaluation is not None or (data and any(chain.truth for chain in report.chains)):
        source = (
            ["structure", str(evaluation)]
            if evaluation
            else ["structure", str(_newest(report.samples)), *data]
        )
        add(
            "structure", "Samples on their truths", _STRUCTURE,
            lambda: lambda theme: draw_structure(_parsed([*source, "--theme", theme]))[0],
        )  # fmt: skip
    model = [str(report.checkpoint), *data] if with_model and report.checkpoint is not None and data else None
    for kind, part, title, measure in (
        ("contacts", CONTACTS, "Contact maps", measure_contacts),
        ("embedding", EMBEDDING, "Embeddings", measure_embedding),
    ):
        given, caption = _source(report.evaluations, part, model, kind)
        if given is not None:
            add(kind, title, caption, partial(_measured, measure, given))
    return found, told


def _measured(
    measure: Callable[[argparse.Namespace], tuple[Callable[[ThemeName], Figure], dict[str, Any]]],
    given: list[str],
) -> Callable[[ThemeName], Figure]:
    return measure(_parsed(given))[0]


def _source(
    evaluations: Sequence[Path], part: str, model: list[str] | None, kind: str
) -> tuple[list[str] | None, str]:
    """What ``plot`` is given and the caption: an evaluation that has the numbers, else a model to measure them."""
    for path in evaluations:
        with suppress(NoFigureData):
            if FigureData(path).has(part):
                return [kind, str(path)], f"{_CAPTIONS[kind]} Numbers from {path / 'summary.json'}."
    if model is None:
        return None, ""
    more = ["--chains", str(_CHAINS)] if kind == "embedding" else []
    return [kind, *model, *more], f"{_CAPTIONS[kind]} Measured for this report, on validation chains."


_STRUCTURE = "Samples of the newest evaluation, superposed for the highest TM-score, from two sides."
_CAPTIONS = {
    "contacts": "True and predicted contacts of one chain of each CATH class, with their scores.",
    "embedding": "Pooled embeddings of chains by class and architecture, with the silhouette of each labelling.",
}


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """What ``plot`` would be told."""
    parser = argparse.ArgumentParser()
    plot.add_parser(parser.add_subparsers())
    return parser.parse_args(["plot", *arguments])


def _newest(folders: Sequence[Path]) -> Path:
    """The first folder that holds any structures."""
    return next(folder for folder in folders if any(folder.rglob("*.pdb")))
