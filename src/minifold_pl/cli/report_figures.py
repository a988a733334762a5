"""The figures of a report that ``plot`` makes: of the model itself, and of structures on their truths."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minifold_pl.cli import plot
from minifold_pl.cli.errors import UserError

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
    from minifold_pl.report.figures import Drawing, drawn

    if report.store is None:
        return [], []
    data = ["--data", str(report.store.path)]
    found: list[Picture] = []
    told: list[str] = []

    def add(name: str, title: str, caption: str, made: Callable[[], Callable[[ThemeName], Figure]]) -> None:
        try:
            found.append(drawn(Drawing(name=name, title=title, caption=caption, draw=made())))
        except (UserError, ValueError) as error:
            told.append(f"The figure of {title[0].lower()}{title[1:]} is left out: {error}")

    if any(chain.truth for chain in report.chains):
        source = ["structure", str(_newest(report.samples)), *data]
        add(
            "structure", "Samples on their truths", _STRUCTURE,
            lambda: lambda theme: draw_structure(_parsed([*source, "--theme", theme]))[0],
        )  # fmt: skip
    if with_model and report.checkpoint is not None:
        given = [str(report.checkpoint), *data]
        some = ["--chains", str(_CHAINS)]
        add("contacts", "Contact maps", _CONTACTS, lambda: measure_contacts(_parsed(["contacts", *given]))[0])
        add(
            "embedding", "Embeddings", _EMBEDDING,
            lambda: measure_embedding(_parsed(["embedding", *given, *some]))[0],
        )  # fmt: skip
    return found, told


_STRUCTURE = (
    "The first samples of the newest evaluation, superposed for the highest TM-score, from two sides."
)
_CONTACTS = (
    "True and predicted contacts of one validation chain of each CATH class, with the scores of evaluate."
)
_EMBEDDING = (
    "Pooled embeddings of validation chains by class and architecture, with the silhouette of each labelling."
)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """What ``plot`` would be told."""
    parser = argparse.ArgumentParser()
    plot.add_parser(parser.add_subparsers())
    return parser.parse_args(["plot", *arguments])


def _newest(folders: Sequence[Path]) -> Path:
    """The first folder that holds any structures."""
    return next(folder for folder in folders if any(folder.rglob("*.pdb")))
