"""Where a run lives and how it is watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run folder and its dashboards."""

    dir: str | None = None
    """Run folder; default ``runs/<config>``. ``fit`` on a folder that holds a run goes on with that run."""
    fresh: bool = False
    """Never touch an existing run: take ``<dir>-2``, ``<dir>-3`` … instead. ``--fresh`` is short for it."""
    allow_changes: bool = False
    """Go on with a run although its model, data or seed settings have changed since it started."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases: ``auto`` is online where there is an API key and offline where there is none."""
    wandb_project: str = "minifold-pl"
    """Project on the W&B side."""
