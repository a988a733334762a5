"""What in a run folder cannot be read: who looks at what is left must know that something is missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import yaml

from minifold_pl.loggers.csv_table import STEP
from minifold_pl.run.folder import RunFolder

_SHOWN: Final = 5


def damage(folder: RunFolder) -> list[str]:
    """A line for each file of a run that is damaged: how many of its lines are left out, and which.

    A last line without its end may be in the middle of being written, and is told as cut.
    """
    found = []
    for path in (folder.metrics, folder.performance):
        found += _of_lines(path, _bad_rows)
    for path in (folder.events, folder.path / "ddim.jsonl"):
        found += _of_lines(path, _bad_records)
    found += _of_whole(folder.config, yaml.safe_load, "its settings are not shown")
    found += _of_whole(folder.path / "state.json", json.loads, "how the run ended is not known")
    return found


def _of_lines(path: Path, bad_lines: Callable[[list[bytes]], Iterator[tuple[int, str]]]) -> list[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path.name} cannot be read: {error.strerror}."]
    lines = content.split(b"\n")
    cut = len(lines) if lines[-1] else 0
    bad = dict(bad_lines(lines if cut else lines[:-1]))
    if not bad:
        return []
    if why := bad.get(0):
        return [f"{path.name} is damaged: {why}; nothing of it is shown."]
    if list(bad) == [cut]:
        return [f"{path.name}: its last line is cut, and left out."]
    numbers = ", ".join(map(str, list(bad)[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
    lines_are = "line is" if len(bad) == 1 else "lines are"
    return [f"{path.name} is damaged: {len(bad)} {lines_are} left out, in whole or in part (line {numbers})."]


def _bad_rows(lines: list[bytes]) -> Iterator[tuple[int, str]]:
    """Numbers of the lines from 1; 0 where the table cannot be read at all."""
    width = 0
    for number, raw in enumerate(lines, 1):
        try:
            cells = next(csv.reader([raw.decode()]), [])
        except (UnicodeDecodeError, csv.Error):
            cells = []
        if not width:
            width = len(cells)
            if cells[:1] != [STEP]:
                yield 0, "its first line does not name the columns"
                return
        elif len(cells) != width or not cells[0].isdigit() or not all(map(_is_number, cells[1:])):
            yield number, ""


def _is_number(cell: str) -> bool:
    """Empty cells are values that were not logged then."""
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def _bad_records(lines: list[bytes]) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue  # what is written after a cut line begins on a new one
        try:
            whole = isinstance(json.loads(raw), dict)
        except ValueError:
            whole = False
        if not whole:
            yield number, ""


def _of_whole(path: Path, parse: Callable[[str], object], so: str) -> list[str]:
    try:
        whole = isinstance(parse(path.read_text(encoding="utf-8")), dict)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, yaml.YAMLError):
        whole = False
    return [] if whole else [f"{path.name} is damaged: {so}."]
