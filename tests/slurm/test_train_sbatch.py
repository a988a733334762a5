"""``slurm/train.sbatch`` on a real cluster: what a plain batch script promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.resilience.training import ROOT, outcome
from tests.slurm.cluster import Cluster, Run, until
from tests.slurm.conftest import training

pytestmark = pytest.mark.slow


class Script:
    """A run under ``train.sbatch``."""

    def __init__(self, folder: Path, cluster: Cluster, first: str) -> None:
        self.run = Run(folder, cluster)
        self.cluster = cluster
        self.first = first
        self.logs = folder.parent

    def log(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()}" for path in sorted(self.logs.glob("minifold-*.out"))
        )

    def running(self) -> str:
        """The job that runs."""
        found = [line.split()[0] for line in self.cluster.queued().splitlines() if line.endswith("RUNNING")]
        assert len(found) == 1, self.log()
        return found[0]

    def trains(self, starts: int) -> None:
        until(
            lambda: self.run.starts() >= starts and self.run.rows() >= 1,
            120.0,
            f"start {starts}\n{self.log()}",
        )

    def ends(self, word: str) -> None:
        until(lambda: not self.cluster.queued().strip(), 240.0, self.log())
        last = [line for line in self.log().splitlines() if "train.sbatch]" in line][-1]
        assert last.partition("] ")[2].startswith(word), self.log()


@pytest.fixture
def script(
    cluster: Cluster, store: Path, environment: dict[str, str], tmp_path: Path
) -> Callable[..., Script]:
    def _submit(*more: str, options: tuple[str, ...] = (), **variables: str) -> Script:
        folder = tmp_path / "run"
        inside = {
            **environment, "SLURM_CONF": cluster.environment["SLURM_CONF"], "PYTHON": sys.executable, "BACKOFF": "1",
            **variables,
        }  # fmt: skip
        asked = ["sbatch", "--parsable", "--cpus-per-task=1", "--time=20", *options]
        done = subprocess.run(
            [*asked, str(ROOT / "slurm" / "train.sbatch"), str(folder), *training(store), *more],
            env=inside, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Script(folder, cluster, done.stdout.strip())

    return _submit


def test_the_script_goes_on_after_a_warning_a_kill_and_a_requeue(
    cluster: Cluster, script: Callable[..., Script], undisturbed: dict[str, str]
) -> None:
    one = script(options=("--partition", "low"))
    one.trains(1)
    cluster.ask("scancel", "--signal=USR1", one.first)
    one.trains(2)
    second = one.running()
    assert second != one.first
    # The successor asks for what the first job had.
    told = cluster.ask("scontrol", "show", "job", second)
    assert "Partition=low" in told and "TimeLimit=00:20:00" in told
    os.kill(one.run.pids()[0], signal.SIGKILL)
    one.trains(3)
    assert one.running() == second
    cluster.ask("scontrol", "requeue", second)
    one.trains(4)
    assert one.running() == second
    one.ends("done")
    assert outcome(one.run.folder) == undisturbed


def test_the_script_ends_a_crash_loop(cluster: Cluster, script: Callable[..., Script]) -> None:
    one = script("--trainer.callbacks+", '{"class_path": "tests.slurm.pace.Crash"}')
    one.ends("gave up: 3 starts in a row")
    assert one.run.starts() == 3, one.log()


def test_the_script_ends_at_once_for_a_wrong_setting(cluster: Cluster, script: Callable[..., Script]) -> None:
    one = script("--data.batch_sise", "2")
    one.ends("a wrong setting")
    assert one.log().count("batch_sise") >= 1 and one.run.starts() == 0
