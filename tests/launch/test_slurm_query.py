"""Reading what Slurm says; the answers are those of Slurm 22.05.8."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from minifold_pl.launch import slurm_query
from minifold_pl.launch.slurm_query import (
    NoAccounting,
    SlurmAbsent,
    SlurmSilent,
    accounted_jobs,
    gpus_of,
    output_of,
    queued_jobs,
    seconds_of,
)

QUEUE = """\
9_0|PENDING|Nodes required for job are DOWN, DRAINED or reserved|2026-11-21T13:49:00|2026-11-21T13:59:00|10:00||low
11|PENDING|BeginTime|2026-11-21T13:09:11|2026-11-21T13:19:11|10:00||main
12|PENDING|Dependency|N/A|N/A|10:00||main
10|RUNNING|None|2026-11-21T12:09:11|2026-11-21T13:39:11|1:29:56|n[1-3]|main
8|COMPLETED|NonZeroExitCode|2026-11-21T12:09:11|2026-11-21T12:09:13|9:58|n1|main
"""
ACCOUNTS = """\
1|REQUEUED|56|billing=1,cpu=1,node=1|2026-11-21T12:03:12|2026-11-21T12:04:08|75:0
1|FAILED|3600|billing=4,cpu=4,gres/gpu=2,mem=4G,node=1|2026-11-21T12:04:12|2026-11-21T13:04:12|75:0
11|CANCELLED by 0|0||2026-11-21T12:09:15|2026-11-21T12:09:15|0:0
9_[0-2%1]|PENDING|0||Unknown|Unknown|0:0
"""  # fmt: skip
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script in the place of a command; nothing else of Slurm is there."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv(
        "PATH", f"{place}:/usr/bin:/bin" if not Path("/usr/bin/squeue").exists() else str(place)
    )

    def write(name: str, script: str) -> None:
        path = place / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def _says(text: str) -> str:
    return f"cat <<'END'\n{text}END"


def test_waiting_running_and_ended_jobs_are_told_apart(program: Program) -> None:
    program("squeue", _says(QUEUE))
    jobs = queued_jobs(["9_0", "10", "11", "12", "8"])
    assert [job for job, one in jobs.items() if one.waits] == ["9_0", "11", "12"]
    assert [job for job, one in jobs.items() if one.live and not one.waits] == ["10"]
    assert not jobs["8"].live
    assert jobs["10"].reason == ""
    assert jobs["10"].nodes == "n[1-3]"
    assert jobs["10"].left == 5396.0
    assert jobs["11"].left is None
    assert jobs["11"].start == datetime(2026, 11, 21, 13, 9, 11)
    assert jobs["12"].start is None
    assert jobs["9_0"].reason.startswith("Nodes required")


def test_the_accounts_of_every_allocation_of_a_job_are_kept(program: Program) -> None:
    program("sacct", _says(ACCOUNTS))
    found = accounted_jobs(["1", "11", "9"])
    assert [(one.job, one.state, one.seconds, one.gpus) for one in found] == [
        ("1", "REQUEUED", 56.0, 0),
        ("1", "FAILED", 3600.0, 2),
        ("11", "CANCELLED", 0.0, 0),
        ("9_[0-2%1]", "PENDING", 0.0, 0),
    ]
    assert sum(one.gpu_hours for one in found) == 2.0
    assert found[3].end is None


def test_a_shells_settings_for_tables_change_nothing(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%j")
    monkeypatch.setenv("SACCT_FORMAT", "JobName")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%H")
    program("squeue", '[ -z "$SQUEUE_FORMAT" ] && [ "$SLURM_TIME_FORMAT" = standard ] && ' + _says(QUEUE))
    assert "10" in queued_jobs(["10"])


def test_jobs_that_slurm_has_forgotten_are_no_error(program: Program) -> None:
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    program("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert queued_jobs(["99999"]) == {}
    assert output_of("99999") == ""


def test_without_jobs_nobody_is_asked(program: Program) -> None:
    assert queued_jobs([]) == {}
    assert accounted_jobs([]) == ()


def test_a_machine_without_slurm_is_told_from_one_whose_controller_is_away(program: Program) -> None:
    with pytest.raises(SlurmAbsent, match="no squeue"):
        queued_jobs(["1"])
    with pytest.raises(SlurmAbsent, match="no sacct"):
        accounted_jobs(["1"])
    program(
        "squeue",
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
    )
    with pytest.raises(SlurmSilent, match="Unable to contact"):
        queued_jobs(["1"])
    # An answer of nothing, with a complaint, is none.
    program("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 0")
    with pytest.raises(SlurmSilent, match="Connection refused"):
        accounted_jobs(["1"])


def test_a_site_that_keeps_no_accounts_is_no_trouble(program: Program) -> None:
    program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    with pytest.raises(NoAccounting):
        accounted_jobs(["1"])


def test_nobody_waits_for_ever(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_query, "TIMEOUT", 0.3)
    program("squeue", "exec sleep 20")
    began = time.monotonic()
    with pytest.raises(SlurmSilent, match="did not answer"):
        queued_jobs(["1"])
    assert time.monotonic() - began < 5


def test_lines_that_are_none_of_ours_are_left_out(program: Program) -> None:
    program("squeue", _says("squeue: warning: something|else\n\n" + QUEUE))
    assert set(queued_jobs(["10"])) == {"9_0", "10", "11", "12", "8"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59", 59), ("1:29:56", 5396), ("10:00", 600), ("2-01:00:00", 176400), ("0:00", 0),
     ("UNLIMITED", None), ("NOT_SET", None), ("INVALID", None), ("", None)],
)  # fmt: skip
def test_time_spans_are_read_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [("cpu=8,gres/gpu=2,gres/gpu:a100=2,node=1", 2), ("gres/gpu:a100=2,gres/gpu:v100=1", 3), ("cpu=4", 0), ("", 0)],
)  # fmt: skip
def test_gpus_are_counted_once(tres: str, gpus: int) -> None:
    assert gpus_of(tres) == gpus


def test_the_place_of_a_jobs_output_may_hold_blanks(program: Program) -> None:
    program(
        "scontrol",
        _says("JobId=10 JobName=x\n   Command=(null)\n   StdOut=/data/my runs/10.out\n   Power=\n"),
    )
    assert output_of("10") == "/data/my runs/10.out"
