"""What was submitted: everything a job of a run needs to know, in a file of the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.launch.resources import Resources
from minifold_pl.run.folder import RunFolder

LONGEST_LEAD: Final = 65535
"""Seconds before its time limit at which Slurm can warn a job."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run is given up, or held back."""

    max_fruitless: int = 3
    """Failed starts in a row without a newer checkpoint."""
    max_idle: int = 10
    """Starts in a row without a newer checkpoint that were stopped from outside: preempted, out of time."""
    max_restarts: int | None = None
    """Starts after the first one, since the run was submitted."""
    max_gpu_hours: float | None = None
    """GPU-hours of all jobs of the run."""
    backoff: float = 15.0
    """Seconds before the start after the first fruitless one; doubled each time."""
    longest_backoff: float = 900.0
    """Seconds at most."""

    def __post_init__(self) -> None:
        for name in ("max_fruitless", "max_idle"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_restarts", "max_gpu_hours"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= self.backoff <= self.longest_backoff:
            raise ValueError(
                f"backoff ({self.backoff}) must lie between 0 and longest_backoff ({self.longest_backoff})"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on its way through jobs."""

    folder: Path
    """The run folder, absolute."""
    cluster: str
    """``slurm`` or ``local``."""
    name: str
    """Of the jobs."""
    arguments: tuple[str, ...]
    """Of ``minifold-pl``: ``fit`` and so on."""
    once: tuple[str, ...] = ()
    """More arguments, until there is a checkpoint: what a person said for this submission alone."""
    python: str
    """Interpreter that has the package."""
    resources: Resources
    """Of each job."""
    limits: Limits
    """When to give up."""
    lead: float | None = None
    """Seconds before the time limit at which the run is asked to stop; None: as measured."""

    def __post_init__(self) -> None:
        # sbatch takes no more in --signal.
        if self.lead is not None and not 1 <= self.lead <= LONGEST_LEAD:
            raise ValueError(f"lead must lie between 1 and {LONGEST_LEAD} seconds, got {self.lead}")

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.folder)

    @property
    def path(self) -> Path:
        """Where the plan is kept."""
        return plan_path(self.folder)

    def to_json(self) -> str:
        """As text."""
        return json.dumps({**asdict(self), "folder": str(self.folder)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From text.

        Raises:
            ValueError: It is no plan.
        """
        try:
            content: Mapping[str, Any] = json.loads(text)
            known = {f.name: content[f.name] for f in fields(cls)}
            resources = dict(known["resources"])
            for name in ("setup", "srun"):
                resources[name] = tuple(resources[name])
            return cls(
                **{
                    **known,
                    "folder": Path(known["folder"]),
                    "arguments": tuple(known["arguments"]),
                    "once": tuple(known["once"]),
                    "resources": Resources(**resources),
                    "limits": Limits(**known["limits"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a plan: {error}") from error


def jobs_folder(folder: Path) -> Path:
    """What the jobs of a run leave: plan, config, scripts, output."""
    return folder / "jobs"


def plan_path(folder: Path) -> Path:
    """The plan of a run folder."""
    return jobs_folder(folder) / "plan.json"


def write_plan(plan: Plan) -> None:
    """Keep it in the run folder; the next job of the run reads it."""
    plan.path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(plan.path, plan.to_json() + "\n")


def read_plan(path: Path) -> Plan:
    """A plan.

    Raises:
        ValueError: The file holds none.
        OSError: It cannot be read.
    """
    return Plan.from_json(path.read_text(encoding="utf-8"))
