"""On a real cluster: whatever ends a job, the run ends as if nothing had happened."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.resilience.training import outcome
from tests.slurm.cluster import Cluster, Run, command, until
from tests.slurm.conftest import training

from minifold_pl.launch.record import seconds_between
from minifold_pl.loggers.wandb_file import file_rows

pytestmark = pytest.mark.slow
Submit = Callable[..., Run]


@contextmanager
def preempting(cluster: Cluster, node: str) -> Iterator[None]:
    """Somebody more important takes a machine."""
    told = cluster.ask(
        "sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600"
    )
    job = told.split()[-1]
    try:
        until(lambda: cluster.state(job) == "RUNNING", 60.0, "the preempting job runs")
        yield
    finally:
        cluster.ask("scancel", job)


def test_time_limits_seven_in_a_row_change_nothing(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    # Slurm warns 15 to 45 s before the end of each minute: three batches of the 24 at most.
    # On a busy machine a start may take half of that, and some jobs come to nothing.
    run = submit("--time", "1", "--lead", "15", "--max-idle", "30", "--run.wandb", "offline", pace=8.0)
    run.ends("done", 1500.0)
    interrupted = [event["signal"] for event in run.events("interrupted")]
    assert len(run.lines("began")) >= 7 and set(interrupted) == {"SIGUSR1"}, run.told()
    assert outcome(run.folder) == undisturbed
    # One run in W&B, too: each step once, in order, over all its parts.
    identity = (run.folder / "wandb" / "run-id").read_text().strip()
    parts = sorted((run.folder / "wandb").glob(f"*run-*/run-{identity}.wandb"))
    assert len(parts) == len(list((run.folder / "wandb").rglob("*.wandb")))
    steps = [step for part in parts for step, values in file_rows(part) if "loss/total" in values]
    with (run.folder / "metrics.csv").open(newline="") as stream:
        assert steps == [int(row["step"]) for row in csv.DictReader(stream) if row["loss/total"]]
    dead = [
        seconds_between(str(left["time"]), str(resumed["time"]))
        for left, resumed in zip(run.lines("left"), run.events("resumed"), strict=True)
    ]
    print(f"{len(run.lines('began'))} jobs; from one to the other: {sorted(round(one, 1) for one in dead)} s")


def test_preemption_with_term_alone_changes_nothing(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit("--partition", "low")
    run.trains()
    with preempting(cluster, str(run.lines("began")[0]["node"])):
        run.trains(starts=2)
    run.ends("done")
    assert run.events("interrupted")[0]["signal"] == "SIGTERM", run.told()
    assert outcome(run.folder) == undisturbed


def test_preemption_with_the_users_signal_changes_nothing(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    cluster.do("parameters", "preempt_send_user_signal")
    try:
        run = submit("--partition", "low")
        run.trains()
        with preempting(cluster, str(run.lines("began")[0]["node"])):
            run.trains(starts=2)
    finally:
        cluster.do("parameters")
    run.ends("done")
    assert run.events("interrupted")[0]["signal"] == "SIGUSR1", run.told()
    assert outcome(run.folder) == undisturbed


def test_a_job_that_slurm_requeues_keeps_its_successor(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit("--requeue")
    run.trains()
    cluster.ask("scontrol", "requeue", run.job)
    run.trains(starts=2)
    run.ends("done")
    began = run.lines("began")
    assert [(line["job"], line["restart"]) for line in began] == [(began[0]["job"], 0), (began[0]["job"], 1)]
    assert began[0]["successor"] == began[1]["successor"] and len(run.lines("submitted")) == 2, run.told()
    assert outcome(run.folder) == undisturbed


def test_a_killed_task_goes_on_in_the_same_job(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit()
    run.trains(rows=8)
    for pid in run.pids():
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    run.trains(starts=2)
    turnaround = time.monotonic() - killed
    run.ends("done")
    assert len(run.lines("began")) == 1 and run.lines("try")[0]["code"] == 137, run.told()
    assert outcome(run.folder) == undisturbed
    print(f"killed to going on: {turnaround:.1f} s")


def test_a_lost_machine_is_followed_elsewhere(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit()
    run.trains(rows=8)
    node, job = str(run.lines("began")[0]["node"]), run.job
    cluster.do("kill-node", node)
    try:
        end_all_of(job, run)
        run.trains(starts=2)
        run.ends("done")
    finally:
        cluster.do("start-node", node)
    assert [line["state"] for line in run.lines("lost")] == ["NODE_FAIL"], run.told()
    assert outcome(run.folder) == undisturbed


def test_a_task_that_lives_on_where_slurm_lost_the_machine_stays_the_only_writer(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit(pace=1.5)
    run.trains()
    node = str(run.lines("began")[0]["node"])
    cluster.do("kill-node", node)
    try:
        # The successor runs while the old task does: it waits, or the old one is stopped by a higher number.
        until(lambda: len(run.lines("began")) == 2, 90.0, run.told())
        run.ends("done")
    finally:
        cluster.do("start-node", node)
    assert outcome(run.folder) == undisturbed
    writers = [event["attempt"] for event in run.events("started", "resumed", "saved", "done")]
    assert writers == sorted(writers), run.told()


def test_the_controller_may_be_restarted(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit()
    run.trains()
    cluster.do("restart-controller")
    cluster.ask("scancel", "--signal=USR1", run.job)
    run.trains(starts=2)
    run.ends("done")
    assert outcome(run.folder) == undisturbed


def test_a_warning_during_the_imports_loses_nothing(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit()
    # As early as it can be sent, and again a second later: before the process listens, and while it imports.
    until(run.pids, 60.0, "the task has a process")
    cluster.ask("scancel", "--signal=USR1", run.job)
    until(lambda: len(run.lines("began")) == 2 and run.pids(), 60.0, run.told())
    time.sleep(1.0)
    cluster.ask("scancel", "--signal=USR1", run.job)
    run.ends("done")
    assert [line["asked"] for line in run.lines("try")[:2]] == ["SIGUSR1", "SIGUSR1"], run.told()
    assert len(run.lines("began")) == 3 and run.starts() == 1
    assert outcome(run.folder) == undisturbed


def test_where_no_successor_can_be_queued_the_job_puts_itself_back(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit("--slurm.begin", "now+10")
    run.plan(partition="nowhere")
    run.trains()
    assert run.lines("not_submitted"), run.told()
    cluster.ask("scancel", "--signal=USR1", run.job)
    run.trains(starts=2)
    run.ends("done")
    assert [line["restart"] for line in run.lines("began")] == [0, 1], run.told()
    assert outcome(run.folder) == undisturbed


def test_shell_and_task_killed_together_leave_the_successor(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    run = submit()
    run.trains(rows=8)
    cluster.ask("scancel", "--full", "--signal=KILL", run.job)
    run.trains(starts=2)
    run.ends("done")
    assert outcome(run.folder) == undisturbed


def test_two_machines_stop_at_the_same_step_and_go_on(
    cluster: Cluster, submit: Submit, store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    reference = tmp_path / "reference"
    asked = [
        "fit", *training(store, pace=0.0), "--run.dir", str(reference), "--trainer.devices", "2",
        "--trainer.strategy", "ddp",
    ]  # fmt: skip
    quiet = {**environment, "SLURM_CONF": "/nonexistent"}
    done = subprocess.run(command(asked), env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = submit("--nodes", "2", "--partition", "low", "--trainer.strategy", "ddp")
    run.trains()
    assert len(run.pids()) == 2
    with preempting(cluster, "n1"), suppress(AssertionError):
        run.trains(starts=2, seconds=20.0)
    run.trains(starts=2)
    # A signal to one of them only.
    os.kill(max(run.pids()), signal.SIGUSR1)
    run.ends("done")
    assert [event["signal"] for event in run.events("interrupted")] == ["SIGTERM", "SIGUSR1"], run.told()
    # The first process has left by itself, with its own code.
    assert [line["code"] for line in run.lines("try")] == [75, 75, 0], run.told()
    assert outcome(run.folder) == outcome(reference)


def test_a_rank_that_hangs_ends_the_start_and_the_run_goes_on(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    run = submit("--nodes", "2", "--trainer.strategy", "ddp", "--hang_watch.seconds", "20")
    run.trains()
    stopped = max(run.pids())
    os.kill(stopped, signal.SIGSTOP)
    run.trains(starts=2)
    run.ends("done")
    assert run.events("hang"), run.told()
    assert list(run.folder.glob("stacks-rank*.txt"))


def test_submitting_from_inside_a_job_takes_nothing_over(
    cluster: Cluster, store: Path, environment: dict[str, str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    asked = ["submit", *training(store), "--run.dir", str(folder), "--time", "20", "--partition", "low"]
    words = shlex.join(command(asked))
    inside = {**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"], "SBATCH_PARTITION": "high"}
    subprocess.run(
        [
            "sbatch",
            "--wait",
            "--exclusive",
            "-n",
            "3",
            "-t",
            "5",
            "-o",
            str(tmp_path / "outer.log"),
            "--gres=gpu:2",
            "--wrap",
            f"env > {tmp_path}/outer.env; {words}",
        ],
        env=inside,
        check=True,
        capture_output=True,
        timeout=120,
    )
    run = Run(folder, cluster)
    assert run.lines("submitted"), (tmp_path / "outer.log").read_text()
    until(run.pids, 60.0, run.told())
    seen = dict(
        word.split("=", 1)
        for word in Path(f"/proc/{run.pids()[0]}/environ").read_text().split("\0")
        if "=" in word
    )
    assert seen["SLURM_JOB_PARTITION"] == "low" and seen["SLURM_NTASKS"] == "1"
    assert "SLURM_JOB_GPUS" not in seen and "CUDA_VISIBLE_DEVICES" not in seen
    assert "SLURM_JOB_ID=" in (tmp_path / "outer.env").read_text()
    run.ends("done")
    assert outcome(folder) == undisturbed


def test_seeds_are_an_array_and_each_run_has_its_own_successors(
    cluster: Cluster, submit: Submit, undisturbed: dict[str, str]
) -> None:
    above = submit("--seeds", "0-1", name="runs", pace=0.4)
    runs = [Run(above.folder / f"small-seed{seed}", cluster) for seed in (0, 1)]
    for run in runs:
        run.trains()
    cluster.ask("scancel", "--signal=USR1", runs[0].job)
    for run in runs:
        run.ends("done")
    assert [len(run.lines("began")) for run in runs] == [2, 1]
    assert outcome(runs[0].folder) == undisturbed
    assert outcome(runs[1].folder) != undisturbed


def end_all_of(job: str, run: Run) -> None:
    """Whatever a machine ran for a job is gone, as when its power is."""
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().decode(errors="replace")
            if f"slurmstepd: [{job}." in words or str(run.folder) in words:
                os.kill(int(place.name), signal.SIGKILL)
