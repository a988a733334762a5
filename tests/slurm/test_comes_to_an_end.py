"""On a real cluster: what cannot go on ends with a clear reason, and nothing of it is left in the queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.resilience.faults import fault
from tests.slurm.cluster import Cluster, Run, command, fill, until
from tests.slurm.conftest import training

from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker
from minifold_pl.run.stop_order import order_stop

pytestmark = pytest.mark.slow
Submit = Callable[..., Run]
QUICK = ("--backoff", "1")


def halted(run: Run) -> str:
    """The reason in a halted run's folder."""
    marker = read_marker(run.folder / "state.json")
    assert marker is not None and marker.state is RunState.HALTED, run.told()
    return marker.reason


def test_a_crash_loop_ends_after_three_starts(cluster: Cluster, submit: Submit) -> None:
    crash = '{"class_path": "tests.slurm.pace.Crash"}'
    run = submit(*QUICK, "--trainer.callbacks+", crash)
    run.ends("gave_up")
    assert run.starts() == 3 and len(run.lines("began")) == 2, run.told()
    assert "3 starts in a row" in halted(run) and "planted" in halted(run)
    assert "planted" in str(run.over["why"])


def test_a_bad_config_is_refused_before_anything_is_submitted(
    cluster: Cluster, store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["submit", *training(store), "--run.dir", str(tmp_path / "run"), "--data.batch_sise", "2"]
    inside = {**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]}
    done = subprocess.run(command(asked), env=inside, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "batch_sise" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_config_that_has_become_bad_ends_at_once(cluster: Cluster, submit: Submit) -> None:
    run = submit("--slurm.begin", "now+15", *QUICK)
    config = run.folder / "jobs" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 2", "batch_size: two", 1))
    run.ends("gave_up")
    assert len(run.lines("try")) == 1 and "batch_size" in halted(run), run.told()


def test_a_missing_data_set_ends_with_its_name(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    run = submit(*QUICK, "--data.path", str(tmp_path / "nowhere"))
    run.ends("gave_up")
    assert len(run.lines("try")) == 3 and str(tmp_path / "nowhere") in halted(run), run.told()


def test_a_run_that_halts_itself_is_not_started_again(cluster: Cluster, submit: Submit) -> None:
    poison = fault("PoisonBatches", places=[[epoch, batch] for epoch in range(4) for batch in range(6)])
    run = submit(*QUICK, *poison, "--nan_guard.max_in_a_row", "4")
    run.ends("halted")
    assert halted(run) == run.over["why"], run.told()


def test_a_full_disk_ends_with_the_reason_in_the_jobs_own_record(
    cluster: Cluster, submit: Submit, small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").symlink_to(small_disk)
    run = submit(*QUICK, "--checkpoints.max_failures", "2", "--checkpoints.every_n_steps", "1")
    run.trains()
    job = run.job
    fill(small_disk)
    until(lambda: cluster.state(job) in ("FAILED", "COMPLETED"), 240.0, run.told())
    until(lambda: not cluster.queued().strip(), 240.0, f"nothing is left in the queue: {cluster.queued()}")
    told = cluster.ask("scontrol", "show", "job")
    assert "starts in a row failed without a newer checkpoint" in told, told + run.told()


def test_the_number_of_restarts_is_limited(cluster: Cluster, submit: Submit) -> None:
    run = submit("--max-restarts", "1")
    for starts in (1, 2):
        run.trains(starts=starts)
        os.kill(run.pids()[0], signal.SIGKILL)
    run.ends("gave_up")
    assert run.starts() == 2 and "--max-restarts" in halted(run), run.told()


def test_gpu_hours_are_limited_and_what_was_trained_is_saved(cluster: Cluster, submit: Submit) -> None:
    # Two GPUs for 54 s, of more than 96; they compute nothing here.
    run = submit("--gpus", "2", "--tasks", "1", "--max-gpu-hours", "0.03", pace=4.0)
    run.ends("gave_up")
    assert "GPU-hours" in halted(run) and run.events("interrupted"), run.told()
    assert (run.folder / "checkpoints").is_dir()


def test_a_run_that_is_on_its_way_is_not_submitted_twice_and_a_stop_is_for_good(
    cluster: Cluster, submit: Submit, store: Path, environment: dict[str, str]
) -> None:
    run = submit()
    run.trains()
    asked = ["submit", *training(store), "--run.dir", str(run.folder)]
    inside = {**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]}
    done = subprocess.run(command(asked), env=inside, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "on its way already" in done.stderr
    order_stop(RunFolder(run.folder), by="me", reason="enough")
    run.ends("stopped")
    assert "enough" in str(run.over["why"]) and len(run.lines("began")) == 1
    # And again: it goes on where it was.
    done = subprocess.run(
        command([*asked, "--time", "20"]), env=inside, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    run.trains(starts=2)


def test_who_cancels_all_jobs_of_a_run_sees_none_come_back(cluster: Cluster, submit: Submit) -> None:
    run = submit()
    run.trains()
    successor = str(run.lines("began")[0]["successor"])
    cluster.ask("scancel", successor, run.job)
    run.ends("stopped")
    assert successor in str(run.over["why"]) and run.starts() == 1, run.told()


def test_without_slurm_submit_says_what_to_do(
    store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    asked = command(["submit", *training(store), "--run.dir", str(tmp_path / "run")])
    nowhere = {**environment, "PATH": str(Path(shutil.which("env") or "/usr/bin/env").parent / "nothing")}
    done = subprocess.run(asked, env=nowhere, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--cluster local" in done.stderr
