"""The folder of one run and the places in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Everything a run produces lies in one folder, under fixed names."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config of the run's last start."""
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        """Fingerprints of settings and data, and the code, of the run's last start."""
        return self.path / "identity.json"

    @property
    def origin(self) -> Path:
        """Where the weights that the run began with came from, and what of them; absent for random ones."""
        return self.path / "origin.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints with their manifests."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Every logged number that training determines, one row a step."""
        return self.path / "metrics.csv"

    @property
    def performance(self) -> Path:
        """Every logged number that the machine and the moment determine, one row a step."""
        return self.path / "perf.csv"

    @property
    def events(self) -> Path:
        """What happened: one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def samples(self) -> Path:
        """Structures written while training and by ``predict``."""
        return self.path / "samples"

    @property
    def wandb_id(self) -> Path:
        """The W&B id of this run, for the life of the folder."""
        return self.path / "wandb" / "run-id"

    @property
    def lease(self) -> Path:
        """Says which process owns the folder."""
        return self.path / "lease"

    @property
    def marker(self) -> Path:
        """RUNNING, DONE, HALTED or STOPPED."""
        return self.path / "state.json"

    @property
    def starts(self) -> Path:
        """How many starts in a row got nowhere."""
        return self.path / "starts.json"

    @property
    def stop_order(self) -> Path:
        """A person's order to end the run for good; where it is, nobody trains on."""
        return self.path / "jobs" / "stop.json"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file() or self.checkpoints.is_dir()

    def create(self) -> None:
        """Make the folder; an existing one is fine."""
        self.path.mkdir(parents=True, exist_ok=True)


def fresh_folder(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3`` … that does not exist yet; it is made at once.

    Two starters at the same moment get different folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    candidate, n = path, 1
    while True:
        try:
            os.mkdir(candidate)
        except FileExistsError:
            n += 1
            candidate = path.with_name(f"{path.name}-{n}")
        else:
            return candidate
