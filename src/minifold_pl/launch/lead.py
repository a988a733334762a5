"""How long before the time limit a run must be asked to stop: as long as its steps and saves have taken."""

from __future__ import annotations

import csv
from contextlib import suppress
from math import isfinite
from typing import Final

from minifold_pl.launch.plan import Plan
from minifold_pl.launch.resources import seconds
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder

MARGIN: Final = 60.0
"""Seconds for everything else: the notice of a signal by all processes, a validation's batch, leaving."""
UNMEASURED: Final = 300.0
"""Seconds where no save was seen yet."""
LARGEST_SHARE: Final = 0.25
"""Of the time limit: Slurm warns up to 30 s early, and a job must come to train at all."""


def measured(folder: RunFolder) -> float | None:
    """Seconds that this run needs to stop, or None before its first save.

    The longest save so far, twice, and ten mean steps of its slowest stretch: a single step is not timed.
    """
    longest = max(
        (
            float(event["seconds"])
            for event in read_events(folder.events)
            if event["event"] == "saved" and isinstance(event.get("seconds"), int | float)
        ),
        default=None,
    )
    if longest is None:
        return None
    return MARGIN + 2 * longest + 10 * _slowest_step(folder)


def lead_for(plan: Plan) -> float:
    """Seconds of warning for the next job: what was asked for, what was measured, or a guess, in this order."""
    if plan.lead is not None:
        return plan.lead
    needed = measured(plan.run)
    limit = seconds(plan.resources.time)
    return max(1.0, min(UNMEASURED if needed is None else needed, LARGEST_SHARE * limit))


def _slowest_step(folder: RunFolder) -> float:
    slowest = 0.0
    with suppress(OSError, csv.Error), folder.performance.open(newline="") as stream:
        for row in csv.DictReader(stream):
            with suppress(ValueError, TypeError, ZeroDivisionError):
                took = 1 / float(row["perf/steps_per_s"])
                slowest = max(slowest, took if isfinite(took) else 0.0)
    return slowest
