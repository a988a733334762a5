"""Looking at runs, following and ending them on a real cluster, without accounts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.resilience.training import outcome
from tests.slurm.cluster import Cluster, Run, command, until

from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import owner_of

pytestmark = pytest.mark.slow
Submit = Callable[..., Run]
Ask = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ask(cluster: Cluster, environment: dict[str, str]) -> Ask:
    """Run a command of ours where Slurm is."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(list(words)), env={**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]},
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip

    return run


def _status(ask: Ask, run: Run) -> dict[str, Any]:
    done = ask("status", str(run.folder), "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["runs"]
    return told


def _jobs(told: dict[str, Any]) -> dict[str, str]:
    return {job["job"]: job["state"] for job in told["jobs"]}


def test_a_run_is_stopped_for_good_and_taken_up_again_by_the_same_submit(
    cluster: Cluster, submit: Submit, ask: Ask, undisturbed: dict[str, str]
) -> None:
    run = submit()
    run.trains(rows=3)
    told = _status(ask, run)
    assert told["state"] == "running"
    assert told["life"] == "lives"
    assert sorted(_jobs(told).values()) == ["PENDING", "RUNNING"]
    assert told["gpu_hours_by"] == "run folder"
    running, waiting = (
        next(j for j, s in _jobs(told).items() if s == state) for state in ("RUNNING", "PENDING")
    )
    assert told["starts"][-1]["job"] == running
    done = ask("stop", str(run.folder), "--reason", "wrong data")
    assert done.returncode == 0, done.stderr
    assert "was stopped by" in done.stdout
    until(lambda: not cluster.queued().strip(), 30.0, "the queue is empty")
    assert cluster.state(waiting) == "CANCELLED"
    told = _status(ask, run)
    assert (told["state"], told["jobs"]) == ("stopped", [])
    # Saved where it was: no applied step is lost.
    assert told["progress"]["saved_step"] == told["progress"]["step"] > 0
    again = ask("stop", str(run.folder))
    assert again.returncode == 0
    assert "was already stopped" in again.stdout
    assert len(run.events("stopped")) == 1
    run = submit()
    run.ends("done")
    assert outcome(run.folder) == undisturbed
    assert _status(ask, run)["state"] == "done"
    assert "nothing to stop" in ask("stop", str(run.folder)).stdout


def test_a_run_that_only_waits_is_stopped_and_never_starts(
    cluster: Cluster, submit: Submit, ask: Ask
) -> None:
    run = submit("--slurm.begin", "now+1hour")
    told = _status(ask, run)
    assert told["state"] == "queued"
    assert "BeginTime" in told["why"]
    assert ask("stop", str(run.folder)).returncode == 0
    assert _status(ask, run)["state"] == "stopped"
    assert not cluster.queued().strip()


def test_without_a_controller_runs_are_seen_and_stopped_all_the_same(
    cluster: Cluster, submit: Submit, ask: Ask
) -> None:
    run = submit()
    run.trains()
    with _controller_away(cluster):
        told = _status(ask, run)
        assert told["state"] == "running"
        assert "does not answer" in told["scheduler"]
        done = ask("stop", str(run.folder))
        assert done.returncode == 0, done.stderr
        assert "does not answer" in done.stdout
        assert _status(ask, run)["state"] == "stopped"
    until(lambda: not cluster.queued().strip(), 180.0, "what was queued finds the order and leaves")
    assert _status(ask, run)["state"] == "stopped"
    assert run.starts() == 1


def test_a_run_whose_jobs_are_all_gone_is_lost_and_its_marker_is_not_believed(
    cluster: Cluster, submit: Submit, ask: Ask
) -> None:
    run = submit()
    run.trains()
    (began,) = run.lines("began")
    owner = owner_of(RunFolder(run.folder))
    assert owner is not None
    # The watchdog first: it would queue another successor.
    for pid in (int(str(began["pid"])), owner.pid):
        os.kill(pid, signal.SIGKILL)
    cluster.ask("scancel", str(began["successor"]))
    until(lambda: not cluster.queued().strip(), 60.0, "the queue is empty")
    assert json.loads((run.folder / "state.json").read_text())["state"] == "running"
    told = _status(ask, run)
    assert told["state"] == "lost", told
    assert told["starts"][-1]["end"] == "killed"


def test_output_is_followed_from_job_to_job(
    cluster: Cluster, submit: Submit, ask: Ask, environment: dict[str, str], tmp_path: Path
) -> None:
    run = submit()
    run.trains()
    first = run.job
    follower = _follow(["logs", "-f", "-n", "0", str(run.folder)], environment, cluster)
    try:
        cluster.ask("scancel", "--signal=USR1", first)
        run.trains(starts=2)
        second = run.job
        assert second != first
        run.ends("done")
        said, heads = follower.communicate(timeout=90)
    finally:
        follower.kill()
        follower.wait()
    assert follower.returncode == 0
    # Each line that the second job printed is there, once.
    printed = (run.folder / "jobs" / f"{second}_0_log.out").read_text()
    assert said.endswith(printed)
    assert heads.index(f"(job {first}") < heads.index(f"(job {second}")


def _follow(words: Sequence[str], environment: dict[str, str], cluster: Cluster) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(list(words)), env={**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def _controller_away(cluster: Cluster) -> Iterator[None]:
    pid = int((Path(cluster.environment["CLUSTER_DIR"]) / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: _gone(pid), 30.0, "the controller ends")
    try:
        yield
    finally:
        cluster.do("up")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
