"""``submit --cluster local`` with the real training: the same promises without a scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.resilience.faults import fault
from tests.resilience.training import outcome
from tests.slurm.cluster import Run, command, fill, until
from tests.slurm.conftest import training

from minifold_pl.run.marker import RunState, read_marker

pytestmark = pytest.mark.slow
Start = Callable[..., Run]


@pytest.fixture
def start(store: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def _start(*more: str) -> Run:
        folder = tmp_path / "run"
        asked = [
            "submit",
            "--cluster",
            "local",
            *training(store),
            "--run.dir",
            str(folder),
            "--backoff",
            "1",
            *more,
        ]
        done = subprocess.run(command(asked), env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        runs.append(Run(folder, None))
        return runs[-1]

    yield _start
    for run in runs:
        for line in run.lines("began"):
            with suppress(ProcessLookupError):
                os.kill(int(str(line["pid"])), signal.SIGTERM)


def test_kills_and_signals_change_nothing(start: Start, undisturbed: dict[str, str]) -> None:
    run = start()
    run.trains(rows=8)
    os.kill(run.pids()[0], signal.SIGKILL)
    run.trains(starts=2)
    os.kill(run.pids()[0], signal.SIGTERM)
    run.trains(starts=3)
    # The machine is to be switched off: the supervisor is asked, and later somebody submits again.
    os.kill(int(run.job), signal.SIGTERM)
    until(lambda: run.lines("left"), 60.0, run.told())
    assert start().folder == run.folder
    run.ends("done")
    assert run.starts() == 4, run.told()
    assert outcome(run.folder) == undisturbed


def test_a_second_supervisor_is_refused(
    start: Start, store: Path, environment: dict[str, str], undisturbed: dict[str, str]
) -> None:
    run = start()
    run.trains()
    asked = ["submit", "--cluster", "local", *training(store), "--run.dir", str(run.folder)]
    done = subprocess.run(command(asked), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "looked after already" in done.stderr
    # Its supervisor killed, the training lives on; who submits then waits for it and finds it done.
    os.kill(int(run.job), signal.SIGKILL)
    assert run.pids()
    start()
    run.ends("done")
    assert run.starts() == 1 and outcome(run.folder) == undisturbed


@pytest.mark.parametrize(
    ("more", "starts", "told"),
    [
        (("--trainer.callbacks+", '{"class_path": "tests.slurm.pace.Crash"}'), 3, "planted"),
        (("--data.path", "/nowhere/at/all"), 3, "/nowhere/at/all"),
    ],
    ids=["crash", "no data"],
)
def test_what_cannot_go_on_is_given_up_with_the_reason(
    start: Start, more: tuple[str, ...], starts: int, told: str
) -> None:
    run = start(*more)
    run.ends("gave_up")
    marker = read_marker(run.folder / "state.json")
    assert len(run.lines("try")) == starts, run.told()
    assert marker is not None and marker.state is RunState.HALTED and told in marker.reason


def test_a_run_that_halts_itself_is_not_started_again(start: Start) -> None:
    poison = fault("PoisonBatches", places=[[epoch, batch] for epoch in range(4) for batch in range(6)])
    run = start(*poison, "--nan_guard.max_in_a_row", "4")
    run.ends("halted")
    marker = read_marker(run.folder / "state.json")
    # The guard goes back once before it halts.
    assert [line["code"] for line in run.lines("try")] == [75, 70], run.told()
    assert marker is not None and marker.state is RunState.HALTED and marker.reason == run.over["why"]


def test_on_a_full_disk_it_ends_and_with_room_again_it_goes_on(
    start: Start, small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").symlink_to(small_disk)
    saving = ("--checkpoints.max_failures", "2", "--checkpoints.every_n_steps", "1")
    run = start(*saving)
    run.trains()
    fill(small_disk)
    # What is printed lies on the same disk: of the end itself nothing can be told there, of its reason all is.
    until(lambda: not _lives(int(run.job)), 240.0, run.told())
    assert not run.pids()
    assert "No space left on device" in (run.folder / "jobs" / "local.log").read_text()
    (small_disk / "filler").unlink()
    # Where a few bytes were left, the run could still note that it was given up; then going on is asked for.
    marker = read_marker(run.folder / "state.json")
    noted = marker is not None and marker.state is RunState.HALTED
    start(*saving, *(("--after-halt",) if noted else ()))
    run.ends("done")


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_bad_config_is_refused_and_leaves_nothing(
    store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["submit", "--cluster", "local", *training(store), "--run.dir", str(tmp_path / "run")]
    done = subprocess.run(
        command([*asked, "--data.batch_sise", "2"]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "batch_sise" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_waiting_tells_the_end(store: Path, environment: dict[str, str], tmp_path: Path) -> None:
    asked = [
        "submit",
        "--cluster",
        "local",
        *training(store, pace=0.0, epochs=1),
        "--run.dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        command([*asked, "--wait"]), env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "done: finished" in done.stdout, done.stderr + done.stdout
