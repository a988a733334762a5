"""The batch script that submitit writes for us, without a scheduler."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from minifold_pl.launch.job import SubmissionError, script, submit
from minifold_pl.launch.lead import LARGEST_SHARE, MARGIN, UNMEASURED, lead_for, measured
from minifold_pl.launch.plan import Limits, Plan, read_plan, write_plan
from minifold_pl.launch.resources import Resources
from minifold_pl.run.events import append_event


def plan(folder: Path, **more: object) -> Plan:
    resources = Resources(
        partition="gpu", account="lab", time="12:00:00", nodes=2, tasks=4, gpus=4, cpus=8, mem="192G",
        mail_user="me@example.org", mail_type="END", extra={"reservation": "course", "hold": True, "no-kill": False},
        setup=("module load cuda",), **more,
    )  # fmt: skip
    return Plan(
        folder=folder, cluster="slurm", name="mf-run", arguments=("fit",), python="/opt/my env/python",
        resources=resources, limits=Limits(),
    )  # fmt: skip


def test_the_script_says_everything_itself_and_shields_the_shell_before_anything_else(tmp_path: Path) -> None:
    text = script(plan(tmp_path), lead=300.4, after="12", delay=60.0)
    options = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {
        "partition=gpu", "account=lab", "time=720", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
        "cpus-per-task=8", "mem=192G", "signal=USR1@300", "no-requeue", "open-mode=append", "dependency=afterany:12",
        "begin=now+60", "mail-user=me@example.org", "mail-type=END", "reservation=course", "hold", "job-name=mf-run",
    } <= options  # fmt: skip
    assert not any(option.startswith(("no-kill", "wckey", "error", "array")) for option in options)
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert commands[0].startswith("trap ''") and commands[1] == "module load cuda"
    assert commands[-1].startswith("'/opt/my env/python' -u -m minifold_pl.launch.watchdog")
    assert "requeue" in script(plan(tmp_path, requeue=True), lead=1) and "no-requeue" not in script(
        plan(tmp_path, requeue=True), lead=1
    )


def test_an_array_has_a_plan_for_each_of_its_jobs(tmp_path: Path) -> None:
    plans = [tmp_path / "a.json", tmp_path / "b.json"]
    text = script(plan(tmp_path), lead=60, plans=plans, parallel=1, folder=tmp_path)
    assert "#SBATCH --array=0-1%1" in text and text.rstrip().endswith(f"{plans[0]} {plans[1]}")


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that writes down what it got."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(
        f'#!/bin/sh\nenv > {tmp_path}/env\ncat "$@" > {tmp_path}/got\necho Submitted batch job 77\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return path


def test_what_is_submitted_from_a_job_does_not_see_it(
    tmp_path: Path, sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SBATCH_PARTITION"):
        monkeypatch.setenv(name, "4242")
    write_plan(plan(tmp_path / "run"))
    assert submit(plan(tmp_path / "run"), lead=60) == "77"
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert not {name for name in names if name.startswith(("SLURM_", "SBATCH_"))}


def test_where_no_file_can_be_written_the_script_goes_in_as_input(
    tmp_path: Path, sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").write_text("in the way of a folder")
    assert submit(plan(tmp_path / "run"), lead=60) == "77"
    assert (tmp_path / "got").read_text().startswith("#!/bin/bash")


def test_a_refusal_is_told_in_the_schedulers_words_and_not_tried_again(tmp_path: Path, sbatch: Path) -> None:
    write_plan(plan(tmp_path / "run"))
    sbatch.write_text(f"#!/bin/sh\necho x >> {tmp_path}/tries\necho 'error: Invalid account' >&2\nexit 1\n")
    with pytest.raises(SubmissionError, match="Invalid account"):
        submit(plan(tmp_path / "run"), lead=60)
    assert (tmp_path / "tries").read_text().count("x") == 1


def test_a_plan_reads_as_it_was_written(tmp_path: Path) -> None:
    one = plan(tmp_path)
    write_plan(one)
    assert read_plan(one.path) == one
    one.path.write_text("{}")
    with pytest.raises(ValueError, match="not a plan"):
        read_plan(one.path)


def test_the_warning_comes_as_early_as_saves_and_steps_have_taken(tmp_path: Path) -> None:
    one = plan(tmp_path)
    assert measured(one.run) is None and lead_for(one) == UNMEASURED
    append_event(one.run.events, "saved", seconds=20.0, step=1)
    append_event(one.run.events, "saved", seconds=5.0, step=2)
    assert lead_for(one) == MARGIN + 40.0
    one.run.performance.write_text("step,epoch,perf/steps_per_s\n1,0,0.5\n2,0,0.25\n3,0,\n4,0,nan\n")
    assert lead_for(one) == MARGIN + 40.0 + 40.0


def test_a_short_job_comes_to_train_at_all(tmp_path: Path) -> None:
    one = plan(tmp_path)
    short = Plan(**{**vars(one), "resources": Resources(time="4")})
    assert lead_for(short) == LARGEST_SHARE * 240
    assert lead_for(Plan(**{**vars(short), "lead": 7.0})) == 7.0
