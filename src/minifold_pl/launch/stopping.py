"""A person's word that a run is to end for good, though it is not done."""

from __future__ import annotations

import json
from pathlib import Path

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.launch.plan import jobs_folder


def _file(folder: Path) -> Path:
    return jobs_folder(folder) / "stop.json"


def ask_to_stop(folder: Path, why: str) -> None:
    """From now on no job of the run starts training again; whoever watches it cancels its successor."""
    _file(folder).parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(_file(folder), json.dumps({"why": why}) + "\n")


def asked_to_stop(folder: Path) -> str | None:
    """Why the run is to end, or None."""
    try:
        content = json.loads(_file(folder).read_text(encoding="utf-8"))
        return str(content["why"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "asked to stop"


def forget_stop(folder: Path) -> None:
    """It may go on: submitted anew."""
    _file(folder).unlink(missing_ok=True)
