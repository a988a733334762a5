"""Evaluations on the screen: the model beside its baselines, with intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from minifold_pl.callbacks.ddim_scores import MODEL, SEES_THE_ANSWER, TRUTH
from minifold_pl.metrics.bootstrap import Interval

Cells = Mapping[str, Mapping[str, Interval]]
"""Row → score → interval."""

COLUMNS = ("tm_score", "tm_kabsch", "rmsd", "lddt_ca")
"""What the table shows; ``ddim.jsonl`` has every score."""
_NARROWEST = 140
"""Columns; narrower and the intervals would be cut."""
_ONE_STEP = re.compile(r"x0_tm_t(\d+)")


def print_table(title: str, rows: Cells) -> None:
    """Scores of sampled structures as a table, the model first; below it the one-step scores by timestep."""
    columns = [c for c in COLUMNS if c in rows.get(MODEL, {})]
    caption = "mean [95 % bootstrap interval]; * sees the answer."
    if "tm_score" in columns:
        caption += " tm_score is maximised over superpositions, tm_kabsch is TM at the RMSD-optimal one."
    elif "tm_kabsch" in columns:
        caption += " TM at the RMSD-optimal superposition."
    _print(
        title,
        columns,
        {row: cells for row, cells in rows.items() if any(c in cells for c in columns)},
        caption,
    )
    times = sorted(name for name in rows.get(MODEL, {}) if _ONE_STEP.fullmatch(name))
    if times:
        kept = {row: cells for row, cells in rows.items() if any(t in cells for t in times)}
        _print("TM of x̂0, one step from timestep t", times, kept, "TM at the RMSD-optimal superposition.")


def summary_line(count: int, rows: Cells) -> str:
    """The model's TM and its baselines' in one line; that the truth scores 1 is known."""
    name = "tm_score" if "tm_score" in rows[MODEL] else "tm_kabsch"
    cells = [
        f"{row} {cell_text(cells[name])}" for row, cells in rows.items() if name in cells and row != TRUTH
    ]
    return f"{name} of {count} held-out chains: " + " · ".join(cells)


def cell_text(cell: Interval, digits: int = 3) -> str:
    """``mean [low–high]``; a dash where nothing was defined."""
    if cell.n == 0:
        return "–"
    if cell.n == 1:
        return f"{cell.mean:.{digits}f}"
    mean, low, high = (f"{value:.{digits}f}" for value in (cell.mean, cell.low, cell.high))
    return f"{mean} [{low}–{high}]"


def _print(title: str, columns: list[str], rows: Cells, caption: str) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, caption=caption)
    table.add_column("", no_wrap=True)
    for column in columns:
        found = _ONE_STEP.fullmatch(column)
        table.add_column(f"t {int(found[1])}" if found else column, justify="right", no_wrap=True)
    for row, cells in rows.items():
        name = f"{row}*" if row in SEES_THE_ANSWER else row
        style = "bold" if row == MODEL else None
        texts = [
            cell_text(cells[c], 2 if c == "rmsd" or _ONE_STEP.fullmatch(c) else 3) if c in cells else ""
            for c in columns
        ]
        table.add_row(name, *texts, style=style)
    console = Console()
    # Elsewhere than on a terminal nothing says how wide to be.
    console.width = max(console.width, _NARROWEST)
    console.print(table)
