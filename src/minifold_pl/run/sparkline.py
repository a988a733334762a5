"""A curve in one line of text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Final

from minifold_pl.run.folder import RunFolder

BARS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = " "


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """``values`` as bars from the lowest to the highest, at most ``width`` of them.

    Of more values than that each bar is the mean of its share. A share without a finite value is a gap, and a curve
    without a range lies on the ground.

    Raises:
        ValueError: ``width`` is less than 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    count = min(width, len(values))
    means = [_mean(values[len(values) * k // count : len(values) * (k + 1) // count]) for k in range(count)]
    known = [value for value in means if value is not None]
    low = min(known, default=0.0)
    span = max(known, default=0.0) - low
    top = len(BARS) - 1
    return "".join(
        _GAP if value is None else BARS[round((value - low) / span * top) if span else 0] for value in means
    )


def read_column(path: Path, column: str) -> list[tuple[int, float]]:
    """Steps and values of a column of ``metrics.csv``; lines that are cut or damaged are left out."""
    try:
        lines = path.read_text(errors="replace").splitlines(keepends=True)
    except OSError:
        return []
    rows = list(csv.reader(line for line in lines if line.endswith("\n") and "\0" not in line))
    if not rows or column not in rows[0]:
        return []
    place, found = rows[0].index(column), []
    for row in rows[1:]:
        if len(row) == len(rows[0]) and row[0].isdigit() and row[place]:
            try:
                found.append((int(row[0]), float(row[place])))
            except ValueError:
                continue
    return found


def curve_line(folder: RunFolder, column: str = "val/total", width: int = 40, *, higher: bool = False) -> str:
    """A logged value over the run: its name, the curve, first, last and best value; empty where there is none.

    Args:
        folder: The run folder.
        column: Name of the value.
        width: Bars at most.
        higher: Whether higher is better.
    """
    values = [value for _, value in read_column(folder.metrics, column)]
    known = [value for value in values if isfinite(value)]
    if not known:
        return ""
    best = max(known) if higher else min(known)
    return f"{column} {sparkline(values, width)} {known[0]:.3f} → {known[-1]:.3f}, best {best:.3f}"


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if isfinite(value)]
    return sum(known) / len(known) if known else None
