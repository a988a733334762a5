"""A cluster of this test session's own, and what happens on it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from minifold_pl.launch.environment import outside_of_jobs
from minifold_pl.launch.record import chain, read_jobs
from minifold_pl.run.events import read_events

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "dev-cluster.sh"


def until(what: Callable[[], object], seconds: float, why: str) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: It does not within so many seconds.
    """
    end = monotonic() + seconds
    while not what():
        assert monotonic() < end, f"not within {seconds:.0f} s: {why}"
        sleep(0.1)


class Cluster:
    """Slurm on this machine.

    Args:
        place: Its folder.
        port: The first of its ports.
    """

    def __init__(self, place: Path, port: int) -> None:
        self.environment = {
            **outside_of_jobs(os.environ),
            "CLUSTER_DIR": str(place),
            "CLUSTER_PORT": str(port),
            "SLURM_CONF": str(place / "etc" / "slurm.conf"),
        }

    def do(self, *words: str) -> None:
        """A command of the cluster's script."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *words], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def ask(self, *words: str, check: bool = True) -> str:
        """A Slurm command."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, e.g. RUNNING."""
        told = self.ask("scontrol", "show", "job", "--oneliner", job)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)["JobState"]

    def queued(self) -> str:
        """What is queued or runs."""
        return self.ask("squeue", "-h", "-o", "%i %T")


class Run:
    """A run that was submitted.

    Args:
        folder: Its folder.
        cluster: Where.
    """

    def __init__(self, folder: Path, cluster: Cluster | None) -> None:
        self.folder = folder
        self.cluster = cluster

    @property
    def job(self) -> str:
        """The one that began last."""
        return next(
            (str(line["job"]) for line in reversed(read_jobs(self.folder)) if line["event"] == "began"), ""
        )

    @property
    def over(self) -> dict[str, object]:
        """How the chain ended; empty while it has not."""
        return dict(chain(read_jobs(self.folder)).over or {})

    def lines(self, event: str) -> list[dict[str, object]]:
        """Of ``jobs.jsonl``."""
        return [line for line in read_jobs(self.folder) if line["event"] == event]

    def events(self, *names: str) -> list[dict[str, object]]:
        """Of ``events.jsonl``."""
        return [event for event in read_events(self.folder / "events.jsonl") if event["event"] in names]

    def starts(self) -> int:
        """How often training has begun or gone on."""
        return len(self.events("started", "resumed"))

    def plan(self, **resources: object) -> None:
        """Change what the next job will ask for."""
        path = self.folder / "jobs" / "plan.json"
        content = json.loads(path.read_text())
        content["resources"] |= resources
        path.write_text(json.dumps(content))

    def rows(self) -> int:
        """Of the metrics."""
        path = self.folder / "metrics.csv"
        return path.read_text().count("\n") - 1 if path.is_file() else 0

    def trains(self, starts: int = 1, rows: int = 1, seconds: float = 120.0) -> None:
        """Wait until it has started so often and logged so many steps in all."""
        until(
            lambda: self.starts() >= starts and self.rows() >= rows, seconds, f"{self.told()}\nstart {starts}"
        )

    def ends(self, outcome: str, seconds: float = 240.0) -> None:
        """Wait for the end, which is this one and for good: nothing of it is queued then."""
        until(lambda: self.over, seconds, f"{self.told()}\n{outcome}")
        assert self.over["outcome"] == outcome, self.told()
        if self.cluster is not None:
            jobs = set(chain(read_jobs(self.folder)).jobs)
            cluster = self.cluster
            until(
                lambda: not any(line.split()[0] in jobs for line in cluster.queued().splitlines()),
                30.0,
                "jobs of the run are left in the queue",
            )

    def pids(self) -> list[int]:
        """The processes that train."""
        found = []
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            config = str(self.folder / "jobs" / "config.yaml").encode()
            mine = config in words or str(self.folder).encode() in words
            if mine and b"minifold_pl" in words and Path(words[0].decode()).name != "srun":
                found.append(int(place.name))
        return found

    def told(self) -> str:
        """What is known, for a failing test."""
        logs = "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted((self.folder / "jobs").glob("*log*"))
        )
        return "\n".join([json.dumps(line) for line in read_jobs(self.folder)]) + "\n" + logs


def command(words: Sequence[str]) -> list[str]:
    """``minifold-pl`` with this interpreter."""
    import sys

    return [sys.executable, "-m", "minifold_pl", *words]


def fill(disk: Path) -> None:
    """Leave no room on a small disk."""
    with (disk / "filler").open("wb") as filler, suppress(OSError):
        while True:
            filler.write(bytes(1 << 16))
            filler.flush()
