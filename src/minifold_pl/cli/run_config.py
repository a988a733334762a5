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
    accept_changes: bool = False
    """Go on although settings that are part of the run have changed. ``--accept-changes`` is short for it."""
    after_halt: int | None = None
    """Go on with a run that halted: the number of the start that did, as its message says."""
    after_stop: int | None = None
    """Go on with a run that ``minifold-pl stop`` ended: the number that its message names."""
    wait: float = 0.0
    """Seconds to wait for another process that trains in this folder to end."""
    profile: Literal["off", "go_on", "stop"] = "off"
    """After three batches profile the next three or more: where a step's time and memory go, by module, as a table here
    and in ``profile/`` of the run folder, beside a trace for ui.perfetto.dev. ``go_on`` then goes on with the training,
    which it changes in nothing; ``stop`` then ends it, saved, as ^C would. ``--profile`` and ``--profile=stop`` are
    short for them."""
    max_fruitless_starts: int | None = 3
    """So many starts in a row without a newer checkpoint halt the run; null for no limit."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases: ``auto`` is online where there is an API key and offline where there is none."""
    wandb_project: str = "minifold-pl"
    """Project on the W&B side."""
