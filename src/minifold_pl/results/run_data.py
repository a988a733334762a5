"""Where the data set of a run is, from whatever folder one looks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_UP: Final = 3
"""Folders above the run folder: `runs/v13` is two below the one in which the run was started."""


def places_of_data(named: str | Path, folder: Path) -> list[Path]:
    """Where the data set that a run's settings name may be, the likeliest first.

    An absolute path is what it is. A relative one counts from where the run was started: that is one of the folders
    above the run folder, however far away one looks from; else it may be the folder that one is in.
    """
    path = Path(named).expanduser()
    if path.is_absolute():
        return [path]
    return list(dict.fromkeys([*(parent / path for parent in folder.resolve().parents[:_UP]), path]))
